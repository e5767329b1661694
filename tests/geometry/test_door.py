"""What is refused at the door, what is taken, and that nothing of the caller's is changed by either."""

import copy
import functools
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import latentgeo as lg
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.reach import modules_of
from tests.conftest import mlp

M = mlp(0, d=2, D=8)
Z = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _normalised():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5)).double()


class _Model(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def decode(self, z):
        return self.net(z)


class _Plain:
    def __init__(self, held):
        self.held = held

    def __call__(self, z):
        held = self.held
        while not callable(held):
            held = next(iter(held.values())) if isinstance(held, dict) else held[0]
        return held(z)


class _Slots:
    __slots__ = ("net",)

    def __init__(self, net):
        self.net = net

    def __call__(self, z):
        return self.net(z)


def _by_keyword(z, net=None):
    return net(z)


WRAPPERS = {
    "ensemble of methods": lambda m: lg.Ensemble([_Model(m).decode]),
    "ensemble of functions": lambda m: lg.Ensemble([lambda z: m(z)]),
    "chunks of a method": lambda m: lg.Chunked(_Model(m).decode, 4),
    "fisher_rao of a function": lambda m: lg.fisher_rao(lambda z: m(z), "gaussian", sigma=1.0),
    "other coordinates": lambda m: lg.reparametrise(lambda z: m(z), lg.RadialTwist(0.5)),
    "ensemble of chunks of a function": lambda m: lg.Ensemble([lg.Chunked(lambda z: m(z), 4)]),
    "partial's keyword": lambda m: functools.partial(_by_keyword, net=m),
    "list": lambda m: _Plain([m]),
    "dict": lambda m: _Plain({"a": m}),
    "nested objects": lambda m: _Plain({"a": [{"b": _Plain(m)}]}),
    "slots": _Slots,
    "scripted": torch.jit.script,
    "traced": lambda m: torch.jit.trace(copy.deepcopy(m), Z),
    "list in a function": lambda m: (lambda held: lambda z: held[0](z))([m]),
    "function in a function": lambda m: (lambda g: lambda z: g(z))(lambda z: m(z)),
    "inner function": lambda m: lambda z: (lambda y: m(y))(z),
    "cached function": lambda m: functools.wraps(m.forward)(lambda z: m(z)),
    "distribution": lambda m: lambda z: torch.distributions.Normal(m(z), 1.0),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_batch_norm_in_training_mode_is_seen_and_left_alone_behind_every_wrapper(name):
    module = _normalised()
    around = WRAPPERS[name](module)
    held = modules_of(around)[0]
    before = copy.deepcopy(held.state_dict())
    with pytest.raises(ValueError, match=r"is a BatchNorm1d in training mode.*call \.eval\(\)"):
        lg.geodesic(around, Z[:3], Z[3:])
    assert all(torch.equal(value, before[key]) for key, value in held.state_dict().items())


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm], ids=["parametrised", "by hooks"])
def test_spectral_norm_in_training_mode_is_refused_and_its_vectors_stay(norm):
    module = nn.Sequential(norm(nn.Linear(2, 5)), nn.Tanh()).double()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"layer '0.*in training mode, so every pass changes its buffers; call \.eval"):
        lg.pullback_metric(lambda z: module(z), Z)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert lg.pullback_metric(module.eval(), Z).isfinite().all()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5, track_running_stats=False)).eval(), "without running stat"),
        (nn.Sequential(nn.Linear(2, 5), nn.RReLU()), "RReLU in training mode"),
        (nn.Sequential(nn.Linear(2, 5), nn.AlphaDropout()), "AlphaDropout in training mode"),
        (nn.Sequential(nn.Unflatten(1, (1, 2)), nn.LSTM(2, 3, 2, dropout=0.5, batch_first=True)), "LSTM in training"),
        (nn.Sequential(nn.Unflatten(1, (1, 2)), nn.InstanceNorm1d(1, track_running_stats=True)), "InstanceNorm1d in"),
        (nn.LazyLinear(3), "without parameters yet"),
    ],
)
def test_modules_that_are_no_functions_of_their_input_are_named(module, message):
    with pytest.raises(ValueError, match=message):
        lg.pullback_metric(module, Z.float())


class _Counting(nn.Module):
    """Keeps count in a buffer, whatever the mode."""

    def __init__(self, in_place):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.in_place = in_place

    def forward(self, z):
        if self.in_place:
            self.seen += len(z)
        else:
            self.seen = self.seen + len(z)
        return M(z)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_that_decoding_changes_is_put_back_and_named(in_place):
    module = nn.Sequential(_Counting(in_place)).eval()
    buffer = module[0].seen
    with pytest.raises(ValueError, match=r"changes the model's buffer '0\.seen' of the _Counting"):
        lg.distance(lambda z: module(z), Z[:3], Z[3:])
    assert module[0].seen is buffer
    assert not buffer.any()


@pytest.mark.parametrize(
    "decoder",
    [
        lambda z: nn.functional.dropout(M(z), 0.5),
        lambda z: M(z) + torch.randn(len(z), 8),
        lambda z: torch.distributions.Normal(M(z), 1.0).rsample(),
        lambda z: M(z) * (1.0 + 1e-9 * torch.rand(1).double()),
        lambda z: torch.distributions.Normal(M(z) + torch.randn(1), 1.0),
    ],
)
def test_chance_is_refused(decoder):
    with pytest.raises(ValueError, match="answers differently when asked twice"):
        lg.geodesic(decoder, Z[:3], Z[3:])


LSTM = nn.LSTM(2, 5).double()


@pytest.mark.parametrize(
    "decoder",
    [
        lambda z: (M(z) - M(z).min()) / (M(z).max() - M(z).min()),
        lambda z: LSTM(z)[0],
        lambda z: LSTM(z.flip(0))[0].flip(0),
        lambda z: M(z) - M(z).mean(0),
        lambda z: M(z) / (1.0 + M(z).norm()),
        lambda z: nn.functional.batch_norm(M(z), None, None, training=True) if len(z) > 1 else M(z),
        lambda z: torch.softmax(M(z), 0),
        lambda z: M(z).cumsum(0),
        lambda z: M(z) + torch.randn(z.shape[0], 8, generator=torch.Generator().manual_seed(0)),
    ],
)
@pytest.mark.parametrize("points", [Z, Z[:1], torch.zeros(1, 2).double()], ids=["several", "one", "zero"])
def test_rows_that_depend_on_the_batch_are_refused(decoder, points):
    with pytest.raises(ValueError, match="a row of its output depends on the rows that are decoded with it"):
        lg.pullback_metric(decoder, points)


def test_a_recurrent_layer_without_batch_axis_is_named():
    with pytest.raises(ValueError, match=r"LSTM without a batch axis.*batch_first=True"):
        lg.pullback_metric(lambda z: LSTM(z)[0], Z)


S = mlp(1, d=2, D=8)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return (4.0 * x).round() / 4.0

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g


CODEBOOK = M(torch.cartesian_prod(*[torch.linspace(-2, 2, 9).double()] * 2)).detach()


def _quantised(z):
    x = M(z)
    q = CODEBOOK[torch.cdist(x, CODEBOOK).argmin(1)]
    return x + (q - x).detach()


def _without_gradients(z):
    with torch.no_grad():
        s = 3.0 * S(z)
    return torch.cat([M(z), s], 1)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (_without_gradients, r"gradients do not pass through all of it.*no_grad"),
        (lambda z: torch.cat([M(z), 3.0 * S(z.detach())], 1), r"derivative is not that of its values.*detached"),
        (lambda z: torch.cat([M(z), 3.0 * S(z).detach()], 1), r"derivative is not that of its values.*detached"),
        (lambda z: torch.cat([M(z), 3.0 * S(z.data)], 1), r"derivative is not that of its values.*detached"),
        (lambda z: torch.distributions.Normal(M(z), S(z).exp().detach()), "derivative is not that of its values"),
        (lambda z: _Straight.apply(M(z)), "neither smooth nor injective"),
        (_quantised, "neither smooth nor injective"),
        (lambda z: CODEBOOK[torch.cdist(M(z), CODEBOOK).argmin(1)] + 0.0 * M(z), "neither smooth nor injective"),
        (lambda z: (10.0 * M(z)).round(), "neither smooth nor injective"),
    ],
)
def test_a_derivative_that_is_not_the_functions_is_refused(decoder, message):
    for measure in (lambda: lg.geodesic(decoder, Z, Z.flip(0)), lambda: lg.pullback_metric(decoder, Z)):
        with pytest.raises(ValueError, match=message):
            measure()


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_honest_decoders_are_taken_in_any_units(scale, dtype):
    net = mlp(2, d=2, D=64).to(dtype)
    decoders = [
        lambda z: scale * net(z),
        lambda z: scale * nn.functional.relu(net(z)),
        lambda z: scale * torch.cat([(30.0 * z).sin(), z], 1),
        lambda z: scale * torch.cat([z.abs(), z.square()], 1),
        lambda z: scale + scale * 1e-2 * torch.cat([z, z.cos()], 1),
        lambda z: scale * z.clamp_min(0.0),
    ]
    for decoder in decoders:
        for z in (Z.to(dtype), torch.zeros(1, 2, dtype=dtype), 1e-6 * Z.to(dtype), 1e3 * Z.to(dtype)):
            assert as_decoder(decoder, z).way == "forward"


def test_a_decoder_without_values_a_step_away_is_taken():
    def decoder(z):
        if (z < 0).any():
            raise ValueError("below zero")
        return z.sqrt()

    assert as_decoder(decoder, torch.zeros(1, 2).double()).way == "forward"
    assert as_decoder(lambda z: z.log(), torch.zeros(1, 2).double()).way == "forward"


def test_complex_values_are_pairs_of_reals():
    def spectrum(z):
        return torch.fft.fft(M(z))

    def pairs(z):
        return torch.view_as_real(spectrum(z))

    torch.testing.assert_close(lg.pullback_metric(spectrum, Z), lg.pullback_metric(pairs, Z))
    torch.testing.assert_close(lg.distance(spectrum, Z[:3], Z[3:]), lg.distance(pairs, Z[:3], Z[3:]))
    torch.testing.assert_close(lg.gaussian_curvature(spectrum, Z), lg.gaussian_curvature(pairs, Z))
    step = 1e-6 * torch.eye(2).double()
    J = torch.stack([(spectrum(Z + e) - spectrum(Z - e)) / 2e-6 for e in step], -1)
    torch.testing.assert_close(lg.pullback_metric(spectrum, Z), (J.mH @ J).real, rtol=1e-7, atol=1e-8)
    conjugated = lg.pullback_metric(lambda z: spectrum(z).conj(), Z)
    torch.testing.assert_close(conjugated, lg.pullback_metric(pairs, Z))


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (lambda z: (10 * M(z)).long(), r"floating-point values, got torch\.int64"),
        (lambda z: M(z) > 0, r"floating-point values, got torch\.bool"),
        (lambda z: M(z).float(), r"returns torch\.float32 for points of torch\.float64.*z\.to\(torch\.float32\)"),
        (lambda z: M(z).bfloat16(), "half precision is too coarse: leave autocast out"),
        (lambda z: M(z).half(), "half precision is too coarse"),
        (lambda z: {"recon": M(z), "z": z}, r"got dict; take it out.*decode\(z\)\['recon'\]"),
        (lambda z: SimpleNamespace(sample=M(z)), r"decode\(z\)\.sample"),
        (lambda z: torch.return_types.max((M(z), M(z))), r"decode\(z\)|\[0\]"),
        (lambda z: [M(z)], r"got list; .*decode\(z\)\[0\]"),
        (lambda z: None, "got NoneType; return decoded data"),
        (lambda z: M(z).detach().numpy(), "ndarray|differentiable"),
    ],
)
def test_other_kinds_of_output_are_refused_with_what_to_do(decoder, message):
    for measure in (lambda: lg.geodesic(decoder, Z[:3], Z[3:]), lambda: lg.pullback_metric(decoder, Z)):
        with pytest.raises((TypeError, ValueError), match=message):
            measure()


def test_wider_values_than_the_points_are_taken():
    found = lg.geodesic(lambda z: M(z.double()), Z[:3].float(), Z[3:].float())
    assert found.length.dtype == torch.float32
    torch.testing.assert_close(found.length.double(), lg.distance(M, Z[:3], Z[3:]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["mul_", "item"])
def test_a_decoder_that_works_in_place_gives_the_right_answers_and_changes_nothing(name):
    def decoder(z):
        if name == "item":
            z[:, 0] *= 1.5
            z[:, 1] = 1.5 * z[:, 1]
            return M(z)
        return M(z.mul_(1.5))

    def right(z):
        return M(1.5 * z)

    z = Z.clone()
    torch.testing.assert_close(lg.distance(decoder, z[:3], z[3:]), lg.distance(right, Z[:3], Z[3:]))
    torch.testing.assert_close(lg.pullback_metric(decoder, z), lg.pullback_metric(right, Z))
    torch.testing.assert_close(lg.curve.chord_length(decoder, z), lg.curve.chord_length(right, Z))
    assert torch.equal(z, Z)


def test_what_the_door_costs():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(16, 256), nn.ELU(), nn.Linear(256, 256), nn.ELU()  # the paper's decoder of Fashion-MNIST
        f = nn.Sequential(*hidden, nn.Linear(256, 784)).requires_grad_(False)
        a, b = torch.randn(2, 100, 16)

    def seconds(call):
        began = time.process_time()
        call()
        return time.process_time() - began

    lg.geodesic(f, a, b)
    door, solved = [], []
    for _ in range(6):  # by turns, for the speed of a machine comes and goes
        door += [seconds(lambda: as_decoder(f, a)) for _ in range(8)]
        solved.append(seconds(lambda: lg.geodesic(f, a, b)))
    assert min(door) < 0.02 * min(solved)
