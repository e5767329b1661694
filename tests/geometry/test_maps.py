import itertools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

import latentgeo as lg
from latentgeo.geometry.surfaces import pseudosphere, sphere, sphere_distance, swiss_roll, torus
from tests.surfaces import spheroid, swiss_roll_distance

TIGHT = {"segments": 64, "tol": 1e-11, "max_iter": 1000}


def _points(P, d, scale=0.4, seed=0):
    return scale * torch.randn(P, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _lonlat_sphere(z):
    return spheroid(z, equatorial=1.0, flattening=0.0)


@pytest.mark.thorough
def test_the_exponential_map_walks_great_circles():
    z, v = _points(10, 3), _points(10, 3, seed=1)
    length = lg.metric.norm(sphere, z, v)
    y = lg.exp_map(sphere, z, v)
    torch.testing.assert_close(sphere_distance(z, y), length, rtol=1e-7, atol=0)
    half = lg.exp_map(sphere, z, 0.5 * v)
    torch.testing.assert_close(sphere_distance(z, half) + sphere_distance(half, y), length, rtol=1e-7, atol=0)


@pytest.mark.thorough
def test_the_exponential_map_converges_with_the_fourth_power_of_the_steps():
    z, v = _points(5, 2), _points(5, 2, seed=1)
    best = lg.exp_map(torus, z, v, steps=60)
    errors = [(lg.exp_map(torus, z, v, steps=n) - best).norm() for n in (5, 10)]
    assert errors[0] / errors[1] > 11


@pytest.mark.thorough
@pytest.mark.parametrize("surface", [pytest.param(sphere, marks=pytest.mark.slow), torus])
def test_exponential_and_logarithm_are_inverse(surface):
    z, y = _points(2, 2), _points(2, 2, seed=1)
    v = lg.log_map(surface, z, y, shooting=12, **TIGHT)
    torch.testing.assert_close(lg.exp_map(surface, z, v), y, rtol=0, atol=1e-8)
    torch.testing.assert_close(lg.metric.norm(surface, z, v), lg.distance(surface, z, y, **TIGHT), rtol=1e-8, atol=0)


def test_a_geodesic_that_leaves_the_domain_is_lost_alone():
    z = torch.tensor([[0.0, 2.0], [0.0, 2.0]]).double()
    v = torch.tensor([[0.0, -5.0], [0.1, 0.1]]).double()
    y = lg.exp_map(pseudosphere, z, v)
    assert y[0].isnan().all()
    torch.testing.assert_close(y[1:], lg.exp_map(pseudosphere, z[1:], v[1:]))


@pytest.mark.filterwarnings("ignore:the speed of")
def test_a_geodesic_that_is_lost_in_the_last_step_is_lost_alone():
    def steep(z):
        return torch.cat([z, torch.sin(40.0 * z)], 1)

    z = torch.linspace(-2.0, 2.0, 20, dtype=torch.float64)[:, None]
    y = lg.exp_map(steep, z, 0.1 * torch.ones_like(z), steps=4)
    assert 0 < y.isnan().sum() < 20
    kept = ~y.isnan().any(1)
    torch.testing.assert_close(y[kept], lg.exp_map(steep, z[kept], 0.1 * torch.ones_like(z[kept]), steps=4))


def test_a_curve_that_leaves_the_domain_is_lost_alone_in_transport():
    def positive(z):
        return torch.cat([z.log(), z.square()], 1)

    ends = torch.tensor([[[1.0, 1.0], [-1.0, 2.0]], [[1.0, 1.0], [2.0, 2.0]]]).double()
    curve = lg.curve.straight_line(ends[:, 0], ends[:, 1], 8)
    moved = lg.parallel_transport(positive, curve, torch.ones(2, 2).double())
    assert moved[0].isnan().all()
    torch.testing.assert_close(moved[1:], lg.parallel_transport(positive, curve[1:], torch.ones(1, 2).double()))


def test_the_logarithm_without_shooting_is_as_good_as_the_curve():
    z, y = _points(8, 2), _points(8, 2, seed=1)
    v = lg.log_map(sphere, z, y)
    torch.testing.assert_close(lg.exp_map(sphere, z, v), y, rtol=0, atol=1e-4)


def test_transport_around_an_octant_turns_by_a_right_angle():
    """Equator, then a meridian to near the pole, and back: the holonomy is the area enclosed."""
    top = math.pi / 2 - 1e-3
    corners = torch.tensor([[0.0, 0.0], [math.pi / 2, 0.0], [math.pi / 2, top], [0.0, top], [0.0, 0.0]]).double()
    sides = [lg.curve.straight_line(p[None], q[None], 64)[0, :-1] for p, q in itertools.pairwise(corners)]
    loop = torch.cat([*sides, corners[:1]])[None]
    v = torch.tensor([[1.0, 0.0]]).double()
    w = lg.parallel_transport(_lonlat_sphere, loop, v)
    enclosed = math.pi / 2 * math.sin(top)
    turned = lg.angle(_lonlat_sphere, corners[0], v[0], w[0])
    assert turned.item() == pytest.approx(enclosed, abs=1e-6)


@pytest.mark.parametrize("latitude", [0.3, 1.0])
def test_transport_around_a_latitude_circle_turns_by_the_area_enclosed(latitude):
    errors = []
    for N in (64, 128):
        circle = torch.stack(
            [torch.linspace(0, 2 * math.pi, N + 1).double(), torch.full((N + 1,), latitude).double()], 1
        )
        v = torch.tensor([[0.0, 1.0]]).double()
        w = lg.parallel_transport(_lonlat_sphere, circle[None], v)
        turned = lg.angle(_lonlat_sphere, circle[0], v[0], w[0]).item()
        holonomy = 2 * math.pi * (1 - math.sin(latitude))
        expected = math.acos(math.cos(holonomy))
        errors.append(abs(turned - expected))
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_transport_keeps_lengths_and_angles_but_projection_does_not(ensemble, ends):
    curve = lg.geodesic(ensemble, *ends, segments=8).points
    u, v = _points(6, 3, seed=2), _points(6, 3, seed=3)
    tu, tv = (lg.parallel_transport(ensemble, curve, w) for w in (u, v))
    torch.testing.assert_close(
        lg.metric.inner(ensemble, curve[:, -1], tu, tv),
        lg.metric.inner(ensemble, curve[:, 0], u, v),
        rtol=1e-12,
        atol=1e-12,
    )
    J = lg.metric.jacobian(ensemble, curve)
    pushed = J[:, 0] @ u.unsqueeze(-1)
    for i in range(1, curve.shape[1]):
        pushed = J[:, i] @ torch.linalg.lstsq(J[:, i], pushed).solution
    kept = pushed.squeeze(-1).norm(dim=1) / lg.metric.norm(ensemble, curve[:, 0], u)
    assert kept.min() < 0.99  # the control loses length


def test_transport_carries_a_geodesics_velocity_along():
    z, y = _points(6, 2), _points(6, 2, seed=1)
    result = lg.geodesic(sphere, z, y, **TIGHT)
    start = lg.log_map(sphere, z, y, **TIGHT)
    arrived = lg.parallel_transport(sphere, result.points, start)
    expected = -lg.log_map(sphere, y, z, **TIGHT)
    torch.testing.assert_close(arrived, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
def test_the_frechet_mean_on_the_sphere_is_a_fixed_point_of_its_closed_form():
    z, w = _points(7, 2), torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0, 0.0, 1.0]).double()
    m = lg.frechet_mean(sphere, z, w, tol=1e-9, segments=64)
    x, p = sphere(z), sphere(m)
    theta = sphere_distance(z, m)
    logs = (theta / theta.sin()).unsqueeze(1) * (x - theta.cos().unsqueeze(1) * p)
    assert (w @ logs / w.sum()).norm() < 1e-6
    assert (m - w @ z / w.sum()).norm() > 1e-3  # the Euclidean mean is another point


def test_the_mean_of_two_points_is_the_middle_of_their_geodesic(decoder):
    z = _points(2, 3)
    m = lg.frechet_mean(decoder, z, tol=1e-8, segments=32, max_iter=200)
    middle = lg.geodesic(decoder, z[:1], z[1:], segments=32, tol=1e-11, max_iter=1000).points[0, 16]
    torch.testing.assert_close(m, middle, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_maps_are_covariant_under_changes_of_coordinates(ensemble, ends):
    (a, b), A = (z[:2] for z in ends), lg.RadialTwist(0.2)
    f = lg.reparametrise(ensemble, A)
    J = vmap(jacrev(A))(a)
    v = _points(2, 3, scale=0.3, seed=4)
    Jv = (J @ v.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(lg.exp_map(f, A(a), Jv), A(lg.exp_map(ensemble, a, v)), rtol=0, atol=1e-6)
    log, log_A = lg.log_map(ensemble, a, b), lg.log_map(f, A(a), A(b))
    torch.testing.assert_close(log_A, (J @ log.unsqueeze(-1)).squeeze(-1), rtol=0, atol=1e-3)
    curve = lg.curve.straight_line(a, b, 16)
    carried = lg.parallel_transport(ensemble, curve, v)
    J_end = vmap(jacrev(A))(b)
    carried_A = lg.parallel_transport(f, A(curve), Jv)
    torch.testing.assert_close(carried_A, (J_end @ carried.unsqueeze(-1)).squeeze(-1), rtol=0, atol=1e-9)
    m, m_A = lg.frechet_mean(ensemble, a), lg.frechet_mean(f, A(a))
    torch.testing.assert_close(m_A, A(m[None])[0], rtol=0, atol=1e-3)
    assert (A(a.mean(0)[None])[0] - A(a).mean(0)).norm() > 1e-2  # the control: Euclidean means do not follow


@pytest.mark.slow
def test_the_distance_is_differentiable_by_the_envelope_theorem(decoder, ends):
    def distance(a, b):
        return lg.distance(decoder, a, b, segments=64, tol=1e-13, max_iter=2000)

    a, b = (z[:3].clone().requires_grad_() for z in ends)
    assert torch.autograd.gradcheck(distance, (a, b), eps=1e-5, atol=1e-6, rtol=1e-5)


def _bent_plane(z):
    """A plane bent along a catenary that turns by a right angle within a tenth: flat in arc length and height."""
    s, height = z.unbind(1)
    return torch.stack([0.1 * (s / 0.1).asinh(), (0.1**2 + s.square()).sqrt(), height], 1)


@pytest.mark.parametrize(
    ("surface", "distance", "low", "high", "segments", "most"),
    [
        (swiss_roll, swiss_roll_distance, (4.0, 0.0), (9.0, 3.0), 4, 0.01),
        (swiss_roll, swiss_roll_distance, (4.0, 0.0), (9.0, 3.0), 6, 3e-3),
        (swiss_roll, swiss_roll_distance, (4.0, 0.0), (9.0, 3.0), 16, 1e-4),
        (_bent_plane, lambda a, b: (a - b).norm(dim=1), (-0.2, 0.0), (0.2, 2.0), 16, 0.015),
    ],
)
def test_the_derivative_of_the_distance_is_as_good_as_is_said(surface, distance, low, high, segments, most):
    random = torch.Generator().manual_seed(0)
    low, high = torch.tensor([low, high], dtype=torch.float64)
    z, other = low + (high - low) * torch.rand(2, 20, 2, generator=random, dtype=torch.float64)
    ends, exact = ([z.clone().requires_grad_(), other.clone().requires_grad_()] for _ in range(2))
    lg.distance(surface, *ends, segments=segments).sum().backward()
    distance(*exact).sum().backward()
    found = lg.geodesic(surface, z, other, segments=segments, tol=1e-8)
    assert found.converged.double().mean() > 0.8
    for end, right in zip(ends, exact, strict=True):
        G = lg.pullback_metric(surface, end.detach())

        def norm(v, G=G):
            return (v * torch.linalg.solve(G, v)).sum(1).sqrt()

        torch.testing.assert_close(norm(end.grad), torch.ones(20).double(), rtol=1e-12, atol=0)
        error = norm(end.grad - right.grad)[found.converged]
        assert (error <= (2.0 * found.error[found.converged].clamp_min(1e-8)).sqrt()).all()
        assert error.max() < most


def test_at_a_pole_the_derivative_of_the_distance_is_that_along_the_meridian():
    """The only direction that the Jacobian knows there; geodesics leave in others too."""

    def globe(z):
        polar, azimuth = z.unbind(1)
        return torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], 1)

    polar = torch.tensor([0.0, 1e-7, 1e-3, 0.1], dtype=torch.float64)
    a = torch.stack([polar, torch.zeros(4).double()], 1).requires_grad_()
    b = torch.ones(4, 2, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # next to the pole some do not converge
        lg.distance(globe, a, b).sum().backward()
    one = torch.ones(4).double()
    cosine = polar.cos() * one.cos() + polar.sin() * one.sin() * one.cos()
    right = -(polar.cos() * one.sin() * one.cos() - polar.sin() * one.cos()) / (1.0 - cosine.square()).sqrt()
    torch.testing.assert_close(a.grad[:, 0], right, rtol=2e-3, atol=0)


def test_directions_that_the_segments_do_not_resolve_are_warned_of():
    """A right angle within a hundredth of the length, next to an end, of which the length hardly knows."""
    random = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 20, 2, generator=random, dtype=torch.float64)
    a[:, 0], b[:, 0] = -0.03 * (0.5 + a[:, 0]), 0.8 + 0.4 * b[:, 0]

    def bent(z):
        return _bent_plane(torch.stack([10.0 * z[:, 0], z[:, 1]], 1)) * torch.tensor([0.1, 0.1, 1.0]).double()

    found = lg.geodesic(bent, a, b, tol=1e-8)
    assert found.converged.double().mean() > 0.8
    with pytest.warns(RuntimeWarning, match="of the others it is a direction at an end"):
        v = lg.log_map(bent, a, b)
    wrong = ((v - (b - a)).norm(dim=1) > 0.5 * (b - a).norm(dim=1)).sum()
    assert wrong > 5  # the control: there was something to warn of


def test_the_derivative_of_the_distance_is_the_unit_velocity(ends):
    z, y = _points(6, 2), _points(6, 2, seed=1).requires_grad_()
    lg.distance(sphere, z, y, **TIGHT).sum().backward()
    G = lg.pullback_metric(sphere, y)
    velocity = -lg.log_map(sphere, y.detach(), z, **TIGHT)
    unit = velocity / lg.metric.norm(sphere, y, velocity).unsqueeze(1)
    torch.testing.assert_close(y.grad, (G @ unit.unsqueeze(-1)).squeeze(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: lg.exp_map(sphere, z, z[:2]), "v: expected directions of a shape that broadcasts"),
        (lambda z: lg.exp_map(sphere, z, z, steps=0), "steps: expected at least 1"),
        (lambda z: lg.log_map(sphere, z, z[:1]), "same shape"),
        (lambda z: lg.parallel_transport(sphere, z[None], z), "v: expected directions of a shape that broadcasts"),
        (lambda z: lg.parallel_transport(lambda z: z[:, :1], z[None], z[:1]), "at least 2 data dimensions"),
        (lambda z: lg.frechet_mean(sphere, z[:0]), "at least one point"),
        (lambda z: lg.frechet_mean(sphere, z, -torch.ones(3).double()), "at least zero"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(_points(3, 2))


def test_a_mean_that_does_not_converge_is_an_error():
    with pytest.raises(RuntimeError, match="did not converge in 1 iterations"):
        lg.frechet_mean(sphere, _points(5, 2), tol=1e-12, max_iter=1)


@pytest.mark.thorough
def test_an_exponential_map_that_cannot_be_followed_is_named():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        relu = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 5)).double()
    z, v = torch.zeros(4, 2).double(), _points(4, 2) * 3
    with pytest.warns(RuntimeWarning, match="the speed of 4 of 4 geodesics"):
        lg.exp_map(relu, z, v)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lg.exp_map(sphere, z, v / 3)
        lg.exp_map(lambda z: 2.0 * z, z, v)


@pytest.mark.parametrize("seed", range(4))
def test_a_mean_in_single_precision_is_that_in_double(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        f = nn.Sequential(nn.Linear(2, 16), nn.ELU(), nn.Linear(16, 30)).requires_grad_(False)
        z = 0.1 * torch.randn(20, 2) + torch.randn(1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        mean = lg.frechet_mean(f, z)
    exact = lg.frechet_mean(f.double(), z.double())
    assert (mean - exact).norm() < 2e-3 * z.std()


def test_a_mean_does_not_depend_on_the_order_of_its_points():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        f = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 20)).double().requires_grad_(False)
    f[0].weight.mul_(2.0)
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(lg.frechet_mean(f, z), lg.frechet_mean(f, z.flip(0)), atol=1e-5, rtol=0)


def test_a_mean_that_cannot_be_kept_to_its_tolerance_says_to_what():
    f = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 9)).requires_grad_(False)
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match="is kept to .* of the spread, not to tol 1.0e-12"):
        mean = lg.frechet_mean(f, z, tol=1e-12)
    assert torch.isfinite(mean).all()
