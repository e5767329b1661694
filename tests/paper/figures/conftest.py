"""Figures are saved in an empty folder; none is shown."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")

from latentgeo.agreement.pairs import METHODS
from latentgeo.paper import figures


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A function that saves a figure and looks for its files."""
    monkeypatch.setenv("LATENTGEO_FIGURES", str(tmp_path))

    def save(figure):
        assert figures.save(figure, "figure", []) is figure
        assert all((tmp_path / f"figure{ending}").stat().st_size > 1000 for ending in (".pdf", ".png"))

    return save


@pytest.fixture
def table():
    """Distances as of two models, ten pairs and every method."""
    random = np.random.default_rng(0)
    rows = [(seed, pair, method, random.uniform(1, 2)) for seed in range(2) for pair in range(10) for method in METHODS]
    return pd.DataFrame(rows, columns=["seed", "pair", "method", "value"])


@pytest.fixture
def codes():
    """Latent codes of 30 points under two models, shape (2, 30, 3)."""
    return np.random.default_rng(0).normal(size=(2, 30, 3))


@pytest.fixture
def labels():
    """Three points of each of ten classes."""
    return np.arange(30) % 10
