"""Figures of the notebooks, a column or a page wide; those that need data of their own kind are in their modules."""

from latentgeo.extras import require

require("latentgeo.paper.figures", "notebooks", "matplotlib", "seaborn")

import matplotlib as mpl
import matplotlib.pyplot as plt

from latentgeo.paper.figures.angles_and_volumes import angles_and_volumes, recipes
from latentgeo.paper.figures.conclusions import conclusions
from latentgeo.paper.figures.ends_and_paths import ends_and_paths
from latentgeo.paper.figures.ensembles import ensembles
from latentgeo.paper.figures.identifiability import identifiability
from latentgeo.paper.figures.known_factors import known_factors
from latentgeo.paper.figures.latent import latent_spaces, two_models
from latentgeo.paper.figures.protocols import protocols
from latentgeo.paper.figures.reliability import cv_histogram, ends_and_path, power, reliabilities
from latentgeo.paper.figures.sample_size import sample_size
from latentgeo.paper.figures.solver import calibration, error_against_time, scaling
from latentgeo.paper.figures.style import save

# A notebook's backend switches drawing on where it is first loaded: within a style it would be switched off again with
# the style, and a cell would show the first figure of a session only.
plt.switch_backend(mpl.get_backend())
