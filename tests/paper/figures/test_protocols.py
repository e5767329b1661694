import pandas as pd

from latentgeo.paper import figures
from latentgeo.paper.protocols import compare_protocols


def test_both_protocols_are_drawn(table, saved):
    both = pd.concat([table.assign(points="nearest"), table.assign(points="mean", value=1.1 * table["value"])])
    compared = compare_protocols(both)
    figure = figures.protocols({"A": compared, "B": compared})
    assert len(figure.axes) == 4
    drawn = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert sorted(drawn) == sorted(100 * compared["mean_cv"])
    saved(figure)
