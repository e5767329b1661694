"""The paper's laboratory: its data, models, experiments, figures, and the runner of the notebooks."""

from latentgeo.extras import require

require("latentgeo.paper", "paper", "safetensors", "filelock", "distributed", "pooch", "psutil")

from latentgeo.paper.data import DataError, Dataset, MissingDataError, load_dataset
from latentgeo.paper.ensembles import IndependentDraws
from latentgeo.paper.models.injective import InjectiveDecoder
from latentgeo.paper.models.isometry import IsometricVAE, isometry_penalty
from latentgeo.paper.models.perceptual import PerceptualVAE
from latentgeo.paper.models.training import TrainingConfig, train
from latentgeo.paper.models.vae import VAE, build_vae
from latentgeo.paper.study import Study

__all__ = [name for name, value in globals().items() if getattr(value, "__module__", "").startswith(__name__)]
