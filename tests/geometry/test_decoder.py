import copy
import functools

import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.geometry import decoder as decoder_module
from latentgeo.geometry.decoder import as_decoder, check_points
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


def test_want_of_memory_is_no_fault_of_the_points():
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


def test_the_door_is_passed_once(monkeypatch):
    checked = []
    monkeypatch.setattr(decoder_module, "check_modes", lambda name, f: checked.append(f))
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = as_decoder(lambda z: torch.cat([z, z.square()], 1), z)
    assert len(checked) == 1
    assert f.rows == 1
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
