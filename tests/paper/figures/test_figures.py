import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from latentgeo.agreement.pairs import METHODS
from latentgeo.paper import figures

mpl.use("agg")

import latentgeo as lg
from latentgeo.paper import benchmark


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    rows = [(seed, pair, method, random.uniform(1, 2)) for seed in range(2) for pair in range(10) for method in METHODS]
    return pd.DataFrame(rows, columns=["seed", "pair", "method", "value"])


def test_every_figure_can_be_drawn_and_saved(table, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_FIGURES", str(tmp_path))
    codes, labels = np.random.default_rng(0).normal(size=(2, 30, 3)), np.arange(30) % 10
    checked = pd.DataFrame(
        [
            (model, family, *row)
            for model in ("sphere", "torus")
            for family in ("twist", "warp")
            for row in [("angle", "identified", 1e-12), ("codes", "not identified", 0.0)]
        ],
        columns=["model", "family", "quantity", "kind", "difference"],
    )
    drawn = {
        "two": figures.two_models(codes, labels, [str(i) for i in range(10)], table),
        "identifiability": figures.identifiability(checked, 1e-2),
        "cv": figures.cv_histogram(lg.coefficient_of_variation(table), 2, "digits"),
        "methods": figures.reliability(lg.compare_reliability(table), "digits"),
    }
    runs = pd.DataFrame(
        {"solver": ["ours", "ours", "other"], "seconds": [0.1, 0.2, 5.0], "mean_error": [1e-3, 1e-5, 0.1]}
    )
    grown = pd.DataFrame({"variable": list("PPNN"), "size": [1, 10, 8, 16], "seconds": [0.1, 1.0, 0.2, 0.3]})
    certified = pd.DataFrame({"claimed": [1e-3, 1e-2], "true": [1e-4, 0.0]})
    drawn |= {
        "time": figures.error_against_time({"one": runs, "two": runs}),
        "scaling": figures.scaling(grown, benchmark.exponents(grown)),
        "spaces": figures.latent_spaces({"a": codes[0], "b": codes[1]}, labels, [str(i) for i in range(10)]),
        "certificate": figures.calibration({"smooth": certified}),
    }
    for name, figure in drawn.items():
        assert figures.save(figure, name, []) is figure
        assert all((tmp_path / f"{name}{ending}").stat().st_size > 1000 for ending in (".pdf", ".png"))
    before = (tmp_path / "cv.pdf").read_bytes()
    figures.save(drawn["cv"], "cv", [])
    assert (tmp_path / "cv.pdf").read_bytes() == before  # the same figure is the same file
