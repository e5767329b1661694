import numpy as np

from latentgeo.paper.figures.injective import collisions


def test_the_figure_is_drawn_and_saved(saved):
    t, random = np.linspace(-2, 2, 41), np.random.default_rng(0)
    names = ("flow", "folded", "wound")
    figure = collisions(t, {name: random.random((9, 8, 8)) for name in names}, {name: abs(t + 2) for name in names})
    assert [ax.get_title(loc="left") for ax in figure.axes[:3]] == list(names)
    assert all(len(ax.images) == 9 for ax in figure.axes[:3])
    assert len(figure.axes[3].lines) == 4  # and zero
    assert len({line.get_linestyle() for line in figure.axes[3].lines[:2]}) == 2
    saved(figure)
