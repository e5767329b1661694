import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")

import latentgeo as lg
from latentgeo import plotting
from latentgeo.experiments import benchmark


@pytest.fixture
def table():
    random = np.random.default_rng(0)
    rows = [
        (seed, pair, method, random.uniform(1, 2))
        for seed in range(2)
        for pair in range(10)
        for method in plotting.METHOD_NAMES
    ]
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
    figures = {
        "two": plotting.two_models(codes, labels, [str(i) for i in range(10)], table),
        "identifiability": plotting.identifiability(checked, 1e-2),
        "cv": plotting.cv_histogram(lg.coefficient_of_variation(table), 2, "digits"),
        "methods": plotting.reliability(lg.compare_reliability(table), "digits"),
    }
    runs = pd.DataFrame(
        {"solver": ["ours", "ours", "other"], "seconds": [0.1, 0.2, 5.0], "mean_error": [1e-3, 1e-5, 0.1]}
    )
    grown = pd.DataFrame({"variable": list("PPNN"), "size": [1, 10, 8, 16], "seconds": [0.1, 1.0, 0.2, 0.3]})
    certified = pd.DataFrame({"claimed": [1e-3, 1e-2], "true": [1e-4, 0.0]})
    figures |= {
        "time": plotting.error_against_time({"one": runs, "two": runs}),
        "scaling": plotting.scaling(grown, benchmark.exponents(grown)),
        "spaces": plotting.latent_spaces({"a": codes[0], "b": codes[1]}, labels, [str(i) for i in range(10)]),
        "certificate": plotting.calibration({"smooth": certified}),
    }
    for name, figure in figures.items():
        assert plotting.save(figure, name) is figure
        assert all((tmp_path / f"{name}{ending}").stat().st_size > 1000 for ending in (".pdf", ".png"))
    before = (tmp_path / "cv.pdf").read_bytes()
    plotting.save(figures["cv"], "cv")
    assert (tmp_path / "cv.pdf").read_bytes() == before  # the same figure is the same file
