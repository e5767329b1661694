"""Every figure of the notebooks, one function each: drawn at the width of a column, in colours that all can tell."""

from latentgeo.plotting.charts import flatness
from latentgeo.plotting.latent import invariance, latent_spaces, two_models
from latentgeo.plotting.reliability import cv_histogram, reliability
from latentgeo.plotting.solver import calibration, error_against_time, scaling
from latentgeo.plotting.style import METHOD_NAMES, save

__all__ = [
    "METHOD_NAMES",
    "calibration",
    "cv_histogram",
    "error_against_time",
    "flatness",
    "invariance",
    "latent_spaces",
    "reliability",
    "save",
    "scaling",
    "two_models",
]
