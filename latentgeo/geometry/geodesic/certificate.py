r"""How far to trust a geodesic: what its length may still be off by, and whether it counts as found.

Two errors add up. The *optimiser* leaves an excess: with a relative energy excess ε a length is too long by ε/2. The
*discretisation* leaves what the extrapolation to infinitely many segments misses; it is estimated from one level of
refinement less and from the curve's own chords, whichever says more, and counts the more, the further the lengths are
from converging as :math:`N^{-2}`.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.result import Geodesic

_SLOWEST_RATE = 0.75  # of convergence in N that a curve is credited with
_MAX_ERROR = 0.1  # a length that may be off by more is not resolved by its segments
_MAX_SPEED_VARIATION = 0.2  # a curve whose speed varies more is not resolved by its segments
_KINKED = 1.4  # median order of convergence below which the decoder is not smooth at the scale of the segments
_NEGLIGIBLE = 1e-6  # a relative error for which nobody needs to hear of kinks


def certified(
    f: Decoder,
    x: Tensor,
    lengths: list[Tensor],
    weights: tuple[float, ...],
    gains: list[Tensor],
    solved: Tensor,
    same: Tensor,
) -> dict[str, Tensor]:
    """The extrapolated length of curves and how far to trust it, as fields of :class:`Geodesic`.

    Args:
        f: the decoder.
        x: decoded curves of the finest level, shape (P, N + 1, D).
        lengths: roots of the energies of the levels that are extrapolated from, coarse to fine, shape (P,) each.
        weights: of these levels.
        gains: relative energy excess of each level, shape (P,) each.
        solved: whether the optimiser reached its tolerance on all levels, shape (P,).
        same: whether the two ends are one point, between which there is no curve, shape (P,).
    """
    finest = lengths[-1]
    zero = same | (finest == 0)
    scale = finest.masked_fill(zero, 1.0)
    length = sum(w * L for w, L in zip(weights, lengths, strict=True)).masked_fill(zero, 0.0)
    # The error of the extrapolation that uses one level less; of the finest level's own, were there only two.
    lower = -1 / 3 * lengths[-2] + 4 / 3 * finest if len(lengths) > 2 else finest
    excess = torch.stack(gains).amax(0)
    limit, order = _limit(f, x, excess)
    # Extrapolation is worth the less, the further the curves are from converging at second order.
    discretisation = (2.0 / order) ** 2 * torch.maximum((length - lower).abs(), (length - limit).abs()) / scale
    # A relative excess ε of the energy is ε/2 of the length.
    optimisation = f.safety * sum(abs(w) * gain for w, gain in zip(weights, gains, strict=True)) / 2.0
    error = (discretisation + optimisation).masked_fill(zero, 0.0)
    speed = (x.shape[1] - 1) * f.step(x[:, :-1], x[:, 1:])
    variation = (speed.std(1, correction=0) / scale).masked_fill(zero, 0.0)
    resolved = torch.isfinite(length) & (variation <= _MAX_SPEED_VARIATION) & (error <= _MAX_ERROR)
    return {
        "length": length,
        "energy": length.square(),
        "excess": excess.masked_fill(zero, 0.0),
        "error": error,
        "order": order.masked_fill(zero, 2.0),
        "converged": (solved | zero) & resolved,
    }


def _limit(f: Decoder, x: Tensor, excess: Tensor) -> tuple[Tensor, Tensor]:
    r"""Length of decoded curves as their own chords suggest, and its order of convergence, (P, N + 1, D) -> 2 × (P,).

    The same curve is measured by every chord, by every second and by every fourth, from wherever these may begin: a
    kink lengthens some of them and not others. Of the two increments of the averages the second is q times the first,
    :math:`q = 2^{-p}`, with p = 2 where the decoder is smooth along the curve, but p = 1 where it has kinks that the
    segments do not follow; what is missing is :math:`q / (1 - q)` times the second, the larger of its two. An increment
    within rounding, or within the relative energy excess of the curve, says nothing of q, which is then that of p = 2.
    Chords approach the length from below, divergences from either side.
    """
    quarter, half, whole = (
        torch.stack([_energy_length(f, x, stride, first) for first in range(stride)]) for stride in (4, 2, 1)
    )
    whole = whole[0]
    noise = (16.0 * torch.finfo(x.dtype).eps + excess) * whole
    first, second = half.mean(0) - quarter.mean(0), whole - half.mean(0)
    rate = torch.where(second.abs() > noise, second.abs() / first.abs().maximum(second.abs()), 0.25)
    rate = rate.clamp(0.25, _SLOWEST_RATE)
    last = (whole - half).gather(0, (whole - half).abs().argmax(0, keepdim=True))[0]
    return whole + last * rate / (1.0 - rate), -torch.log2(rate)


def _energy_length(f: Decoder, x: Tensor, stride: int, first: int) -> Tensor:
    """Square root of the energy of decoded curves (P, N + 1, D) by every so-many-th point and the ends."""
    N = x.shape[1] - 1
    nodes = torch.tensor(sorted({0, *range(first, N, stride), N}), device=x.device)
    steps = f.squared(x[:, nodes[:-1]], x[:, nodes[1:]]).sum(2)
    return (steps * (N / nodes.diff())).sum(1).sqrt()


def warn_of_failures(found: Geodesic, which: str, stacklevel: int) -> None:
    """Count the pairs that did not converge, by what would help them, and name a decoder that has kinks.

    Args:
        found: by the solver.
        which: where the caller finds which pairs these are.
        stacklevel: of the warnings.
    """
    failed = ~found.converged
    if failed.any():
        stopped = failed & ~(found.excess <= found.tol)
        causes = []
        if stopped.any():
            causes.append(
                f"{int(stopped.sum())} did not reach tol {found.tol:.1e} (worst excess {found.excess.max():.1e}; raise "
                "max_iter)"
            )
        if (failed & ~stopped).any():
            N = found.points.shape[1] - 1
            causes.append(
                f"{int((failed & ~stopped).sum())} are not resolved by their {N} segments, or not finite (try "
                f"segments={4 * N})"
            )
        warnings.warn(
            f"{int(failed.sum())} of {len(found)} geodesics did not converge: {', '.join(causes)}; {which}",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
    # Within the tolerance, or near rounding, it is not the decoder that sets the order.
    if len(found) and found.order.median() < _KINKED and found.error.median() > max(10.0 * found.tol, _NEGLIGIBLE):
        warnings.warn(
            f"lengths converge only as N^-{found.order.median():.1f}, not N^-2, in the number of segments: the decoder "
            "has kinks (ReLU), or its curves bend faster than these segments follow. The errors given allow for it "
            f"(median {found.error.median():.1e}); for smaller ones use a smooth activation (ELU, SiLU, tanh) or raise "
            "segments",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
