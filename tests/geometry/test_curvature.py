import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacfwd, vmap

import latentgeo as lg
from latentgeo.geometry import curvature
from latentgeo.geometry.curvature import (
    gaussian_curvature,
    ricci_curvature,
    riemann,
    scalar_curvature,
    second_fundamental_form,
    sectional_curvature,
)
from latentgeo.geometry.surfaces import cylinder, pseudosphere, sphere, swiss_roll, torus
from tests.conftest import mlp
from tests.surfaces import paraboloid, spheroid

ALL = [second_fundamental_form, riemann, ricci_curvature, scalar_curvature]


def _points(*shape, scale=0.5, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _product(f, g, split):
    return lambda z: torch.cat([f(z[:, :split]), g(z[:, split:])], 1)


def _close(actual, expected, tol=1e-8):
    torch.testing.assert_close(actual, expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_unit_sphere_has_curvature_one(n):
    z, u, v = (_points(12, n, seed=seed) for seed in range(3))
    G = lg.pullback_metric(sphere, z)
    _close(sectional_curvature(sphere, z, u, v), torch.ones(12).double())
    _close(riemann(sphere, z), torch.einsum("pik,pjl->pijkl", G, G) - torch.einsum("pil,pjk->pijkl", G, G))
    _close(ricci_curvature(sphere, z), (n - 1) * G)
    _close(scalar_curvature(sphere, z), torch.full((12,), n * (n - 1.0)).double())


def test_curvature_falls_with_the_square_of_the_size():
    z, u, v = (_points(5, 3, seed=seed) for seed in range(3))
    _close(sectional_curvature(lambda z: 4.0 * sphere(z), z, u, v), torch.full((5,), 1 / 16).double())


def _torus_of_revolution(major, minor):
    return (
        lambda z: torus(z, major, minor),
        lambda z: z[:, 1].cos() / (minor * (major + minor * z[:, 1].cos())),
    )


def _ellipsoid_of_revolution(equatorial, flattening):
    e2 = flattening * (2 - flattening)
    return (
        lambda z: spheroid(z, equatorial, flattening),
        lambda z: (1 - e2 * z[:, 1].sin().square()).square() / (equatorial**2 * (1 - e2)),
    )


@pytest.mark.parametrize(
    ("surface", "expected"),
    [
        _torus_of_revolution(2.0, 1.0),
        _torus_of_revolution(3.0, 0.5),
        _ellipsoid_of_revolution(2.0, 0.3),
        (paraboloid, lambda z: 4 / (1 + 4 * z.square().sum(1)).square()),
        (lambda z: pseudosphere(z + torch.tensor([0.0, 4.0])), lambda z: -torch.ones(len(z)).double()),
        (cylinder, lambda z: torch.zeros(len(z)).double()),
        (swiss_roll, lambda z: torch.zeros(len(z)).double()),
        # Of codimension two: the graph of the complex square, K = -2 |F''|² / (1 + |F'|²)³; and the flat torus.
        (
            lambda z: torch.cat([z, (z[:, :1] - z[:, 1:]) * z.sum(1, keepdim=True), 2 * z.prod(1, keepdim=True)], 1),
            lambda z: -8 / (1 + 4 * z.square().sum(1)) ** 3,
        ),
        (lambda z: torch.cat([z.cos(), z.sin()], 1), lambda z: torch.zeros(len(z)).double()),
    ],
    ids=["torus", "thin torus", "spheroid", "paraboloid", "pseudosphere", "cylinder", "roll", "square", "flat torus"],
)
def test_surfaces_have_their_gaussian_curvature(surface, expected):
    z = _points(20, 2)
    K = expected(z)
    _close(gaussian_curvature(surface, z), K)
    _close(scalar_curvature(surface, z), 2 * K)
    _close(ricci_curvature(surface, z), K[:, None, None] * lg.pullback_metric(surface, z))
    _close(sectional_curvature(surface, z, _points(2, seed=1), _points(20, 2, seed=2)), K)
    _close(riemann(surface, z)[:, 0, 1, 0, 1], K * lg.volume_element(surface, z).square())


def test_the_earth_in_metres_has_the_curvature_of_its_principal_radii():
    z = _points(5, 2)
    _, expected = _ellipsoid_of_revolution(6378137.0, 1 / 298.257223563)
    torch.testing.assert_close(gaussian_curvature(spheroid, z), expected(z), rtol=1e-8, atol=0)


def test_linear_decoders_are_flat():
    W = _points(6, 4)
    z, u, v = (_points(5, 4, seed=seed) for seed in range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for function in ALL:
            assert (function(lambda z: z @ W.mT + 1.0, z) == 0).all()
        assert (sectional_curvature(lambda z: z @ W.mT, z, u, v) == 0).all()


def test_the_curvature_of_a_product_is_that_of_its_factors():
    f = _product(sphere, lambda z: 2.0 * sphere(z), 2)
    z = _points(6, 5)
    first, second, mixed = (torch.zeros(6, 5).double() for _ in range(3))
    first[:, :2], second[:, 2:] = _points(6, 2, seed=1), _points(6, 3, seed=2)
    mixed[:, 2:] = _points(6, 3, seed=3)
    _close(sectional_curvature(f, z, first, second), torch.zeros(6).double())
    _close(sectional_curvature(f, z, second, mixed), torch.full((6,), 0.25).double())
    _close(
        sectional_curvature(f, z, first, first.roll(1, 1) * torch.tensor([-1.0, 1, 0, 0, 0])), torch.ones(6).double()
    )
    _close(scalar_curvature(f, z), torch.full((6,), 2 + 6 / 4).double())
    ricci = ricci_curvature(f, z)
    assert (ricci[:, :2, 2:].abs() < 1e-8).all()
    _close(ricci[:, :2, :2], lg.pullback_metric(sphere, z[:, :2]))


def test_the_second_fundamental_form_is_the_normal_part_of_the_second_derivative(decoder):
    z = _points(4, 3)
    second = second_fundamental_form(decoder, z)
    J = lg.metric.jacobian(decoder, z)
    hessian = vmap(jacfwd(jacfwd(lambda p: decoder(p[None])[0])))(z)
    tangential = J @ torch.linalg.pinv(J) @ hessian.flatten(2)
    _close(second, hessian - tangential.reshape_as(hessian), 1e-11)
    assert (J.mT @ second.flatten(2)).abs().max() < 1e-12
    assert torch.equal(second, second.mT)
    # On the sphere it is minus the metric times the outward normal.
    z = _points(4, 2)
    _close(second_fundamental_form(sphere, z), -sphere(z)[..., None, None] * lg.pullback_metric(sphere, z).unsqueeze(1))


def test_the_riemann_tensor_has_its_symmetries_and_traces(decoder):
    z = _points(5, 3)
    R, G = riemann(decoder, z), lg.pullback_metric(decoder, z)
    assert R.abs().max() > 1e-3
    for axes, sign in [((0, 2, 1, 3, 4), -1), ((0, 1, 2, 4, 3), -1), ((0, 3, 4, 1, 2), 1)]:
        _close(R.permute(axes), sign * R, 1e-14)
    _close(R + R.permute(0, 1, 3, 4, 2) + R.permute(0, 1, 4, 2, 3), torch.zeros_like(R), 1e-14)
    _close(ricci_curvature(decoder, z), torch.einsum("pik,pijkl->pjl", G.inverse(), R), 1e-10)
    _close(scalar_curvature(decoder, z), torch.einsum("pjl,pjl->p", G.inverse(), ricci_curvature(decoder, z)), 1e-10)


def test_sectional_curvature_agrees_with_the_riemann_tensor(ensemble):
    z, u, v = (_points(8, 3, seed=seed) for seed in range(3))
    uu, uv, vv = (lg.metric.inner(ensemble, z, a, b) for a, b in [(u, u), (u, v), (v, v)])
    expected = torch.einsum("pijkl,pi,pj,pk,pl->p", riemann(ensemble, z), u, v, u, v) / (uu * vv - uv.square())
    _close(sectional_curvature(ensemble, z, u, v), expected, 1e-11)
    # Of the plane alone, whatever spans it.
    _close(sectional_curvature(ensemble, z, 1e-9 * v, 1e9 * (3.0 * u - v)), expected, 1e-11)
    _close(sectional_curvature(ensemble, z, u, u + 1e-4 * v), expected, 1e-9)


@pytest.mark.parametrize("d", [2, 3])
def test_gauss_equation_agrees_with_the_christoffel_symbols_of_the_metric(d):
    r"""R^i_jkl = ∂_k Γ^i_lj - ∂_l Γ^i_kj + Γ^i_km Γ^m_lj - Γ^i_lm Γ^m_kj, which knows the metric alone."""
    f = mlp(3, d=d)

    def metric(p):
        J = jacfwd(lambda q: f(q[None])[0])(p)
        return J.mT @ J

    def christoffel(p):  # Γ^m_ab
        dG = jacfwd(metric)(p)  # [a, b, c]: ∂_c G_ab
        lowered = 0.5 * (dG.permute(0, 2, 1) + dG - dG.permute(2, 0, 1))  # [c, a, b]
        return torch.einsum("mc,cab->mab", torch.linalg.inv(metric(p)), lowered)

    def intrinsic(p):
        gamma, dgamma = christoffel(p), jacfwd(christoffel)(p)  # dgamma [i, l, j, k]
        half = torch.einsum("iljk->ijkl", dgamma) + torch.einsum("ikm,mlj->ijkl", gamma, gamma)
        return torch.einsum("ai,ijkl->ajkl", metric(p), half - half.mT)

    z = _points(6, d)
    expected = vmap(intrinsic)(z)
    assert expected.abs().max() > 1e-3
    _close(riemann(f, z), expected, 1e-11)


def test_curvature_is_covariant_under_changes_of_coordinates(decoder):
    z, u, v = (_points(6, 3, seed=seed) for seed in range(3))
    A = lg.RadialTwist(0.7)
    f, J = lg.reparametrise(decoder, A), vmap(jacfwd(A))(z)
    R, R_A = riemann(decoder, z), riemann(f, A(z))
    _close(torch.einsum("pab,pai,pbj->pij", lg.pullback_metric(f, A(z)), J, J), lg.pullback_metric(decoder, z))
    _close(torch.einsum("pabce,pai,pbj,pck,pel->pijkl", R_A, J, J, J, J), R)
    _close(torch.einsum("pab,pai,pbj->pij", ricci_curvature(f, A(z)), J, J), ricci_curvature(decoder, z))
    _close(scalar_curvature(f, A(z)), scalar_curvature(decoder, z))
    Ju, Jv = ((J @ w.unsqueeze(-1)).squeeze(-1) for w in (u, v))
    _close(sectional_curvature(f, A(z), Ju, Jv), sectional_curvature(decoder, z, u, v))
    _close(
        torch.einsum("pDab,pai,pbj->pDij", second_fundamental_form(f, A(z)), J, J), second_fundamental_form(decoder, z)
    )
    # The controls: entries at a coordinate are not identified, and another point has another curvature.
    assert (R_A - R).abs().max() > 0.1 * R.abs().max()
    assert (scalar_curvature(f, z) - scalar_curvature(decoder, z)).abs().max() > 1e-3


def test_curvature_is_intrinsic_but_the_second_fundamental_form_is_not():
    z = _points(5, 2)
    assert second_fundamental_form(cylinder, z).norm() > 1
    assert second_fundamental_form(lambda z: z, z).norm() < 1e-12


def _geodesic_sides(decoder, starts, velocities, degree=16):
    """Geodesics as polynomials in the time, which interpolate them at Chebyshev points: functions (n,) -> (n, 2)."""

    def basis(t):
        terms = [torch.ones_like(t), 2 * t - 1]
        while len(terms) <= degree:
            terms.append(2 * (2 * t - 1) * terms[-1] - terms[-2])
        return torch.stack(terms, -1)

    t = 0.5 - 0.5 * torch.cos(torch.pi * torch.arange(degree + 1).double() / degree)
    rows = starts.repeat_interleave(degree + 1, 0), torch.einsum("t,pi->pti", t, velocities).flatten(0, 1)
    points = lg.exp_map(decoder, *rows).reshape(len(starts), degree + 1, -1)
    return [lambda t, c=c: basis(t) @ c for c in torch.linalg.solve(basis(t), points)]


def _excess_and_total_curvature(decoder, corners, nodes=20):
    """Angle sum of a geodesic triangle less π, and the integral of the curvature over what it encloses.

    For corners (T, 3, 2) of T triangles at once, one pair (excess, total) each.
    """
    start, end = (corners[:, order].reshape(-1, 2) for order in ([0, 0, 1, 1, 2, 2], [1, 2, 2, 0, 0, 1]))
    logs = lg.log_map(decoder, start, end, shooting=4, segments=64, tol=1e-11)
    angles = lg.angle(decoder, corners, *logs.reshape(-1, 3, 2, 2).unbind(2)).sum(1)
    first = [6 * k + side for k in range(len(corners)) for side in range(3)]  # ab, ac and bc of each
    sides = _geodesic_sides(decoder, start[first], logs[first])
    square = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])).double()
    x, w = (torch.from_numpy(values / 2) for values in np.polynomial.legendre.leggauss(nodes))
    rs, weights = torch.cartesian_prod(x + 0.5, x + 0.5), torch.outer(w, w).flatten()
    results = []
    for k, (a, b, c) in enumerate(corners):
        ab, ac, bc = sides[3 * k : 3 * k + 3]

        def fill(rs, ab=ab, ac=ac, bc=bc, b=b, c=c):
            """Unit square onto the triangle: r = 0 is a, s = 0 and 1 are the sides ab and ac, r = 1 is bc."""
            r, s = rs[:, :1], rs[:, 1:]
            bulge = bc(s[:, 0]) - (1 - s) * b - s * c
            return (1 - s) * ab(r[:, 0]) + s * ac(r[:, 0]) + r * bulge

        _close(fill(square), torch.stack([a, a, b, c]), 1e-9)  # the sides meet at the corners
        stretch = vmap(jacfwd(lambda p, fill=fill: fill(p[None])[0]))(rs).det()
        assert (stretch.sign() == stretch[0].sign()).all()  # the fill does not fold
        z = fill(rs)
        area = lg.volume_element(decoder, z) * stretch.abs() * weights
        results.append((angles[k].item() - math.pi, (gaussian_curvature(decoder, z) * area).sum().item()))
    return results


def _excess_of_the_chords(decoder, corners):
    return (
        lg.angle(decoder, corners, corners.roll(-1, 0) - corners, corners.roll(1, 0) - corners).sum().item() - math.pi
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("surface", "corners"),
    [
        (torus, [[[0.0, -0.5], [0.9, 0.2], [-0.1, 0.7]], [[0.0, 2.4], [1.0, 3.0], [0.2, 3.6]]]),  # outside, inside
        pytest.param(
            mlp(5, d=2),
            [[[-1.6, -0.4], [-0.3, -0.7], [-0.2, 1.0]], [[0.0, 1.6], [-1.0, 0.1], [1.0, 0.2]]],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["torus", "network"],
)
def test_gauss_and_bonnet_on_a_geodesic_triangle(surface, corners):
    corners = torch.tensor(corners, dtype=torch.float64)
    for triangle, (excess, total) in zip(corners, _excess_and_total_curvature(surface, corners), strict=True):
        assert abs(total) > 0.04
        assert excess == pytest.approx(total, abs=1e-6)
        # The controls: angles between chords in latent space do not tell the curvature, by either measure.
        assert _excess_of_the_chords(lambda z: z, triangle) == pytest.approx(0.0, abs=1e-12)
        assert abs(_excess_of_the_chords(surface, triangle) - total) > 0.02


def test_sectional_curvature_works_in_many_dimensions():
    d = 600
    z, u, v = (_points(3, d, scale=0.02, seed=seed) for seed in range(3))
    _close(sectional_curvature(sphere, z, u, v), torch.ones(3).double())  # the full tensor would take gigabytes


def test_any_batch_and_event_shape_will_do_and_nothing_carries_gradients():
    z = _points(2, 3, 2).requires_grad_()
    kept = z.detach().clone()
    network = mlp(1, d=2, D=6)

    def images(z):
        return network(z).reshape(-1, 2, 3)

    shapes = [(6, 2, 2), (2, 2, 2, 2), (2, 2), ()]
    for function, shape in zip(ALL, shapes, strict=True):
        whole = function(images, z)
        assert whole.shape == (2, 3, *shape)
        assert not whole.requires_grad
        _close(function(network, z[1, 2]), whole[1, 2], 1e-12)
        assert function(network, z[:0]).shape == (0, 3, *shape)
        one = function(network, z[0, 0].expand(4, 2))  # shares memory, and cannot be differentiated at as it is
        _close(one, whole[0, 0].expand_as(one), 1e-12)
    K = sectional_curvature(images, z, z, torch.ones(2).double())
    assert K.shape == (2, 3)
    assert not K.requires_grad
    _close(K, gaussian_curvature(network, z))
    assert sectional_curvature(network, z[:0], z[0, 0], z[0, 1]).shape == (0, 3)
    assert torch.equal(z.detach(), kept)
    assert z.grad is None
    assert all(p.grad is None for p in network.parameters())


def test_single_precision_gives_single_precision():
    z, u, v = (_points(6, 3, seed=seed).float() for seed in range(3))
    for function in ALL:
        expected = function(sphere, z.double()).float()
        torch.testing.assert_close(function(sphere, z), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sectional_curvature(sphere, z, u, v), torch.ones(6), rtol=1e-4, atol=0)


def test_chunks_change_nothing(monkeypatch, decoder):
    z, u, v = (_points(11, 3, seed=seed) for seed in range(3))
    whole = [function(decoder, z) for function in ALL] + [sectional_curvature(decoder, z, u, v)]
    for limit in [("_MAX_BYTES", 3 * 81 * 8), ("_MAX_ROWS", 40), ("_MAX_BYTES", 1)]:
        with monkeypatch.context() as patch:
            patch.setattr(curvature, *limit)
            parts = [function(decoder, z) for function in ALL] + [sectional_curvature(decoder, z, u, v)]
        for part, expected in zip(parts, whole, strict=True):
            _close(part, expected, 1e-13)


def test_chunks_keep_to_their_memory():
    like = torch.empty(0, dtype=torch.float64)
    for D, d in [(784, 2), (784, 32), (3, 2), (784, 500)]:
        n = curvature._points_at_once(D * d**2, d**2, like)
        assert n == 1 or n * D * d**2 * 8 <= 256 * 2**20


@pytest.mark.parametrize(
    ("surface", "bad", "good"),
    [
        (spheroid, [0.3, math.pi / 2], [0.3, 0.5]),  # the pole, where all longitudes are one point
        (pseudosphere, [0.3, 0.5], [0.3, 2.0]),  # outside the domain: not finite
        (lambda z: (z.square() * z).sum(1, keepdim=True) * torch.ones(3).double(), [1.0, 0.2], None),  # rank one
        (lambda z: z.square().sum(1, keepdim=True), [1.0, 0.2], None),  # fewer data than latent dimensions
    ],
    ids=["pole", "outside", "rank one", "one data dimension"],
)
def test_there_is_no_curvature_where_the_metric_has_no_inverse(surface, bad, good):
    z = torch.tensor([bad] if good is None else [good, bad, good], dtype=torch.float64)
    u, v = torch.eye(2).double()
    for function in [*ALL, gaussian_curvature, lambda f, z: sectional_curvature(f, z, u, v)]:
        value = function(surface, z)
        assert value[len(z) // 2].isnan().all()
        if good is not None:
            alone = function(surface, z[:1])
            assert alone.isfinite().all()
            torch.testing.assert_close(value[0::2], alone.expand_as(value[0::2]), rtol=1e-9, atol=1e-18)


def test_a_piecewise_linear_decoder_is_named():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        relu = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 5)).double()
    z, u, v = (_points(20, 2, scale=1.0, seed=seed) for seed in range(3))
    for function in [*ALL, gaussian_curvature, lambda f, z: sectional_curvature(f, z, u, v)]:
        with pytest.warns(RuntimeWarning, match="piecewise linear") as caught:
            value = function(relu, z)
        assert (value == 0).all()
        assert caught[0].filename == __file__  # it points at the call
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scalar_curvature(relu, z[:1])  # one linear piece


def test_a_flat_plane_in_a_curved_surface_is_not_taken_for_a_kink():
    z = _points(8, 3)
    u, v, _ = torch.eye(3).double()
    f = _product(lambda z: z, lambda z: torch.cat([z.sin(), z.cos()], 1), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (sectional_curvature(f, z, u, v) == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: gaussian_curvature(sphere, z), "points .* of a surface"),
        (lambda z: sectional_curvature(sphere, z, z, -0.3 * z), "5 pairs that are parallel or zero"),
        (lambda z: sectional_curvature(sphere, z, z, 0.0 * z), "parallel or zero"),
        (lambda z: sectional_curvature(sphere, z[:, :1], z[:, :1], z[:, 1:2]), "parallel or zero"),
        (lambda z: sectional_curvature(sphere, z, z[:2], z), "u: expected directions of a shape that broadcasts"),
        (lambda z: sectional_curvature(sphere, z, z, z[:, :2]), "v: expected directions"),
        (lambda z: riemann(sphere, z / 0.0), "finite values"),
        (lambda z: scalar_curvature(nn.Sequential(nn.Dropout()), z), "training mode"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(_points(5, 3))


@pytest.mark.parametrize("function", ALL)
def test_what_is_not_a_decoder_or_not_points_is_refused(function):
    with pytest.raises(TypeError, match="expected a callable"):
        function(3, _points(5, 3))
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor"):
        function(sphere, {"z": [[0.0, 1.0]]})
    with pytest.raises(TypeError, match=r"its parameters are torch\.float64"):
        function(mlp(0), _points(5, 3).float())


@pytest.mark.parametrize("activation", [nn.SiLU, nn.GELU, nn.Softplus, nn.Tanh])
def test_smooth_activations_have_a_curvature_whether_or_not_gradients_are_recorded(activation):
    f = nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 5)).double()
    z = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outside = lg.scalar_curvature(f, z)
    with torch.no_grad():
        inside = lg.scalar_curvature(f, z)
    assert torch.equal(outside, inside)
    assert outside.isfinite().all()
    assert (outside.abs() > 0).all()
    assert lg.exp_map(f, z, 0.1 * z, steps=4).isfinite().all()
    assert not outside.requires_grad
