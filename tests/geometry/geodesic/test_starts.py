import math

import pytest
import torch

import latentgeo as lg
from latentgeo.geometry.geodesic.starts import _edges
from latentgeo.geometry.surfaces import sphere, sphere_distance


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


def test_on_a_cylinder_the_path_through_data_finds_the_short_way_that_the_straight_line_misses():
    data = _annulus(400)
    a, b = _polar(0.0, 0.0), _polar(0.9 * math.pi, 1.0)
    detour = torch.cat([a, _polar(-math.pi / 2, 0.5), b])[None]  # an initial curve on the wrong side
    truth = math.hypot(0.9 * math.pi, 1.0)
    wrong = lg.geodesic(_cylinder_over_plane, a, b, initial=detour, segments=64, tol=1e-9)
    assert wrong.converged.all()
    assert wrong.length.item() == pytest.approx(math.hypot(1.1 * math.pi, 1.0), rel=1e-5)  # locally shortest only
    curves = lg.graph_curves(_cylinder_over_plane, data, a, b)
    right = lg.geodesic(_cylinder_over_plane, a, b, initial=[detour, curves], segments=64, tol=1e-9)
    assert right.length.item() == pytest.approx(truth, rel=1e-5)


def test_where_the_straight_line_passes_a_hole_on_the_wrong_side_the_path_does_not():
    """The hole is stretched into a slit: the line passes it on one side, the shorter way is on the other."""

    def squeezed(z):  # moves the hole at the origin across the line, by a shear
        return _cylinder_over_plane(torch.stack([z[:, 0], z[:, 1] - 0.3 * (1.0 - z[:, 0].square()).clamp_min(0)], 1))

    def undo(y):
        return torch.stack([y[:, 0], y[:, 1] + 0.3 * (1.0 - y[:, 0].square()).clamp_min(0)], 1)

    a, b, data = (undo(z) for z in (_polar(0.1, 0.0), _polar(math.pi - 0.1, 0.0), _annulus(600)))
    straight = lg.geodesic(squeezed, a, b, segments=64, tol=1e-9, max_iter=1000)
    curves = lg.graph_curves(squeezed, data, a, b)
    both = lg.geodesic(squeezed, a, b, initial=[None, curves], segments=64, tol=1e-9, max_iter=1000)
    assert straight.length.item() == pytest.approx(math.pi + 0.2, rel=1e-4)
    assert both.length.item() == pytest.approx(math.pi - 0.2, rel=1e-4)


def test_curves_have_the_given_ends_and_equal_steps():
    z = 0.5 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curves = lg.graph_curves(sphere, z, z[:4], z[4:8], segments=32)
    assert torch.equal(curves[:, 0], z[:4])
    assert torch.equal(curves[:, -1], z[4:8])
    length = lg.curve.chord_length(sphere, curves)
    assert (length >= sphere_distance(z[:4], z[4:8]) * 0.999).all()
    assert (length <= sphere_distance(z[:4], z[4:8]) * 1.3).all()
    assert lg.curve.speed_variation(sphere, curves).max() < 0.3


def test_a_curve_does_not_depend_on_the_other_pairs():
    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = lg.graph_curves(sphere, z[:40], z[40:50], z[50:], neighbours=3)
    for p in range(10):
        alone = lg.graph_curves(sphere, z[:40], z[40 + p, None], z[50 + p, None], neighbours=3)
        torch.testing.assert_close(alone[0], together[p])


def test_where_the_decoder_is_not_finite_the_straight_line_is_returned():
    z = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def broken(y):
        return torch.where((y - z[20]).norm(dim=1, keepdim=True) < 1e-9, torch.nan, sphere(y))

    curves = lg.graph_curves(broken, z[:20], z[20:22], z[22:24], neighbours=3)
    assert torch.equal(curves[0], lg.curve.straight_line(z[20:21], z[22:23], 16)[0])
    assert not torch.equal(curves[1], lg.curve.straight_line(z[21:22], z[23:24], 16)[0])


def test_equal_ends_give_a_curve_that_stays():
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curves = lg.graph_curves(sphere, z, z[10:12], z[10:12], neighbours=3)
    assert torch.allclose(curves, z[10:12, None].expand_as(curves))


def test_a_graph_that_falls_apart_is_bridged():
    clusters = torch.cat([torch.randn(10, 2) + shift for shift in (0.0, 100.0, 250.0, 500.0)]).double()
    edges = _edges(clusters.numpy(), 3)
    assert len({tuple(edge) for edge in edges}) == len(edges)
    curves = lg.graph_curves(lambda z: z, clusters, clusters[:1].expand(10, 2), clusters[-10:], neighbours=3)
    exact = (clusters[-10:] - clusters[0]).norm(dim=1)
    torch.testing.assert_close(lg.curve.chord_length(lambda z: z, curves), exact, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: lg.graph_curves(sphere, z[:1], z[:1], z[1:2]), "at least two points"),
        (lambda z: lg.graph_curves(sphere, z, z[:2], z[:1]), "as many as start"),
        (lambda z: lg.graph_curves(sphere, z, z[:1], z[:1].float()), "dtype"),
        (lambda z: lg.graph_curves(sphere, z, z[:1], z[1:2], neighbours=0), "neighbours"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 2).double())


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool])
def test_indices_are_distinguished_from_points(kind):
    codes, index = torch.rand(4, 2).double(), torch.ones(2).to(kind)
    with pytest.raises(TypeError, match=r"start: expected latent points .* got torch\.\w+ .* such as codes\[start\]"):
        lg.graph_curves(sphere, codes, index, index)
    with pytest.raises(TypeError, match=r"such as codes\[end\]"):
        lg.graph_curves(sphere, codes, codes[:2], index)
