"""Every figure of the notebooks, one function each: drawn at the width of a column, in colours that all can tell."""

from latentgeo.plotting.agreement import agreement
from latentgeo.plotting.assumptions import broken_assumptions
from latentgeo.plotting.charts import flatness
from latentgeo.plotting.ensembles import ensembles
from latentgeo.plotting.identifiability import identifiability
from latentgeo.plotting.injective import collisions
from latentgeo.plotting.latent import latent_spaces, two_models
from latentgeo.plotting.reliability import cv_histogram, power, reliabilities, reliability
from latentgeo.plotting.sample_size import sample_size
from latentgeo.plotting.solver import calibration, error_against_time, scaling
from latentgeo.plotting.style import METHOD_NAMES, save
from latentgeo.plotting.triangles import (
    FieldView,
    TransportView,
    TriangleView,
    geodesic_triangles,
    transport_and_curvature,
)

__all__ = [
    "METHOD_NAMES",
    "FieldView",
    "TransportView",
    "TriangleView",
    "agreement",
    "broken_assumptions",
    "calibration",
    "collisions",
    "cv_histogram",
    "ensembles",
    "error_against_time",
    "flatness",
    "geodesic_triangles",
    "identifiability",
    "latent_spaces",
    "power",
    "reliabilities",
    "reliability",
    "sample_size",
    "save",
    "scaling",
    "transport_and_curvature",
    "two_models",
]
