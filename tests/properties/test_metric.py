"""What every pull-back metric has, whatever the decoder."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import hessian, jacrev, vmap

import latentgeo as lg
from tests.properties.strategies import (
    PROPERTY,
    SEEDS,
    apply,
    assert_close,
    cases,
    differs,
    immersion,
    normal,
)

pytestmark = pytest.mark.thorough

SOLVED = {"tol": 1e-7, "max_iter": 1000}


def _row(decoder):
    """The decoder of a single point, (d,) -> (D,)."""
    return lambda z: decoder(z.unsqueeze(0)).flatten()


@PROPERTY
@given(case=cases())
def test_metric_norm_angle_and_volume_are_those_of_the_reverse_mode_jacobian(case):
    f, z, u, v = case.decoder, case.points(4), case.directions(4), case.directions(4, stream=12)
    J = vmap(jacrev(_row(f)))(z)
    G, Ju, Jv = J.mT @ J, apply(J, u), apply(J, v)
    assert_close(lg.metric.jacobian(f, z), J, 1e-12)
    assert_close(lg.pullback_metric(f, z), G, 1e-12)
    assert_close(lg.metric.inner(f, z, u, v), (Ju * Jv).sum(1), 1e-12, scale=1.0)
    assert_close(lg.metric.norm(f, z, v), Jv.norm(dim=1), 1e-12)
    assert_close(lg.angle(f, z, u, v).cos(), torch.cosine_similarity(Ju, Jv), 1e-10, scale=1.0)
    assert_close(lg.volume_element(f, z), torch.linalg.det(G).sqrt(), 1e-10)
    assert (torch.linalg.eigvalsh(G) > 0).all()


@PROPERTY
@given(case=cases(), seed=SEEDS)
def test_moving_the_data_rigidly_changes_nothing_but_bending_does(case, seed):
    f, z = case.decoder, case.points(3)
    line = lg.curve.straight_line(z, case.points(3, stream=2), 12)
    D = f(z).flatten(1).shape[1]
    Q, shift = lg.random_rotation(D, generator=torch.Generator().manual_seed(seed)).matrix, normal(seed, D)

    def moved(z):
        return f(z).flatten(1) @ Q.mT + shift

    def sheared(z):
        x = f(z).flatten(1)
        return x + 0.5 * x.sum(1, keepdim=True)  # along the diagonal

    measured = (
        lg.pullback_metric,
        lg.volume_element,
        lambda f, _: lg.curve.chord_length(f, line),
        lambda f, _: lg.curve.chord_energy(f, line),
        lambda f, _: lg.parallel_transport(f, line, z),
    )
    for quantity in measured:
        assert_close(quantity(moved, z), quantity(f, z), 1e-11)
    assert_close(lg.scalar_curvature(moved, z), lg.scalar_curvature(f, z), 1e-7, scale=1.0)
    assert_close(lg.distance(moved, z, line[:, -1]), lg.distance(f, z, line[:, -1]), 1e-7)
    assert differs(lg.pullback_metric(sheared, z), lg.pullback_metric(f, z))


@PROPERTY
@given(case=cases(), c=st.floats(0.1, 10.0))
def test_scaling_the_data_scales_each_quantity_by_its_power(case, c):
    f, z, u, v = case.decoder, case.points(3), case.directions(3), case.directions(3, stream=12)
    line = lg.curve.straight_line(z, case.points(3, stream=2), 12)
    powers = (
        (2, 1e-11, lambda f: lg.pullback_metric(f, z)),
        (2, 1e-11, lambda f: lg.metric.inner(f, z, u, v)),
        (1, 1e-11, lambda f: lg.metric.norm(f, z, u)),
        (0, 1e-9, lambda f: lg.angle(f, z, u, v)),
        (case.d, 1e-11, lambda f: lg.volume_element(f, z)),
        (1, 1e-11, lambda f: lg.curve.chord_length(f, line)),
        (2, 1e-11, lambda f: lg.curve.chord_energy(f, line)),
        (0, 1e-9, lambda f: lg.curve.speed_variation(f, line)),
        (0, 1e-11, lambda f: lg.parallel_transport(f, line, v)),
        (0, 1e-7, lambda f: lg.curvature.ricci_curvature(f, z)),
        (1, 1e-6, lambda f: lg.distance(f, z, line[:, -1], **SOLVED)),
    )
    for power, tolerance, quantity in powers:
        assert_close(quantity(lambda z: c * f(z)), c**power * quantity(f), tolerance, scale=1e-3 * c**power)
    scalar = lg.scalar_curvature(f, z)
    assert_close(c**2 * lg.scalar_curvature(lambda z: c * f(z), z), scalar, 1e-7, scale=1.0)


@PROPERTY
@given(d=st.integers(1, 2), e=st.integers(1, 2), seed=SEEDS)
def test_a_product_has_the_geometry_of_its_factors(d, e, seed):
    f, g = immersion(seed, d, 2, torch.sin), immersion(seed + 50, e, 1, torch.tanh)

    def both(z):
        return torch.cat([f(z[:, :d]), g(z[:, d:])], 1)

    a, b, v = (0.4 * normal(seed + k, 3, d + e) for k in (5, 6, 7))
    G = lg.pullback_metric(both, a)
    assert_close(G[:, :d, :d], lg.pullback_metric(f, a[:, :d]), 1e-12)
    assert_close(G[:, d:, d:], lg.pullback_metric(g, a[:, d:]), 1e-12)
    assert G[:, :d, d:].abs().max() < 1e-12
    assert_close(lg.volume_element(both, a), lg.volume_element(f, a[:, :d]) * lg.volume_element(g, a[:, d:]), 1e-11)
    assert_close(
        lg.scalar_curvature(both, a),
        lg.scalar_curvature(f, a[:, :d]) + lg.scalar_curvature(g, a[:, d:]),
        1e-8,
        scale=1.0,
    )
    mixed = lg.curvature.sectional_curvature(both, a, v * (torch.arange(d + e) < d), v * (torch.arange(d + e) >= d))
    assert mixed.abs().max() < 1e-9
    curve = lg.curve.straight_line(a, b, 10)
    carried = torch.cat(
        [
            lg.parallel_transport(f, curve[..., :d].contiguous(), v[:, :d]),
            lg.parallel_transport(g, curve[..., d:].contiguous(), v[:, d:]),
        ],
        1,
    )
    assert_close(lg.parallel_transport(both, curve, v), carried, 1e-10)
    whole = lg.geodesic(both, a, b)
    first, second = lg.geodesic(f, a[:, :d], b[:, :d]), lg.geodesic(g, a[:, d:], b[:, d:])
    expected = torch.hypot(first.length, second.length)
    allowed = whole.error + torch.maximum(first.error, second.error) + 1e-8
    assert ((whole.length / expected - 1).abs() <= allowed).all()


@PROPERTY
@given(case=cases(), order=st.permutations(range(3)), copies=st.integers(1, 3))
def test_an_ensemble_is_its_members_in_any_order_and_number_of_copies(case, order, copies):
    members = [case.decoder] + [lambda z, c=c: c * case.decoder(z) for c in (0.5, 2.0)]
    f, z = lg.Ensemble(members), case.points(3)
    line = lg.curve.straight_line(z, case.points(3, stream=2), 6)
    again = lg.Ensemble([members[k] for k in order] * copies)
    assert_close(lg.pullback_metric(again, z), lg.pullback_metric(f, z), 1e-12)
    assert_close(lg.curve.chord_energy(again, line), lg.curve.chord_energy(f, line), 1e-12)
    mean = torch.stack([lg.curve.chord_energy(member, line) for member in members]).mean(0)
    assert_close(lg.curve.chord_energy(f, line), mean, 1e-12)
    assert_close(lg.pullback_metric(f, z), (1.0 + 0.25 + 4.0) / 3 * lg.pullback_metric(case.decoder, z), 1e-12)


@PROPERTY
@given(case=cases())
def test_distances_are_a_metric_between_the_chord_and_the_straight_line(case):
    f, z = case.decoder, case.points(3)
    i, j = torch.tensor(list(itertools.permutations(range(3), 2))).T
    found = lg.geodesic(f, z[i], z[j], **SOLVED)
    assert found.converged.all()
    d, slack = torch.zeros(2, 3, 3, dtype=torch.float64)
    d[i, j], slack[i, j] = found.length, found.length * found.error + 1e-12
    assert ((d - d.T).abs() <= slack + slack.T).all()
    assert (d[i, j] > 0).all()
    for a, b, c in itertools.permutations(range(3)):
        assert d[a, c] <= d[a, b] + d[b, c] + slack[a, b] + slack[b, c] + slack[a, c]
    chord = (f(z[j]) - f(z[i])).flatten(1).norm(dim=1)
    straight = lg.curve.chord_length(f, lg.curve.straight_line(z[i], z[j], 512))
    assert (chord <= d[i, j] + slack[i, j]).all()
    # 512 chords of a smooth curve fall short of its length by a few parts in a million.
    assert (d[i, j] <= straight * (1 + 1e-5) + slack[i, j]).all()
    assert_close(lg.distance_matrix(f, z, **SOLVED), d, 1e-6)
    assert (lg.distance(f, z, z) == 0).all()


@PROPERTY
@given(case=cases())
def test_the_claimed_error_covers_that_against_a_finer_solution(case):
    a, b = case.points(3), case.points(3, stream=2)
    quick = lg.geodesic(case.decoder, a, b, segments=8, tol=1e-3)
    fine = lg.geodesic(case.decoder, a, b, segments=32, tol=1e-10, max_iter=2000)
    assert fine.converged.all()
    assert (fine.error < 1e-5).all()
    assert ((quick.length / fine.length - 1).abs() <= quick.error + fine.error).all()
    # The points are at constant speed, and as long as claimed.
    assert lg.curve.speed_variation(case.decoder, fine.points).max() < 0.02
    assert_close(lg.curve.chord_length(case.decoder, fine.points), fine.length, 1e-2)
    assert_close(lg.curve.chord_energy(case.decoder, fine.points), fine.length.square(), 2e-2)
    assert (lg.curve.chord_length(case.decoder, fine.points) <= fine.length * (1 + fine.error)).all()


@settings(PROPERTY, max_examples=15)
@given(case=cases())
def test_a_geodesic_keeps_its_length_when_its_middle_becomes_an_end(case):
    a, b = case.points(3), case.points(3, stream=2)
    whole = lg.geodesic(case.decoder, a, b, **SOLVED)
    middle = whole.points[:, 8]
    halves = lg.geodesic(case.decoder, torch.cat([a, middle]), torch.cat([middle, b]), **SOLVED)
    first, second = halves.length.chunk(2)
    assert_close(first + second, whole.length, 1e-4)
    assert_close(first, second, 1e-2)


@PROPERTY
@given(case=cases())
def test_transport_keeps_inner_products_is_linear_and_is_undone_by_the_way_back(case):
    f, u, v = case.decoder, case.directions(3), case.directions(3, stream=12)
    curve = lg.curve.straight_line(case.points(3), case.points(3, stream=2), 9)
    curve = curve + 0.05 * torch.sin(3.0 * curve.roll(1, 2))  # bent
    start, end = curve[:, 0], curve[:, -1]
    tu, tv = (lg.parallel_transport(f, curve, w) for w in (u, v))
    assert_close(lg.metric.inner(f, end, tu, tv), lg.metric.inner(f, start, u, v), 1e-10, scale=1.0)
    assert_close(lg.metric.norm(f, end, tu), lg.metric.norm(f, start, u), 1e-10)
    assert_close(lg.angle(f, end, tu, tv), lg.angle(f, start, u, v), 1e-6, scale=1.0)
    assert_close(lg.parallel_transport(f, curve, 2.0 * u - v), 2.0 * tu - tv, 1e-10)
    assert_close(lg.parallel_transport(f, curve.flip(1), tu), u, 1e-10)


@settings(PROPERTY, max_examples=7)
@given(case=cases(), size=st.floats(0.02, 0.1))
def test_the_exponential_goes_as_far_as_its_velocity_is_long_and_the_logarithm_comes_back(case, size):
    f, z, v = case.decoder, case.points(2), case.directions(2)
    v = size * v / lg.metric.norm(f, z, v).unsqueeze(1)
    y = lg.exp_map(f, z, v, steps=8)
    found = lg.geodesic(f, z, y, tol=1e-10, max_iter=1000)
    assert ((found.length / size - 1).abs() <= found.error + 1e-6).all()
    assert_close(lg.log_map(f, z, y, tol=1e-12), v, 1e-3)
    assert (lg.exp_map(f, z, 0.0 * v, steps=2) == z).all()
    # For short velocities exp(w) = z + w + a/2 up to third order, with the acceleration a from Christoffel symbols.
    w = 1e-3 * v / v.norm(dim=1, keepdim=True)
    H, J = vmap(hessian(_row(f)))(z), vmap(jacrev(_row(f)))(z)
    a = -apply(torch.linalg.solve(J.mT @ J, J.mT), torch.einsum("pDij,pi,pj->pD", H, w, w))
    third = lg.exp_map(f, z, w, steps=2) - z - w - 0.5 * a
    assert (third.norm(dim=1) <= 2e-2 * w.norm(dim=1).square()).all()


@settings(PROPERTY, max_examples=3)
@given(case=cases(dimensions=(2, 3)))
def test_the_mean_of_two_points_is_the_middle_of_their_geodesic(case):
    z = case.points(2)
    mean = lg.frechet_mean(case.decoder, z, tol=1e-4, segments=8)
    legs = lg.distance(case.decoder, mean.expand(2, -1), z, **SOLVED)
    assert_close(legs[0], legs[1], 1e-3)
    assert_close(legs.sum(), lg.distance(case.decoder, z[:1], z[1:], **SOLVED)[0], 1e-4)


@settings(PROPERTY, max_examples=15)
@given(case=cases(dimensions=(2, 3)))
def test_curvature_is_that_of_the_gauss_equation_and_has_its_traces(case):
    f, z, u, v = case.decoder, case.points(3), case.directions(3), case.directions(3, stream=12)
    J, H = vmap(jacrev(_row(f)))(z), vmap(hessian(_row(f)))(z)
    inverse = torch.linalg.inv(J.mT @ J)
    normal_part = torch.eye(J.shape[1]).double() - J @ inverse @ J.mT
    second = torch.einsum("pDE,pEij->pDij", normal_part, H)
    gram = torch.einsum("pDik,pDjl->pijkl", second, second)
    expected = gram - gram.permute(0, 1, 2, 4, 3)
    assert_close(lg.curvature.second_fundamental_form(f, z), second, 1e-9, scale=1.0)
    R = lg.curvature.riemann(f, z)
    assert_close(R, expected, 1e-8, scale=1.0)
    ricci = torch.einsum("pik,pijkl->pjl", inverse, expected)
    assert_close(lg.curvature.ricci_curvature(f, z), ricci, 1e-7, scale=1.0)
    assert_close(lg.scalar_curvature(f, z), torch.einsum("pjl,pjl->p", inverse, ricci), 1e-7, scale=1.0)
    area = lg.metric.inner(f, z, u, u) * lg.metric.inner(f, z, v, v) - lg.metric.inner(f, z, u, v).square()
    K = torch.einsum("pijkl,pi,pj,pk,pl->p", expected, u, v, u, v) / area
    assert_close(lg.curvature.sectional_curvature(f, z, u, v), K, 1e-7, scale=1.0)
    # Only the plane matters.
    assert_close(lg.curvature.sectional_curvature(f, z, 2.0 * u + v, u - 3.0 * v), K, 1e-7, scale=1.0)
    if case.d == 2:
        assert_close(lg.gaussian_curvature(f, z), K, 1e-7, scale=1.0)


@settings(PROPERTY, max_examples=12)
@given(case=cases(), row=st.integers(0, 3))
def test_a_row_is_the_same_alone_and_among_others(case, row):
    f, z, y, v = case.decoder, case.points(4), case.points(4, stream=2), case.directions(4)
    one = slice(row, row + 1)
    for tolerance, quantity in (
        (1e-12, lambda z, y, v: lg.pullback_metric(f, z)),
        (1e-12, lambda z, y, v: lg.metric.norm(f, z, v)),
        (1e-12, lambda z, y, v: lg.volume_element(f, z)),
        (1e-9, lambda z, y, v: lg.curvature.ricci_curvature(f, z)),
        (1e-11, lambda z, y, v: lg.parallel_transport(f, lg.curve.straight_line(z, y, 5), v)),
        (1e-11, lambda z, y, v: lg.exp_map(f, z, 0.1 * v, steps=2)),
        (1e-9, lambda z, y, v: lg.geodesic(f, z, y).length),
        (1e-6, lambda z, y, v: lg.geodesic(f, z, y).points),
        (1e-9, lambda z, y, v: lg.geodesic(f, z, y, chunk_size=3).length),
    ):
        assert_close(quantity(z[one], y[one], v[one]), quantity(z, y, v)[one], tolerance, scale=1e-3)


@pytest.mark.parametrize("activation", [torch.sin, torch.tanh])
def test_the_immersions_drawn_bend_enough_to_matter(activation):
    """A control of the cases: straight lines are not geodesics, and the metric changes from point to point."""
    bent = 0
    for seed in range(10):
        f, (a, b) = immersion(seed, 2, 3, activation), 0.5 * normal(seed, 2, 4, 2)
        bent += bool((lg.distance(f, a, b) < 0.999 * lg.curve.chord_length(f, lg.curve.straight_line(a, b, 256))).any())
        assert differs(lg.pullback_metric(f, a), lg.pullback_metric(f, b))
    assert bent >= 3
