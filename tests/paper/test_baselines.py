import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

import latentgeo as lg
from latentgeo.geometry.surfaces import sphere, swiss_roll
from latentgeo.paper.baselines import _spline_basis, adam, collocation, gauss_newton, georce, lbfgs, spline_adam
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


@pytest.mark.slow
def test_it_shortens_straight_lines_and_ours_is_closer():
    a, b = torch.tensor([[[4.0, 0.0], [5.0, 1.0]], [[8.0, 3.0], [9.0, 5.0]]], dtype=torch.float64)
    curves = spline_adam(swiss_roll, a, b, min_decrease=1e-3)
    truth = swiss_roll_distance(a, b)
    error = (lg.curve.chord_length(swiss_roll, curves.points) / truth - 1).abs()
    straight = lg.curve.chord_length(swiss_roll, lg.curve.straight_line(a, b, 256)) / truth - 1
    assert curves.stopped.all()
    assert (error < straight).all()
    ours = (lg.distance(swiss_roll, a, b, segments=64, tol=1e-8) / truth - 1).abs()
    assert ours.max() < 1e-7 < error.max()
    assert torch.equal(curves.points[:, 0], a)


def test_the_largest_number_of_steps_ends_it():
    a, b = torch.zeros(1, 2), torch.ones(1, 2)
    curves = spline_adam(sphere, a, b, points=16, max_steps=7)
    assert curves.steps == 7
    assert not curves.stopped.any()


@pytest.fixture
def rolled():
    """Two pairs on a Swiss roll, and their distances."""
    a, b = torch.tensor([[[4.0, 0.0], [5.0, 1.0]], [[5.0, 1.0], [6.0, 3.0]]], dtype=torch.float64)
    return a, b, swiss_roll_distance(a, b)


@pytest.mark.parametrize("solver", [gauss_newton, lbfgs, adam])
def test_extrapolated_lengths_are_closer_than_those_of_their_curves(solver, rolled):
    a, b, truth = rolled
    curves = solver(swiss_roll, a, b)
    error, chords = (
        (length / truth - 1).abs() for length in (curves.length, lg.curve.chord_length(swiss_roll, curves.points))
    )
    assert curves.stopped.all()
    assert (error < 3e-4).all()
    assert (error < chords).all()
    assert torch.equal(curves.points[:, [0, -1]], torch.stack([a, b], 1))


@pytest.mark.parametrize("solver", [gauss_newton, lbfgs, adam, georce])
def test_too_few_steps_are_owned_up_to(solver, rolled):
    assert not solver(swiss_roll, *rolled[:2], max_steps=1).stopped.any()


@pytest.mark.parametrize("T", [16, 32])
def test_the_control_problem_ends_where_its_energy_is_stationary(T, rolled):
    a, b, truth = rolled
    curves = georce(swiss_roll, a, b, segments=T, tol=1e-8)
    assert curves.stopped.all()

    def energy(inner):
        z = torch.cat([a[:, None], inner, b[:, None]], 1)
        G = lg.pullback_metric(swiss_roll, z[:, :-1].flatten(0, 1)).unflatten(0, (2, T))
        u = z.diff(dim=1)
        return torch.einsum("pti,ptij,ptj->", u, G, u)

    found = curves.points[:, 1:-1]
    at_rest = energy(found)
    for direction in torch.randn(5, *found.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        assert at_rest < energy(found + 1e-3 * direction)
    assert ((lg.curve.chord_length(swiss_roll, curves.points) / truth - 1).abs() < 16 / T**2).all()


def test_a_metric_without_an_inverse_ends_the_control_problem_unfinished():
    def flat(z):
        return torch.cat([z[:, :1], z[:, :1].square()], 1)  # the second dimension does nothing

    curves = georce(flat, torch.zeros(1, 2), torch.ones(1, 2), segments=8)
    assert not curves.stopped.any()


def test_a_pair_that_another_solver_gives_up_is_named(rolled):
    a, b, truth = rolled
    curves = collocation(swiss_roll, a, b, tol=1e-3)
    assert curves.stopped.all()
    assert ((lg.curve.chord_length(swiss_roll, curves.points) / truth - 1).abs() < 1e-4).all()
    assert not collocation(swiss_roll, a, b, tol=1e-9, max_nodes=12).stopped.any()


@pytest.mark.parametrize("solver", [spline_adam, gauss_newton, lbfgs, adam, georce])
def test_what_does_not_fit_is_refused(solver, decoder, ends):
    with pytest.raises(ValueError, match="same shape"):
        solver(decoder, ends[0], ends[1][:2])
