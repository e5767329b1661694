import copy
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.func import hessian, jacrev, jvp, vmap

import latentgeo as lg
from latentgeo.geometry.surfaces import sphere, sphere_distance
from tests.conftest import mlp


def _deep(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 12))
    return nn.Sequential(layers, nn.Unflatten(1, (3, 4))).double().eval()


def _points(B=7, d=5):
    return torch.randn(B, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_values_and_derivatives_are_those_of_the_decoder(rows):
    f, z = _deep(), _points().requires_grad_()
    F = lg.Chunked(f, rows)
    assert F(z).shape == (7, 3, 4)
    weight = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = [z, *f.parameters()]
    for g in (f, F):
        torch.testing.assert_close(g(z), f(z), rtol=0, atol=1e-14)
    expected, found = (torch.autograd.grad((g(z).square() * weight).sum(), inputs) for g in (f, F))
    for first, second in zip(expected, found, strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=1e-13)
    assert torch.autograd.gradgradcheck(F, _points(3).requires_grad_())


def test_at_most_so_many_points_go_through_at_a_time_and_once_more_backwards():
    seen = []

    def f(z):
        seen.append(len(z))
        return z.sin()

    z = _points().requires_grad_()
    x = lg.Chunked(f, 3)(z)
    assert seen == [3, 3, 1]
    x.sum().backward()
    assert sorted(seen) == [1, 1, 3, 3, 3, 3]
    torch.testing.assert_close(z.grad, z.detach().cos())
    del seen[:]
    with torch.no_grad():
        lg.Chunked(f, 3)(z)
    assert seen == [3, 3, 1]


def test_transforms_of_functions_go_through():
    f, z = _deep(), _points()
    F = lg.Chunked(f, 2)
    tangent = torch.ones_like(z)
    for found, expected in zip(jvp(F, (z,), (tangent,)), jvp(f, (z,), (tangent,)), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(lg.metric.jacobian(F, z), lg.metric.jacobian(f, z))
    torch.testing.assert_close(jacrev(F)(z), jacrev(f)(z))
    torch.testing.assert_close(vmap(lambda p: F(p.expand(4, 5)))(z), vmap(lambda p: f(p.expand(4, 5)))(z))
    torch.testing.assert_close(hessian(lambda p: F(p).sum())(z[:3]), hessian(lambda p: f(p).sum())(z[:3]))
    torch.testing.assert_close(lg.gaussian_curvature(lg.Chunked(mlp(0, d=2), 2), z[:, :2]),
                               lg.gaussian_curvature(mlp(0, d=2), z[:, :2]))  # fmt: skip


def test_geodesics_are_those_of_the_decoder(ends):
    f = mlp(0)
    expected, found = lg.geodesic(f, *ends), lg.geodesic(lg.Chunked(f, 4), *ends)
    torch.testing.assert_close(found.length, expected.length, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.error, expected.error, rtol=1e-6, atol=1e-12)
    assert torch.equal(found.converged, expected.converged)
    assert all(p.grad is None for p in f.parameters())


def test_the_decoder_moves_with_it_and_is_left_as_it_is():
    f = mlp(0)
    F = lg.Chunked(f, 4)
    assert F.decoder is f
    assert copy.deepcopy(F).float()(torch.zeros(5, 3)).dtype == torch.float32
    assert f[0].weight.dtype == torch.float64
    assert "rows=4" in repr(F)
    assert F(torch.zeros(0, 3).double()).shape == (0, 7)
    with pytest.raises(ValueError, match="Dropout in training mode"):
        lg.distance(lg.Chunked(nn.Sequential(mlp(0), nn.Dropout()), 4), torch.zeros(1, 3).double(), _points(1, 3))


@pytest.mark.parametrize("rows", [0, -1, 2.0, None])
def test_numbers_of_rows_that_make_no_sense_are_refused(rows):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        lg.Chunked(mlp(0), rows)


def test_what_is_no_decoder_is_refused():
    with pytest.raises(TypeError, match="got tuple; of a model"):
        lg.Chunked((mlp(0), mlp(1)), 4)


class _Flat:
    """An isometric embedding of coordinates that are each stretched by themselves: flat, with a metric that varies."""

    @staticmethod
    def stretched(z):
        return z + 0.8 * z.sin()

    def __call__(self, z):
        y, mirror = self.stretched(z), torch.full_like(z[:1], z.shape[1] ** -0.5)
        return torch.cat([y - 2.0 * (y * mirror).sum(1, keepdim=True) * mirror, torch.zeros_like(y)], 1)


@pytest.fixture(scope="module")
def codes():
    return torch.randn(2, 2, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_distances_in_4096_dimensions_are_right_and_certified(codes):
    a, b = codes
    result = lg.geodesic(lg.Chunked(_Flat(), 8), a, b)
    truth = (_Flat.stretched(b) - _Flat.stretched(a)).norm(dim=1)
    assert result.converged.all()
    assert ((result.length / truth - 1).abs() <= result.error).all()
    assert (result.error < 1e-3).all()
    assert (result.iterations < 40).all()
    straight = lg.curve.chord_length(_Flat(), lg.curve.straight_line(a, b, 256))
    assert (straight > 1.01 * truth).all()  # the control: the straight line is no geodesic


def test_distances_on_a_sphere_of_4096_dimensions():
    a = 0.01 * torch.randn(2, 1, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = sphere_distance(*a)
    result = lg.geodesic(lg.Chunked(sphere, 8), *a)
    assert result.converged.all()
    assert ((result.length / truth - 1).abs() <= result.error.clamp_min(1e-6)).all()


def test_a_gradient_and_a_matrix_in_4096_dimensions(codes):
    z = codes.flatten(0, 1)[:3]
    y = _Flat.stretched(z)
    torch.testing.assert_close(
        lg.distance_matrix(lg.Chunked(_Flat(), 8), z, segments=8), torch.cdist(y, y), rtol=2e-3, atol=0
    )
    b = z[1:2].clone().requires_grad_()
    lg.distance(lg.Chunked(_Flat(), 8), z[:1], b, tol=1e-7).backward()
    away = (y[1:2] - y[:1]) / (y[1:2] - y[:1]).norm()
    torch.testing.assert_close(b.grad, away * (1.0 + 0.8 * b.detach().cos()), rtol=0, atol=1e-3)


def test_too_few_steps_in_many_dimensions_are_not_called_converged(codes):
    with pytest.warns(RuntimeWarning, match="2 did not reach tol"):
        result = lg.geodesic(_Flat(), *codes, max_iter=2)
    assert not result.converged.any()


def test_many_dimensions_are_whitened_pair_by_pair_and_broken_rows_stay_alone(codes):
    a, b = (z[:, :300].clone() for z in codes)
    alone = lg.geodesic(_Flat(), a[:1], b[:1])
    together = lg.geodesic(_Flat(), a, b)
    torch.testing.assert_close(together.length[:1], alone.length, rtol=1e-10, atol=0)

    def broken(z):
        return torch.where((z - a[1]).norm(dim=1, keepdim=True) < 1e-9, torch.nan, _Flat()(z))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = lg.geodesic(broken, a, b)
    assert found.converged.tolist() == [True, False]
    torch.testing.assert_close(found.length[0], alone.length[0], rtol=1e-10, atol=0)


_PEAK = """
import pathlib, re, torch
import latentgeo as lg

def peak():  # of this process, in MiB; getrusage's begins with the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
f = torch.nn.Sequential(*[torch.nn.ELU() for _ in range(20)])  # 20 x 128 KiB of activations a row
z = torch.zeros(64, 32768).requires_grad_()
for g in (lg.Chunked(f, 2), f):
    g(z[:4]).sum().backward()
    before = peak()
    g(z).square().sum().backward()
    print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_the_peak_memory_is_that_of_a_chunk():
    # With a fixed threshold glibc gives back at once what is freed; else the peak tells of fragments too.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, "-c", _PEAK], check=True, capture_output=True, text=True, env=environment)
    chunked, whole = map(float, run.stdout.split())
    # MiB: inputs, outputs and their gradients are 8 each; 60 more rows keep 150.
    assert chunked < 64
    assert whole > 100
