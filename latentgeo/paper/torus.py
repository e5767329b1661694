r"""Synthetic data on a manifold whose geometry is known: a chart of a torus, bent into R^D by a fixed random network.

.. math:: x = f(z) + \tau \epsilon, \qquad z \sim N(0, I_2), \quad \epsilon \sim N(0, I_D), \qquad
    f(z) = \big(W_2 \tanh(W_1 T(\alpha z) + b) - m\big) / s

with the torus of revolution T (radii 2 and 1), fixed weights W, and m and s such that the data have mean zero and unit
variance per coordinate on average. The prior is that of the VAE, and τ can be given to it, so that the truth is one of
its models up to the capacity of its networks and of its Gaussian posterior. f is injective where both angles
:math:`\alpha z` lie within ±π, that is for all but 3 in 10 million draws.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from latentgeo.geometry.geodesic.solve import geodesic
from latentgeo.geometry.surfaces import torus
from latentgeo.paper.data import Dataset

NOISE = 0.3  # τ, in data units
DATA_DIM = 50  # D
_ANGLE, _GAIN, _HIDDEN = 0.6, 0.5, 64  # radians per unit of z; standard deviation of W_1; width of the network
_SCHEMA = 1  # raise it whenever the same arguments would give other data
_VALIDATION = 2000
_GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))
_VALIDATION_SEED, _TEST_SEED = 1_000_001, 1_000_002


def _normal(*shape: int, seed: tuple[int, ...]) -> Tensor:
    """Standard normal draws in double precision, by a generator of their own."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class TorusDecoder(nn.Module):
    """The true decoder f, in double precision.

    Example:
        >>> TorusDecoder()(torch.zeros(3, 2, dtype=torch.float64)).shape
        torch.Size([3, 50])
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inner", _GAIN * _normal(3, _HIDDEN, seed=(0, 0)))
        self.register_buffer("bias", _normal(_HIDDEN, seed=(0, 1)))
        self.register_buffer("outer", _normal(_HIDDEN, DATA_DIM, seed=(0, 2)) / math.sqrt(_HIDDEN))
        x = self._bent(_normal(10_000, 2, seed=(0, 3)))
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("scale", x.var(0).mean().sqrt())

    def _bent(self, z: Tensor) -> Tensor:
        return torch.tanh(torus(_ANGLE * z) @ self.inner + self.bias) @ self.outer

    def forward(self, z: Tensor) -> Tensor:
        """Noise-free data of latent points: (B, 2) -> (B, D), in double precision."""
        return (self._bent(z) - self.mean) / self.scale


def pair_latents(pairs: int) -> tuple[Tensor, Tensor]:
    """Latent points of the test pairs, drawn from the prior: two tensors (P, 2), the same at each call.

    Raises:
        ValueError: ``pairs`` is not positive.
    """
    if pairs < 1:
        raise ValueError(f"pairs: expected at least 1, got {pairs!r}")
    # One row for each pair, so that more pairs are the same pairs and others.
    ends = _normal(pairs, 2, 2, seed=(_TEST_SEED,))
    return ends[:, 0], ends[:, 1]


def _observed(decoder: TorusDecoder, n: int, seed: int, half: int | None) -> Tensor:
    """Draws of x; with ``half``, z lies on one side of a line through zero whose direction depends on it."""
    z = _normal(n, 2, seed=(seed, n, 0))
    if half is not None:
        angle = _GOLDEN_ANGLE * half
        side = z @ z.new_tensor([math.cos(angle), math.sin(angle)])
        z = torch.where(side[:, None] < 0, -z, z)
    return (decoder(z) + NOISE * _normal(n, DATA_DIM, seed=(seed, n, 1))).float()


def torus_dataset(n: int, seed: int, *, pairs: int = 100, half: int | None = None) -> Dataset:
    """Draw n points from the synthetic distribution, independent for each seed and each n.

    Args:
        n: training points.
        seed: of the draws.
        pairs: test pairs P; the test points are noise-free, so that the distance between them is defined: first the
            starts of :func:`pair_latents`, then the ends.
        half: None for the distribution itself. A number for one half of the chart, cut along a line through z = 0 whose
            direction depends on the number: different numbers give different marginal distributions.

    Returns:
        The data; the validation points are the same for each n and seed.

    Raises:
        ValueError: n or the number of pairs is not positive, or the seed is negative.

    Example:
        >>> torus_dataset(100, seed=0, pairs=3)
        Dataset('torus', train=100, validation=2000, test=6, event_shape=(50,))
    """
    if n < 1 or seed < 0:
        raise ValueError(f"expected n of at least 1 and a seed of at least 0, got {n!r} and {seed!r}")
    decoder = TorusDecoder()
    parts = (
        _observed(decoder, n, seed, half),
        _observed(decoder, _VALIDATION, _VALIDATION_SEED, half),
        decoder(torch.cat(pair_latents(pairs))).float(),
    )
    train, validation, test = ((x, torch.zeros(len(x), dtype=torch.int64)) for x in parts)
    described = f"schema {_SCHEMA}, n={n}, seed={seed}, noise={NOISE!r}, D={DATA_DIM}, half={half}"
    return Dataset(
        "torus",
        *train,
        *validation,
        *test,
        class_names=("torus",),
        source="latentgeo.paper.torus",
        licence="MIT",
        # What determines the data; their bytes may differ in the last digit between machines.
        sha256={"torus": described},
    )


@functools.lru_cache(maxsize=4)
def true_distances(pairs: int) -> pd.DataFrame:
    """Distances of the test pairs under the true decoder, in double precision.

    Geodesics are solved from the straight line and from a path through 250 draws, with 128 segments, and must
    converge to a relative error below 1e-5.

    Args:
        pairs: the number of test pairs P.

    Returns:
        One row for each pair with the columns ``pair``, ``geodesic``, ``ambient_chord`` (data units), ``error``
        (estimated relative error of the geodesic distance) and ``gap`` (by which share the geodesic from the straight
        line is longer than the shortest that was found).

    Raises:
        ArithmeticError: a geodesic is not as accurate as that.
    """
    decoder = TorusDecoder()
    a, b = pair_latents(pairs)
    options = {"segments": 128, "tol": 1e-9, "max_iter": 2000}
    straight = geodesic(decoder, a, b, **options)
    best = geodesic(decoder, a, b, data=_normal(250, 2, seed=(_TEST_SEED, 1)), **options)
    length = torch.minimum(straight.length, best.length)
    error = torch.maximum(straight.error, best.error)
    if not (bool((straight.converged & best.converged).all()) and error.max() < 1e-5):
        raise ArithmeticError(f"true distances: expected relative errors below 1e-5, got up to {error.max():.1e}")
    return pd.DataFrame(
        {
            "pair": np.arange(pairs),
            "geodesic": length.numpy(),
            "ambient_chord": (decoder(a) - decoder(b)).norm(dim=1).numpy(),
            "error": error.numpy(),
            "gap": (straight.length / length - 1.0).numpy(),
        }
    )
