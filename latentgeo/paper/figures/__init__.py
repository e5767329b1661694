"""Every figure of the notebooks, one each: a column or a page wide, in colours that everyone can distinguish."""

from latentgeo.paper.figures.agreement import agreement
from latentgeo.paper.figures.assumptions import broken_assumptions
from latentgeo.paper.figures.charts import flatness
from latentgeo.paper.figures.ensembles import ensembles
from latentgeo.paper.figures.identifiability import identifiability
from latentgeo.paper.figures.injective import collisions
from latentgeo.paper.figures.latent import latent_spaces, two_models
from latentgeo.paper.figures.reliability import cv_histogram, power, reliabilities, reliability
from latentgeo.paper.figures.sample_size import sample_size
from latentgeo.paper.figures.solver import calibration, error_against_time, scaling
from latentgeo.paper.figures.style import save
from latentgeo.paper.figures.triangles import (
    FieldView,
    TransportView,
    TriangleView,
    geodesic_triangles,
    transport_and_curvature,
)
