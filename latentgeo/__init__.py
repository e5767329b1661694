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

from importlib import import_module
from typing import TYPE_CHECKING

# ruff: noqa: F401
if TYPE_CHECKING:  # for editors, type checkers and the documentation; at run time __getattr__ does it, name by name
    from latentgeo.adapters.anndata import geodesic_distances, geodesic_neighbors
    from latentgeo.adapters.autoencoder import from_autoencoder_kl
    from latentgeo.adapters.model import LatentModel, latent_model
    from latentgeo.adapters.scvi import from_scvi
    from latentgeo.adapters.sklearn import GeodesicDistance
    from latentgeo.experiments.agreed import Agreement
    from latentgeo.experiments.agreement import agreement
    from latentgeo.experiments.data import DataError, Dataset, MissingDataError, load_dataset
    from latentgeo.experiments.power import false_positive_rates, power_curve
    from latentgeo.experiments.statistics import coefficient_of_variation, compare_reliability
    from latentgeo.experiments.study import Study
    from latentgeo.explorer import Explorer, explore
    from latentgeo.geometry.chunked import Chunked
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
    from latentgeo.models.injective import InjectiveDecoder
    from latentgeo.models.isometry import IsometricVAE, isometry_penalty
    from latentgeo.models.perceptual import PerceptualVAE
    from latentgeo.models.training import TrainingConfig, train
    from latentgeo.models.vae import VAE, build_vae

__version__ = "0.1.0"

# The public names by subject (a page of the documentation each) and by the module that defines them.
_PUBLIC = {
    "Metric": {
        "geometry.metric": ["jacobian", "pullback_metric", "inner", "norm", "angle", "volume_element", "volume"],
    },
    "Curves and geodesics": {
        "geometry.curve": ["straight_line", "chord_length", "chord_energy", "speed_variation"],
        "geometry.geodesic": ["Geodesic", "geodesic", "distance", "distance_matrix"],
        "geometry.graph": ["graph_curves", "landmark_distances"],
    },
    "Maps": {
        "geometry.maps": ["exp_map", "log_map", "parallel_transport", "frechet_mean"],
    },
    "Curvature": {
        "geometry.curvature": [
            "second_fundamental_form",
            "riemann",
            "sectional_curvature",
            "ricci_curvature",
            "scalar_curvature",
            "gaussian_curvature",
        ],
    },
    "Triangles": {
        "geometry.triangles": ["GeodesicTriangle", "geodesic_triangle", "triangle_integral", "holonomy"],
    },
    "Likelihoods": {
        "geometry.fisher": ["fisher_rao"],
        "geometry.statistical": ["fisher_metric", "statistical_energy", "minimise_statistical_energy"],
    },
    "Ensembles": {
        "geometry.ensemble": ["Ensemble", "IndependentDraws"],
        "geometry.chunked": ["Chunked"],
    },
    "Reparametrisation": {
        "identifiability.transforms": [
            "LinearTransform",
            "RadialTwist",
            "CoordinateWarp",
            "random_rotation",
            "random_affine",
            "preserves_prior",
            "reparametrise",
        ],
        "identifiability.flows": ["NeuralFlow", "random_flow"],
        "identifiability.models": ["reparametrise_model", "elbo"],
    },
    "Checks": {
        "identifiability.checks": ["check_identifiability"],
        "identifiability.diagnostics": ["check_assumptions"],
        "identifiability.embedding": ["isometric_embedding"],
    },
    "Models": {
        "models.vae": ["VAE", "build_vae"],
        "models.isometry": ["IsometricVAE", "isometry_penalty"],
        "models.perceptual": ["PerceptualVAE"],
        "models.injective": ["InjectiveDecoder"],
        "models.training": ["TrainingConfig", "train"],
    },
    "Your own models": {
        "adapters.model": ["LatentModel", "latent_model"],
        "experiments.agreement": ["agreement"],
        "experiments.agreed": ["Agreement"],
        "explorer": ["Explorer", "explore"],
        "adapters.sklearn": ["GeodesicDistance"],
        "adapters.anndata": ["geodesic_neighbors", "geodesic_distances"],
        "adapters.scvi": ["from_scvi"],
        "adapters.autoencoder": ["from_autoencoder_kl"],
    },
    "Experiments": {
        "experiments.data": ["Dataset", "load_dataset", "DataError", "MissingDataError"],
        "experiments.study": ["Study"],
        "experiments.statistics": ["coefficient_of_variation", "compare_reliability"],
        "experiments.power": ["power_curve", "false_positive_rates"],
    },
}
_HOME = {
    name: f"latentgeo.{module}" for modules in _PUBLIC.values() for module, names in modules.items() for name in names
}
_FOLDERS = ("adapters", "experiments", "explorer", "geometry", "identifiability", "models", "plotting")

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name, or a folder of the package, when it is first used.

    So ``import latentgeo`` takes milliseconds, and geometry never waits for pandas or Dask.
    """
    if name in _HOME:
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value
    if name in _FOLDERS:
        return import_module(f"latentgeo.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the public names as well as what has been imported."""
    return sorted({*globals(), *__all__, *_FOLDERS})
