import numpy as np
import pandas as pd

import latentgeo as lg
from latentgeo.paper import figures

SIZES, POINTS = (1, 2, 4), (8, 64)


def test_decoders_and_time_points_are_drawn(saved):
    random = np.random.default_rng(0)
    methods = [f"geodesic_{K}" for K in SIZES] + [f"draws_{N}{end}" for N in POINTS for end in ("", "_chords")]
    rows = [(s, p, method, random.uniform(1, 2)) for s in range(3) for p in range(10) for method in methods]
    table = pd.DataFrame(rows, columns=["seed", "pair", "method", "value"])
    figure = figures.ensembles(lg.compare_reliability(table, "geodesic_1"), table, SIZES, POINTS)
    assert [ax.get_title(loc="left")[0] for ax in figure.axes] == ["a", "b", "c"]
    saved(figure)
