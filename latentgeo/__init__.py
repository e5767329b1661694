r"""Identified geometry of deep latent variable models.

Distances, angles and volumes measured with the pull-back metric of a decoder, between points of its image, do not
depend on the coordinates that a training run happened to choose. This package computes them, checks that claim, and
reproduces the experiments of "Identifying Metric Structures of Deep Latent Variable Models" (Syrota et al., ICML 2025).

The names below are what is needed for a model of one's own; further functions are in the modules ``lg.metric``,
``lg.curve``, ``lg.curvature``, ``lg.triangles``, ``lg.likelihood``, ``lg.surfaces``, ``lg.coordinates`` and
``lg.reliability``, and the paper's data, models and experiments in ``lg.paper``.

Notation, the same in code and notebooks:

======== =================================================== ==============
symbol   meaning                                             shape
======== =================================================== ==============
z        latent points                                       (B, d)
x        data                                                (B, \*event)
f        decoder                                             (B, d) -> (B, \*event)
F        ensemble of decoders as one decoder
J        Jacobian of the decoder                             (B, D, d)
G        pull-back metric, G = JᵀJ                           (B, d, d)
A        indeterminacy transformation of latent space        (B, d) -> (B, d)
d, D     numbers of latent and of data dimensions
N        segments of a discrete curve
P        pairs of points
K        decoders of an ensemble
S        seeds, that is independently trained models
======== =================================================== ==============
"""

from importlib import import_module

from latentgeo import agreement
from latentgeo.geometry import curvature, curve, likelihood, maps, metric, surfaces, triangles
from latentgeo.geometry.curvature import gaussian_curvature, scalar_curvature
from latentgeo.geometry.decoder import Chunked, Ensemble
from latentgeo.geometry.geodesic.result import Geodesic
from latentgeo.geometry.geodesic.solve import distance, distance_matrix, geodesic
from latentgeo.geometry.likelihood import fisher_rao
from latentgeo.geometry.maps import exp_map, frechet_mean, log_map, parallel_transport
from latentgeo.geometry.metric import angle, pullback_metric, volume, volume_element
from latentgeo.geometry.triangles import geodesic_triangle
from latentgeo.identifiability import coordinates
from latentgeo.identifiability.charts import isometric_embedding
from latentgeo.identifiability.coordinates import (
    CoordinateWarp,
    LinearTransform,
    RadialTwist,
    random_affine,
    random_flow,
    random_rotation,
    reparametrise,
)
from latentgeo.identifiability.points import project

__version__ = "0.1.0"

# What needs more than PyTorch (pandas, scikit-learn, matplotlib, …) is imported when it is first used.
_LAZY = {
    "identifiability.invariance": ["check_identifiability"],
    "identifiability.assumptions": ["check_assumptions"],
    "agreement.report": ["agreement", "Agreement"],
    "agreement.reliability": ["compare_reliability", "coefficient_of_variation"],
    "adapters.model": ["LatentModel", "latent_model"],
    "adapters.sklearn": ["GeodesicDistance"],
    "adapters.anndata": ["geodesic_neighbors", "geodesic_distances"],
    "adapters.scvi": ["from_scvi"],
    "adapters.autoencoder": ["from_autoencoder_kl"],
    "explorer": ["explore"],
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}
_MODULES = {"reliability": "agreement.reliability", "paper": "paper"}

del agreement  # the folder, imported before its function takes the name
__all__ = [name for name, value in globals().items() if getattr(value, "__module__", "").startswith(__name__)]
__all__ += _HOME


def __getattr__(name: str) -> object:
    """Import a public name or module of what needs more than PyTorch."""
    if name in _HOME:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return value
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the public names as well as what has been imported."""
    return sorted({*globals(), *__all__, *_MODULES})
