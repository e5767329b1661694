r"""Geodesics and geodesic distances of a decoder's pull-back metric.

A geodesic minimises the energy of its image in data space. Curves of N segments with fixed ends are improved by
L-BFGS in coordinates that whiten the chord energy, see :mod:`latentgeo.geometry.geodesic.preconditioner`: with the
mean metric of each curve at first, so that one step solves the flat problem and L-BFGS is left with the curvature;
where that does not help, with the metric at every node. One evaluation costs a forward and a backward pass through the
decoder for each interior point.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentgeo.geometry.decoder import Decoder, check_points, flat_decoder
from latentgeo.geometry.geodesic.refinement import bytes_per_pair, refine

_BUDGET = 192 * 2**20  # bytes that one chunk may take; larger chunks leave the processor's cache and are slower
_KINKED = 1.4  # median order of convergence below which the decoder is not smooth at the scale of the segments
_NEGLIGIBLE = 1e-6  # a relative error for which kinks need no warning
_MAX_ERROR = 0.1  # a length that may be off by more is not resolved by its segments
_MAX_SPEED_VARIATION = 0.2  # a curve whose speed varies more is not resolved by its segments
Initial = Tensor | Sequence[Tensor | None] | None


@dataclasses.dataclass(frozen=True)
class Geodesic:
    """Geodesics between P pairs of latent points, and how far to trust them.

    Attributes:
        points: the curves at equidistant times, shape (P, N + 1, d).
        length: lengths, extrapolated to infinitely many segments, shape (P,), in data units.
        energy: energies over unit time, extrapolated likewise, shape (P,), in squared data units.
        excess: estimated relative energy that more iterations would still gain, shape (P,).
        error: estimated relative error of the length, discretisation and optimisation together, shape (P,).
        order: observed order p at which chord lengths converge, as :math:`N^{-p}`, between 0.4 and 2, shape (P,): 2
            where the decoder is smooth along the curve, about 1 where it has kinks (ReLU) or the segments are too few.
            The extrapolation is made for smooth decoders; ``error`` allows for the order that was observed.
        converged: shape (P,); the excess fell to the tolerance and the segments resolve the curve.
        iterations: accepted steps over all levels of refinement, shape (P,).
        decoder_rows: latent points that went through the decoder in all.
    """

    points: Tensor
    length: Tensor
    energy: Tensor
    excess: Tensor
    error: Tensor
    order: Tensor
    converged: Tensor
    iterations: Tensor
    decoder_rows: int

    def __len__(self) -> int:
        """Return the number of pairs P."""
        return len(self.length)

    def __repr__(self) -> str:
        """Say how many pairs, of which sizes, and how far to trust them, not the curves."""
        P, nodes, d = self.points.shape
        words = [f"{P} pair{'' if P == 1 else 's'}", f"d = {d}", f"N = {nodes - 1}"]
        if P:
            error = self.error.median().item()
            words.append(f"{int(self.converged.sum())} converged")
            words.append(f"median error {100 * error:.2g} %" if error < 0.99 else "median error 99 % or more")
        return f"Geodesic({', '.join(words)})"


class _Counter:
    """A decoder that counts the rows it is given."""

    def __init__(self, decode: Decoder) -> None:
        self.decode, self.rows = decode, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.rows += len(z)
        return self.decode(z)


def _no_geodesics(start: Tensor, segments: int) -> Geodesic:
    none, flags = start.new_zeros(0), torch.zeros(0, dtype=torch.bool, device=start.device)
    points = start.new_zeros(0, segments + 1, start.shape[1])
    return Geodesic(points, none, none, none, none, none, flags, flags.long(), decoder_rows=0)


def _checked_ends(start: Tensor, end: Tensor) -> None:
    check_points("start", start, ndim=2)
    check_points("end", end, ndim=2)
    if start.shape != end.shape or start.dtype != end.dtype or start.device != end.device:
        raise ValueError(
            "start and end: expected the same shape (P, d), dtype and device, got "
            f"{tuple(start.shape)} {start.dtype} {start.device} and {tuple(end.shape)} {end.dtype} {end.device}"
        )
    if start.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"start and end: expected float32 or float64, got {start.dtype}; half precision is too coarse")


def geodesic(
    decoder: Decoder,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 16,
    tol: float = 1e-4,
    max_iter: int = 200,
    initial: Initial = None,
    chunk_size: int | None = None,
    progress: bool = False,
) -> Geodesic:
    r"""Geodesics of the pull-back metric between pairs of latent points.

    .. math:: \min_{z(0) = a,\; z(1) = b} \int_0^1 \Big\| \tfrac{d}{dt} f(z(t)) \Big\|^2 dt

    solved with more and more segments, up to N; the length is extrapolated from the last two or three levels. A
    pair's result does not depend on the other pairs, nor on ``chunk_size``, beyond rounding. Local minimisation finds
    a geodesic near the initial curve, which need not be the shortest on a manifold with holes: hand several initial
    curves in, such as ``[None, curves]`` for the straight lines and curves of your own, and each pair keeps the one
    of least energy.

    Args:
        decoder: f, a callable (B, d) -> (B, *event) acting row by row; neither changed nor given gradients.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: N, an even number of segments, at least 4.
        tol: relative energy excess at which a pair has converged. In float32 ask for no less than about 1e-6.
        max_iter: steps of the solver at most, at each level of refinement.
        initial: initial curves (P, M + 1, d) with the given ends, None for straight lines, or a sequence of these to
            choose the best from.
        chunk_size: pairs solved at a time; chosen from the decoder's memory need by default. Where the points of one
            pair are too many for the decoder at once, pass it as :class:`latentgeo.Chunked`.
        progress: whether to show a progress bar over the chunks.

    Returns:
        The curves with their lengths (data units) and certificates. Failure is data: ``converged`` is False, and a
        warning counts such pairs.

    Raises:
        TypeError, ValueError: shapes, types or options do not fit; the message says what was expected.

    References:
        Shao, Kumar and Fletcher, "The Riemannian Geometry of Deep Generative Models", CVPR workshops 2018 (discrete
        geodesics); Syrota et al., ICML 2025 (geodesic distance is identified).

    Example:
        The unit circle, where the distance between angles 0 and 2 is 2:

        >>> import torch
        >>> circle = lambda z: torch.cat([z.cos(), z.sin()], -1)
        >>> result = geodesic(circle, torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0).double())
        >>> round(result.length.item(), 4), result.converged.item()
        (2.0, True)
    """
    options = _Options(segments, tol, max_iter, initial, chunk_size, progress)
    result, _ = _solve(decoder, start, end, options, gradient=False)
    _warn_of_failures(result, options, "their converged is False", stacklevel=3)
    return result


@dataclasses.dataclass(frozen=True)
class _Options:
    """The options of :func:`geodesic`, checked."""

    segments: int = 16
    tol: float = 1e-4
    max_iter: int = 200
    initial: Initial = None
    chunk_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.segments, numbers.Integral) or self.segments < 4 or self.segments % 2:
            raise ValueError(f"segments: expected an even number of at least 4, got {self.segments!r}")
        object.__setattr__(self, "segments", int(self.segments))
        if not (self.tol > 0 and math.isfinite(self.tol)):
            raise ValueError(f"tol: expected a positive finite number, got {self.tol!r}")
        if self.max_iter < 1 or (self.chunk_size is not None and self.chunk_size < 1):
            raise ValueError(
                f"max_iter and chunk_size: expected at least 1, got {self.max_iter!r} and {self.chunk_size!r}"
            )


def _checked_options(options: dict[str, object], without: tuple[str, ...] = ()) -> _Options:
    known = [field.name for field in dataclasses.fields(_Options) if field.name not in without]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"expected options among {', '.join(known)}, got {', '.join(unknown)}")
    return _Options(**options)


def _checked_initial(initial: Initial, start: Tensor, end: Tensor) -> list[Tensor | None]:
    candidates = [initial] if initial is None or isinstance(initial, Tensor) else list(initial)
    if not candidates:
        raise ValueError("initial: expected curves, None, or a sequence of these, got an empty one")
    for curves in candidates:
        if curves is None:
            continue
        check_points("initial", curves, ndim=3)
        ends_fit = curves.shape[::2] == start.shape and curves.dtype == start.dtype and curves.shape[1] >= 2
        if not (ends_fit and torch.allclose(curves[:, 0], start) and torch.allclose(curves[:, -1], end)):
            raise ValueError(
                f"initial: expected curves (P, M + 1, d) = ({len(start)}, M + 1, {start.shape[1]}) of dtype "
                f"{start.dtype} that begin in start and finish in end, got {tuple(curves.shape)} {curves.dtype}"
            )
    return candidates


def _solve(
    decoder: Decoder, start: Tensor, end: Tensor, options: _Options, gradient: bool
) -> tuple[Geodesic, Tensor | None]:
    """Geodesics, and the gradients (P, 2, d) of their lengths with respect to the ends if asked for."""
    _checked_ends(start, end)
    candidates = _checked_initial(options.initial, start, end)
    with torch.inference_mode(False), torch.no_grad():
        # Nothing of the caller's may be written to, or be tracked by its autograd.
        start, end = start.detach().clone(), end.detach().clone()
        decode = _Counter(flat_decoder(decoder, start))
        if len(start) == 0:
            return _no_geodesics(start, options.segments), start.new_zeros(0, 2, start.shape[1])
        size = options.chunk_size or max(1, _BUDGET // bytes_per_pair(decode, start, options.segments))
        chunks = [slice(first, first + size) for first in range(0, len(start), size)]
        parts: list[dict[str, Tensor]] = []
        for part in tqdm(chunks, desc="geodesics", unit="chunk", disable=not options.progress):
            best: dict[str, Tensor] | None = None
            for curves in candidates:
                if curves is not None:
                    curves = torch.cat([start[part, None], curves[part, 1:-1].detach(), end[part, None]], 1)
                refined = refine(
                    decode, start[part], end[part], curves, options.segments, options.tol, options.max_iter, gradient
                )
                found = {f.name: getattr(refined, f.name) for f in dataclasses.fields(refined)}
                best = found if best is None else _shorter(best, found)
            parts.append(best)
    merged = {name: torch.cat([part[name] for part in parts]) for name, value in parts[0].items() if value is not None}
    variation, slopes = merged.pop("speed_variation"), merged.pop("gradient", None)
    resolved = (variation <= _MAX_SPEED_VARIATION) & (merged["error"] <= _MAX_ERROR)
    merged["converged"] &= torch.isfinite(merged["length"]) & resolved
    return Geodesic(**merged, decoder_rows=decode.rows), slopes


def _shorter(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """For each pair the result of less energy; one that has converged beats one that has not.

    The energy is extrapolated, so that of a curve that has not converged may lie below the truth.
    """
    shorter = (second["energy"] < first["energy"]) | (second["energy"].isfinite() & ~first["energy"].isfinite())
    better = torch.where(first["converged"] == second["converged"], shorter, second["converged"])
    return {
        name: None if value is None else value.where(~better.reshape(-1, *[1] * (value.ndim - 1)), second[name])
        for name, value in first.items()
    }


def _warn_of_failures(result: Geodesic, options: _Options, which: str, stacklevel: int) -> None:
    """Count the pairs that did not converge, by what would help them, and name a decoder that has kinks.

    Args:
        result: of the solver.
        options: that it was called with.
        which: where the caller finds which pairs these are.
        stacklevel: of the warnings.
    """
    tol, N = options.tol, options.segments
    failed = ~result.converged
    if failed.any():
        stopped = failed & ~(result.excess <= tol)
        causes = []
        if stopped.any():
            causes.append(
                f"{int(stopped.sum())} did not reach tol {tol:.1e} in {options.max_iter} iterations (worst excess "
                f"{result.excess.max():.1e}; raise max_iter)"
            )
        if (failed & ~stopped).any():
            causes.append(
                f"{int((failed & ~stopped).sum())} are not resolved by their {N} segments, or not finite (try "
                f"segments={4 * N})"
            )
        warnings.warn(
            f"{int(failed.sum())} of {len(result)} geodesics did not converge: {', '.join(causes)}; {which}",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
    # Within the tolerance, or near rounding, it is not the decoder that sets the order.
    if len(result) and result.order.median() < _KINKED and result.error.median() > max(10.0 * tol, _NEGLIGIBLE):
        warnings.warn(
            f"lengths converge only as N^-{result.order.median():.1f}, not N^-2, in the number of segments: the "
            "decoder has kinks (ReLU), or its curves bend faster than these segments follow. The errors given allow "
            f"for it (median {result.error.median():.1e}); for smaller ones use a smooth activation (ELU, SiLU, tanh) "
            "or raise segments",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


class _WithEndGradient(torch.autograd.Function):
    """Lengths with their derivatives with respect to the ends, which are known already."""

    @staticmethod
    def forward(ctx, start: Tensor, end: Tensor, length: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return length.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        slopes = upstream[:, None, None] * gradient
        return slopes[:, 0], slopes[:, 1], None, None


def distance(decoder: Decoder, start: Tensor, end: Tensor, **options: object) -> Tensor:
    r"""Geodesic distances between pairs of latent points, differentiable with respect to both.

    The derivative comes from the envelope theorem, not through the solver: the inner points of a geodesic are
    stationary, so that only its outermost chords count,

    .. math:: \frac{\partial}{\partial b} d(a, b) = G(b)\, \frac{\dot\gamma(1)}{\|\dot\gamma(1)\|}.

    Args:
        decoder: f, a callable (B, d) -> (B, *event); its parameters get no gradients.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        **options: as for :func:`geodesic`, which also returns the certificates.

    Returns:
        Distances, shape (P,), in data units.

    Raises:
        TypeError, ValueError: see :func:`geodesic`.

    Example:
        >>> import torch
        >>> b = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> d = distance(lambda z: 3.0 * z, torch.zeros(1, 2), b)
        >>> d.sum().backward()
        >>> d.detach(), b.grad
        (tensor([15.]), tensor([[1.8000, 2.4000]]))
    """
    checked = _checked_options(options)
    _checked_ends(start, end)
    wanted = torch.is_grad_enabled() and (start.requires_grad or end.requires_grad)
    result, gradient = _solve(decoder, start, end, checked, gradient=wanted)
    _warn_of_failures(result, checked, "lg.geodesic(...).converged says which", stacklevel=3)
    return _WithEndGradient.apply(start, end, result.length, gradient) if wanted else result.length


def distance_matrix(
    decoder: Decoder, z: Tensor | np.ndarray, *, with_error: bool = False, **options: object
) -> Tensor | np.ndarray | tuple[Tensor, Tensor] | tuple[np.ndarray, np.ndarray]:
    """Geodesic distances between all points, each unordered pair solved once.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), of tensors.
        z: latent points, shape (n, d); a NumPy array gives NumPy arrays.
        with_error: whether to return the certificates too.
        **options: as for :func:`geodesic`, but for ``initial``.

    Returns:
        Symmetric matrix with zero diagonal, shape (n, n), in data units: what scikit-learn takes as
        ``metric="precomputed"``. With ``with_error``, also the estimated relative error of every entry, shape (n, n),
        infinite where the geodesic did not converge.

    Raises:
        TypeError, ValueError: see :func:`geodesic`.

    Example:
        >>> import torch
        >>> distance_matrix(lambda z: 2.0 * z, torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([[0., 2., 6.],
                [2., 0., 4.],
                [6., 4., 0.]])
    """
    points = torch.from_numpy(z) if isinstance(z, np.ndarray) else z
    check_points("z", points, ndim=2)
    checked = _checked_options(options, without=("initial",))
    n = len(points)
    i, j = torch.triu_indices(n, n, offset=1, device=points.device)
    result, _ = _solve(decoder, points[i], points[j], checked, gradient=False)
    _warn_of_failures(result, checked, "with_error=True gives them an infinite error", stacklevel=3)
    matrix, error = points.new_zeros(n, n), points.new_zeros(n, n)
    matrix[i, j] = matrix[j, i] = result.length
    error[i, j] = error[j, i] = result.error.where(result.converged, torch.inf)
    if isinstance(z, np.ndarray):
        matrix, error = matrix.numpy(), error.numpy()
    return (matrix, error) if with_error else matrix
