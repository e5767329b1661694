import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

import latentgeo as lg
from latentgeo.geometry.surfaces import sphere, swiss_roll
from latentgeo.paper.baselines import _spline_basis, spline_adam
from tests.surfaces import swiss_roll_distance


def test_splines_vanish_at_both_ends_and_are_twice_differentiable():
    basis = _spline_basis(10, 2001)
    assert basis.shape == (2001, 11)
    assert abs(basis[[0, -1]]).max() < 1e-12
    second = abs((basis[2:] - 2 * basis[1:-1] + basis[:-2]) * 2000**2)
    assert abs(second[1:] - second[:-1]).max() < 0.02 * second.max()  # no jump anywhere


def test_the_splines_are_all_there_are():
    knots = np.concatenate([np.zeros(3), np.linspace(0.0, 1.0, 11), np.ones(3)])
    expected = BSpline.design_matrix(np.linspace(0, 1, 101), knots, 3).toarray()[:, 1:-1]
    basis = _spline_basis(10, 101)
    projected = basis @ np.linalg.lstsq(basis, expected, rcond=None)[0]
    np.testing.assert_allclose(projected, expected, atol=1e-8)


@pytest.mark.thorough
def test_it_shortens_straight_lines_and_ours_is_closer():
    a, b = torch.tensor([[[4.0, 0.0], [5.0, 1.0]], [[8.0, 3.0], [9.0, 5.0]]], dtype=torch.float64)
    curves = spline_adam(swiss_roll, a, b, min_decrease=1e-3)
    truth = swiss_roll_distance(a, b)
    error = (lg.curve.chord_length(swiss_roll, curves.points) / truth - 1).abs()
    straight = lg.curve.chord_length(swiss_roll, lg.curve.straight_line(a, b, 256)) / truth - 1
    assert curves.stopped
    assert (error < straight).all()
    ours = (lg.distance(swiss_roll, a, b, segments=64, tol=1e-8) / truth - 1).abs()
    assert ours.max() < 1e-7 < error.max()
    assert torch.equal(curves.points[:, 0], a)


def test_the_largest_number_of_steps_ends_it():
    a, b = torch.zeros(1, 2), torch.ones(1, 2)
    curves = spline_adam(sphere, a, b, points=16, max_steps=7)
    assert curves.steps == 7
    assert not curves.stopped


def test_what_does_not_fit_is_refused(decoder, ends):
    with pytest.raises(ValueError, match="same shape"):
        spline_adam(decoder, ends[0], ends[1][:2])
