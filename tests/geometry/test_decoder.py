import copy
import functools
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.func import hessian, jacrev, jvp, vmap

import latentgeo as lg
from latentgeo.geometry import decoder as decoder_module
from latentgeo.geometry.decoder import as_decoder, check_points
from latentgeo.geometry.surfaces import sphere, sphere_distance
from tests.conftest import mlp


def test_a_decoder_is_flattened_to_rows():
    f = as_decoder(lambda z: z.reshape(-1, 1, 2, 2), torch.zeros(1, 4))
    assert f(torch.zeros(5, 4)).shape == (5, 4)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)])
def test_a_module_whose_rows_depend_on_chance_or_each_other_is_refused(layer):
    module = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(ValueError, match=r"training mode.*call \.eval\(\)"):
        lg.pullback_metric(module, torch.zeros(2, 3))
    assert lg.pullback_metric(module.eval(), torch.zeros(2, 3)).shape == (2, 3, 3)


def test_the_module_of_a_bound_method_is_checked_and_not_written_to():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

        def decode(self, z):
            return self.layers(z)

    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="BatchNorm1d in training mode"):
        lg.distance(model.decode, torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(TypeError, match=r"float32.*float64"):
        lg.distance(model.eval().decode, torch.zeros(2, 3).double(), torch.ones(2, 3).double())
    lg.distance(model.decode, torch.zeros(2, 3), torch.ones(2, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class _Around:
    def __init__(self, module):
        self.module = module

    def __call__(self, z):
        return self.module(z)


def _named(module):
    return lambda z: module(z)


def _by_default(module):
    return lambda z, m=module: m(z)


def _by_method(module):
    forward = module.forward
    return lambda z: forward(z)


@pytest.mark.parametrize("around", [_named, _by_default, _by_method, _Around, lambda m: functools.partial(_apply, m)])
def test_modules_behind_functions_are_checked_before_anything_passes_through_them(around):
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
    before = copy.deepcopy(module.state_dict())
    for measure in (
        lambda: lg.distance(around(module), torch.zeros(2, 3), torch.ones(2, 3)),
        lambda: lg.latent_model((around(module), nn.Identity())).codes(torch.rand(4, 3)),
    ):
        with pytest.raises(ValueError, match=r"layer '1' is a BatchNorm1d in training mode.*\.eval\(\)"):
            measure()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert lg.latent_model((around(module.eval()), nn.Identity())).codes(torch.rand(4, 3)).shape == (4, 8)


def _apply(module, z):
    return module(z)


def test_a_module_in_training_mode_without_such_layers_is_taken():
    assert lg.pullback_metric(nn.Linear(3, 4), torch.zeros(3)).shape == (3, 3)


def test_another_dtype_than_the_parameters_is_refused():
    with pytest.raises(TypeError, match=r"float32.*float64"):
        lg.pullback_metric(nn.Linear(3, 4), torch.zeros(2, 3).double())


@pytest.mark.parametrize(
    ("decoder", "error", "message"),
    [
        ("f", TypeError, "expected a callable"),
        (lambda z: z.sum(0, keepdim=True), ValueError, "one row for each latent point"),
        (lambda z: z.sum(1), ValueError, "one row for each latent point"),
        (lambda z: z.tolist(), TypeError, "return a torch.Tensor"),
        (lambda z: (z, z), TypeError, "got tuple; the forward of a whole autoencoder"),
        (lambda z: (2 * z).detach(), ValueError, "not differentiable in z"),
        (lambda z: torch.from_numpy(z.detach().numpy()), ValueError, "not differentiable in z"),
    ],
)
def test_what_is_not_a_decoder_is_refused(decoder, error, message):
    with pytest.raises(error, match=message):
        lg.distance(decoder, torch.zeros(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("measure", [lg.pullback_metric, lambda f, z: lg.distance(f, z, z + 1), lg.distance_matrix])
def test_points_of_another_dimension_are_refused(measure):
    with pytest.raises(
        ValueError, match=r"latent points of shape .*5\).* number of latent dimensions .* model\.decode"
    ) as caught:
        measure(nn.Linear(3, 4), torch.zeros(2, 5))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_lack_of_memory_is_not_blamed_on_the_points():
    def decoder(z):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        lg.distance(decoder, torch.zeros(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("z", "ndim", "error", "message"),
    [
        ([[0.0]], None, TypeError, "torch.as_tensor"),
        (torch.zeros(2, 3, dtype=torch.long), None, TypeError, "floating-point"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), 2, TypeError, "first part, the mean"),
        (torch.zeros(3), 2, ValueError, r"unsqueeze\(0\)"),
        (torch.zeros(3, 1, 8, 8), 2, ValueError, "encode data first"),
        (torch.zeros(2, 0), 2, ValueError, "d ≥ 1"),
        (torch.tensor([[float("nan")]]), 2, ValueError, "NaN or infinity"),
    ],
)
def test_what_are_not_points_is_refused(z, ndim, error, message):
    with pytest.raises(error, match=message):
        check_points("z", z, ndim)


def test_chords_use_the_same_decoder_at_both_ends(ensemble, ends):
    a, b = ends
    chords = torch.stack([(ensemble[k](b) - ensemble[k](a)).square().sum(1) for k in range(4)]).mean(0)
    torch.testing.assert_close((ensemble(b) - ensemble(a)).flatten(1).square().sum(1), chords)


def test_the_length_of_a_fixed_curve_converges_with_its_refinement(ensemble, ends):
    lengths = [lg.curve.chord_length(ensemble, lg.curve.straight_line(*ends, N)) for N in (64, 128, 256)]
    assert ((lengths[2] - lengths[1]).abs() < 0.3 * (lengths[1] - lengths[0]).abs() + 1e-12).all()


def test_one_decoder_is_an_ensemble_of_itself(decoder, ends):
    torch.testing.assert_close(lg.distance(lg.Ensemble([decoder]), *ends), lg.distance(decoder, *ends))


def test_members_move_with_the_ensemble():
    F = lg.Ensemble([mlp(0), mlp(1)]).float()
    assert F(torch.zeros(1, 3)).dtype == torch.float32
    assert copy.deepcopy(F).double()(torch.zeros(1, 3).double()).dtype == torch.float64
    assert F(torch.zeros(1, 3)).dtype == torch.float32


def test_nothing_and_what_is_not_a_decoder_are_refused():
    with pytest.raises(ValueError, match="at least one decoder"):
        lg.Ensemble([])
    with pytest.raises(TypeError, match="entry 1 is a int"):
        lg.Ensemble([mlp(0), 3])


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


def test_at_most_this_many_points_go_through_at_a_time_and_once_more_backwards():
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


def test_what_is_not_a_decoder_cannot_be_chunked():
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


@pytest.mark.slow
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


@pytest.mark.thorough
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_the_peak_memory_is_that_of_a_chunk():
    # With a fixed threshold glibc gives back at once what is freed; else the peak counts fragments too.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, "-c", _PEAK], check=True, capture_output=True, text=True, env=environment)
    chunked, whole = map(float, run.stdout.split())
    # MiB: inputs, outputs and their gradients are 8 each; 60 more rows keep 150.
    assert chunked < 64
    assert whole > 100


def test_the_door_is_passed_once(monkeypatch):
    checked = []
    monkeypatch.setattr(decoder_module, "check_modes", lambda name, f: checked.append(f) or [])
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = as_decoder(lambda z: torch.cat([z, z.square()], 1), z)
    assert len(checked) == 1
    assert f.rows == 0  # the point at the door does not count
    lg.geodesic(f, z[:3], z[3:])
    lg.distance_matrix(f, z)
    lg.pullback_metric(f, z)
    lg.log_map(f, z[:3], z[3:])
    lg.exp_map(f, z, 0.1 * z, steps=2)
    lg.scalar_curvature(f, z)
    lg.geodesic_triangle(f, z[:3])
    assert len(checked) == 1
    with pytest.raises(TypeError, match=r"parameters are torch\.float32 but the points are torch\.float64"):
        lg.pullback_metric(as_decoder(nn.Linear(2, 3), z.float()), z)


def test_a_decoder_that_works_in_place_does_not_change_the_points_at_the_door():
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = z.clone()
    as_decoder(lambda z: z.mul_(2.0), z)
    assert torch.equal(z, before)


def test_products_with_the_jacobian_are_those_of_the_jacobian():
    f = as_decoder(mlp(3), torch.zeros(1, 3).double())
    random = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 5, 3, generator=random, dtype=torch.float64)
    w = torch.randn(5, f(z).shape[1], generator=random, dtype=torch.float64)
    J = f.jacobian(z)
    torch.testing.assert_close(f.jvp(z, v), (J @ v.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(f.vjp(z, w), (J.mT @ w.unsqueeze(-1)).squeeze(-1))
    first, second = f.second_derivative(z, v, v)
    torch.testing.assert_close(first, f.jvp(z, v))
    step = 1e-4
    torch.testing.assert_close(
        second, (f.jvp(z + step * v, v) - f.jvp(z - step * v, v)) / (2 * step), rtol=1e-5, atol=1e-6
    )


def test_a_decoder_that_keeps_a_tensor_from_its_first_call_works_in_inference_mode():
    kept = {}

    def decoder(z):
        if not kept:
            kept["w"] = 0.5 * z.new_ones(2, 3)
        return torch.cat([z, z.square().sum(1, keepdim=True)], 1) + z @ kept["w"]

    a, b = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        found = lg.distance(decoder, a, b)
    torch.testing.assert_close(found, lg.distance(decoder, a, b))


def _chain(*last, wide=30):
    return nn.Sequential(nn.Sequential(nn.Linear(2, 8), nn.Tanh()), nn.Linear(8, wide), *last).double().eval()


@pytest.mark.parametrize("f", [_chain(), _chain(nn.Unflatten(1, (5, 6))), lg.Ensemble([_chain(), _chain()])])
def test_a_wide_last_layer_is_condensed_to_as_many_numbers_as_go_in(f):
    z = torch.randn(20, 2, dtype=torch.float64)
    whole, random = as_decoder(f, z), torch.get_rng_state()
    small = whole.condensed()
    assert torch.equal(torch.get_rng_state(), random)
    x, y = whole(z), small(z)
    assert y.shape[1] * 30 == x.shape[1] * 8
    assert torch.allclose(torch.cdist(y, y), torch.cdist(x, x), rtol=1e-12)
    J, K = whole.jacobian(z), small.jacobian(z)
    assert torch.allclose(J.mT @ J, K.mT @ K, rtol=1e-12)


def _hooked():
    f = _chain()
    f[-1].register_forward_hook(lambda module, given, x: x.square())
    return f


def _patched():
    f = _chain()
    f[-1].forward = lambda h: h.square()
    return f


class _Squared(nn.Sequential):
    def forward(self, z):
        return super().forward(z).square()


@pytest.mark.parametrize(
    "f",
    [
        _hooked(),
        _patched(),
        _Squared(*_chain()),
        _chain(nn.Sigmoid()),
        _chain(wide=8),
        nn.utils.parametrizations.weight_norm(_chain()[-1]),
        lg.Ensemble([_chain(), lambda z: z.repeat(1, 15)]),
        _chain().forward,
    ],
)
def test_what_is_not_known_to_end_in_a_wide_layer_stays_as_it_is(f):
    z = torch.zeros(1, 8 if isinstance(f, nn.Linear) else 2, dtype=torch.float64)
    assert (made := as_decoder(f, z)).condensed() is made


def test_layers_of_pytorch_may_be_shared_between_threads_and_nothing_that_a_pass_may_write_to():
    class Remembers(nn.Linear):
        def forward(self, z):
            self.seen = z
            return super().forward(self.seen)

    z, chain = torch.randn(3, 3, dtype=torch.float64), mlp(3, D=40)
    assert as_decoder(chain, z).stateless()
    assert as_decoder(lg.Ensemble([chain, mlp(3, D=40)]), z).stateless()
    hooked = copy.deepcopy(chain)
    hooked[0].register_forward_hook(lambda *_: None)
    normed = copy.deepcopy(chain)
    nn.utils.parametrizations.weight_norm(normed[0])
    remembering = nn.Sequential(Remembers(3, 4), nn.Tanh()).double().eval()
    for other in (chain.forward, lambda z: chain(z), hooked, normed, remembering, lg.Ensemble([chain, hooked])):
        assert not as_decoder(other, z).stateless()
