import pandas as pd

from latentgeo.agreement.report import Agreement
from latentgeo.paper import figures


def test_every_pair_is_drawn_and_what_is_not_known_is_left_out():
    numbers = {
        f"{method}{end}": pd.array([scale * v for v in (1.0, 2.0, 3.0)], dtype="Float64")
        for method in ("geodesic", "euclidean")
        for end, scale in (("", 1.0), ("_low", 0.9), ("_high", 1.2))
    }
    numbers |= {f"cv_{method}": pd.array([0.1, None, 0.2], dtype="Float64") for method in ("geodesic", "euclidean")}
    pairs = pd.DataFrame(numbers | {"reliable": [True, False, True]})
    report = Agreement(pd.DataFrame(), pairs, pd.DataFrame(), pd.DataFrame(), ("a", "b"), 0.95)
    figure = figures.agreement(report, "models")
    euclidean, geodesic, cv = figure.axes
    assert euclidean.get_ylim() == geodesic.get_ylim()
    assert sum(len(line.get_xdata()) for line in geodesic.lines) == 3
    assert "2 models, 3 pairs" in cv.get_title()
    assert cv.get_xlim() == cv.get_ylim()
