import pandas as pd

import latentgeo as lg
from latentgeo.paper import figures


def test_coefficients_of_variation_are_drawn(table, saved):
    saved(figures.cv_histogram(lg.coefficient_of_variation(table), 2, "digits"))


def test_the_comparison_of_methods_is_drawn(table, saved):
    saved(figures.reliabilities({"digits": lg.compare_reliability(table)}))


def test_the_first_method_of_a_table_is_drawn_on_top(table):
    comparison = lg.compare_reliability(table[table["method"].isin(["geodesic", "euclidean"])])
    figure = figures.reliabilities({"PBMC": comparison})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["geodesic", "Euclidean"]


def test_power_is_drawn_for_each_comparison(saved):
    curve = pd.DataFrame({"models": [3, 6, 12], "power": [0.2, 0.5, 0.9], "t_test": [0.4, 0.8, 1.0]})
    figure = figures.power({"geodesic": curve, "chord": curve})
    assert len(figure.axes[0].lines) == 2 * 2 + 1  # and the level
    saved(figure)
