"""Gauss-Newton steps in data space: coordinates that turn quickly, jumps, scales and rounding."""

import math
import warnings

import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.geometry import surfaces
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.geodesic.newton import along_chord, carried
from latentgeo.geometry.surfaces import sphere, sphere_distance
from tests.conftest import mlp

CIRCLE = lambda z: torch.cat([z.cos(), z.sin()], -1)  # noqa: E731


def _network(scale=1.0, d=2, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        f = nn.Sequential(nn.Linear(d, 64), nn.Tanh(), nn.Linear(64, 50)).to(dtype).requires_grad_(False)
    f[0].weight.mul_(scale)
    return f


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_points_are_carried_to_the_same_image_in_any_coordinates():
    f, A = _network(), lg.RadialTwist(1.0)
    h = as_decoder(lg.reparametrise(f, A), A(_normal(1, 2)))
    z, aim = _normal(200, 2), _normal(200, 2, seed=1) * 0.3
    target = f(z + aim)
    way = (target - f(z)).norm(dim=1)
    for close, most in ((None, 0.7), (0.01 * way, 0.01)):
        arrived, decoded, J = carried(h, A(z), f(z), target, close=close)
        missed = (h(arrived) - target).norm(dim=1) / way
        assert missed.quantile(0.9) < most
        assert missed.max() < 1.0
        torch.testing.assert_close(decoded, h(arrived))
        torch.testing.assert_close(J, h.jacobian(arrived))


def test_a_first_curve_along_the_chord_is_the_same_in_other_coordinates():
    f, A = _network(), lg.RadialTwist(0.5)
    a, b = _normal(20, 2), _normal(20, 2, seed=1)
    here, there = as_decoder(f, a), as_decoder(lg.reparametrise(f, A), a)
    ends = torch.stack([f(a), f(b)], 1)
    first, second = along_chord(here, a, b, ends, 16), along_chord(there, A(a), A(b), ends, 16)
    apart = (f(first.flatten(0, 1)) - there(second.flatten(0, 1))).norm(dim=1).unflatten(0, (20, 17)).amax(1)
    assert (apart / (ends[:, 1] - ends[:, 0]).norm(dim=1)).median() < 0.05


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_strong_twist_leaves_distances_what_they_are(dtype):
    f, A = _network(dtype=dtype), lg.RadialTwist(1.0)
    a, b = _normal(40, 2).to(dtype), _normal(40, 2, seed=1).to(dtype)
    here = lg.geodesic(f, a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        there = lg.geodesic(lg.reparametrise(f, A), A(a), A(b))
    assert there.converged.double().mean() >= 0.95
    assert there.decoder_rows <= 4 * here.decoder_rows
    change = (there.length / here.length - 1).abs()
    assert (change <= here.error + there.error)[there.converged].double().mean() >= 0.9


def test_a_start_that_is_the_solution_is_kept():
    f, A = _network(), lg.RadialTwist(0.5)
    a, b = _normal(40, 2), _normal(40, 2, seed=1)
    here = lg.geodesic(f, a, b, segments=32)
    solution = A(here.points.flatten(0, 1)).unflatten(0, here.points.shape[:2])
    solution[:, 0], solution[:, -1] = A(a), A(b)
    there = lg.geodesic(lg.reparametrise(f, A), A(a), A(b), segments=32, initial=solution)
    assert there.converged.all()
    assert ((there.length / here.length - 1).abs() <= here.error + there.error).all()


def test_a_curve_that_jumps_between_nodes_is_measured_on_the_way():
    a, b = torch.zeros(1, 1).double(), torch.full((1, 1), 2.0 + 2.0 * math.pi).double()
    jump = torch.cat([torch.linspace(0, 2, 16).double(), b[0]]).reshape(1, 17, 1)
    best = lg.geodesic(CIRCLE, a, b, initial=[None, jump])
    assert best.length.item() == pytest.approx(2.0 + 2.0 * math.pi, rel=1e-4)
    assert best.converged.all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        alone = lg.geodesic(CIRCLE, a, b, initial=jump)
    assert not alone.converged.any() or alone.length.item() == pytest.approx(2.0 + 2.0 * math.pi, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e-18, 1e18, 1e25])
def test_lengths_scale_with_the_data_in_single_precision(scale):
    a, b = (0.5 * _normal(9, 2, seed=seed).float() for seed in (0, 1))
    found, unscaled = lg.geodesic(lambda z: scale * sphere(z), a, b), lg.geodesic(sphere, a, b)
    torch.testing.assert_close(found.length / scale, unscaled.length, rtol=1e-5, atol=0)
    assert found.converged.all()
    assert (found.lower <= found.length).all()


@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4, 1e-5])
def test_rounding_of_close_points_is_flagged_or_within_the_claim(apart):
    f = _network(d=8, dtype=torch.float32)
    a, step = _normal(100, 8).float(), _normal(100, 8, seed=1).float()
    b = a + apart * step / step.norm(dim=1, keepdim=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = lg.geodesic(f, a, b)
    truth = lg.distance(_network(d=8), a.double(), b.double())
    wrong = (found.length / truth - 1).abs() > found.error
    assert not (wrong & found.converged).any()
    assert found.converged.all() or apart < 2e-4
    assert found.iterations.max() <= 60


def test_bounds_enclose_distances_of_closed_form():
    a, b = 0.5 * _normal(30, 2), 0.5 * _normal(30, 2, seed=1)
    found, truth = lg.geodesic(sphere, a, b), sphere_distance(a, b)
    assert (found.lower <= truth).all()
    assert (found.upper >= truth).all()
    assert (found.upper / truth - 1).max() < 1e-3
    torus = lg.geodesic(surfaces.torus, a, b)
    finer = lg.geodesic(surfaces.torus, a, b, segments=64, tol=1e-10, max_iter=1000)
    assert (torus.upper >= finer.length * (1 - 1e-8)).all()


@pytest.mark.parametrize("angle", [0.5, 1.0])
def test_a_solution_in_twisted_coordinates_is_measured_like_the_one_it_is(angle):
    """A spline between its nodes would wind, and look like a kink; the chords of the nodes do not."""
    f, A = mlp(0, d=5, D=20), lg.RadialTwist(angle)
    a, b = torch.randn(2, 20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solved = lg.geodesic(f, a, b, tol=1e-12)
    found = lg.geodesic(lg.reparametrise(f, A), A(a), A(b), tol=1e-12, initial=A(solved.points))
    assert found.converged.all()
    assert found.error.max() < 1e-6
    torch.testing.assert_close(found.length, solved.length, rtol=1e-7, atol=0)
