"""Wherever the points are, and however PyTorch computes elsewhere: the same numbers.

What needs a GPU is skipped where there is none. Constants that are made on the default device in place of the points'
show without one, as tensors on the device ``meta`` have no values.
"""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import latentgeo as lg
from latentgeo.agreement.pairs import pair_distances
from latentgeo.geometry.curve import chord_length, straight_line
from latentgeo.geometry.differentiation import full_precision
from latentgeo.geometry.geodesic import energy, preconditioner, solve
from latentgeo.geometry.geodesic.neighbours import nearest_neighbours
from latentgeo.identifiability.invariance import QUANTITIES
from latentgeo.paper.models.networks import ConvDecoder
from latentgeo.paper.models.vae import build_vae
from latentgeo.paper.theorem import SLOW

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")


def layers(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 30))
    return made.to(dtype).eval()


def convolutions(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ConvDecoder((1, 28, 28), 4, activation="silu")
        for p in made.parameters():
            p.data *= 2.0 if p.ndim > 1 else 1.0
    return made.to(dtype).eval()


def points(n: int, d: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same(found: torch.Tensor, expected: torch.Tensor, **options: float) -> None:
    assert found.is_cuda
    torch.testing.assert_close(found.cpu().to(expected), expected, **options)


CALLS = {
    "geodesic": lambda f, z: lg.geodesic(f, z[:6], z[6:]).length,
    "geodesic with data": lambda f, z: lg.geodesic(f, z[:6], z[6:], data=z).length,
    "distance": lambda f, z: lg.distance(f, z[:6], z[6:]),
    "distance_matrix": lambda f, z: lg.distance_matrix(f, z[:6], progress=False),
    "pullback_metric": lambda f, z: lg.pullback_metric(f, z),
    "angle": lambda f, z: lg.angle(f, z[:4], z[4:8], z[8:]),
    "volume_element": lambda f, z: lg.volume_element(f, z),
    "scalar_curvature": lambda f, z: lg.scalar_curvature(f, z),
    "log_map": lambda f, z: lg.log_map(f, z[:3], z[3:6]),
    "exp_map": lambda f, z: lg.exp_map(f, z[:3], 0.3 * z[3:6]),
    "frechet_mean": lambda f, z: lg.frechet_mean(f, z[:5]),
    "project": lambda f, z: lg.project(f, f(z[:5]).detach(), z[:5] + 0.05).codes,
    "length": lambda f, z: chord_length(f, straight_line(z[:6], z[6:], 16)),
    "neighbours": lambda f, z: nearest_neighbours(f, z, 3).distance,
    "distributions": lambda f, z: lg.geodesic(lambda y: Bernoulli(logits=f(y)), z[:6], z[6:]).length,
    "fisher_rao": lambda f, z: lg.distance(lg.fisher_rao(lambda y: Normal(f(y), 0.5)), z[:6], z[6:]),
    "ensemble": lambda f, z: lg.distance(lg.Ensemble([f, f]), z[:6], z[6:]),
    "chunked": lambda f, z: lg.distance(lg.Chunked(f, 4), z[:6], z[6:]),
    "transport": lambda f, z: lg.parallel_transport(f, straight_line(z[:3], z[3:6], 16), z[6:9]),
    "triangle": lambda f, z: lg.geodesic_triangle(f, 0.3 * z[:3]).angles,
    "twisted": lambda f, z: lg.distance(lg.reparametrise(f, lg.RadialTwist(0.5)), z[:6], z[6:]),
}


MODELS = [build_vae("mlp", (1, 8, 8), 2, 2, seed=seed, activation="silu").eval() for seed in range(2)]
IMAGES = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
CHECKS = {
    "check_assumptions": lambda f, z: lg.check_assumptions(f, z)["value"],
    "check_identifiability": lambda f, z: lg.check_identifiability(
        f, lg.RadialTwist(0.5), z[:6], [name for name in QUANTITIES if name not in SLOW], pairs=2
    )["difference"],
    **{
        f"agreement, {kind}": lambda f, z, kind=kind: lg.agreement(
            MODELS, IMAGES, pairs=5, points=kind, check=False, progress=False
        ).distances["value"]
        for kind in ("nearest", "posterior", "mean")
    },
}


def slow_if_many(name: str) -> object:
    """The check of all quantities calls most of the others."""
    return pytest.param(name, marks=pytest.mark.slow) if name == "check_identifiability" else name


@pytest.mark.thorough
@pytest.mark.parametrize("name", [slow_if_many(name) for name in (*CALLS, *CHECKS)])
@pytest.mark.filterwarnings("ignore:.*misses the data")
def test_another_default_device(name):
    """As after `torch.set_default_device("cuda")`, with points on the CPU, or the other way round."""
    f, z = layers(), points(12, 3)
    for kept in (preconditioner._inverse_root, energy.stiffness):
        kept.cache_clear()
    call = (CALLS | CHECKS)[name]
    with torch.device("meta"):
        found = call(f, z)
    np.testing.assert_allclose(found, call(f, z), rtol=1e-6, atol=1e-12)


DRAWN = {"flow": lambda f, z: lg.random_flow(3, seed=1)(z)}


@pytest.mark.parametrize("name", ["geodesic", "project", "neighbours", "agreement, posterior", "flow"])
def test_another_default_type(name):
    """What is drawn at random, too, is the same after `torch.set_default_dtype`."""
    f, z, call = layers(), points(12, 3), (CALLS | CHECKS | DRAWN)[name]
    expected = call(f, z)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = call(f, z)
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(found, expected)


SWITCHES = [(place, name) for place in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn)
            for name in ("matmul", "conv", "rnn") if hasattr(place, name)]  # fmt: skip


def switches() -> list[object]:
    stand: list[object] = [getattr(getattr(place, name), "fp32_precision", None) for place, name in SWITCHES]
    with contextlib.suppress(RuntimeError):
        stand += [torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]
    return stand


@pytest.fixture
def restored():
    before = [getattr(getattr(place, name), "fp32_precision", None) for place, name in SWITCHES]
    tf32, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    for place in (torch.backends, torch.backends.cudnn, torch.backends.mkldnn):
        if hasattr(place, "fp32_precision"):
            place.fp32_precision = "none"
    for (place, name), value in zip(SWITCHES, before, strict=True):
        if value is not None:
            getattr(place, name).fp32_precision = value
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision(products)


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])
def test_coarse_products(products, device, restored):
    """`torch.set_float32_matmul_precision`: distances keep the digits that they claim, and the switch stays."""
    torch.set_float32_matmul_precision(products)
    before, z = switches(), points(40, 3, torch.float32)
    found = lg.geodesic(layers(torch.float32).to(device), z[:20].to(device), z[20:].to(device))
    metric = lg.pullback_metric(layers(torch.float32).to(device), z.to(device))
    assert switches() == before
    truth = lg.geodesic(layers(), z[:20].double(), z[20:].double(), tol=1e-6).length
    assert found.converged.all()
    assert ((found.length.double().cpu() / truth - 1.0).abs() <= 3 * found.error.double().cpu() + 1e-6).all()
    expected = lg.pullback_metric(layers(), z.double())
    assert (metric.double().cpu() - expected).norm() < 1e-5 * expected.norm()


class Precise(nn.Module):
    """A decoder that looks at how products are computed."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.seen = layers, set()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.seen.add(torch.get_float32_matmul_precision())
        return self.layers(z)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [slow_if_many(name) for name in (*CALLS, "check_assumptions", "check_identifiability")]
)
def test_every_call_keeps_digits(name, restored):
    f, z = Precise(layers()), points(12, 3)
    given = f.layers(z[:5]).detach()
    torch.set_float32_matmul_precision("medium")
    lg.project(f, given, z[:5] + 0.05) if name == "project" else (CALLS | CHECKS)[name](f, z)
    assert f.seen == {"highest"}


STATES = {
    "convolutions": lambda b: setattr(b.cudnn.conv, "fp32_precision", "ieee"),
    "convolutions on CPUs": lambda b: setattr(b.mkldnn.conv, "fp32_precision", "bf16"),
    "products, old": lambda b: setattr(b.cuda.matmul, "allow_tf32", True),
    "cuDNN": lambda b: (setattr(b.cudnn, "fp32_precision", "tf32"), torch.set_float32_matmul_precision("high")),
    "everything": lambda b: (setattr(b, "fp32_precision", "tf32"), torch.set_float32_matmul_precision("high")),
    "products apart": lambda b: (
        setattr(b.cudnn, "fp32_precision", "tf32"),
        setattr(b.cuda.matmul, "fp32_precision", "ieee"),
    ),
}


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="needs the switches of PyTorch 2.9")
@pytest.mark.parametrize("state", STATES)
def test_switches_set_apart(state, restored):
    """Where the newer switches differ, the old ones cannot be read; all stay as they are, and are off inside."""
    STATES[state](torch.backends)
    before = switches()
    with full_precision():
        inside = switches()
        with full_precision():
            assert switches() == inside
        assert switches() == inside
    assert not {"tf32", "bf16"} & set(inside)
    assert switches() == before


@cuda
@pytest.mark.parametrize("name", CALLS)
def test_same_as_on_the_cpu(name):
    f, z = layers(), points(12, 3)
    expected = CALLS[name](f, z)
    same(CALLS[name](layers().cuda(), z.cuda()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("free", "at_once"), [(80 * 2**30, 10 * 2**30), (2**20, 2**27)])
def test_chunks_are_as_large_as_a_gpu_takes(free, at_once, monkeypatch):
    """In chunks of the size of a processor's cache a GPU does next to nothing for most of the time."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert solve._budget(torch.device("cuda:0")) == at_once
    assert solve._budget(torch.device("cpu")) == 2**27


@cuda
def test_gradients():
    z = points(12, 3).cuda()
    start = z[:6].clone().requires_grad_()
    lg.distance(layers().cuda(), start, z[6:]).sum().backward()
    on_cpu = points(12, 3)[:6].clone().requires_grad_()
    lg.distance(layers(), on_cpu, points(12, 3)[6:]).sum().backward()
    same(start.grad, on_cpu.grad, rtol=1e-3, atol=1e-4)


@cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolutions(dtype):
    """Against double precision on the CPU, within the claims; in single precision TF32 would be the default."""
    before = switches()
    z = points(16, 4, dtype)
    truth = lg.geodesic(convolutions(torch.float64), z[:8].double(), z[8:].double(), tol=1e-5)
    found = lg.geodesic(convolutions(dtype).cuda(), z[:8].cuda(), z[8:].cuda())
    assert found.converged.all()
    off = (found.length.double().cpu() / truth.length - 1.0).abs()
    assert (off <= 3 * (found.error.double().cpu() + truth.error)).all(), off
    metric = lg.pullback_metric(convolutions(dtype).cuda(), z.cuda())
    assert switches() == before
    expected = lg.pullback_metric(convolutions(torch.float64), z.double())
    assert (metric.double().cpu() - expected).norm() < 1e3 * torch.finfo(dtype).eps * expected.norm()


@cuda
@pytest.mark.filterwarnings("ignore:.*misses the data")
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("kind", ["nearest", "posterior", "mean"])
def test_models(architecture, kind):
    made = [build_vae(architecture, (1, 8, 8), 2, 2, seed=seed, activation="silu").eval() for seed in range(2)]
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = pair_distances(made[0], x[:5], x[5:10], points=kind)
    report = lg.agreement([model.cuda() for model in made], x, pairs=5, points=kind, progress=False)
    assert len(report.pairs) == 5
    report.summary()
    found = pair_distances(made[0], x[:5].cuda(), x[5:10].cuda(), points=kind)
    np.testing.assert_allclose(found["value"], expected["value"], rtol=2e-2, atol=1e-3)


@cuda
def test_adapters():
    z = points(12, 3).numpy()
    found = lg.GeodesicDistance(layers().cuda()).fit(z[6:]).transform(z[:6])
    np.testing.assert_allclose(found, lg.GeodesicDistance(layers()).fit(z[6:]).transform(z[:6]), rtol=1e-4)
    assert isinstance(lg.distance(layers().cuda(), z[:6], z[6:]), np.ndarray)
    lg.isometric_embedding(lg.distance_matrix(layers().cuda(), points(12, 3).cuda(), progress=False), 2)
    MODELS[0].cuda()
    try:
        explorer = lg.explore(MODELS[0], IMAGES)
    finally:
        MODELS[0].cpu()
    assert explorer is not None


@cuda
def test_checks():
    f, z = layers().cuda(), points(30, 3).cuda()
    verdicts = lg.check_assumptions(f, z).set_index("assumption")["verdict"]
    assert verdicts["smooth"] == "holds"
    for transform in (lg.random_affine(3), lg.random_flow(3), lg.RadialTwist(0.5), lg.CoordinateWarp()):
        found = lg.check_identifiability(f, transform, z)
        assert (found[found["kind"] == "identified"]["verdict"] == "agrees").all()
