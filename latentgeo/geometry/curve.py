r"""Discrete curves: chord energy and length, speed, resampling, extrapolation.

A curve is given by N + 1 points; its segments are measured by their chords in data space. Chord sums converge from
below as :math:`N^{-2}` for smooth curves, so two of them extrapolate to two more digits. Where a decoder returns
distributions, the root of their symmetric divergence takes the place of the chord.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_points


def _chords(decoder: DecoderLike, points: Tensor) -> Tensor:
    """Lengths of the steps of a curve, ‖f(z_{i+1}) - f(z_i)‖: (*batch, N + 1, d) -> (*batch, N)."""
    check_points("points", points)
    if points.ndim < 2 or points.shape[-2] < 2:
        raise ValueError(f"points: expected a curve (*batch, N + 1, d) with N ≥ 1, got {tuple(points.shape)}")
    f = as_decoder(decoder, points)
    # Differentiable in the points where that is asked for; never in the decoder's parameters alone.
    with torch.set_grad_enabled(torch.is_grad_enabled() and points.requires_grad):
        return steps(f, points)


def steps(f: Decoder, points: Tensor) -> Tensor:
    """Lengths of the steps of a curve for a decoder that is made already: (*batch, N + 1, d) -> (*batch, N)."""
    x = f(points.flatten(0, -2)).unflatten(0, points.shape[:-1])
    return f.step(x[..., :-1, :], x[..., 1:, :])


@takes_arrays("points")
def chord_length(decoder: DecoderLike, points: Tensor) -> Tensor:
    r"""Length of a discrete curve as the sum of its chords in data space.

    .. math:: L_N = \sum_{i=0}^{N-1} \|f(z_{i+1}) - f(z_i)\|

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        points: curves, shape (*batch, N + 1, d).

    Returns:
        Lengths, shape (*batch,), in data units: lower bounds of the smooth curve's length.

    Raises:
        TypeError, ValueError: the curve has fewer than two points, or the decoder does not fit.

    Example:
        >>> import torch
        >>> chord_length(lambda z: 2.0 * z, torch.tensor([[0.0], [1.0], [3.0]]))
        tensor(6.)
    """
    return _chords(decoder, points).sum(-1)


@takes_arrays("points")
def chord_energy(decoder: DecoderLike, points: Tensor) -> Tensor:
    r"""Energy of a discrete curve over unit time.

    .. math:: E_N = N \sum_{i=0}^{N-1} \|f(z_{i+1}) - f(z_i)\|^2 \;\ge\; L_N^2,

    with equality when all chords are equally long (constant speed).

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        points: curves, shape (*batch, N + 1, d).

    Returns:
        Energies, shape (*batch,), in squared data units.

    Raises:
        TypeError, ValueError: the curve has fewer than two points, or the decoder does not fit.

    Example:
        >>> import torch
        >>> chord_energy(lambda z: z, torch.tensor([[0.0], [1.0], [3.0]]))  # 2 (1 + 4) > 3²
        tensor(10.)
    """
    chords = _chords(decoder, points)
    return chords.shape[-1] * chords.square().sum(-1)


@takes_arrays("points")
def speed_variation(decoder: DecoderLike, points: Tensor) -> Tensor:
    r"""Coefficient of variation of the speed along a curve; zero for a geodesic.

    .. math:: \sqrt{E_N / L_N^2 - 1}

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        points: curves, shape (*batch, N + 1, d).

    Returns:
        Shape (*batch,), dimensionless; zero for a curve of length zero.

    Raises:
        TypeError, ValueError: the curve has fewer than two points, or the decoder does not fit.

    Example:
        >>> import torch
        >>> speed_variation(lambda z: z, torch.tensor([[0.0], [1.0], [2.0]]))
        tensor(0.)
    """
    chords = _chords(decoder, points)
    return chords.std(-1, correction=0) / chords.mean(-1).clamp_min(torch.finfo(chords.dtype).tiny)


@takes_arrays("start", "end")
def straight_line(start: Tensor, end: Tensor, segments: int) -> Tensor:
    """Straight lines in latent coordinates, as N + 1 equidistant points.

    Args:
        start: latent points z where the lines begin, shape (P, d).
        end: where they end, same shape.
        segments: the number of segments N.

    Returns:
        Points of the lines, shape (P, N + 1, d).

    Example:
        >>> import torch
        >>> straight_line(torch.zeros(1, 1), torch.ones(1, 1), 2).squeeze()
        tensor([0.0000, 0.5000, 1.0000])
    """
    t = torch.linspace(0.0, 1.0, segments + 1, dtype=start.dtype, device=start.device)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), t[None, :, None])


@functools.lru_cache(maxsize=64)
def _spline_slopes(N: int) -> Tensor:
    """Matrix (N + 1, N + 1) from the nodes of cubic splines to their derivatives by the number of the node."""
    nodes = np.arange(N + 1.0)
    return torch.from_numpy(CubicSpline(nodes, np.eye(N + 1))(nodes, 1))


@functools.lru_cache(maxsize=64)
def _spline(old: int, new: int) -> Tensor:
    """Matrix (new + 1, old + 1) from the nodes of cubic splines to other equidistant points of theirs, in float64."""
    spline = CubicSpline(np.linspace(0.0, 1.0, old + 1), np.eye(old + 1))
    return torch.from_numpy(spline(np.linspace(0.0, 1.0, new + 1)))


def slopes(points: Tensor) -> Tensor:
    """Changes for each segment, at their nodes, of the cubic splines through curves: (P, N + 1, d), as the curves.

    Example:
        >>> square = torch.linspace(0, 4, 5, dtype=torch.float64).square()[None, :, None]
        >>> slopes(square).flatten().round(decimals=6).abs()
        tensor([0., 2., 4., 6., 8.], dtype=torch.float64)
    """
    N = points.shape[1] - 1
    line = straight_line(points[:, 0], points[:, -1], N)
    return (line[:, 1:2] - line[:, :1]) + _spline_slopes(N).to(points) @ (points - line)


@takes_arrays("points")
def resample(points: Tensor, segments: int) -> Tensor:
    """Curves with another number of segments and the same ends: points of the cubic splines through the old ones.

    Args:
        points: curves, shape (P, M + 1, d), at equidistant times.
        segments: N, the number of segments wanted.

    Returns:
        Curves, shape (P, N + 1, d).

    Example:
        >>> import torch
        >>> cubic = torch.linspace(0, 1, 9, dtype=torch.float64).pow(3)[None, :, None]
        >>> resample(cubic, 4).flatten().round(decimals=6)
        tensor([0.0000, 0.0156, 0.1250, 0.4219, 1.0000], dtype=torch.float64)
    """
    old = points.shape[1] - 1
    if old == segments:
        return points.clone()
    # The deviation from the straight line, so that a straight line stays one to the last digit.
    line = straight_line(points[:, 0], points[:, -1], segments)
    deviation = points - straight_line(points[:, 0], points[:, -1], old)
    line[:, 1:-1] += _spline(old, segments)[1:-1, 1:-1].to(points) @ deviation[:, 1:-1]
    return line


def richardson(coarse: Tensor, fine: Tensor) -> Tensor:
    r"""Limit of a second-order sequence from its values at N and 2 N.

    .. math:: (4 a_{2N} - a_N) / 3

    Example:
        >>> import torch
        >>> richardson(torch.tensor(1.0 + 1 / 4), torch.tensor(1.0 + 1 / 16))
        tensor(1.)
    """
    return (4.0 * fine - coarse) / 3.0
