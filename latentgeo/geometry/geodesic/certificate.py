r"""How far to trust a geodesic: what its length may still be off by, and whether it counts as found.

A curve through nodes is as long as many chords between its points say: an upper bound of the distance, but for the
error of that *quadrature* and for rounding. What the curve is longer than the geodesic, a step of Newton's method says
in advance: with the energy E of the curve by twice as many segments as it was solved for, its derivative g by their
latent ends, and the Gauss-Newton Hessian H, the *decrement* :math:`\tfrac12 g^\top H^{-1} g` is what E can still fall
by, for want of steps or of segments. Of g only what is normal to the curve counts, as uneven speed makes no curve
longer. Where :math:`E` may fall by a share ε the length may by ε/2.

Reference: Boyd and Vandenberghe, "Convex Optimization", 2004, section 9.5 (the decrement).
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.energy import energy_and_gradient
from latentgeo.geometry.geodesic.lbfgs import Minimum
from latentgeo.geometry.geodesic.result import Geodesic
from latentgeo.warn import warn

_SLOWEST_RATE = 0.75  # of convergence in the number of chords that a curve is credited with
_SMOOTH_RATE = 0.3  # up to which it is that of a smooth decoder, 1/4
MAX_ERROR = 0.1  # a length that may be off by more is not resolved by its segments
_MAX_SPEED_VARIATION = 0.2  # a curve whose speed varies more is not resolved by its segments
_KINKED = 1.4  # median order of convergence below which the decoder is not smooth at the scale of the segments
_NEGLIGIBLE = 1e-6  # a relative error for which nobody needs to hear of kinks
_TURNED = 1e-5  # relative change of a length by rounding that is let pass
_FINE = 64  # chords at least that a curve is measured by
OF_DIRECTIONS = "lg.geodesic(...).converged says of which the length did not; of the others it is a direction at an end"
_SAFETY = 3.5  # by which decrements may fall short of what curves can lose


def parts(N: int) -> int:
    """That each of N segments is measured in, an even number."""
    return 2 * max(1, -(-_FINE // (2 * N)))


def error_of(remaining: Tensor) -> Tensor:
    """Relative error of lengths, of curves that may still lose so large a share of their energy."""
    return _SAFETY * remaining / 2.0


def normal_slope(f: Decoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Energy of decoded curves, and what of its derivative is normal to them: (P, M + 1, D) -> (P,), (P, M - 1, D)."""
    inner, along = x[:, 1:-1], x[:, 2:] - x[:, :-2]
    value, slope = energy_and_gradient(f, inner, x[:, [0, -1]])
    tangent = f.tangent(inner, along)
    squared_speed = torch.linalg.vecdot(tangent, tangent).clamp_min(torch.finfo(x.dtype).tiny)
    share = torch.linalg.vecdot(slope, along) / squared_speed
    return value, slope.addcmul(f.tangent(inner, tangent), -share[:, :, None])


def certified(
    f: Decoder,
    x: Tensor,
    measured: tuple[Tensor, Tensor, Tensor],
    remaining: Tensor,
    report: Minimum,
    same: Tensor,
) -> dict[str, Tensor]:
    """The lengths of curves and how far to trust them, as fields of :class:`Geodesic`.

    Args:
        f: the decoder.
        x: decoded nodes, shape (P, N + 1, D).
        measured: lengths of the curves through them, see :func:`length_of`.
        remaining: share of their energy that they may still lose, shape (P,).
        report: of the minimiser of their energy.
        same: whether the two ends are one point, between which there is no curve, shape (P,).
    """
    N = x.shape[1] - 1
    lower = f.chord(x[:, 0], x[:, -1])
    length, quadrature, order = measured
    zero = same | (length == 0)
    scale = length.masked_fill(zero, 1.0)
    error = (quadrature / scale + error_of(remaining)).masked_fill(zero, 0.0)
    speed = N * f.step(x[:, :-1], x[:, 1:])
    variation = (speed.std(1, correction=0) / scale).masked_fill(zero, 0.0)
    resolved = torch.isfinite(length) & (variation <= _MAX_SPEED_VARIATION) & (error <= MAX_ERROR)
    return {
        "length": length.masked_fill(zero, 0.0),
        "lower": lower.masked_fill(zero, 0.0),
        "upper": (length + quadrature).masked_fill(zero, 0.0),
        "excess": report.gain.masked_fill(zero, 0.0),
        "error": error,
        "order": order.masked_fill(zero, 2.0),
        "converged": (report.converged | zero) & resolved,
    }


def length_of(f: Decoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Lengths of decoded curves (P, M + 1, D), their error, in data units, and the order of convergence, (P,) each.

    The sums :math:`S_k` of the chords from every k-th point to the next are extrapolated by Romberg's scheme. Where
    their increments say that the order of convergence is not 2, as on a decoder with kinks, they are by a geometric
    series. Rounding turns every chord by an angle of its own, which makes sums of very short chords too long: the
    stride starts where that is negligible.
    """
    M = x.shape[1] - 1
    strides = [k for k in (1, 2, 4, 8, 16, 32, 64) if M % k == 0]
    sums = torch.stack([f.step(x[:, :-k:k], x[:, k::k]).sum(1) for k in strides])
    rounding = f.rounding(x)
    found, turns = [], []
    for level, k in enumerate(strides[:-2]):
        whole, half, quarter = sums[level : level + 3]
        turned = (M / k * rounding).square() / whole.clamp_min(torch.finfo(x.dtype).tiny)
        turns.append(turned)
        rate = ((whole - half) / (half - quarter)).abs().nan_to_num(0.25, _SLOWEST_RATE).clamp(0.25, _SLOWEST_RATE)
        rate = rate.where((whole - half).abs() > turned + rounding, 0.25)
        romberg, richardson = (64.0 * whole - 20.0 * half + quarter) / 45.0, (4.0 * whole - half) / 3.0
        kinked = rate > _SMOOTH_RATE
        length = torch.where(kinked, whole + (whole - half) * rate / (1.0 - rate), romberg)
        missed = torch.where(kinked, (length - richardson).abs(), (romberg - richardson).abs())
        found.append(torch.stack([length, missed + turned + 2.0 * rounding, -torch.log2(rate)]))
    found, turned = torch.stack(found), torch.stack(turns)  # [strides, 3, P] and [strides, P]
    known = turned <= _TURNED * sums[: len(turned)]
    known[-1] = True
    finest = known.to(torch.uint8).argmax(0)
    return tuple(found[finest, :, torch.arange(len(x), device=x.device)].unbind(1))


def warn_of_failures(found: Geodesic, which: str) -> None:
    """Count the pairs that did not converge, by what would help them, and name a decoder that has kinks.

    Args:
        found: by the solver.
        which: where the caller finds which pairs these are.
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
        warn(
            f"{int(failed.sum())} of {len(found)} geodesics did not converge: {', '.join(causes)}; {which}",
        )
    # Within the tolerance, or near rounding, it is not the decoder that sets the order.
    if len(found) and found.order.median() < _KINKED and found.error.median() > max(10.0 * found.tol, _NEGLIGIBLE):
        warn(
            f"lengths converge only as N^-{found.order.median():.1f}, not N^-2, in the number of segments: the decoder "
            "has kinks (ReLU), or its curves bend faster than these segments follow. The errors given allow for it "
            f"(median {found.error.median():.1e}); for smaller ones use a smooth activation (ELU, SiLU, tanh). More "
            "segments help where curves bend, not with kinks",
        )
