import numpy as np
import pytest

from latentgeo.paper.figures.triangles import (
    FieldView,
    TransportView,
    TriangleView,
    geodesic_triangles,
    transport_and_curvature,
)

MEASURES = [1.25, 2.5, 3.75, np.pi / 2, np.pi / 3, np.pi / 4, 6.5]


@pytest.fixture
def loop():
    """A straight triangle with eight segments on each side."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return np.stack([np.interp(np.linspace(0, 3, 25), range(4), column) for column in corners.T], 1)


def _texts(ax):
    return [text.get_text() for text in ax.texts]


def test_the_measures_of_every_space_are_printed_below_it(loop, saved):
    codes = np.random.default_rng(0).normal(size=(20, 2))
    other = [2.0 * value for value in MEASURES]
    views = [TriangleView(name, loop, codes, [loop], MEASURES, other) for name in ("one", "two")]
    figure = geodesic_triangles(views, np.arange(20) % 10)
    above, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title() for ax in above] == ["one", "two"]
    for ax in below:
        assert {"1.2500", "90.00°", "6.5000", "2.5000", "180.00°", "13.0000"} <= set(_texts(ax))
        assert "7.7777" not in _texts(ax)  # the control: a number that no triangle has
    saved(figure)


def test_corners_are_where_the_loop_turns(loop):
    codes = np.zeros((1, 2))
    figure = geodesic_triangles([TriangleView("one", loop, codes, [], MEASURES, MEASURES)], np.zeros(1, int))
    letters = {text.get_text(): tuple(text.xy) for text in figure.axes[0].texts}
    assert letters == {"A": (0.0, 0.0), "B": (1.0, 0.0), "C": (0.0, 1.0)}


@pytest.mark.thorough
def test_transport_and_curvature_are_drawn(loop, saved):
    stops = [0, 8, 16, 24]
    directions = np.array([[0.5, 0.0], [0.5, 0.1], [0.4, 0.3], [0.0, 0.5]])
    lift = [np.concatenate([x, np.zeros((len(x), 1))], 1) for x in (loop, loop[stops], directions)]
    x, y = np.meshgrid(np.linspace(-0.5, 1.5, 9), np.linspace(-0.5, 1.5, 9), indexing="ij")
    field = FieldView("map", x, y, x * y, np.array([[0.1, 0.2], [1.0, 1.0]]), np.array([0.02, 1.0]))
    view = TransportView("chart", loop, loop[stops], directions, [loop])
    figure = transport_and_curvature(
        (x, y, 0 * x), lift[0], lift[1:], [view, view], [np.pi / 2, np.pi / 2], [field] * 2
    )
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:3] == ["on the surface", *["chart\nturned by 90.0000°"] * 2]
    assert "Q  +1.0000" in _texts(figure.axes[3])
    assert {"A", "B", "C", "start", "end"} <= set(_texts(figure.axes[1]))
    saved(figure)
