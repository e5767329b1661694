"""Decoders of data and of distributions through the same solver: closed forms of Fisher-Rao geometry."""

import math

import pytest
import torch
from torch import distributions as dist

import latentgeo as lg
from latentgeo.geometry.decoder import Decoder, as_decoder
from latentgeo.geometry.geodesic.energy import curve_energy, end_covectors
from latentgeo.geometry.geodesic.neighbours import nearest_neighbours
from latentgeo.geometry.geodesic.solve import door, geodesic, solve
from latentgeo.geometry.likelihood import StatisticalDecoder

FAMILIES = {
    "poisson": (lambda z: dist.Poisson(z.exp()), lambda z: 2.0 * (0.5 * z).exp()),
    "bernoulli": (lambda z: dist.Bernoulli(logits=z), lambda z: 2.0 * z.sigmoid().sqrt().asin()),
    "negative binomial": (
        lambda z: dist.NegativeBinomial(torch.full_like(z, 3.0), logits=z),
        lambda z: 2.0 * math.sqrt(3.0) * (0.5 * z).exp().asinh(),
    ),
}


def half_plane(z):
    return dist.Independent(dist.Normal(z[:, :1], z[:, 1:].exp()), 1)


def half_plane_distance(a, b):
    s, t = a[..., 1].exp(), b[..., 1].exp()
    ratio = (0.5 * (a[..., 0] - b[..., 0]).square() + (s - t).square()) / (2.0 * s * t)
    return math.sqrt(2.0) * torch.acosh(1.0 + ratio)


@pytest.fixture
def points():
    random = torch.Generator().manual_seed(0)
    return torch.tensor([1.5, 0.5], dtype=torch.float64) * torch.randn(14, 2, generator=random, dtype=torch.float64)


def test_the_kind_of_a_decoder_is_that_of_what_comes_out():
    z = torch.zeros(3, 2)
    assert type(as_decoder(lambda z: z, z)) is Decoder
    made = as_decoder(half_plane, z)
    assert type(made) is StatisticalDecoder
    assert as_decoder(made, z) is made  # nothing is asked twice


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chord_of_one_coordinate_is_its_fisher_rao_distance_and_so_is_the_geodesic(family):
    f, phi = FAMILIES[family]
    a, b = torch.tensor([[-1.0], [0.3], [2.0]]).double(), torch.tensor([[0.5], [0.4], [-1.0]]).double()
    truth = (phi(b) - phi(a)).abs().squeeze(1)
    g = as_decoder(f, a)
    torch.testing.assert_close(g.chord(g(a), g(b)), truth)
    torch.testing.assert_close(g.chords(g(a), g(b)).diagonal(), truth)
    found = geodesic(f, a, b, segments=32, tol=1e-12)
    assert ((found.length / truth - 1).abs() <= found.error.clamp_min(1e-9)).all()
    torch.testing.assert_close(found.length, truth, rtol=1e-5, atol=0)


def test_the_chord_of_gaussians_is_hyperbolic_and_no_geodesic_is_shorter(points):
    a, b = points[:7], points[7:]
    f = as_decoder(half_plane, a)
    chord = f.chord(f(a), f(b))
    torch.testing.assert_close(chord, half_plane_distance(a, b))
    curved = lambda z: dist.Normal(torch.cat([z, z.square()], 1), (0.3 * torch.cat([z, z], 1)).exp())  # noqa: E731
    f = as_decoder(curved, a)
    lengths = geodesic(curved, a, b, segments=32, tol=1e-8).length
    assert (lengths > f.chord(f(a), f(b))).all()


def test_covectors_at_the_ends_are_the_derivative_of_half_the_energy(points):
    for decoder in (half_plane, lambda z: torch.cat([z, z.square()], 1)):
        f = as_decoder(decoder, points)
        x = f(points).unflatten(0, (2, 7)).detach()
        free = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(0.5 * curve_energy(f, free).sum(), free)
        torch.testing.assert_close(end_covectors(f, x), gradient[:, [0, -1]])


def test_distances_between_distributions_are_differentiable(points):
    a, b = (z.clone().requires_grad_() for z in (points[:7], points[7:]))
    distance = lg.distance(half_plane, a, b, segments=64, tol=1e-14, max_iter=2000)
    found = torch.autograd.grad(distance.sum(), (a, b))
    expected = torch.autograd.grad(half_plane_distance(a, b).sum(), (a, b))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_chunks_and_several_starts_work_for_distributions_too(points):
    a, b = points[:7], points[7:]
    whole = geodesic(half_plane, a, b, tol=1e-8)
    torch.testing.assert_close(
        geodesic(half_plane, a, b, tol=1e-8, chunk_size=2).length, whole.length, rtol=1e-7, atol=0
    )
    winding = lambda z: dist.Normal(torch.cat([z.cos(), z.sin()], 1), 0.1)  # noqa: E731
    start, end = torch.zeros(1, 1).double(), torch.full((1, 1), 2.0 + 2.0 * math.pi).double()
    far = geodesic(winding, start, end, segments=64, tol=1e-8)
    assert far.length.item() == pytest.approx(10.0 * (2.0 + 2.0 * math.pi), rel=1e-4)
    bent = lg.curve.straight_line(a, b, 8)
    bent[:, 1:-1, 1] += 0.4
    both = geodesic(half_plane, a, b, tol=1e-8, initial=[bent, None])
    torch.testing.assert_close(both.length, whole.length, rtol=1e-6, atol=0)


def test_neighbours_among_distributions_are_those_of_brute_force(points):
    found = nearest_neighbours(half_plane, points, 3, segments=32, tol=1e-10)
    brute = half_plane_distance(points[:, None], points).fill_diagonal_(torch.inf).topk(3, largest=False)
    assert found.certified.all()
    assert torch.equal(found.index, brute.indices)
    torch.testing.assert_close(found.distance, brute.values, rtol=1e-5, atol=0)
    assert found.pairs < 14 * 13 / 2


def test_the_logarithm_among_distributions_has_the_length_of_the_geodesic(points):
    a, b = points[:7], points[7:]
    v = lg.log_map(half_plane, a, b, segments=64)
    torch.testing.assert_close(lg.metric.norm(half_plane, a, v), half_plane_distance(a, b), rtol=1e-4, atol=0)
    assert lg.angle(half_plane, a, v, v.flip(1)).isfinite().all()


def test_the_quiet_solver_says_nothing_and_returns_the_same(points, recwarn):
    a, b = points[:7], points[7:]
    found = solve(door(half_plane, a, b), a, b, {"tol": 1e-12, "max_iter": 1})
    assert not found.converged.any()
    assert len(recwarn) == 0
    with pytest.warns(RuntimeWarning, match="7 of 7 geodesics did not converge"):
        assert torch.equal(geodesic(half_plane, a, b, tol=1e-12, max_iter=1).length, found.length)
