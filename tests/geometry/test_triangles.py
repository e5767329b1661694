import math

import pytest
import torch

import latentgeo as lg
from latentgeo.geometry.surfaces import cylinder, pseudosphere, sphere, torus
from latentgeo.geometry.triangles import geodesic_triangle, holonomy, triangle_integral
from tests.conftest import mlp

OCTANT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
OUTSIDE = torch.tensor([[0.0, -0.9], [0.9, 0.2], [-0.2, 1.0]], dtype=torch.float64)  # of the torus, where K > 0
HYPERBOLIC = torch.tensor([[0.0, 2.0], [1.5, 2.5], [0.2, 4.0]], dtype=torch.float64)
TRANSFORMS = [lg.RadialTwist(0.5), lg.random_flow(2, seed=1, scale=2.0), lg.random_affine(2)]


def _identity(z):
    return z


def test_an_octant_of_the_sphere():
    triangle = geodesic_triangle(sphere, OCTANT)
    right = torch.full((3,), math.pi / 2, dtype=torch.float64)
    torch.testing.assert_close(triangle.angles, right, rtol=0, atol=1e-10)
    torch.testing.assert_close(triangle.lengths, right, rtol=0, atol=1e-10)
    assert triangle.speed_variation < 1e-10
    assert triangle_integral(sphere, triangle) == pytest.approx(math.pi / 2, abs=1e-10)
    assert holonomy(sphere, triangle) == pytest.approx(math.pi / 2, abs=1e-8)
    # The controls: what is measured in the chart is something else.
    chart = geodesic_triangle(_identity, OCTANT)
    assert abs(chart.excess) < 1e-10
    assert triangle_integral(_identity, chart) == pytest.approx(0.5, abs=1e-10)
    assert abs(triangle_integral(sphere, chart) - math.pi / 2) > 0.1  # what the straight sides enclose
    assert abs(holonomy(_identity, triangle)) < 1e-10


def test_hyperbolic_sides_obey_the_law_of_cosines():
    triangle = geodesic_triangle(pseudosphere, HYPERBOLIC)
    (c, a, b), gamma = triangle.lengths, triangle.angles[2]
    expected = a.cosh() * b.cosh() - a.sinh() * b.sinh() * gamma.cos()
    assert c.cosh().item() == pytest.approx(expected.item(), rel=1e-8)
    assert triangle.excess == pytest.approx(-triangle_integral(pseudosphere, triangle), abs=1e-8)  # K = -1
    assert abs(c**2 - (a**2 + b**2 - 2 * a * b * gamma.cos())) > 0.01  # the control: the plane's law does not hold


@pytest.mark.parametrize(("surface", "corners"), [(torus, OUTSIDE), (pseudosphere, HYPERBOLIC), (mlp(5, d=2), OUTSIDE)])
def test_gauss_and_bonnet(surface, corners):
    for order in ([0, 1, 2], [0, 2, 1]):  # walked either way
        triangle = geodesic_triangle(surface, corners[order])
        total = triangle_integral(surface, triangle, lambda z: lg.gaussian_curvature(surface, z))
        assert abs(total) > 0.01
        assert triangle.excess == pytest.approx(total, abs=1e-7)
        assert holonomy(surface, triangle) == pytest.approx(total, abs=1e-7)
        assert abs(triangle_integral(surface, triangle) - total) > 0.01  # the control: the area is not the curvature


def test_a_flat_surface_has_plane_triangles():
    triangle = geodesic_triangle(cylinder, OUTSIDE)
    assert abs(triangle.excess) < 1e-10
    assert abs(holonomy(cylinder, triangle)) < 1e-8
    (ab, ac) = OUTSIDE[1:] - OUTSIDE[0]
    area = 0.5 * abs(ab[0] * ac[1] - ab[1] * ac[0])
    assert triangle_integral(cylinder, triangle) == pytest.approx(area.item(), rel=1e-10)


@pytest.mark.parametrize("A", TRANSFORMS, ids=["twist", "flow", "affine"])
def test_other_coordinates_move_a_triangle_and_change_none_of_its_measures(A):
    f = lg.reparametrise(torus, A)
    here, there = geodesic_triangle(torus, OUTSIDE), geodesic_triangle(f, A(OUTSIDE))
    torch.testing.assert_close(here.lengths, there.lengths, rtol=1e-9, atol=0)
    torch.testing.assert_close(here.angles, there.angles, rtol=0, atol=1e-9)
    assert triangle_integral(f, there, nodes=48) == pytest.approx(triangle_integral(torus, here), rel=1e-8)
    torch.testing.assert_close(A(here.boundary()), there.boundary(), rtol=0, atol=1e-6)
    # The controls: the straight triangle between the same corners has other sides and another area.
    straight, moved = geodesic_triangle(_identity, OUTSIDE), geodesic_triangle(_identity, A(OUTSIDE))
    assert ((straight.lengths - moved.lengths) / straight.lengths).abs().max() > 0.01
    change = abs(triangle_integral(torus, straight) / triangle_integral(f, moved) - 1)
    assert change < 1e-9 if isinstance(A, lg.LinearTransform) else change > 0.01  # affine maps keep straight lines


def test_the_error_falls_faster_than_any_power():
    exact = geodesic_triangle(torus, OUTSIDE, degree=32).lengths
    errors = [(geodesic_triangle(torus, OUTSIDE, degree=n).lengths - exact).abs().max() for n in (6, 12, 24)]
    assert errors[1] < 1e-2 * errors[0]
    assert errors[2] < 1e-3 * errors[1]


def test_the_boundary_is_closed_and_runs_along_the_sides():
    triangle = geodesic_triangle(torus, OUTSIDE)
    loop = triangle.boundary(10)
    assert loop.shape == (31, 2)
    assert torch.equal(loop[0], loop[-1])
    assert torch.equal(loop[::10][:3], OUTSIDE)
    ends = triangle.side(1, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, OUTSIDE[1:], rtol=0, atol=1e-12)


def test_in_three_dimensions_there_are_sides_and_angles_but_nothing_is_enclosed():
    corners = torch.zeros(3, 3, dtype=torch.float64)
    corners[1, 0] = corners[2, 2] = 1.0
    triangle = geodesic_triangle(sphere, corners)
    torch.testing.assert_close(triangle.angles, torch.full_like(triangle.angles, math.pi / 2), rtol=0, atol=1e-10)
    for function in (triangle_integral, holonomy):
        with pytest.raises(ValueError, match="two latent dimensions"):
            function(sphere, triangle)


@pytest.mark.thorough
def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="three points"):
        geodesic_triangle(sphere, OCTANT[:2])
    with pytest.raises(ValueError, match="three different points"):
        geodesic_triangle(sphere, OCTANT[[0, 1, 1]])
    with pytest.raises(TypeError, match="float64"):
        geodesic_triangle(sphere, OCTANT.float())
    with pytest.raises(ValueError, match="degree"):
        geodesic_triangle(sphere, OCTANT, degree=2)
    with pytest.raises(ValueError, match="segments"):
        holonomy(sphere, geodesic_triangle(sphere, OCTANT), segments=7)
    with pytest.raises(RuntimeError, match="no geodesic side"), pytest.warns(RuntimeWarning):
        geodesic_triangle(lambda z: z.abs() + z.square().sum(1, keepdim=True).sqrt().floor(), 3 * OUTSIDE)


def test_many_nodes_on_several_threads_give_the_same_triangle():
    """PyTorch's batched factorisation of matrices above 150 rows is wrong on several threads."""
    octant = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        triangle = geodesic_triangle(sphere, octant, degree=90)
    finally:
        torch.set_num_threads(before)
    assert (triangle.lengths - torch.pi / 2).abs().max() < 1e-9


def test_a_triangle_is_printed_in_a_line():
    sides = "1.571, 1.571, 1.571"
    expected = f"GeodesicTriangle(d = 2, lengths {sides}, angles {sides}, excess 1.571 rad)"
    assert repr(geodesic_triangle(sphere, OCTANT)) == expected
