import math

import numpy as np
import pytest
import torch

import latentgeo as lg
from latentgeo.geometry import surfaces
from tests.surfaces import branched


def _codes(lower, upper, d, n=50):
    generator = torch.Generator().manual_seed(0)
    return lower + (upper - lower) * torch.rand(n, d, generator=generator, dtype=torch.float64)


def _collide(f, a, b):
    return torch.allclose(f(a), f(b), atol=1e-12)


def test_pairs_of_codes_that_share_an_image():
    t, z = _codes(-1.0, 1.0, 1), _codes(-1.0, 1.0, 2)
    assert _collide(surfaces.winding, t, t + 2.0 * math.pi)
    assert not _collide(surfaces.winding, t, t + math.pi)
    mirror = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert _collide(surfaces.fold, z, mirror * z)
    assert not _collide(surfaces.fold, z, -z)
    assert _collide(branched, z, -z)
    assert not _collide(branched, z, mirror * z)


def test_rank_drops_where_it_is_said_to_and_only_there():
    zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    assert lg.volume_element(surfaces.cusp, zero) == 0.0
    assert lg.volume_element(surfaces.cusp, one) == pytest.approx(math.sqrt(13.0))
    for f in (surfaces.winding, surfaces.figure_eight):
        assert lg.volume_element(f, _codes(-3.1, 3.1, 1)).min() > 0.4
    for f in (surfaces.pyramid, surfaces.rounded_pyramid):
        assert torch.linalg.svdvals(lg.metric.jacobian(f, _codes(-1.0, 1.0, 2)))[:, -1].min() > 0.9


def test_cusp_distance_is_the_length_of_the_curve():
    a, b = torch.tensor([-0.7]).double(), torch.tensor([0.4]).double()
    halves = [lg.volume(surfaces.cusp, torch.stack(ends)) for ends in ((a, 0 * a), (0 * b, b))]
    assert surfaces.cusp_distance(a, b).item() == pytest.approx(sum(halves).item(), rel=1e-12)
    assert surfaces.cusp_distance(a, b) > 1.1 * (surfaces.cusp(a) - surfaces.cusp(b)).norm()


def test_the_pyramid_is_flat_but_for_its_apex():
    corners = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]).double()
    x, y = torch.eye(2).double()
    angles = lg.angle(surfaces.pyramid, corners, x * corners[:, :1], y * corners[:, 1:])
    assert torch.allclose(angles, torch.full_like(angles, math.pi / 3.0))
    deficit = 2.0 * math.pi - angles.sum().item()
    assert surfaces.rounded_pyramid_curvature(1.0, 0.0) == pytest.approx(deficit)
    assert surfaces.rounded_pyramid_curvature(1.0, 1e-3) == pytest.approx(deficit, rel=1e-5)
    z = _codes(-1.0, 1.0, 2)
    gap = surfaces.rounded_pyramid(z, 1e-3) - surfaces.pyramid(z)
    assert 0.0 < gap.norm(dim=1).max() <= 2e-3


def test_total_curvature_of_the_rounded_pyramid():
    nodes, radius = 60, 0.5
    t, w = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(nodes))
    z = torch.cartesian_prod(t, t)

    def rounded(z):
        return surfaces.rounded_pyramid(z, radius)

    density = lg.gaussian_curvature(rounded, z) * lg.volume_element(rounded, z)
    total = (density * torch.cartesian_prod(w, w).prod(1)).sum().item()
    assert total == pytest.approx(surfaces.rounded_pyramid_curvature(1.0, radius), rel=1e-8)
    assert total < 0.9 * surfaces.rounded_pyramid_curvature(1.0, 0.0)


def test_both_figure_eights_have_the_same_image_along_different_strands():
    t = _codes(-3.1, 3.1, 1)
    moved = t - math.pi * t.sign()  # A, which jumps at zero
    assert torch.allclose(surfaces.figure_eight(moved, other=True), surfaces.figure_eight(t), atol=1e-12)
    assert not torch.allclose(surfaces.figure_eight(t, other=True), surfaces.figure_eight(t))
    near = torch.tensor([[-1e-6], [1e-6]]).double()
    assert (near - math.pi * near.sign()).diff(dim=0).abs() > 6.0
    # Injective: distinct codes have distinct images, but for rounding.
    x = surfaces.figure_eight(torch.linspace(-3.0, 3.0, 301).double()[:, None])
    assert torch.pdist(x).min() > 1e-3


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan])
def test_a_radius_is_positive(radius):
    with pytest.raises(ValueError, match="radius"):
        surfaces.rounded_pyramid(torch.zeros(1, 2), radius)
    if radius != 0.0:
        with pytest.raises(ValueError, match="radius"):
            surfaces.rounded_pyramid_curvature(1.0, radius)
    with pytest.raises(ValueError, match="half_width"):
        surfaces.rounded_pyramid_curvature(0.0)
