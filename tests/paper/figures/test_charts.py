import numpy as np
import pandas as pd

from latentgeo.paper.figures.charts import flatness


def test_the_figure_is_drawn_and_saved(saved):
    random = np.random.default_rng(0)
    values = random.uniform(1, 2, 10)
    figure = flatness(
        points=[random.normal(size=(12, m)) for m in (3, 2, 2)],
        meshes=[random.normal(size=(41, 21, m)) for m in (3, 2, 2)],
        colour=np.arange(12.0),
        penalised={"λ = 0": (values, values), "λ = 1": (values, values)},
        agreement=pd.DataFrame({"euclidean": [0.05, 0.04], "geodesic": [0.04, 0.04]}, index=[0.0, 1.0]),
        caps=pd.Series([1e-4, 4e-4, 1.6e-3], index=[0.1, 0.2, 0.4]),
        marks={"swiss roll": 1e-5},
    )
    assert len(figure.axes) == 6
    assert all(ax.get_title(loc="left") for ax in figure.axes)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes[1:])
    saved(figure)
