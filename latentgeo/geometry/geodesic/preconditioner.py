r"""Changes of variables that make the chord energy of a curve look like a round bowl.

The interior points X of curves near :math:`X_0` are written as :math:`X = X_0 + C^{-\top} Y`, where
:math:`C C^\top \approx \nabla^2 E`; in Y the Hessian is about the identity.
"""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor

from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.energy import stiffness

FULL_METRIC_DIM = 256  # above this many dimensions the diagonal of the metric has to do
_FLOOR = 1e-4  # of a metric's eigenvalues, relative to their mean
_PROBES = 4  # backward passes that the diagonal of a metric is estimated by, at each of three points


def regularised(metric: Tensor, floor: float) -> Tensor:
    """Raise the metric's small eigenvalues, so that rounding does not send a curve where the decoder is constant.

    A metric that is not finite, or as good as zero, is replaced by the identity.
    """
    size = metric.diagonal(dim1=-2, dim2=-1).mean(-1)
    least = torch.finfo(metric.dtype).tiny / torch.finfo(metric.dtype).eps  # below, there is no factor
    usable = torch.isfinite(metric.sum((-2, -1))) & (size > least)
    raised = metric.clone()
    raised.diagonal(dim1=-2, dim2=-1).add_(floor * size[..., None])
    if not usable.all():
        raised[~usable] = torch.eye(metric.shape[-1], dtype=metric.dtype, device=metric.device)
    return raised


def _mean_diagonal(decode: Decoder, nodes: Tensor) -> Tensor:
    r"""The diagonal of the mean metric, (P, M, d) -> (P, d), from random cotangents w.

    :math:`G_{jj} = \mathbb{E}\,(J^\top w)_j^2` for independent standard normal w. Few of them leave so much noise that
    half of each entry is taken from the mean over all.
    """
    P, M, _ = nodes.shape
    random = torch.Generator().manual_seed(0)  # the same w for every pair, so that none depends on the others
    z = nodes.flatten(0, 1).clone().requires_grad_()
    squares = torch.zeros_like(nodes, dtype=torch.float64)
    for _ in range(_PROBES):
        with torch.enable_grad():
            x = decode.isometric(z).unflatten(0, (P, M))
            w = torch.randn(x.shape[1:], generator=random, dtype=torch.float32, device="cpu").to(x)
            (pulled_back,) = torch.autograd.grad((x * w).sum(), z)
        squares += pulled_back.double().square().unflatten(0, (P, M)) / _PROBES
    diagonal = squares.mean(1)
    size = diagonal.mean(1, keepdim=True)
    return torch.where(torch.isfinite(size) & (size > 0), 0.5 * (diagonal + size), 1.0)


def mean_metric(decode: Decoder, nodes: Tensor) -> Tensor:
    """Mean metric at a few latent points of each of P problems, (P, M, d) -> (P, d, d), or its diagonal, (P, 1, d).

    In more than 256 dimensions an estimate of the diagonal has to do, without Jacobian and in memory O(d).
    """
    if nodes.shape[2] > FULL_METRIC_DIM:
        return _mean_diagonal(decode, nodes)[:, None]
    J = decode.jacobian(nodes.flatten(0, 1)).unflatten(0, nodes.shape[:2])
    return (J.mT @ J).mean(1)


class MetricFactor:
    r"""Coordinates y of latent points in which a metric is the identity.

    With :math:`\bar G = L L^\top`, steps are :math:`v = y L^{-1}`.

    Args:
        metric: one for each of P problems, shape (P, d, d), or its diagonal, shape (P, 1, d).
        dtype: of the points.
        floor: of the eigenvalues of a full metric, relative to their mean.
    """

    def __init__(self, metric: Tensor, dtype: torch.dtype, floor: float = _FLOOR) -> None:
        self._full = metric.shape[1] == metric.shape[2]
        metric = metric.double()
        self._factor = (torch.linalg.cholesky(regularised(metric, floor)) if self._full else metric.sqrt()).to(dtype)

    def like_points(self, x: Tensor) -> Tensor:
        """A tensor in the type, and on the device, of the points."""
        return x.to(self._factor)

    def of(self, rows: Tensor) -> MetricFactor:
        """The same of some of the problems."""
        part = copy.copy(self)
        part._factor = self._factor[rows]
        return part

    def step(self, y: Tensor, rows: Tensor) -> Tensor:
        """Steps v of some of the problems: (A, M, d) -> (A, M, d)."""
        L = self._factor[rows]
        return torch.linalg.solve_triangular(L, y, upper=False, left=False) if self._full else y / L

    def gradient(self, g: Tensor, rows: Tensor) -> Tensor:
        """The gradient with respect to y, from that with respect to v: (A, M, d) -> (A, M, d)."""
        L = self._factor[rows]
        return torch.linalg.solve_triangular(L.mT, g, upper=True, left=False) if self._full else g / L


@functools.lru_cache(maxsize=64)
def _inverse_root(N: int) -> Tensor:
    """Symmetric inverse root of the Hessian of the energy of curves in one flat dimension, (N - 1, N - 1)."""
    eigenvalues, basis = torch.linalg.eigh(2.0 * stiffness(N)[1:-1, 1:-1])
    return (basis / eigenvalues.sqrt()) @ basis.mT


class FlatPreconditioner:
    r"""A factor C that is exact on a flat manifold.

    With one metric :math:`\bar G = L L^\top` everywhere the Hessian of the energy is :math:`T \otimes \bar G`, T
    that of curves in one dimension, so that :math:`C^{-\top} Y = T^{-1/2}\, Y L^{-1}`. The mean metric at a few points
    of each curve stands in for :math:`\bar G`.

    Args:
        metric: of each curve.
        N: segments of the curves.
    """

    def __init__(self, metric: MetricFactor, N: int) -> None:
        self._time, self._metric = metric.like_points(_inverse_root(N)), metric

    def step(self, y: Tensor, rows: Tensor) -> Tensor:
        """C⁻ᵀ Y for some of the curves: (A, N - 1, d) -> (A, N - 1, d)."""
        return self._time @ self._metric.step(y, rows)

    def gradient(self, g: Tensor, rows: Tensor) -> Tensor:
        """C⁻¹ g, the gradient with respect to Y: (A, N - 1, d) -> (A, N - 1, d)."""
        return self._time @ self._metric.gradient(g, rows)


class CurvePreconditioner:
    r"""A factor C of the Gauss-Newton Hessian of the chord energy along each curve.

    Its blocks are :math:`H_{ii} = 4N J_i^\top J_i` and :math:`H_{i,i+1} = -2N J_i^\top J_{i+1}` with the Jacobian at
    every node; C is its block bidiagonal Cholesky factor. It follows a metric whose soft directions turn along the
    curve, where one mean metric does not help.

    Args:
        metrics: at the inner nodes, shape (P, N - 1, d, d).
        couplings: products :math:`J_{k+1}^\top J_k` of Jacobians at one of these nodes and at the one before,
            shape (P, N - 2, d, d).
        N: segments of the curves.
        floor: of the metrics' eigenvalues, relative to their mean.
        dtype: of the points; that of the metrics by default.

    Attributes:
        sound: for which curves rounding has left the Hessian positive, shape (P,); nodes of the others are taken as
            if they were not coupled.
    """

    def __init__(
        self, metrics: Tensor, couplings: Tensor, N: int, floor: float, dtype: torch.dtype | None = None
    ) -> None:
        dtype = dtype or metrics.dtype
        self._diagonal: list[Tensor] = []  # L_i, lower triangular, [P, d, d]
        self._below: list[Tensor] = []  # C_{i,i-1}, [P, d, d]; zero for the first
        blocks = regularised(metrics.double(), floor).mul_(4.0 * N)
        couplings = (-2.0 * N * couplings.double()).nan_to_num(0.0, 0.0, 0.0)
        self.sound = torch.ones(len(blocks), dtype=torch.bool, device=blocks.device)
        for i, block in enumerate(blocks.unbind(1)):
            below = torch.zeros_like(block)
            if i > 0:
                L, coupling = self._diagonal[-1], couplings[:, i - 1]
                below = torch.linalg.solve_triangular(L.mT, coupling, upper=True, left=False)
            factor, broken = torch.linalg.cholesky_ex(block - below @ below.mT)
            alone = torch.nonzero(broken).squeeze(1)
            if len(alone):
                by_itself, broken = torch.linalg.cholesky_ex(block[alone])
                rounded = torch.nonzero(broken).squeeze(1)  # even alone not positive, of single precision
                by_itself[rounded] = block[alone[rounded]].diagonal(dim1=1, dim2=2).sqrt().diag_embed()
                factor[alone], below[alone], self.sound[alone] = by_itself, 0.0, False
            self._diagonal.append(factor)
            self._below.append(below)
        self._diagonal = [L.to(dtype) for L in self._diagonal]
        self._below = [B.to(dtype) for B in self._below]

    def step(self, y: Tensor, rows: Tensor) -> Tensor:
        """See :meth:`FlatPreconditioner.step`."""
        x = [None] * y.shape[1]
        for i in reversed(range(y.shape[1])):
            right = y[:, i, :, None]
            if i + 1 < y.shape[1]:
                right = right - self._below[i + 1][rows].mT @ x[i + 1]
            x[i] = torch.linalg.solve_triangular(self._diagonal[i][rows].mT, right, upper=True)
        return torch.stack(x, 1).squeeze(-1)

    def gradient(self, g: Tensor, rows: Tensor) -> Tensor:
        """See :meth:`FlatPreconditioner.gradient`."""
        y: list[Tensor] = []
        for i in range(g.shape[1]):
            right = g[:, i, :, None]
            if i > 0:
                right = right - self._below[i][rows] @ y[-1]
            y.append(torch.linalg.solve_triangular(self._diagonal[i][rows], right, upper=False))
        return torch.stack(y, 1).squeeze(-1)


def products(J: Tensor) -> tuple[Tensor, Tensor]:
    """Metrics and products of neighbouring Jacobians for :class:`CurvePreconditioner`, from (P, M, D, d)."""
    return J.mT @ J, J[:, 1:].mT @ J[:, :-1]


def interpolated(own: Tensor, cross: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """What :class:`CurvePreconditioner` takes, from Jacobians interpolated between a few points.

    Args:
        own: metrics at the two ends and points at equal distances of whole segments between them, (P, M + 1, d, d).
        cross: products of Jacobians at one of these points and at the one before, (P, M, d, d).
        N: segments of the curves.

    Returns:
        Metrics at the inner nodes, (P, N - 1, d, d), and products with the next, (P, N - 2, d, d).
    """
    M, inner = own.shape[1] - 1, torch.arange(1, N, device=own.device)
    metrics, couplings = [], []
    for k in range(M):
        i = inner[inner * M // N == k]
        here = (i * M / N - k).to(own)
        there = here + M / N  # of the next node, in the same interval
        known = torch.stack([own[:, k], own[:, k + 1], cross[:, k], cross[:, k].mT], 1)
        for found, w in ((metrics, here), (couplings, there)):
            weights = torch.stack([(1.0 - w) * (1.0 - here), w * here, w * (1.0 - here), (1.0 - w) * here], 1)
            found.append((weights @ known.flatten(2)).unflatten(2, own.shape[2:]))
    return torch.cat(metrics, 1), torch.cat(couplings, 1)[:, :-1]
