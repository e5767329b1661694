"""Decoders that PyTorch cannot push forward, or differentiates twice wrongly, against differences and scipy."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import latentgeo as lg
from latentgeo.geometry.curve import resample
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.differentiation import WAYS, along, second_along, tangent
from latentgeo.geometry.geodesic.preconditioner import regularised
from tests.conftest import mlp

Z, U, V = torch.randn(3, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class _Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.layer = kind(2, 8, batch_first=True, **options)
        self.out = nn.Linear(16 if options.get("bidirectional") else 8, 5)

    def forward(self, z):
        return self.out(self.layer(z[:, None].expand(-1, 4, -1))[0]).flatten(1)


class _Attention(nn.Module):
    def __init__(self, kind="encoder"):
        super().__init__()
        self.first, self.last, self.kind = nn.Linear(2, 32), nn.Linear(8, 3), kind
        options = {"dim_feedforward": 16, "dropout": 0.1, "batch_first": True}
        if kind == "encoder":
            self.inner = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, activation="gelu", **options), 2)
        elif kind == "decoder":
            self.inner = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, activation="gelu", **options), 2)
        else:
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, z):
        h = self.first(z).view(-1, 4, 8)
        if self.kind == "encoder":
            h = self.inner(h)
        elif self.kind == "decoder":
            h = self.inner(h, h)
        else:
            h = self.inner(h, h, h, need_weights=False)[0]
        return self.last(h).flatten(1)


class _Radial(nn.Module):
    """A network of radial basis functions."""

    def __init__(self, root=False):
        super().__init__()
        self.centres, self.out, self.root = nn.Parameter(torch.randn(12, 2)), nn.Linear(12, 6), root

    def forward(self, z):
        r = torch.cdist(z, self.centres)
        return self.out(torch.exp(-r if self.root else -0.5 * r.square()))


class _Sampled(nn.Module):
    def __init__(self, mode="bilinear"):
        super().__init__()
        self.image, self.at, self.mode = nn.Parameter(torch.randn(1, 1, 8, 8)), nn.Linear(2, 18), mode

    def forward(self, z):
        at = 0.9 * self.at(z).tanh().view(-1, 3, 3, 2)
        image = self.image.expand(len(z), -1, -1, -1)
        return functional.grid_sample(image, at, mode=self.mode, align_corners=True).flatten(1)


class _Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 5)), reentrant

    def forward(self, z):
        return checkpoint(self.inner, z, use_reentrant=self.reentrant)


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3.0 * g * x.square()


class _CubeOnce(_Cube):
    backward = staticmethod(torch.autograd.function.once_differentiable(_Cube.backward))


class _Custom(nn.Module):
    def __init__(self, cube=_Cube.apply):
        super().__init__()
        self.inner, self.out, self.cube = nn.Linear(2, 16), nn.Linear(16, 8), cube

    def forward(self, z):
        return self.out(self.cube(torch.tanh(self.inner(z))))


class _Solved(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 6)

    def forward(self, z):
        x = self.inner(z)
        eye = torch.eye(6, dtype=x.dtype)
        return torch.linalg.solve(eye + 0.1 * x[:, :, None] * x[:, None], x[:, :, None])[..., 0]


class _Written(nn.Module):
    """Fills a tensor in place, and reads values."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 4)

    def forward(self, z):
        x = torch.zeros(len(z), 6, dtype=z.dtype)
        x[:, :4] = self.inner(z).tanh()
        x[:, 4:] = z if z.sum().item() > 1e9 else z.square()
        return x


MODELS = {
    "LSTM": _Recurrent,
    "LSTM, two layers both ways": lambda: _Recurrent(num_layers=2, bidirectional=True),
    "GRU": lambda: _Recurrent(nn.GRU),
    "RNN": lambda: _Recurrent(nn.RNN),
    "transformer encoder": _Attention,
    "transformer decoder": lambda: _Attention("decoder"),
    "multi-head attention": lambda: _Attention("attention"),
    "cdist": _Radial,
    "cdist, its root": lambda: _Radial(root=True),
    "grid_sample": _Sampled,
    "grid_sample, bicubic": lambda: _Sampled("bicubic"),
    "re-entrant checkpoint": lambda: _Checkpointed(True),
    "checkpoint": lambda: _Checkpointed(False),
    "autograd.Function": _Custom,
    "layer norm": lambda: nn.Sequential(nn.Linear(2, 12), nn.LayerNorm(12), nn.Tanh(), nn.Linear(12, 6)),
    "layer norm without weights": lambda: nn.Sequential(
        nn.Linear(2, 12), nn.LayerNorm(12, elementwise_affine=False), nn.GELU(), nn.Linear(12, 6)
    ),
    "instance norm": lambda: nn.Sequential(
        nn.Linear(2, 12), nn.Unflatten(1, (3, 4)), nn.InstanceNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 6)
    ),
    "group norm": lambda: nn.Sequential(nn.Linear(2, 12), nn.GroupNorm(3, 12), nn.Tanh(), nn.Linear(12, 6)),
    "GLU": lambda: nn.Sequential(nn.Linear(2, 12), nn.GLU(), nn.Linear(6, 6)),
    "solve": _Solved,
    "in place": _Written,
}


def _made(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return MODELS[name]().double().eval()


@torch.no_grad()
def _differences(f, z, u, v, h=1e-3):
    """J v and D²f(u, v) by central differences, extrapolated twice."""
    first, second = [], []
    for k in (1, 2, 4):
        first.append((f(z + k * h * v) - f(z - k * h * v)) / (2 * k * h))
        corners = [s * t * f(z + k * h * (s * u + t * v)) for s, t in itertools.product((1, -1), repeat=2)]
        second.append(sum(corners) / (4 * (k * h) ** 2))
    limits = []
    for a, b, c in (first, second):
        ab, bc = (4 * a - b) / 3, (4 * b - c) / 3
        limits.append((16 * ab - bc) / 15)
    return limits


@pytest.mark.parametrize("learning", [True, False], ids=["with gradients", "frozen"])
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_differences(name, learning):
    f = _made(name).requires_grad_(learning)
    g = as_decoder(f, Z)
    first, second = _differences(f, Z, U, V, h=1e-4 if "grid" in name else 1e-3)  # which has kinks
    torch.testing.assert_close(g.jvp(Z, V), first, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close((g.jacobian(Z) @ V[..., None])[..., 0], first, rtol=1e-7, atol=1e-8)
    _, found = g.second_derivative(Z, U, V)
    torch.testing.assert_close(found, second, rtol=1e-5, atol=5e-6 * float(second.abs().max()))
    w = torch.ones_like(first)
    torch.testing.assert_close((g.vjp(Z, w) * V).sum(1), first.sum(1), rtol=1e-7, atol=1e-7)
    assert all(p.grad is None for p in f.parameters())


@pytest.mark.parametrize("name", ["LSTM", "transformer encoder", "cdist", "grid_sample", "autograd.Function"])
def test_single_precision_goes_the_same_ways(name):
    f = _made(name)
    exact = [lg.pullback_metric(f, Z), lg.gaussian_curvature(f, Z)]
    found = [measure(f.float(), Z.float()) for measure in (lg.pullback_metric, lg.gaussian_curvature)]
    for x, y in zip(found, exact, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-4 * float(y.abs().max()))


def test_curvature_of_a_decoder_with_layer_norm():
    """PyTorch's nested forward mode takes the mean and variance for constants: it gives 0.136 for -0.003."""

    class Composed(nn.Module):
        def forward(self, x):
            x = x - x.mean(-1, keepdim=True)
            return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    f = _made("layer norm without weights")
    g = nn.Sequential(f[0], Composed(), *f[2:])
    torch.testing.assert_close(lg.gaussian_curvature(f, Z), lg.gaussian_curvature(g, Z))
    torch.testing.assert_close(lg.exp_map(f, Z, 0.3 * V), lg.exp_map(g, Z, 0.3 * V))
    wrong = second_along(f, "forward", Z, U[None], V[None])[2]
    assert not torch.allclose(wrong, second_along(g, "forward", Z, U[None], V[None])[2], rtol=0.01)  # the control


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_agree_where_all_are_open(way):
    f = mlp(0, d=2)
    directions = torch.stack([U, V])
    for found, expected in zip(along(f, way, Z, directions), along(f, "forward", Z, directions), strict=True):
        torch.testing.assert_close(found, expected)
    pairs = (directions, directions.flip(0))
    for found, expected in zip(second_along(f, way, Z, *pairs), second_along(f, "forward", Z, *pairs), strict=True):
        torch.testing.assert_close(found, expected)
    z, v = Z.clone().requires_grad_(), V.clone().requires_grad_()
    wanted = torch.autograd.grad(tangent(f, "forward", z, v).square().sum(), (z, v))
    torch.testing.assert_close(torch.autograd.grad(tangent(f, way, z, v).square().sum(), (z, v)), wanted)


class _Constants(nn.Module):
    """Constants on either side of what depends on the point, and in more dimensions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.C = (nn.Parameter(torch.randn(shape)) for shape in ((2,), (3, 1, 1), (2, 2)))

    def forward(self, z):
        x = torch.tanh((z @ self.C - self.a) * self.a + self.a * (self.a + z) / self.a - z.matmul(self.C) * 2.0)
        y = (
            torch.add(x, self.a, alpha=3.0)
            + (self.a - x)
            + torch.mul(2.0, x)
            + torch.div(x, 0.3, rounding_mode="floor")
        )
        return (y + self.b).square().movedim(0, 1).flatten(1) + torch.matmul(self.C, x.square().T).T.repeat(1, 3)


class _Hypernetwork(nn.Module):
    """Weights, shifts and scales that depend on the point."""

    def __init__(self):
        super().__init__()
        self.weights, self.first, self.norm = nn.Linear(2, 8), nn.Linear(2, 4), nn.BatchNorm1d(2)

    def forward(self, z):
        w = self.weights(z)
        x = torch.func.vmap(lambda z, w: functional.linear(z, w[:4].reshape(2, 2), w[4:6]))(z, w)
        x = self.norm(torch.tanh(x)) * w[:, 6:] + w[:, :2]
        mean = w.mean(0)
        y = functional.batch_norm(x, mean[:2].detach(), mean[2:4].detach().exp(), mean[4:6], mean[6:8])
        z = functional.linear(z, w[:4, :2], mean[:4])
        return torch.cat([y, z, z.mean(0) + 0.0 * z, torch.func.jvp(self.first, (x.sin(),), (x,))[1]], 1)


AFFINE = {
    "dense": lambda: nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Linear(9, 5, bias=False), nn.SiLU(), nn.Linear(5, 4)),
    "batch norm": lambda: nn.Sequential(nn.Linear(2, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.BatchNorm1d(9, affine=False)),
    **{
        f"{name}{n}d": lambda name=name, n=n: nn.Sequential(
            nn.Linear(2, 16),
            nn.Unflatten(1, (2, *[[8], [4, 2], [2, 2, 2]][n - 1])),
            getattr(nn, f"{name}{n}d")(2, 2, 2, 2, 1),
            nn.Softplus(),
            getattr(nn, f"BatchNorm{n}d")(2),
            nn.Flatten(),
        )
        for name in ("Conv", "ConvTranspose")
        for n in (1, 2, 3)
    },
    "batch norm of the batch": lambda: nn.Sequential(nn.Linear(2, 9), nn.BatchNorm1d(9, track_running_stats=False)),
    "constants": _Constants,
    "hypernetwork": _Hypernetwork,
}


def _affine(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = AFFINE[name]().double().eval()
        for norm in made.modules():
            for of in (norm.weight, norm.bias, norm.running_mean) if hasattr(norm, "running_mean") else ():
                torch.nn.init.normal_(of) if of is not None else None
    return made


@pytest.mark.parametrize("name", AFFINE)
def test_tangents_taken_apart_are_those_of_pytorch(name):
    f, directions = _affine(name), torch.stack([U, V])
    for of in (directions, directions[:1]):
        x, Jv = along(f, "forward", Z, of)
        *_, second = second_along(f, "forward", Z, of, of.flip(0))
        for k, v in enumerate(of):
            expected = torch.func.jvp(f, (Z,), (v,))
            torch.testing.assert_close((x, Jv[k]), expected, rtol=1e-14, atol=1e-14)
            twice = torch.func.jvp(lambda z, v=v: torch.func.jvp(f, (z,), (v,))[1], (Z,), (of.flip(0)[k],))[1]
            torch.testing.assert_close(second[k], twice, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", list(AFFINE)[:-3])
def test_nothing_is_computed_with_zeros(name):
    """PyTorch multiplies and convolves with the tangents of constants, which takes several times as long."""
    f = _affine(name)

    def zeros(call):
        with torch.profiler.profile() as profile:
            call()
        return sum(event.name == "aten::_efficientzerotensor" for event in profile.events())

    assert zeros(lambda: along(f, "forward", Z, V[None])) == 0
    assert zeros(lambda: torch.func.jvp(f, (Z,), (V,))) > 0  # the control


def test_what_can_be_differentiated_once_only_is_named():
    with pytest.raises(ValueError, match=r"no derivative that could be found.*once_differentiable.*give .* a jvp"):
        lg.geodesic(_Custom(_CubeOnce.apply).double(), Z[:3], Z[3:])


def _shortest(f, a, b, nodes=33):
    """Length of a geodesic in float64 by scipy: chord energy of many nodes, extrapolated by halving."""
    lengths, points = [], None
    for N in ((nodes - 1) // 2, nodes - 1):
        start = torch.lerp(a, b, torch.linspace(0, 1, N + 1).double()[:, None])
        points = start if points is None else resample(points[None], N)[0]

        def energy(inner, N=N):
            z = torch.from_numpy(inner).reshape(N - 1, -1).requires_grad_()
            x = f(torch.cat([a[None], z, b[None]]))
            value = N * x.diff(dim=0).square().sum()
            (gradient,) = torch.autograd.grad(value, z)
            return value.item(), gradient.numpy().ravel()

        options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 50}
        found = scipy.optimize.minimize(
            energy, points[1:-1].detach().numpy().ravel(), jac=True, method="L-BFGS-B", options=options
        )
        points = torch.cat([a[None], torch.from_numpy(found.x).reshape(N - 1, -1), b[None]])
        lengths.append(float(np.sqrt(found.fun)))
    return (4 * lengths[1] - lengths[0]) / 3


@pytest.mark.parametrize("name", ["transformer encoder", "LSTM", "cdist"])
def test_lengths_are_within_claims_of_scipys(name):
    f = _made(name)
    a, b = 0.7 * Z[:3], 0.7 * Z[3:]
    found = lg.geodesic(f, a, b)
    assert found.converged.all()
    reference = torch.tensor([_shortest(f, *ends) for ends in zip(a, b, strict=True)])
    assert ((found.length / reference - 1).abs() <= found.error + 1e-5).all()
    straight = lg.curve.chord_length(f, lg.curve.straight_line(a, b, 256))
    assert (straight > found.length * (1 + 3 * found.error)).any()  # the control: lines are longer


def test_far_from_all_centres_a_radial_network_has_no_metric_and_no_error():
    J = as_decoder(_made("cdist"), Z).jacobian(20.0 * torch.ones(1, 2).double())
    metric = J.mT @ J
    assert 0 < metric.abs().max() < 1e-292  # too little for a factor
    torch.testing.assert_close(torch.linalg.cholesky(regularised(metric, 1e-4))[0], torch.eye(2).double())


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [pytest.param("transformer encoder", marks=pytest.mark.slow), "LSTM", "cdist", "autograd.Function"]
)
def test_maps_and_means_go_through(name):
    f = _made(name)
    z, v = 0.3 * Z, 0.1 * V
    there = lg.exp_map(f, z, v)
    torch.testing.assert_close(lg.log_map(f, z, there, tol=1e-10), v, rtol=0.02, atol=2e-3)
    ends = z.clone().requires_grad_()
    lg.distance(f, ends[:1], ends[1:2]).backward()
    assert ends.grad.isfinite().all()
    assert lg.scalar_curvature(f, z).isfinite().all()
    assert lg.distance_matrix(f, z[:3]).isfinite().all()
    assert len(lg.check_assumptions(f, z, pairs=2, points=6)) == 5


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "twin"),
    [("autograd.Function", lambda f: _Custom(lambda x: x**3)), ("re-entrant checkpoint", lambda f: f.inner)],
)
def test_other_ways_take_at_most_twice_the_time(name, twin):
    f = _made(name)
    g = twin(f).double()
    g.load_state_dict(f.state_dict(), strict=False)
    g = g.eval()
    a, b = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def seconds(decoder, measure):
        taken = []
        for _ in range(3):
            began = time.process_time()
            measure(decoder)
            taken.append(time.process_time() - began)
        return min(taken)

    for measure in (
        lambda h: lg.geodesic(h, a, b),
        lambda h: lg.pullback_metric(h, a),
        lambda h: lg.exp_map(h, a, 0.1 * b, steps=10),
        lambda h: lg.gaussian_curvature(h, a),
    ):
        assert seconds(f, measure) < 2.0 * seconds(g, measure)


def test_several_threads_at_once_get_the_same_metric():
    f, z = mlp(3, D=40), torch.randn(50, 3, dtype=torch.float64)
    alone = lg.pullback_metric(f, z)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: lg.pullback_metric(f, z), range(100)):
            assert torch.equal(found, alone)
