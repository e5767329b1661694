r"""Discrete curves: chord energy and length, speed, resampling, extrapolation.

A curve is given by N + 1 points; its segments are measured by their chords in data space. Chord sums converge from
below as :math:`N^{-2}` for smooth curves, so two of them extrapolate to two more digits. Where a decoder returns
distributions, the root of their symmetric divergence takes the place of the chord.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

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
    x = f(points.reshape(-1, points.shape[-1])).reshape(*points.shape[:-1], -1)
    return f.step(x[..., :-1, :], x[..., 1:, :])


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
def sine_basis(segments: int) -> tuple[Tensor, Tensor]:
    r"""Eigenvectors and eigenvalues of the 1-D Laplacian tridiag(-1, 2, -1) of size N - 1, in float64.

    .. math:: S_{jk} = \sqrt{2/N}\,\sin(\pi j k / N), \qquad \lambda_k = 2 - 2\cos(\pi k / N)

    S is symmetric and its own inverse (the orthonormal sine transform of type I).

    Example:
        >>> S, eigenvalues = sine_basis(8)
        >>> bool(torch.allclose(S @ S, torch.eye(7, dtype=S.dtype)))
        True
    """
    k = torch.arange(1, segments, dtype=torch.float64)
    return math.sqrt(2.0 / segments) * torch.sin(torch.pi * k[:, None] * k / segments), 2.0 - 2.0 * torch.cos(
        torch.pi * k / segments
    )


def resample(points: Tensor, segments: int) -> Tensor:
    """Curves with another number of segments and the same ends, through the sine series of their deviation.

    The deviation from the straight line vanishes at both ends; its sine series is continued (finer) or cut off
    (coarser, which also smooths a polyline).

    Args:
        points: curves, shape (P, M + 1, d), at equidistant times.
        segments: N, the number of segments wanted.

    Returns:
        Curves, shape (P, N + 1, d).

    Example:
        >>> import torch
        >>> t = torch.linspace(0, 1, 9, dtype=torch.float64)
        >>> arc = torch.stack([t, torch.sin(torch.pi * t)], -1).unsqueeze(0)
        >>> bool((resample(arc, 16)[0, :, 1] - torch.sin(torch.pi * resample(arc, 16)[0, :, 0])).abs().max() < 1e-12)
        True
    """
    old = points.shape[1] - 1
    line = straight_line(points[:, 0], points[:, -1], segments)
    kept = min(old, segments) - 1
    if kept == 0:
        return line
    deviation = points - straight_line(points[:, 0], points[:, -1], old)
    coarse, fine = sine_basis(old)[0][:kept], sine_basis(segments)[0][:, :kept]
    transfer = (math.sqrt(segments / old) * fine @ coarse).to(points)  # [N - 1, M - 1]
    line[:, 1:-1] += transfer @ deviation[:, 1:-1]
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
