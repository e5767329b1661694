"""Points and data as people keep them: the same answers from all of them, NumPy out for what is no tensor."""

import copy

import dask.array
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import xarray
from torch import nn

import latentgeo as lg
from latentgeo.geometry.arrays import to_tensor
from latentgeo.geometry.geodesic.neighbours import nearest_neighbours
from tests.conftest import mlp

M = mlp(0, d=2, D=6)
Z = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _codes_of(x):
    return x[:, :2].clone()


MODEL = lg.LatentModel(_codes_of, lambda z: torch.cat([z, z.square()], 1))
OTHER = lg.LatentModel(lambda x: 2.0 * x[:, :2], lambda z: torch.cat([0.5 * z, 0.25 * z.square()], 1))
X = torch.cat([Z, Z.square()], 1)
KINDS = {
    "NumPy": lambda x: x,
    "big-endian": lambda x: x.astype(">f8"),
    "negative strides": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "every other row": lambda x: np.repeat(x, 2, 0)[::2],
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "long double": lambda x: x.astype(np.longdouble),
    "objects": lambda x: x.astype(object),
    "lists": lambda x: x.tolist(),
    "list of arrays": list,
    "frame": pd.DataFrame,
    "nullable frame": lambda x: pd.DataFrame(x).astype("Float64"),
    "frame of several types": lambda x: pd.DataFrame(x).astype({0: "Float64"}),
    "sparse frame": lambda x: pd.DataFrame(x).astype(pd.SparseDtype("float64", 0.0)),
    "CSR": scipy.sparse.csr_matrix,
    "sparse array": scipy.sparse.csc_array,
    "Dask": lambda x: dask.array.from_array(x, chunks=3),
    "xarray": xarray.DataArray,
    "masked array that hides nothing": lambda x: np.ma.masked_array(x, np.zeros(x.shape, bool)),
}
POINTS = {
    "metric": lambda z: lg.pullback_metric(M, z),
    "jacobian": lambda z: lg.metric.jacobian(M, z),
    "norm": lambda z: lg.metric.norm(M, z, z),
    "angle": lambda z: lg.angle(M, z, z, [[1.0, 0.0]] if not isinstance(z, torch.Tensor) else Z.new_tensor([1.0, 0.0])),
    "volume element": lambda z: lg.volume_element(M, z),
    "geodesic": lambda z: lg.geodesic(M, z, z).length,
    "distance": lambda z: lg.distance(M, z, z),
    "distance matrix": lambda z: lg.distance_matrix(M, z, data=z, with_error=True)[0],
    "neighbours": lambda z: nearest_neighbours(M, z, 2).distance,
    "exp": lambda z: lg.exp_map(M, z, z, steps=4),
    "log": lambda z: lg.log_map(M, z, z),
    "mean": lambda z: lg.frechet_mean(M, z, tol=1e-2),
    "curvature": lambda z: lg.gaussian_curvature(M, z),
    "chords": lambda z: lg.curve.chord_length(M, z),
    "project": lambda z: lg.project(lambda y: torch.cat([y], 1), z, z).codes,
}
DATA = {
    "codes": MODEL.codes,
    "points": lambda x: MODEL.points(x).codes,
    "agreement": lambda x: lg.agreement([MODEL, OTHER], x, pairs=3, check=False).distances["value"].to_numpy(),
    "scikit-learn": lambda x: lg.GeodesicDistance(MODEL).fit_transform(x),
    "explore": lambda x: lg.explore(MODEL, x).select(0, 1).length,
}


def _array(values):
    return values.numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("measure", ["metric", "distance matrix", "geodesic"])
def test_points_may_be_kept_in_anything(measure, kind):
    given = KINDS[kind](Z.numpy().copy())
    before = copy.deepcopy(given)
    found = POINTS[measure](given)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, POINTS[measure](Z).numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(to_tensor("z", given), to_tensor("z", before))


@pytest.mark.parametrize("measure", POINTS)
def test_every_function_of_points_takes_numpy_and_returns_it(measure):
    found = POINTS[measure](Z.numpy())
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, POINTS[measure](Z).numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("list of arrays", "xarray", "lists")])
@pytest.mark.parametrize("measure", DATA)
def test_data_may_be_kept_in_anything(measure, kind):
    given = KINDS[kind](X.numpy().copy())
    found = DATA[measure](given)
    np.testing.assert_allclose(_array(found), _array(DATA[measure](X)), rtol=1e-6, atol=1e-9)
    if measure in ("codes", "points"):
        assert isinstance(found, np.ndarray)


HIDDEN = np.ma.masked_array(X.numpy(), X.numpy() > 1.0)
MISSING = pd.DataFrame(X.numpy()).astype("Float64").mask(X.numpy() > 1.0)


@pytest.mark.parametrize("measure", DATA)
def test_what_is_hidden_or_missing_is_refused_not_ignored(measure):
    assert HIDDEN.mask.any()
    with pytest.raises(ValueError, match=rf"masked array that hides {int(HIDDEN.mask.sum())} of 32"):
        DATA[measure](HIDDEN)
    with pytest.raises(ValueError, match=r"NaN|finite"):
        DATA[measure](MISSING)


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        (np.ma.masked_array(Z.numpy(), Z.numpy() > 0.5), ValueError, "masked array that hides"),
        (pd.DataFrame(Z.numpy()).astype("Float64").mask(Z.numpy() > 0.5), ValueError, "NaN"),
        (pd.DataFrame({"a": ["x", "y"], "b": [1.0, 2.0]}), TypeError, "table of numbers"),
        (np.array([["a", "b"]]), TypeError, "real numbers, got dtype"),
        (Z.numpy() + 1j, TypeError, "real numbers, got dtype complex128"),
        ([[1.0, 2.0], [3.0]], ValueError, "rows of the same length"),
        ([["a"]], TypeError, "got list"),
        (np.array([["a", None]], dtype=object), TypeError, "array of numbers, got objects"),
        (Z.numpy().astype("datetime64[s]"), TypeError, "real numbers, got dtype datetime64"),
        ("z", TypeError, "got str"),
        ({"z": Z}, TypeError, "got dict"),
        (np.zeros((2, 0)), ValueError, "d ≥ 1"),
    ],
)
def test_what_are_no_numbers_is_refused(points, error, message):
    for measure in (lambda: lg.pullback_metric(M, points), lambda: lg.distance_matrix(M, points)):
        with pytest.raises(error, match=message):
            measure()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1", "?"])
def test_arrays_become_the_type_of_the_models_parameters(dtype):
    z = np.abs(Z.numpy()).astype(dtype)
    f = copy.deepcopy(M).float()
    found = lg.distance_matrix(lambda y: f(y), z)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, lg.distance_matrix(f, torch.from_numpy(z.astype("f4"))), rtol=1e-5)
    assert lg.pullback_metric(lambda y: y, z).dtype in (np.float16, np.float32, np.float64)
    with pytest.raises(TypeError, match=r"parameters are torch\.float32 but the points are torch\.float64"):
        lg.distance_matrix(f, Z)  # a tensor says what it wants


def test_arrays_beside_tensors_become_tensors():
    found = lg.metric.norm(M, Z, Z.numpy())
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, lg.metric.norm(M, Z, Z))
    assert isinstance(lg.frechet_mean(M, Z, [1.0] * len(Z)), torch.Tensor)
    curves = lg.curve.straight_line(Z[:2], Z[2:4], 8)
    assert isinstance(lg.geodesic(M, Z[:2], Z[2:4], initial=[None, curves.numpy()]), lg.Geodesic)


def test_a_result_of_arrays_is_printed_and_has_a_length():
    found = lg.geodesic(M, Z[:4].numpy(), Z[4:].numpy())
    assert "4 pairs, d = 2, N = 16, 4 converged" in repr(found)
    assert len(found) == 4
    assert isinstance(found.converged, np.ndarray)
    assert isinstance(nearest_neighbours(M, Z.numpy(), 2).certified, np.ndarray)
    assert repr(lg.geodesic_triangle(M, Z[:3].numpy())).startswith("GeodesicTriangle(d = 2")


@pytest.mark.parametrize("measure", POINTS)
def test_inference_tensors_and_inference_mode_change_nothing(measure):
    expected = POINTS[measure](Z)
    with torch.inference_mode():
        made = Z.clone()
        inside = POINTS[measure](Z)
    for found in (POINTS[measure](made), inside):
        torch.testing.assert_close(found, expected)
        assert not found.is_inference()
    with torch.no_grad():
        torch.testing.assert_close(POINTS[measure](Z), expected)


def test_gradients_still_pass_through_tensors():
    b = Z[4:].clone().requires_grad_()
    lg.distance(M, Z[:4], b).sum().backward()
    lg.curve.chord_length(M, b).backward()
    assert b.grad.abs().min() > 0


def test_a_model_made_in_inference_mode_is_refused_with_the_remedy():
    with torch.inference_mode():
        made = nn.Linear(2, 3).double()
    with pytest.raises(ValueError, match=r"made in inference mode.*copy\.deepcopy\(model\)"):
        lg.pullback_metric(lambda z: made(z), Z)
    assert lg.pullback_metric(copy.deepcopy(made), Z).isfinite().all()


@pytest.mark.thorough
@pytest.mark.parametrize(("default", "dtype"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_the_default_type_changes_nothing(default, dtype):
    before = torch.get_default_dtype()
    f, z = copy.deepcopy(M).to(dtype), Z.to(dtype)
    x = f(z).detach()
    torch.set_default_dtype(default)
    try:
        found = [
            lg.distance_matrix(f, z), lg.geodesic(f, z, z.flip(0)).length, lg.log_map(f, z, z.flip(0)),
            lg.exp_map(f, z, z), lg.scalar_curvature(f, z), nearest_neighbours(f, z, 2).distance,
            lg.project(f, x, z).codes, lg.frechet_mean(f, 0.1 * z), lg.parallel_transport(f, z[None], z[:1]),
        ]  # fmt: skip
        assert {values.dtype for values in found} == {dtype}
        assert len(lg.check_assumptions(f, z, pairs=2)) == 5
        assert lg.GeodesicDistance(f).fit_transform(z.numpy()).dtype == z.numpy().dtype
        models = [(lambda y: y[:, :2], f), (lambda y: 1.0 * y[:, :2], f)]
        assert len(lg.agreement(models, x, pairs=2, check=True).pairs) == 2
    finally:
        torch.set_default_dtype(before)


class _InPlace:
    """An encoder that works in place."""

    def __call__(self, x):
        return x.mul_(2.0)[:, :2]


def test_an_encoder_that_works_in_place_changes_no_data():
    x = X.clone()
    model = lg.LatentModel(_InPlace(), lambda z: torch.cat([0.5 * z, 0.25 * z.square()], 1))
    torch.testing.assert_close(model.codes(x), 2.0 * Z)
    assert torch.equal(x, X)
    model.points(x)
    lg.agreement([MODEL, model], x, pairs=2, check=False)
    assert torch.equal(x, X)
    array = X.numpy().copy()
    model.codes(array)
    np.testing.assert_array_equal(array, X.numpy())


def test_an_encoder_whose_codes_depend_on_the_batch_is_refused():
    model = lg.LatentModel(lambda x: x[:, :2] - x[:, :2].mean(0), MODEL.decoder)
    with pytest.raises(ValueError, match="code of a datum depends on the data that are encoded with it"):
        model.codes(X)


def test_an_encoder_that_changes_its_buffers_is_refused_and_they_are_put_back():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))

        def forward(self, x):
            self.mean += x[:, :2].mean(0)
            return x[:, :2]

    encoder = Encoder()
    with pytest.raises(ValueError, match=r"changes the model's buffer 'mean' of the Encoder"):
        lg.LatentModel(lambda x: encoder(x), MODEL.decoder).codes(X)
    assert not encoder.mean.any()
