import math
import threading
import warnings

import geographiclib.geodesic
import numpy as np
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import latentgeo as lg
from latentgeo.geometry import surfaces
from latentgeo.geometry.curve import resample
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.geodesic import solve as solve_module
from latentgeo.geometry.geodesic.preconditioner import CurvePreconditioner
from latentgeo.geometry.geodesic.result import Geodesic, improved
from latentgeo.geometry.surfaces import cylinder, sphere, sphere_distance
from tests.conftest import mlp
from tests.surfaces import (
    cylinder_distance,
    paraboloid,
    paraboloid_arc,
    pseudosphere_distance,
    spheroid,
    swiss_roll_distance,
)

TIGHT = {"tol": 1e-11, "max_iter": 1000}


def _points(P, d, scale=0.7, seed=0):
    return scale * torch.randn(2, P, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _box(P, lower, upper, seed=0):
    lower, upper = torch.tensor(lower, dtype=torch.float64), torch.tensor(upper, dtype=torch.float64)
    random = torch.Generator().manual_seed(seed)
    return lower + (upper - lower) * torch.rand(2, P, len(lower), generator=random, dtype=torch.float64)


def _linear():
    M = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (lambda z: z @ M.T + 1.0), (lambda a, b: ((b - a) @ M.T).norm(dim=1))


def _meridian_ends(P):
    radius, angle = _box(P, [-1.0], [1.5]), _box(P, [0.0], [6.0])[0]
    direction = torch.cat([angle.cos(), angle.sin()], 1)
    return radius[0] * direction, radius[1] * direction


def _meridian_distance(a, b):
    direction = b / b.norm(dim=1, keepdim=True)
    radii = ((z * direction).sum(1) for z in (a, b))
    first, second = (paraboloid_arc(radius) for radius in radii)
    return (first - second).abs()


def _equator_ends(P):
    """Along the outer equator of the torus, up to nine tenths of the way to the conjugate point."""
    longitude = torch.linspace(0.1, 0.9 * math.pi / math.sqrt(3.0), P, dtype=torch.float64)[:, None]
    zero = torch.zeros_like(longitude)
    return torch.cat([zero, zero], 1), torch.cat([longitude, zero], 1)


def _geographic_distance(a, b):
    earth = geographiclib.geodesic.Geodesic.WGS84
    degrees = [[math.degrees(v) for v in (p[1], p[0], q[1], q[0])] for p, q in zip(a, b, strict=True)]
    return torch.tensor([earth.Inverse(*ends)["s12"] for ends in degrees], dtype=torch.float64)


def _latitude_chart(z):
    return spheroid(z, equatorial=1.0, flattening=0.0)


def _latitude_distance(a, b):
    x, y = _latitude_chart(a), _latitude_chart(b)
    return 2.0 * torch.atan2((x - y).norm(dim=1), (x + y).norm(dim=1))


CLOSED_FORMS = {
    "sphere S², stereographic": (sphere, sphere_distance, _box(20, [-0.6] * 2, [0.6] * 2)),
    "sphere S², longitude and latitude": (_latitude_chart, _latitude_distance, _box(20, [-0.9] * 2, [0.9] * 2)),
    "sphere S¹⁰, stereographic": (sphere, sphere_distance, _box(20, [-0.25] * 10, [0.25] * 10)),
    "cylinder": (cylinder, cylinder_distance, _box(20, [-1.0] * 2, [1.0] * 2)),
    "swiss roll": (surfaces.swiss_roll, swiss_roll_distance, _box(20, [4.0, 0.0], [9.0, 6.0])),
    "torus, outer equator": (surfaces.torus, lambda a, b: 3.0 * (a - b)[:, 0].abs(), _equator_ends(20)),
    "paraboloid, meridians": (paraboloid, _meridian_distance, _meridian_ends(20)),
    "pseudosphere": (surfaces.pseudosphere, pseudosphere_distance, _box(20, [0.0, 1.5], [1.0, 3.0])),
    "ellipsoid of revolution": (spheroid, _geographic_distance, _box(20, [-1.0] * 2, [1.0] * 2)),
    "linear": (*_linear(), _box(20, [-1.0] * 3, [1.0] * 3)),
}


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_distances_of_surfaces_with_closed_forms(case):
    decoder, expected, (a, b) = CLOSED_FORMS[case]
    result = lg.geodesic(decoder, a, b, segments=64, **TIGHT)
    truth = expected(a, b)
    assert result.converged.all()
    assert ((result.length - truth) / truth).abs().max() < 1e-8
    assert (result.lower <= truth * (1 + 1e-12)).all()
    assert (result.upper >= truth * (1 - 1e-8)).all()


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_the_certificate_covers_the_true_error(case):
    decoder, expected, (a, b) = CLOSED_FORMS[case]
    result = lg.geodesic(decoder, a, b)
    truth = expected(a, b)
    assert result.converged.all()
    assert (((result.length - truth) / truth).abs() <= result.error.clamp_min(1e-6)).all()


def test_on_a_linear_decoder_the_straight_line_is_found_at_once():
    decoder, _, (a, b) = CLOSED_FORMS["linear"]
    bent = lg.curve.straight_line(a, b, 8)
    bent[:, 1:-1] += 0.1 * torch.randn(bent[:, 1:-1].shape, generator=torch.Generator().manual_seed(0)).double()
    result = lg.geodesic(decoder, a, b, initial=bent, tol=1e-6)
    assert result.converged.all()
    assert (result.iterations <= 5).all()  # whitening takes the energy for that of chords
    torch.testing.assert_close(result.points, lg.curve.straight_line(a, b, 16), rtol=0, atol=1e-3)


@pytest.mark.parametrize("transform", [lg.RadialTwist(0.2), lg.LinearTransform(torch.eye(3).double() + 0.3)], ids=type)
def test_geodesics_do_not_depend_on_coordinates_but_euclidean_distances_do(ensemble, ends, transform):
    a, b = ends
    here = lg.geodesic(ensemble, a, b, **TIGHT)
    there = lg.geodesic(lg.reparametrise(ensemble, transform), transform(a), transform(b), **TIGHT)
    assert here.converged.all()
    assert there.converged.all()
    assert (there.length / here.length - 1).abs().max() < 1e-6
    torch.testing.assert_close(transform(here.points), there.points, rtol=0, atol=1e-3)
    euclidean_change = (transform(a) - transform(b)).norm(dim=1) / (a - b).norm(dim=1) - 1
    assert euclidean_change.abs().max() > 1e-2  # the control fails


def test_geodesics_are_shorter_than_straight_lines_and_longer_than_chords(ensemble, ends):
    result = lg.geodesic(ensemble, *ends, **TIGHT)
    straight = lg.curve.chord_length(ensemble, lg.curve.straight_line(*ends, 512))
    chord = (ensemble(ends[1]) - ensemble(ends[0])).flatten(1).norm(dim=1)
    assert (result.length < straight).all()
    assert (result.length > chord).all()
    assert (result.length < 0.999 * straight).any()


def test_speed_is_constant(ensemble, ends):
    result = lg.geodesic(ensemble, *ends, **TIGHT)
    assert lg.curve.speed_variation(ensemble, result.points).max() < 1e-2


@pytest.mark.thorough
def test_a_hard_pair_is_the_same_alone():
    """ReLU and few steps: most pairs are whitened anew, each after its own number of steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        relu = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 9)).double()
    a, b = _box(8, [-2.0] * 3, [2.0] * 3)
    options = {"segments": 8, "tol": 1e-9, "max_iter": 100}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        whole = lg.geodesic(relu, a, b, **options)
        alone = lg.geodesic(relu, a, b, chunk_size=1, **options)
    assert (whole.iterations > 30).any()
    assert torch.equal(whole.iterations, alone.iterations)
    torch.testing.assert_close(whole.length, alone.length, rtol=1e-7, atol=0)  # kinks amplify rounding


def test_a_curve_that_has_converged_is_kept_before_one_that_has_not():
    """The length of a curve that has not converged may be false, however small; of two others the bound decides."""

    def found(upper, converged):
        none, upper = torch.zeros(5), torch.tensor(upper)
        count = torch.zeros(5, dtype=torch.long)
        return Geodesic(none, upper, none, upper, none, none, none, torch.tensor(converged), count, 1e-4, 0)

    first = found([1.0, 1.0, 2.0, 2.0, float("nan")], [True, False, True, False, False])
    second = found([0.5, 2.0, 1.0, 1.0, 3.0], [False, True, True, False, False])
    best = improved(first, torch.arange(5), second)
    assert best.upper.tolist() == [1.0, 2.0, 1.0, 1.0, 3.0]
    assert best.converged.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, None)])
def test_a_pair_is_the_same_alone_in_any_order_and_with_any_chunk_size(ensemble, ends, dtype, tolerance):
    F, (a, b) = ensemble.to(dtype), (z.to(dtype) for z in ends)
    whole = lg.geodesic(F, a, b)
    tolerance = whole.error.max().item() * whole.length.max().item() if tolerance is None else tolerance
    for other in (
        lg.geodesic(F, a, b, chunk_size=1),
        lg.geodesic(F, a, b, chunk_size=4),
    ):
        torch.testing.assert_close(other.length, whole.length, rtol=0, atol=tolerance)
    backwards = lg.geodesic(F, a.flip(0), b.flip(0)).length.flip(0)
    torch.testing.assert_close(backwards, whole.length, rtol=0, atol=tolerance)
    alone = lg.geodesic(F, a[2:3], b[2:3]).length
    torch.testing.assert_close(alone, whole.length[2:3], rtol=0, atol=tolerance)


def test_several_threads_give_what_one_gives_and_are_only_used_where_layers_keep_nothing(ends):
    f, (a, b) = mlp(2, D=5), ends
    used = []

    class Watched(nn.Module):
        def forward(self, z):
            used.append(threading.get_ident())
            return f(z)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        several = lg.geodesic(f, a, b, chunk_size=1)
        assert torch.get_num_threads() == 2
        lg.geodesic(Watched(), a, b, chunk_size=1)
        with pytest.raises(ValueError, match="expected finite"):
            lg.geodesic(f, a.clone().fill_(torch.nan), b, chunk_size=1)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        one = lg.geodesic(f, a, b, chunk_size=1)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(several.points, one.points)
    assert torch.equal(several.length, one.length)
    assert several.decoder_rows == one.decoder_rows
    assert set(used) == {threading.get_ident()}


def test_the_distance_is_symmetric(ensemble, ends):
    a, b = ends
    torch.testing.assert_close(
        lg.distance(ensemble, a, b, **TIGHT), lg.distance(ensemble, b, a, **TIGHT), rtol=1e-8, atol=0
    )


def test_equal_ends_are_at_distance_zero(decoder, ends):
    a, b = ends
    result = lg.geodesic(decoder, a, torch.cat([a[:3], b[3:]]))
    assert result.length[:3].eq(0).all()
    assert result.length[3:].gt(0).all()
    assert result.converged.all()
    assert torch.isfinite(result.error).all()


@pytest.mark.thorough
def test_equal_ends_are_at_distance_zero_whatever_the_rounding(ensemble):
    F, z = ensemble.float(), 30 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

    def rounding(z):  # as if every row of a batch were rounded in its own way
        return F(z).flatten(1) + 1e-5 * torch.arange(len(z))[:, None]

    result = lg.geodesic(rounding, z, z)
    assert result.length.eq(0).all()
    assert result.converged.all()
    assert torch.equal(result.points, z[:, None].expand(-1, 17, -1))


def test_geodesics_are_found_in_inference_mode(decoder, ends):
    with torch.inference_mode():
        a, b = (z.clone() for z in ends)
        inside = lg.distance(decoder, a, b)
    torch.testing.assert_close(inside.clone(), lg.distance(decoder, *ends))


def test_a_row_that_is_not_finite_flags_its_pair_alone(decoder, ends):
    a, b = ends

    def broken(z):
        x = decoder(z)
        return torch.where((z - a[1]).norm(dim=1, keepdim=True) < 1e-9, torch.nan, x)

    with pytest.warns(RuntimeWarning, match="1 of 6 geodesics did not converge"):
        result = lg.geodesic(broken, a, b)
    expected = torch.ones(6, dtype=torch.bool)
    expected[1] = False
    assert torch.equal(result.converged, expected)
    torch.testing.assert_close(result.length[expected], lg.distance(decoder, a, b)[expected])


def test_running_out_of_iterations_is_flagged_with_its_excess(ends):
    with pytest.warns(RuntimeWarning, match="6 did not reach tol .* .* raise max_iter"):
        result = lg.geodesic(mlp(3), *ends, tol=1e-12, max_iter=1)
    assert not result.converged.any()
    assert (result.excess > 1e-12).all()


def test_a_kink_is_followed(ends):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        relu = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 7)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = lg.geodesic(relu, *ends)
    assert torch.isfinite(result.length).all()
    assert (result.length <= lg.curve.chord_length(relu, lg.curve.straight_line(*ends, 512)) * (1 + result.error)).all()


def _wide(activation, width=200, d=4, D=40, scale=3.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = nn.Linear(d, width), nn.Linear(width, width)
        layers = nn.Sequential(first, activation, second, activation, nn.Linear(width, D)).double()
        for layer in (first, second):
            layer.weight.data *= scale
    return layers


@pytest.mark.thorough
def test_kinks_are_named_and_the_error_allows_for_them():
    relu, smooth = _wide(nn.ReLU()), _wide(nn.SiLU())
    a, b = _box(40, [-2.0] * 4, [2.0] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert lg.geodesic(smooth, a, b).order.median() > 1.5
    with pytest.warns(RuntimeWarning, match="has kinks"):
        found = lg.geodesic(relu, a, b)
    assert found.order.median() < 1.2
    initial = torch.cat([a[:, None], found.points[:, 1:-1], b[:, None]], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        truth = lg.geodesic(relu, a, b, segments=64, tol=1e-5, initial=initial)
    error = (found.length / truth.length - 1).abs()
    assert error.median() > 5e-4  # so that the claim is put to the test
    assert (error <= found.error)[found.converged].double().mean() >= 0.95


def test_a_smooth_decoder_is_not_said_to_have_kinks_however_small_the_tolerance(decoder, ends):
    a, b = ends
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for near in (1.0, 0.1, 0.01):  # the nearer, the more of the increments is rounding
            lg.geodesic(decoder, a, torch.lerp(a, b, near), tol=1e-10, max_iter=1000)


@pytest.mark.slow
def test_kinks_that_look_smooth_by_chance_are_allowed_for():
    """In two dimensions a curve crosses few kinks, and the chords of one alignment may miss them all."""
    relu = _wide(nn.ReLU(), width=64, d=2, scale=1.0)
    a, b = _box(200, [-2.0] * 2, [2.0] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = lg.geodesic(relu, a, b)
        initial = torch.cat([a[:, None], found.points[:, 1:-1], b[:, None]], 1)
        truth = lg.geodesic(relu, a, b, segments=64, tol=1e-5, initial=initial)
    kept = found.converged & truth.converged
    error = (found.length / truth.length - 1).abs()[kept]
    assert kept.double().mean() > 0.6
    assert error.quantile(0.9) > 2e-3  # so that the claims are put to the test
    assert (error <= found.error[kept]).double().mean() >= 0.97


def test_another_initial_curve_may_be_given_and_finds_the_same_geodesic(ensemble, ends):
    a, b = ends
    detour = lg.curve.straight_line(a, b, 10)
    detour[:, 1:-1] += 0.2 * torch.randn(detour[:, 1:-1].shape, generator=torch.Generator().manual_seed(0)).double()
    expected = lg.distance(ensemble, a, b, **TIGHT)
    torch.testing.assert_close(lg.distance(ensemble, a, b, initial=detour, **TIGHT), expected, rtol=1e-7, atol=0)


def _around(turn, height, segments=16):
    """A curve in the plane without its origin that turns by an angle while log radius grows by a height."""
    t = torch.linspace(0, 1, segments + 1, dtype=torch.float64)[:, None]
    return (torch.cat([(turn * t).cos(), (turn * t).sin()], 1) * (height * t).exp())[None]


@pytest.mark.parametrize("turn", [5.0, 5.0 - 2 * torch.pi])
def test_the_initial_curve_chooses_the_way_round_a_cylinder(turn):
    def cylinder_over_plane(z):
        radius = z.norm(dim=1, keepdim=True)
        return torch.cat([z / radius, radius.log()], 1)

    way = _around(turn, height=1.0)
    length = lg.distance(cylinder_over_plane, way[:, 0], way[:, -1], initial=way, segments=64, tol=1e-10)
    assert length.item() == pytest.approx((turn**2 + 1.0) ** 0.5, rel=1e-6)


def test_the_distance_matrix_is_symmetric_with_zero_diagonal(decoder, ends):
    z = ends[0]
    matrix = lg.distance_matrix(decoder, z, **TIGHT)
    assert torch.equal(matrix, matrix.T)
    assert matrix.diagonal().eq(0).all()
    torch.testing.assert_close(matrix[1, 4], lg.distance(decoder, z[1:2], z[4:5], **TIGHT)[0], rtol=1e-8, atol=0)
    assert (matrix[:, :, None] <= matrix[:, None, :] + matrix[None] + 1e-6).all()  # triangle inequality


def test_the_distance_matrix_can_come_with_its_certificates(decoder, ends):
    z = ends[0][:4]
    matrix, error = lg.distance_matrix(decoder, z.numpy(), with_error=True)
    found = lg.geodesic(decoder, z[:1], z[3:4])
    assert isinstance(error, np.ndarray)
    assert (matrix[0, 3], error[3, 0]) == pytest.approx((found.length.item(), found.error.item()))
    assert error.diagonal().tolist() == [0.0] * 4
    with pytest.warns(RuntimeWarning, match="6 of 6") as caught:
        _, error = lg.distance_matrix(decoder, z, with_error=True, tol=1e-12, max_iter=1)
    assert caught[0].filename == __file__
    assert error.isinf().sum() == 12
    with pytest.raises(TypeError, match="got segmentz"):
        lg.distance_matrix(decoder, z, segmentz=8)


def test_a_matrix_follows_shorter_ways_by_third_points():
    """A hill: straight lines over it end in longer geodesics than those around."""
    hill = lambda z: torch.cat([z, 3.0 * (-(z.square().sum(1, keepdim=True))).exp()], 1)  # noqa: E731
    turns = torch.linspace(0.0, 2.0 * math.pi, 17, dtype=torch.float64)[:-1, None]
    z = 1.5 * torch.cat([turns.cos(), turns.sin()], 1)
    i, j = torch.triu_indices(16, 16, 1)
    straight = torch.zeros(16, 16).double()
    straight[i, j] = straight[j, i] = lg.geodesic(hill, z[i], z[j]).length
    matrix, error = lg.distance_matrix(hill, z, with_error=True)

    def excess(d):
        return (d[:, None, :] / (d[:, :, None] + d[None]).clamp_min(1e-12)).max() - 1.0

    assert excess(straight) > 0.05  # so that there is something to find
    assert excess(matrix.where(error.isfinite(), torch.nan).nan_to_num(0.0)) <= 1e-3
    assert (matrix <= straight * (1 + 1e-3)).all()


def test_of_several_initial_curves_the_best_is_kept():
    def cylinder_over_plane(z):
        radius = z.norm(dim=1, keepdim=True)
        return torch.cat([z / radius, radius.log()], 1)

    turns = (5.0, 5.0 - 2 * torch.pi)
    long, short = (_around(turn, height=1.0) for turn in turns)
    ends = torch.cat([long[:, 0]] * 2), torch.cat([long[:, -1]] * 2)
    candidates = [torch.cat([long, long]), torch.cat([long, short])]
    result = lg.geodesic(cylinder_over_plane, *ends, initial=candidates, segments=64, tol=1e-10)
    expected = [(turn**2 + 1.0) ** 0.5 for turn in turns]
    assert result.length.tolist() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="an empty one"):
        lg.geodesic(cylinder_over_plane, *ends, initial=[])


def test_a_matrix_of_numpy_arrays_serves_scikit_learn():
    """Two arms of a swiss roll that touch in space: neighbours along the surface know them apart."""
    z = np.random.default_rng(0).uniform([4.0, 0.0], [9.0, 3.0], (30, 2))
    matrix = lg.distance_matrix(surfaces.swiss_roll, z)
    assert isinstance(matrix, np.ndarray)
    assert matrix.dtype == z.dtype
    a, b = (torch.from_numpy(z[np.newaxis, i]) for i in (3, 17))
    assert matrix[3, 17] == pytest.approx(swiss_roll_distance(a, b).item(), rel=1e-3)
    labels = (z[:, 0] > 6.5).astype(int)
    nearest = KNeighborsClassifier(3, metric="precomputed").fit(matrix, labels)
    assert nearest.score(matrix, labels) > 0.9
    clusters = AgglomerativeClustering(2, metric="precomputed", linkage="average").fit_predict(matrix)
    assert len(set(clusters)) == 2


def test_no_pairs_give_no_geodesics(decoder):
    result = lg.geodesic(decoder, torch.zeros(0, 3).double(), torch.zeros(0, 3).double())
    assert len(result) == 0
    assert result.points.shape == (0, 17, 3)


def test_many_dimensions_are_whitened_by_their_mean_speed():
    f = mlp(0, d=300, D=320, width=32)
    a, b = _points(3, 300, scale=0.2)
    result = lg.geodesic(f, a, b, tol=1e-8, max_iter=1000)
    assert result.converged.all()
    assert (result.length <= lg.curve.chord_length(f, lg.curve.straight_line(a, b, 512))).all()


def test_decoder_rows_counts_what_went_through(decoder, ends):
    rows = 0

    def counting(z):
        nonlocal rows
        rows += len(z)
        return decoder(z)

    f = as_decoder(counting, ends[0])
    rows = 0  # without those that the door asked for, to see what comes out
    result = lg.geodesic(f, *ends, chunk_size=6)
    assert result.decoder_rows == rows


@pytest.mark.parametrize("name", ["gradient", "f", "initial", "start"])
def test_what_the_solver_is_given_inside_is_not_an_option(decoder, ends, name):
    with pytest.raises(TypeError, match=name):
        lg.distance_matrix(decoder, ends[0], **{name: None})
    with pytest.raises(TypeError, match="got gradient"):
        lg.geodesic(decoder, *ends, gradient=True)
    with pytest.raises(TypeError, match="got gradient"):
        lg.distance(decoder, *ends, gradient=True)


def test_neither_decoder_nor_ends_are_touched_even_without_gradients(decoder, ends):
    before = [z.clone() for z in ends]
    with torch.no_grad():
        result = lg.geodesic(decoder, *(z.requires_grad_() for z in ends))
    assert not result.length.requires_grad
    assert all(p.grad is None for p in decoder.parameters())
    assert all(z.grad is None and torch.equal(z.detach(), old) for z, old in zip(ends, before, strict=True))
    assert decoder[0].weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": 7}, "even number of at least 4, got 7"),
        ({"segments": 2}, "even number of at least 4, got 2"),
        ({"segments": 16.0}, "even number of at least 4, got 16.0"),
        ({"tol": 0.0}, "positive finite number"),
        ({"max_iter": 0}, "at least 1"),
        ({"chunk_size": 0}, "at least 1"),
        ({"initial": torch.zeros(6, 5, 3).double()}, "begin in start and finish in end"),
        ({"initial": torch.zeros(2, 5, 3).double()}, "begin in start and finish in end"),
    ],
)
def test_options_that_make_no_sense_are_refused(decoder, ends, options, message):
    with pytest.raises(ValueError, match=message):
        lg.geodesic(decoder, *ends, **options)


def test_ends_that_do_not_fit_each_other_are_refused(decoder, ends):
    with pytest.raises(ValueError, match="same shape"):
        lg.geodesic(decoder, ends[0], ends[1][:2])
    with pytest.raises(ValueError, match="same shape"):
        lg.geodesic(decoder, ends[0], ends[1].float())


def test_unknown_options_and_half_precision_are_refused(decoder, ends):
    with pytest.raises(TypeError, match=r"expected options among segments, tol, .*, got segmentz"):
        lg.distance(decoder, *ends, segmentz=8)
    with pytest.raises(TypeError, match="expected float32 or float64"):
        lg.distance(decoder, *(z.half() for z in ends))


def test_resampled_geodesics_stay_geodesics(ensemble, ends):
    result = lg.geodesic(ensemble, *ends, **TIGHT)
    length = lg.curve.chord_length(ensemble, resample(result.points, 64))
    assert (length / result.length - 1).abs().max() < 1e-3


@pytest.mark.parametrize(("seed", "d", "stretch"), [(0, 2, 2.5), (1, 4, 2.0), (2, 8, 1.5)])
def test_errors_are_neither_too_small_nor_too_wide(seed, d, stretch):
    f = mlp(seed, d=d, D=40, width=64)
    f[0].weight.data.mul_(stretch)
    z = torch.randn(80, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = lg.geodesic(f, z[:40], z[40:])
    exact = lg.geodesic(f, z[:40], z[40:], segments=64, tol=1e-10, initial=found.points)
    assert found.converged.all()
    assert exact.converged.all()
    error = (found.length / exact.length - 1).abs()
    assert (error <= found.error).double().mean() >= 0.97
    assert (error <= 3 * found.error).all()
    assert (found.error / error).median() < 6


def test_curves_that_bend_much_in_many_dimensions_converge_and_know_how_far():
    """The metric turns so much along them that at the ends and the middle it does not tell what they can still lose."""
    torch.manual_seed(0)
    linear = [nn.Linear(*shape).double().requires_grad_(False) for shape in ((16, 64), (64, 64), (64, 64), (64, 40))]
    for layer in linear[:-1]:
        layer.weight.mul_(3.0)
    f = nn.Sequential(linear[0], *(part for layer in linear[1:] for part in (nn.SiLU(), layer)))
    a, b = _box(20, [-2.0] * 16, [2.0] * 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = lg.geodesic(f, a, b)
        truth = lg.geodesic(f, a, b, segments=64, tol=1e-6, max_iter=1000, initial=found.points)
    assert found.converged.all()
    kept = found.converged & truth.converged
    error = (found.length / truth.length - 1).abs()[kept]
    assert (error <= found.error[kept]).all()
    assert (found.error[kept] / error).median() < 6


def test_directions_that_drown_in_rounding_stop_no_solver():
    """Collapsed ones of a chart that turns: squares of single precision have no Cholesky factor there."""
    f = mlp(0, d=16, D=40, width=64).float()
    f[0].weight.data[:, 6:] *= 1e-4
    A = lg.RadialTwist(1.0)
    codes = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = lg.geodesic(lg.reparametrise(f, A), *A(codes).split(20), max_iter=100)
        untwisted = lg.geodesic(f, *codes.split(20))
    assert untwisted.converged.all()
    assert (found.length >= (1 - found.error.clamp(max=1) - untwisted.error) * untwisted.length).all()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("n", "flat", "cause"), [(60, 0, "not resolved by their 6 segments"), (30, 4, "did not reach tol")]
)
def test_curves_that_jump_between_the_sheets_of_a_roll_are_not_called_converged(n, flat, cause):
    """Sheets lie closer together than coarse curves can tell; lengths are off by more than ten per cent."""
    u = 2 * torch.rand(n, 2 + flat, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    i, j = torch.triu_indices(n, n, 1)
    chart = lambda z: z.new_tensor([4.0, -10.0]) + z.new_tensor([7.5, 20.0]) * (z + 1) / 2  # noqa: E731
    rolled = chart(u[:, :2])
    exact = torch.hypot(swiss_roll_distance(rolled[i], rolled[j]), (u[i, 2:] - u[j, 2:]).norm(dim=1))
    A = lg.CoordinateWarp(power=torch.tensor([2.0, 0.5] + [1.0] * flat), shift=torch.tensor([0.5, -0.5] + [0.0] * flat))
    f = lg.reparametrise(lambda z: torch.cat([surfaces.swiss_roll(chart(z[:, :2])), z[:, 2:]], 1), A)
    with pytest.warns(RuntimeWarning, match=cause):
        coarse = lg.geodesic(f, A(u)[i], A(u)[j], segments=6)
    wrong = (coarse.length / exact - 1).abs() > 0.1
    assert (wrong | ~coarse.converged if flat else wrong).sum() > 10
    assert coarse.converged[wrong].sum() <= 1
    assert coarse.converged.double().mean() > 0.95
    for segments, converged in ((8, 0.99), (16, 0.999)):
        found = lg.geodesic(f, A(u)[i], A(u)[j], segments=segments)
        assert found.converged.double().mean() > converged
        assert ((found.length / exact - 1).abs() <= found.error).all()


def test_geodesics_are_printed_in_a_line(decoder, ends):
    many = lg.geodesic(decoder, *ends)
    error = f"{100 * many.error.median():.2g} %"
    assert repr(many) == f"Geodesic(6 pairs, d = 3, N = 16, 6 converged, median error {error})"
    assert repr(lg.geodesic(decoder, *(z[:0] for z in ends), segments=8)) == "Geodesic(0 pairs, d = 3, N = 8)"
    with pytest.warns(RuntimeWarning, match="did not converge"):
        lost = lg.geodesic(lambda z: z / z.abs().sign().clamp(max=0.0), ends[0][:1], ends[1][:1])
    assert repr(lost) == "Geodesic(1 pair, d = 3, N = 16, 0 converged, median error 99 % or more)"


@pytest.mark.parametrize("d", [48, 300])
def test_many_dimensions_that_do_nothing_leave_distances_as_they_are(d):
    f = mlp(0, d=6, D=30, width=40)
    a, b = torch.randn(2, 10, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    few = lg.geodesic(f, a[:, :6].contiguous(), b[:, :6].contiguous())
    many = lg.geodesic(lambda z: f(z[:, :6]), a, b)
    assert few.converged.all()
    assert many.converged.all()
    assert ((many.length / few.length - 1).abs() <= many.error + few.error).all()


@pytest.mark.parametrize("call", [lg.geodesic, lg.distance])
def test_a_bar_is_there_where_somebody_watches_for_all_alike(call, decoder, ends, monkeypatch):
    asked = []
    monkeypatch.setattr(solve_module, "bar_options", lambda progress: asked.append(progress) or {"disable": True})
    call(decoder, *ends)
    lg.distance_matrix(decoder, ends[0])
    assert set(asked) == {None}


def test_with_four_segments_the_preconditioner_is_that_of_its_inner_nodes(decoder, ends, monkeypatch):
    """Three Jacobians, of ends and middle, are as many as there are inner nodes, and are not theirs."""
    made, init = [], CurvePreconditioner.__init__

    def watched(self, metrics, couplings, N, floor):
        made.append((metrics, couplings, N))
        init(self, metrics, couplings, N, floor)

    monkeypatch.setattr(CurvePreconditioner, "__init__", watched)
    found = lg.geodesic(decoder, *ends, segments=4)
    metrics, couplings, _ = next(of for of in made if of[2] == 4)
    G = lg.pullback_metric(decoder, found.points[:, 1:-1].flatten(0, 1)).unflatten(0, (len(ends[0]), 3))
    assert metrics.shape[1:3] == (3, 3)
    assert couplings.shape[1] == 2
    at_ends = lg.pullback_metric(decoder, torch.cat(ends)).unflatten(0, (2, -1)).transpose(0, 1)
    off = [(metrics[:, [0, 2]] - of).norm() for of in (G[:, [0, 2]], at_ends)]
    assert off[0] < 0.7 * off[1]
