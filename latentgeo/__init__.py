r"""Identified geometry of deep latent variable models.

Distances, angles and volumes measured with the pull-back metric of a decoder do not depend on the coordinates that a
training run happened to choose. This package computes them, checks that claim, and reproduces the experiments of
"Identifying Metric Structures of Deep Latent Variable Models" (Syrota et al., ICML 2025).

Notation, the same in code, notebooks and README:

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

from latentgeo.adapters.model import LatentModel, latent_model
from latentgeo.experiments.data import DataError, Dataset, MissingDataError, load_dataset
from latentgeo.experiments.power import false_positive_rates, power_curve
from latentgeo.experiments.statistics import coefficient_of_variation, compare_reliability
from latentgeo.experiments.study import Study
from latentgeo.geometry.curvature import (
    gaussian_curvature,
    ricci_curvature,
    riemann,
    scalar_curvature,
    second_fundamental_form,
    sectional_curvature,
)
from latentgeo.geometry.curve import chord_energy, chord_length, speed_variation, straight_line
from latentgeo.geometry.ensemble import Ensemble, IndependentDraws
from latentgeo.geometry.fisher import fisher_rao
from latentgeo.geometry.geodesic import Geodesic, distance, distance_matrix, geodesic
from latentgeo.geometry.graph import graph_curves, landmark_distances
from latentgeo.geometry.maps import exp_map, frechet_mean, log_map, parallel_transport
from latentgeo.geometry.metric import angle, inner, jacobian, norm, pullback_metric, volume, volume_element
from latentgeo.geometry.statistical import fisher_metric, minimise_statistical_energy, statistical_energy
from latentgeo.geometry.triangles import GeodesicTriangle, geodesic_triangle, holonomy, triangle_integral
from latentgeo.identifiability.checks import check_identifiability
from latentgeo.identifiability.diagnostics import check_assumptions
from latentgeo.identifiability.embedding import isometric_embedding
from latentgeo.identifiability.flows import NeuralFlow, random_flow
from latentgeo.identifiability.models import elbo, reparametrise_model
from latentgeo.identifiability.transforms import (
    CoordinateWarp,
    LinearTransform,
    RadialTwist,
    preserves_prior,
    random_affine,
    random_rotation,
    reparametrise,
)
from latentgeo.models.isometry import IsometricVAE, isometry_penalty
from latentgeo.models.training import TrainingConfig, train
from latentgeo.models.vae import VAE, build_vae

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 (grouped by subject)
    # metric
    "jacobian",
    "pullback_metric",
    "inner",
    "norm",
    "angle",
    "volume_element",
    "volume",
    # curves and geodesics
    "straight_line",
    "chord_length",
    "chord_energy",
    "speed_variation",
    "Geodesic",
    "geodesic",
    "distance",
    "distance_matrix",
    "graph_curves",
    "landmark_distances",
    # maps
    "exp_map",
    "log_map",
    "parallel_transport",
    "frechet_mean",
    # curvature
    "second_fundamental_form",
    "riemann",
    "sectional_curvature",
    "ricci_curvature",
    "scalar_curvature",
    "gaussian_curvature",
    # triangles
    "GeodesicTriangle",
    "geodesic_triangle",
    "triangle_integral",
    "holonomy",
    # likelihoods
    "fisher_rao",
    "fisher_metric",
    "statistical_energy",
    "minimise_statistical_energy",
    # ensembles and reparametrisation
    "Ensemble",
    "IndependentDraws",
    "LinearTransform",
    "RadialTwist",
    "CoordinateWarp",
    "NeuralFlow",
    "random_rotation",
    "random_affine",
    "random_flow",
    "preserves_prior",
    "reparametrise",
    "reparametrise_model",
    "elbo",
    # checks
    "check_identifiability",
    "check_assumptions",
    "isometric_embedding",
    # models
    "VAE",
    "IsometricVAE",
    "isometry_penalty",
    "build_vae",
    "TrainingConfig",
    "train",
    # your own models
    "LatentModel",
    "latent_model",
    # experiments
    "Dataset",
    "load_dataset",
    "DataError",
    "MissingDataError",
    "Study",
    "coefficient_of_variation",
    "compare_reliability",
    "power_curve",
    "false_positive_rates",
]
