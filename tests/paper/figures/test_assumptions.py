import numpy as np
import pytest

from latentgeo.paper.figures.assumptions import PANELS, broken_assumptions


def _arguments():
    codes = {"winding": (1.0, 2.0), "cusp": (0.0, 0.8), "figure-eight": (-0.3, 0.3)}
    noise = np.diag([2.0, 1.0]), (np.diag([1.5, 0.5]), np.diag([1.0, 0.0])), np.eye(2)
    return codes, noise, {name: f"caption {name}" for name in PANELS}, {"one": [1.0, 0.5], "two": [1.0, 1e-4, 1e-3]}


def test_the_figure_shows_what_it_is_given(saved):
    figure = broken_assumptions(*_arguments())
    assert len(figure.axes) == 6
    texts = [text.get_text() for text in figure.texts]
    assert all(f"caption {name}" in texts for name in PANELS)
    lines = figure.axes[-1].get_lines()
    assert [len(line.get_xdata()) for line in lines[:2]] == [2, 3]
    assert lines[1].get_ydata().tolist() == [1.0, 1e-3, 1e-4]  # largest first
    saved(figure)


def test_a_missing_caption_is_an_error():
    codes, noise, captions, spectra = _arguments()
    del captions["cusp"]
    with pytest.raises(ValueError, match="captions"):
        broken_assumptions(codes, noise, captions, spectra)
