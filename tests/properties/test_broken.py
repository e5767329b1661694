"""Five hundred calls with something broken: refused with what was expected, or answered, and nothing is changed."""

import copy
import functools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import nn

import latentgeo as lg
from latentgeo.geometry.geodesic.neighbours import nearest_neighbours
from tests.properties.strategies import PROPERTY, SEEDS, normal

D = 5


def _net(seed, d, *layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(d, 6), nn.Tanh(), *[layer() for layer in layers], nn.Linear(6, D)).double()


class _Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        self.seen += 1
        return x


def _no_grad(f):
    def decode(z):
        with torch.no_grad():
            return torch.cat([f(z), z], 1)

    return lambda z: torch.cat([f(z), decode(z)], 1)


def _failing(f):
    def decode(z):
        raise RuntimeError("something within the model")

    return decode


DECODERS = {
    # name: (layers, whether in training mode, what is made of the network)
    "sound": ((), True, lambda f: f),
    "batch norm": ((lambda: nn.BatchNorm1d(6),), True, lambda f: f),
    "batch norm, evaluated": ((lambda: nn.BatchNorm1d(6),), False, lambda f: f),
    "dropout": ((nn.Dropout,), True, lambda f: f),
    "spectral norm": (
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),),
        True,
        lambda f: f,
    ),
    "counts": ((_Counting,), False, lambda f: f),
    "kinks": ((nn.ReLU,), False, lambda f: f),
    "in place": ((), False, lambda f: lambda z: f(z.mul_(2.0))),
    "detached": ((), False, lambda f: lambda z: torch.cat([f(z), f(z.detach())], 1)),
    "without gradients": ((), False, _no_grad),
    "over the batch": ((), False, lambda f: lambda z: f(z) - f(z).amin()),
    "chance": ((), False, lambda f: lambda z: f(z) + torch.rand(1).double()),
    "complex": ((), False, lambda f: lambda z: torch.fft.fft(f(z))),
    "whole numbers": ((), False, lambda f: lambda z: f(z).long()),
    "half precision": ((), False, lambda f: lambda z: f(z).half()),
    "single precision": ((), False, lambda f: lambda z: f(z).float()),
    "dictionary": ((), False, lambda f: lambda z: {"x": f(z)}),
    "tuple": ((), False, lambda f: lambda z: (f(z), z)),
    "nothing": ((), False, lambda f: lambda z: None),
    "NumPy": ((), False, lambda f: lambda z: f(z).detach().numpy()),
    "rounded": ((), False, lambda f: lambda z: (8.0 * f(z)).round()),
    "constant": ((), False, lambda f: lambda z: f(0.0 * z)),
    "half a space": ((), False, lambda f: lambda z: torch.cat([f(z), z[:, :1].log()], 1)),
    "NaN": ((), False, lambda f: lambda z: f(z) * torch.nan),
    "infinite": ((), False, lambda f: lambda z: torch.cat([f(z), z / (z - z)], 1)),
    "huge": ((), False, lambda f: lambda z: 1e200 * f(z)),
    "tiny": ((), False, lambda f: lambda z: 1e-200 * f(z)),
    "one axis": ((), False, lambda f: lambda z: f(z)[:, 0]),
    "one row": ((), False, lambda f: lambda z: f(z)[:1]),
    "no data dimension": ((), False, lambda f: lambda z: f(z)[:, :0]),
    "one data dimension": ((), False, lambda f: lambda z: f(z)[:, :1]),
    "conditional": ((), False, lambda f: lambda z, c: f(z) + c),
    "failing": ((), False, _failing),
    "no callable": ((), False, lambda f: "decoder"),
    "normal": ((), False, lambda f: lambda z: torch.distributions.Normal(f(z), 1.0)),
    "normal of no scale": ((), False, lambda f: lambda z: torch.distributions.Normal(f(z), f(z))),
    "unknown family": ((), False, lambda f: lambda z: torch.distributions.StudentT(f(z).exp())),
}
WRAPPERS = {
    "bare": lambda f: f,
    "function": lambda f: lambda z: f(z),
    "partial": lambda f: functools.partial(lambda z, g: g(z), g=f),
    "list": lambda f: (lambda held: lambda z: held[0](z))([f]),
    "ensemble": lambda f: lg.Ensemble([f, f]),
    "chunks": lambda f: lg.Chunked(f, 2),
    "other coordinates": lambda f: lg.reparametrise(f, lg.CoordinateWarp(1.2, 0.3)),
    "fisher_rao": lambda f: lg.fisher_rao(f, "gaussian", sigma=0.5),
}
VALUES = {
    "normal": lambda z: z,
    "zero": lambda z: 0.0 * z,
    "equal": lambda z: z[:1].expand_as(z).clone() if z.ndim and len(z) else z,
    "NaN": lambda z: z.masked_fill(z > 0.3, torch.nan),
    "infinite": lambda z: z.masked_fill(z > 0.3, torch.inf),
    "far": lambda z: 1e12 * z,
    "near": lambda z: 1e-12 * z,
    "mixed": lambda z: z * torch.tensor([1e-9, 1e9])[: z.shape[-1]] if z.ndim and 0 < z.shape[-1] < 3 else z,
}
KEPT = {
    "tensor": lambda z: z,
    "single": lambda z: z.float(),
    "half": lambda z: z.half(),
    "whole": lambda z: z.nan_to_num(0.0, 1.0, 1.0).clamp(-9, 9).long(),
    "learned": lambda z: z.clone().requires_grad_(),
    "expanded": lambda z: z[:1].expand(3, *z.shape[1:]) if z.ndim and len(z) else z,
    "inference": lambda z: _in_inference(z),
    "NumPy": lambda z: z.numpy(),
    "reversed": lambda z: z.numpy()[::-1] if z.ndim else z,
    "frame": lambda z: pd.DataFrame(z.numpy()) if z.ndim == 2 else z,
    "masked": lambda z: np.ma.masked_array(z.numpy(), z.numpy() > 0.5),
    "sparse": lambda z: scipy.sparse.csr_matrix(z.numpy()) if z.ndim == 2 else z,
    "lists": lambda z: z.tolist(),
    "words": lambda z: [["a", "b"], ["c", "d"]],
    "None": lambda z: None,
    "tuple": lambda z: (z, z),
}
SHAPES = [(4, 2), (4, 2), (4, 2), (4, 1), (4, 3), (1, 2), (0, 2), (4, 0), (2,), (), (2, 4, 2), (3, 2), (4, 2)]


def _in_inference(z):
    with torch.inference_mode():
        return z.clone()


def _calls(f, z, y, options):
    """Functions of a decoder and points, each a call of its own."""
    few = {"segments": 4, "max_iter": 3} | options
    model = lg.LatentModel(lambda x: x, f) if callable(f) else f
    return {
        "geodesic": lambda: lg.geodesic(f, z, y, **few),
        "geodesic along data": lambda: lg.geodesic(f, z, y, data=y, **few),
        "geodesic of curves": lambda: lg.geodesic(f, z, y, initial=[None, z], **few),
        "distance": lambda: lg.distance(f, z, y, **few),
        "distance_matrix": lambda: lg.distance_matrix(f, z, with_error=True, **few),
        "neighbours": lambda: nearest_neighbours(f, z, 2, **few),
        "metric": lambda: lg.pullback_metric(f, z),
        "jacobian": lambda: lg.metric.jacobian(f, z),
        "inner": lambda: lg.metric.inner(f, z, y, z),
        "norm": lambda: lg.metric.norm(f, z, y),
        "angle": lambda: lg.angle(f, z, y, z),
        "volume_element": lambda: lg.volume_element(f, z),
        "volume": lambda: lg.volume(f, z, nodes=3),
        "length": lambda: lg.curve.chord_length(f, z),
        "energy": lambda: lg.curve.chord_energy(f, z),
        "exp": lambda: lg.exp_map(f, z, y, steps=2),
        "log": lambda: lg.log_map(f, z, y, **few),
        "mean": lambda: lg.frechet_mean(f, z, **few),
        "transport": lambda: lg.parallel_transport(f, z, y),
        "curvature": lambda: lg.gaussian_curvature(f, z),
        "scalar curvature": lambda: lg.scalar_curvature(f, z),
        "sectional curvature": lambda: lg.curvature.sectional_curvature(f, z, z, y),
        "triangle": lambda: lg.geodesic_triangle(f, z, degree=4, **few),
        "project": lambda: lg.project(f, y, z),
        "assumptions": lambda: lg.check_assumptions(f, z, pairs=1, points=3),
        "identifiability": lambda: lg.check_identifiability(
            f, lg.CoordinateWarp(1.2, 0.3), z, ["geodesic distance"], pairs=1
        ),
        "codes": lambda: lg.latent_model(model).codes(z),
        "points": lambda: lg.latent_model(model).points(z),
        "scikit-learn": lambda: lg.GeodesicDistance(f, **few).fit_transform(z),
        "agreement": lambda: lg.agreement([model, model], z, pairs=2, check=False, **few),
    }


OPTIONS = st.one_of(
    st.just({}),
    st.just({}),
    st.just({}),
    st.fixed_dictionaries({"segments": st.sampled_from([-2, 0, 5, 2.5, "4", None, math.nan])}),
    st.fixed_dictionaries({"tol": st.sampled_from([0.0, -1.0, math.nan, math.inf, "small", None])}),
    st.fixed_dictionaries({"max_iter": st.sampled_from([0, -1, 1.5, "many", None])}),
)
NAMES = sorted(_calls(lambda z: z, None, None, {}))


def _kept(values):
    """A copy to compare with."""
    return values.clone() if isinstance(values, torch.Tensor) else copy.deepcopy(values)


def _equal(a, b):
    if scipy.sparse.issparse(a):
        a, b = a.toarray(), b.toarray()
    if isinstance(a, tuple):
        return all(map(_equal, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a.detach().nan_to_num(7.0), b.detach().nan_to_num(7.0))
    if isinstance(a, np.ma.MaskedArray) and not (a.mask == b.mask).all():
        return False
    return (
        a is None or a == b
        if isinstance(a, list | None)
        else np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
    )


def _claims_nothing_of_nan(found):
    """Whether nothing that is NaN is said to have converged."""
    if isinstance(found, lg.Geodesic):
        length, converged = torch.as_tensor(found.length), torch.as_tensor(found.converged)
        return bool((length.isfinite() | ~converged).all())
    if hasattr(found, "certified"):
        return bool(torch.as_tensor(found.distance).isfinite().all())
    if hasattr(found, "codes") and hasattr(found, "converged"):
        rows = torch.as_tensor(found.codes).isfinite().all(1)
        return bool((rows | ~torch.as_tensor(found.converged)).all())
    if isinstance(found, lg.Agreement):
        rows = found.distances
        return bool((np.isfinite(rows["value"]) | ~rows["converged"]).all())
    if isinstance(found, tuple) and len(found) == 2:  # a matrix and its errors
        matrix, error = map(torch.as_tensor, found)
        return bool((matrix.isfinite() | ~error.isfinite()).all())
    return True


@pytest.mark.thorough
@settings(PROPERTY, max_examples=500)
@given(
    name=st.sampled_from(NAMES),
    decoder=st.one_of(st.just("sound"), st.sampled_from(sorted(DECODERS))),
    wrapper=st.sampled_from(sorted(WRAPPERS)),
    shape=st.sampled_from(SHAPES),
    values=st.one_of(st.just("normal"), st.sampled_from(sorted(VALUES))),
    kept=st.one_of(st.just("tensor"), st.sampled_from(sorted(KEPT))),
    options=OPTIONS,
    seed=SEEDS,
)
def test_what_is_broken_is_refused_or_answered_and_nothing_is_changed(
    name, decoder, wrapper, shape, values, kept, options, seed
):
    layers, training, made_of = DECODERS[decoder]
    d = shape[-1] if shape and shape[-1] else 2
    net = _net(seed, d, *layers).train(training)
    f = made_of(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    z, y = (KEPT[kept](VALUES[values](normal(seed + k, 1, *shape)[0])) for k in (0, 1))
    z_before, y_before = _kept(z), _kept(y)
    found, refused = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _calls(WRAPPERS[wrapper](f), z, y, options)[name]()
        except (ValueError, TypeError) as error:
            refused = str(error)
        except RuntimeError as error:
            if name not in ("mean", "triangle") or type(error) is not RuntimeError:
                raise
            refused = str(error)  # it was not found
            assert "no geodesic side" in refused or "did not converge" in refused
    event("refused" if refused else "answered")
    assert not refused or len(refused) > 20
    assert _claims_nothing_of_nan(found)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert _equal(z, z_before)
    assert _equal(y, y_before)
