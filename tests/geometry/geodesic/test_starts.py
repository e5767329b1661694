import math

import numpy as np
import pytest
import torch

import latentgeo as lg
from latentgeo.geometry.curve import straight_line
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.geodesic.starts import DataGraph
from latentgeo.geometry.surfaces import sphere, sphere_distance
from tests.surfaces import hill

_FINE = {"segments": 64, "tol": 1e-9, "max_iter": 1000}


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _graph(decoder, codes, neighbours=10):
    return DataGraph(as_decoder(decoder, codes), codes, neighbours)


def _annulus(n, seed=0):
    """Points around the origin, and the cylinder that the plane without its origin is mapped to."""
    random = torch.Generator().manual_seed(seed)
    angle, height = (torch.rand(n, generator=random, dtype=torch.float64) * s for s in (2 * math.pi, 1.0))
    return torch.stack([angle.cos(), angle.sin()], 1) * height.exp()[:, None]


def _cylinder_over_plane(z):
    radius = z.norm(dim=1, keepdim=True)
    return torch.cat([z / radius, radius.log()], 1)


def _polar(angle, height):
    return torch.tensor([[math.exp(height) * math.cos(angle), math.exp(height) * math.sin(angle)]]).double()


def test_of_the_two_ways_round_a_cylinder_the_path_through_data_finds_the_short_one():
    a, b = _polar(0.0, 0.0), _polar(0.9 * math.pi, 1.0)
    detour = torch.cat([a, _polar(-math.pi / 2, 0.5), b])[None]  # an initial curve on the wrong side
    wrong = lg.geodesic(_cylinder_over_plane, a, b, initial=detour, **_FINE)
    assert wrong.converged.all()
    assert wrong.length.item() == pytest.approx(math.hypot(1.1 * math.pi, 1.0), rel=1e-5)  # locally shortest only
    right = lg.geodesic(_cylinder_over_plane, a, b, initial=detour, data=_annulus(400), **_FINE)
    assert right.length.item() == pytest.approx(math.hypot(0.9 * math.pi, 1.0), rel=1e-5)


def test_where_the_straight_line_passes_a_hole_on_the_wrong_side_the_path_does_not():
    """The hole is stretched into a slit: the line passes it on one side, the shorter way is on the other."""

    def squeezed(z):  # moves the hole at the origin across the line, by a shear
        return _cylinder_over_plane(torch.stack([z[:, 0], z[:, 1] - 0.3 * (1.0 - z[:, 0].square()).clamp_min(0)], 1))

    def undo(y):
        return torch.stack([y[:, 0], y[:, 1] + 0.3 * (1.0 - y[:, 0].square()).clamp_min(0)], 1)

    a, b, data = (undo(z) for z in (_polar(0.1, 0.0), _polar(math.pi - 0.1, 0.0), _annulus(600)))
    along = {"initial": straight_line(a, b, 16), **_FINE}
    assert lg.distance(squeezed, a, b, **along).item() == pytest.approx(math.pi + 0.2, rel=1e-4)
    assert lg.distance(squeezed, a, b, data=data, **along).item() == pytest.approx(math.pi - 0.2, rel=1e-4)


def test_on_opposite_sides_of_ahill_the_path_goes_round_its_top():
    """The straight line over the top is a geodesic, and by symmetry a solver that starts there stays there."""
    a, b = torch.tensor([[-1.5, 0.0], [1.5, 0.0]]).double().split(1)
    over = lg.geodesic(hill, a, b, **_FINE)
    round_it = lg.geodesic(hill, a, b, data=1.5 * _random(300, 2), **_FINE)
    assert (over.converged & round_it.converged).all()
    assert over.points[..., 1].abs().max() < 1e-6
    assert round_it.length.item() < 0.8 * over.length.item()


def test_between_codes_of_near_images_the_path_is_the_shorter_one_in_latent_space_and_does_not_jump():
    """In polar coordinates (1, 0) and (1, 2π) have one image, and a way through the origin is shorter than round it."""

    def disc(z):
        return z[:, :1] * torch.cat([z[:, 1:].cos(), z[:, 1:].sin()], 1)

    radius, angle = torch.rand(2, 600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = torch.stack([0.05 + radius, 2 * math.pi * angle], 1)
    a = torch.tensor([[1.0, 0.0]]).double()
    for turn in (2 * math.pi, 1.9 * math.pi):
        curve = _graph(disc, data).curves(a, torch.tensor([[1.0, turn]]).double(), 256)
        assert curve[0, :, 0].min() < 0.25
        assert 1.9 < lg.curve.chord_length(disc, curve).item() < 0.6 * turn


@pytest.mark.parametrize("A", [lg.RadialTwist(0.1), lg.random_flow(2, seed=3)])
def test_a_path_leads_through_the_same_data_in_all_coordinates(A):
    z = 1.5 * _random(300, 2)
    a, b = (1.5 * _random(40, 2, seed=k) for k in (1, 2))
    here = _graph(hill, z).paths(a, b)
    there = _graph(lg.reparametrise(hill, A), A(z)).paths(A(a), A(b))
    assert [list(nodes) for nodes, _ in here] == [list(nodes) for nodes, _ in there]
    assert max(len(nodes) for nodes, _ in here) > 5
    # The control: neighbours by codes are others.
    codes_alone = _graph(lambda y: y, A(z)).paths(A(a), A(b))
    assert [list(nodes) for nodes, _ in here] != [list(nodes) for nodes, _ in codes_alone]


def test_curves_have_the_given_ends_and_equal_steps():
    z = 0.5 * _random(300, 2)
    curves = _graph(sphere, z).curves(z[:4], z[4:8], 32)
    assert torch.equal(curves[:, 0], z[:4])
    assert torch.equal(curves[:, -1], z[4:8])
    length = lg.curve.chord_length(sphere, curves)
    assert (length >= sphere_distance(z[:4], z[4:8]) * 0.999).all()
    assert (length <= sphere_distance(z[:4], z[4:8]) * 1.3).all()
    assert lg.curve.speed_variation(sphere, curves).max() < 0.3


def test_a_curve_does_not_depend_on_the_other_pairs():
    angle, z = 6.0 * torch.rand(60, 1, generator=torch.Generator().manual_seed(0)).double(), _random(60, 2)
    for decoder, codes in ((sphere, z), (lambda z: torch.cat([z.cos(), z.sin()], 1), angle)):  # whose ends nearly meet
        a, b = codes[40:50].repeat_interleave(10, 0), codes[50:].repeat(10, 1)
        together = _graph(decoder, codes[:40], 3).curves(a, b, 16)
        alone = [_graph(decoder, codes[:40], 3).curves(a[p, None], b[p, None], 16) for p in range(100)]
        torch.testing.assert_close(torch.cat(alone), together)


def test_a_matrix_with_data_is_that_of_its_pairs():
    z, data = 0.5 * _random(6, 2), 0.5 * _random(80, 2, seed=1)
    matrix = lg.distance_matrix(sphere, z, data=data)
    torch.testing.assert_close(matrix[1, 4], lg.distance(sphere, z[1:2], z[4:5], data=data)[0])
    empty = lg.geodesic(sphere, z[:0], z[:0], data=data)
    assert len(empty.length) == 0


def test_the_gradient_is_that_of_the_shorter_geodesic():
    a, data = torch.tensor([[-1.5, 0.0]]).double(), 1.5 * _random(300, 2)
    b = torch.tensor([[1.5, 0.1]]).double().requires_grad_()
    (slope,) = torch.autograd.grad(lg.distance(hill, a, b, data=data, **_FINE).sum(), b)
    step = torch.tensor([[0.0, 1e-3]]).double()
    lower, upper = (lg.distance(hill, a, b.detach() + sign * step, data=data, **_FINE) for sign in (-1, 1))
    assert slope[0, 1].item() == pytest.approx((upper - lower).item() / 2e-3, rel=1e-3)
    assert slope[0, 1] < 0  # farther from the axis the way round is shorter; over the top it is longer


def test_where_the_decoder_is_not_finite_data_are_left_out_and_ends_keep_the_straight_line():
    z = _random(30, 2)

    def broken(y):
        bad = ((y[:, None] - z[[3, 20]]).norm(dim=2) < 1e-9).any(1, keepdim=True)
        return torch.where(bad, torch.nan, sphere(y))

    graph = _graph(broken, z[:20], 3)
    assert len(graph.z) == 19
    curves = graph.curves(z[20:22], z[22:24], 16)
    assert torch.equal(curves[0], lg.curve.straight_line(z[20:21], z[22:23], 16)[0])
    assert not torch.equal(curves[1], lg.curve.straight_line(z[21:22], z[23:24], 16)[0])


def test_a_graph_that_falls_apart_is_joined_where_its_parts_are_nearest():
    clusters = torch.cat([_random(10, 2, seed=k) + shift for k, shift in enumerate((0.0, 100.0, 250.0, 500.0))])
    curves = _graph(lambda z: z, clusters, 3).curves(clusters[:1].expand(10, 2), clusters[-10:], 16)
    exact = (clusters[-10:] - clusters[0]).norm(dim=1)
    torch.testing.assert_close(lg.curve.chord_length(lambda z: z, curves), exact, rtol=0.05, atol=0)


def test_of_many_data_some_are_taken():
    z = _random(5000, 2)
    graph = _graph(sphere, z)
    assert len(graph.z) == 250
    assert torch.equal(graph.z[[0, -1]], z[[0, -1]])


def test_distributions_have_paths_too():
    def normal(z):
        return torch.distributions.Normal(z[:, :1], z[:, 1:].exp())

    data = torch.stack(torch.meshgrid(*2 * [torch.linspace(-2, 2, 15).double()], indexing="ij"), -1).reshape(-1, 2)
    a, b = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).double().split(1)
    ((nodes, lengths),) = _graph(normal, data).paths(a, b)
    assert data[nodes, 1].max() > 0.5  # where the deviation is larger, the means are nearer
    assert lengths.sum() < 1.15 * lg.distance(normal, a, b).item()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (_random(1, 2), ValueError, "at least two data"),
        (_random(9, 3), ValueError, r"data: expected codes of data, shape \(n, 2\), .* got \(9, 3\)"),
        (_random(9, 2).float(), ValueError, "torch.float64.* got .* torch.float32"),
        ("codes", TypeError, "data: expected a torch.Tensor"),
        (torch.zeros(9, dtype=torch.int64), TypeError, "data: expected a floating-point tensor"),
        (_random(9), ValueError, "data: expected shape"),
    ],
)
def test_what_does_not_fit_is_refused(data, error, message):
    z = torch.zeros(2, 2).double()
    for call in (lg.geodesic, lg.distance):
        with pytest.raises(error, match=message):
            call(sphere, z[:1], z[1:] + 1, data=data)
    with pytest.raises(error, match=message):
        lg.distance_matrix(sphere, z, data=data)


def test_where_the_decoder_is_infinite_between_data_there_is_no_path():
    """Two branches of a curve with a pole: an infinite length is not the largest number there is."""
    z = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    ((_, lengths),) = _graph(lambda z: torch.cat([z, 1.0 / z.abs()], 1), z, 1).paths(z[:1], z[1:])
    assert np.isinf(lengths).any()
