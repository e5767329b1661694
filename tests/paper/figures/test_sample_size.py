import numpy as np
import pandas as pd

from latentgeo.paper import figures
from latentgeo.paper.scaling import bias_and_spread, scaling


def test_spread_and_bias_are_drawn_with_their_fits(saved):
    random = np.random.default_rng(0)
    rows = [
        (n, s, p, method, (2.0 + p) * (1.0 + random.normal() / n**0.5))
        for n in (100, 400, 1600)
        for s in range(4)
        for p in range(10)
        for method in ("euclidean", "ambient_chord", "geodesic")
    ]
    table = pd.DataFrame(rows, columns=["n", "seed", "pair", "method", "value"])
    found = scaling(table, resamples=50)
    errors = bias_and_spread(table, pd.DataFrame({"pair": range(10), "geodesic": 2.0 + np.arange(10)}), resamples=50)
    figure = figures.sample_size({"torus": (found, found)}, (errors, errors), found.curves)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["torus", "torus"]
    saved(figure)
