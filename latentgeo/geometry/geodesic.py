r"""Geodesics and geodesic distances of a decoder's pull-back metric.

A geodesic minimises the energy of its image in data space. Curves of N segments with fixed ends are improved by
L-BFGS in coordinates that whiten the chord energy, see :mod:`latentgeo.geometry.whitening`: with the mean metric of
each curve at first, so that one step solves the flat problem and L-BFGS is left with the curvature; where that is no
guide, with the metric at every node. One evaluation costs a forward and a backward pass through the decoder for each
interior point.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch
from torch import Tensor
from tqdm import tqdm

from latentgeo.geometry.curve import resample, richardson, straight_line
from latentgeo.geometry.decoder import Decoder, check_points, flat_decoder
from latentgeo.geometry.solver import Minimum, minimise
from latentgeo.geometry.whitening import CurveWhitening, FlatWhitening, Whitening

_MEMORY = 10
_BUDGET = 512 * 2**20  # bytes that one chunk's activations and solver memory may take
_FULL_METRIC_DIM = 256  # above this many dimensions the whitening uses one number per pair
_PATIENCE = 60  # steps before a pair is whitened anew
_STARTING_TOL = 1e-3  # relative excess of curves that only serve to start the next level
_MAX_SPEED_VARIATION = 0.2  # a curve whose speed varies more is not resolved by its segments


@dataclasses.dataclass(frozen=True)
class Geodesic:
    """Geodesics between P pairs of latent points, and how far to trust them.

    Attributes:
        points: the curves at equidistant times, shape (P, N + 1, d).
        length: lengths, extrapolated to infinitely many segments, shape (P,), in data units.
        energy: energies over unit time, extrapolated likewise, shape (P,), in squared data units.
        excess: estimated relative energy that more iterations would still gain, shape (P,).
        error: estimated relative error of the length, discretisation and optimisation together, shape (P,).
        converged: shape (P,); the excess fell to the tolerance and the segments resolve the curve.
        iterations: accepted steps over all levels of refinement, shape (P,).
        decoder_rows: latent points that went through the decoder in all.
    """

    points: Tensor
    length: Tensor
    energy: Tensor
    excess: Tensor
    error: Tensor
    converged: Tensor
    iterations: Tensor
    decoder_rows: int

    def __len__(self) -> int:
        """Return the number of pairs P."""
        return len(self.length)


class _Counter:
    """A decoder that counts the rows it is given."""

    def __init__(self, decode: Decoder) -> None:
        self.decode, self.rows = decode, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.rows += len(z)
        return self.decode(z)


def _bytes_per_pair(decode: Decoder, start: Tensor, segments: int) -> int:
    """Memory that one more pair takes: autograd's, the solver's, and that of a Jacobian."""

    def saved(rows: int) -> tuple[int, int]:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            x = decode(start[:1].expand(rows, -1).clone().requires_grad_())
        return sum(sizes), x[0].numel() * x.element_size()

    (one, _), (two, output) = saved(1), saved(2)
    d = start.shape[1]
    activations = 2 * (segments - 1) * (max(two - one, 0) + output)
    memory = 2 * (_MEMORY + 4) * (segments - 1) * d * start.element_size()
    jacobian = (2 * d * output + (max(two - one, 0)) * d) if d <= _FULL_METRIC_DIM else 0
    return activations + memory + jacobian


def _chords(decode: Decoder, interior: Tensor, ends: Tensor) -> Tensor:
    """Differences of neighbouring decoded points: (P, N - 1, d) and ends (P, 2, D) -> (P, N, D)."""
    x = decode(interior.reshape(-1, interior.shape[2])).reshape(*interior.shape[:2], -1)
    return torch.cat([ends[:, :1], x, ends[:, 1:]], dim=1).diff(dim=1)


def _minimise_energy(
    decode: Decoder, curve: Tensor, ends: Tensor, whitening: Whitening, tol: float, max_iter: int
) -> tuple[Tensor, Minimum]:
    """Minimise the chord energy of curves (P, N + 1, d) in whitened coordinates."""
    P, N, d = curve.shape[0], curve.shape[1] - 1, curve.shape[2]

    def interior(y: Tensor, rows: Tensor) -> Tensor:
        return curve[rows, 1:-1] + whitening.step(y.reshape(-1, N - 1, d), rows)

    def energy(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        z = interior(y, rows).requires_grad_()
        with torch.enable_grad():
            value = N * _chords(decode, z, ends[rows]).square().sum((1, 2))
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), whitening.gradient(gradient, rows).flatten(1)

    report = minimise(energy, curve.new_zeros(P, (N - 1) * d), tol=tol, max_iter=max_iter, memory=_MEMORY)
    solved = interior(report.x, torch.arange(P, device=curve.device))
    return torch.cat([curve[:, :1], solved, curve[:, -1:]], dim=1), report


def _solve_level(decode: Decoder, curve: Tensor, ends: Tensor, tol: float, max_iter: int) -> tuple[Tensor, Minimum]:
    """Minimise the chord energy of curves with a given number of segments, re-whitening those that take long.

    Args:
        decode: flat decoder.
        curve: initial curves, shape (P, N + 1, d).
        ends: decoded end points, shape (P, 2, D).
        tol: relative energy excess to stop at.
        max_iter: steps at most.

    Returns:
        The curves and the solver's report.
    """
    full = curve.shape[2] <= _FULL_METRIC_DIM
    whitening = FlatWhitening(decode, curve, ends, full)
    curve, report = _minimise_energy(
        decode, curve, ends, whitening, tol, min(max_iter, _PATIENCE) if full else max_iter
    )
    left = torch.arange(len(curve), device=curve.device)
    while full:
        open_ = ~report.converged[left] & torch.isfinite(report.gain[left]) & (report.iterations[left] < max_iter)
        left = left[open_]
        if len(left) == 0:
            break
        # The mean metric was no guide here: go on with the metric at every node of the present curve.
        budget = min(max_iter - int(report.iterations[left].max()), _PATIENCE)
        curve[left], more = _minimise_energy(
            decode, curve[left], ends[left], CurveWhitening(decode, curve[left]), tol, budget
        )
        for old, new in ((report.value, more.value), (report.gain, more.gain), (report.converged, more.converged)):
            old[left] = new
        report.iterations[left] += more.iterations
        left = left[more.iterations > 0]
    return curve, report


def _levels(segments: int) -> list[int]:
    """Numbers of segments from coarse to fine, halving down to eight, and once at least.

    Example:
        >>> _levels(64), _levels(16), _levels(8), _levels(10)
        ([8, 16, 32, 64], [8, 16], [4, 8], [5, 10])
    """
    levels = [segments // 2, segments]
    while levels[0] % 2 == 0 and levels[0] >= 16:
        levels.insert(0, levels[0] // 2)
    return levels


def _solve_chunk(
    decode: _Counter, start: Tensor, end: Tensor, initial: Tensor | None, segments: int, tol: float, max_iter: int
) -> Geodesic:
    """Solve all levels for some pairs, and combine the last two."""
    rows_before = decode.rows
    ends = decode(torch.cat([start, end])).reshape(2, len(start), -1).transpose(0, 1)  # [P, 2, D]
    curve = straight_line(start, end, 2) if initial is None else initial
    iterations = torch.zeros(len(start), dtype=torch.long, device=start.device)
    levels = _levels(segments)
    chords, reports = [], []
    for N in levels:
        # Only the last two levels enter the result; those before them lend a starting curve.
        level_tol = tol if N in levels[-2:] else max(tol, _STARTING_TOL)
        curve, report = _solve_level(decode, resample(curve, N), ends, level_tol, max_iter)
        iterations += report.iterations
        if N in levels[-2:]:
            chords.append(_chords(decode, curve[:, 1:-1], ends).norm(dim=2))
            reports.append(report)
    coarse, fine = (lengths.sum(1) for lengths in chords)
    zero = fine == 0  # two identical ends: exact
    scale = fine.where(~zero, torch.ones_like(fine))
    variation = chords[-1].std(1, correction=0) * segments / scale
    excess = torch.maximum(reports[0].gain, reports[1].gain).where(~zero, torch.zeros_like(fine))
    length = richardson(coarse, fine)
    converged = (reports[0].converged & reports[1].converged) | zero
    return Geodesic(
        points=curve,
        length=length,
        energy=richardson(reports[0].value, reports[1].value),
        excess=excess,
        # A relative excess ε of the energy is ε/2 of the length; extrapolation weighs the two levels by 1/3 and 4/3.
        error=(fine - coarse).abs() / (3.0 * scale) + 5.0 / 6.0 * excess,
        converged=converged & torch.isfinite(length) & (variation <= _MAX_SPEED_VARIATION),
        iterations=iterations,
        decoder_rows=decode.rows - rows_before,
    )


def _no_geodesics(start: Tensor, segments: int) -> Geodesic:
    none, flags = start.new_zeros(0), torch.zeros(0, dtype=torch.bool, device=start.device)
    points = start.new_zeros(0, segments + 1, start.shape[1])
    return Geodesic(points, none, none, none, none, flags, flags.long(), decoder_rows=0)


def _checked_ends(start: Tensor, end: Tensor) -> None:
    check_points("start", start, ndim=2)
    check_points("end", end, ndim=2)
    if start.shape != end.shape or start.dtype != end.dtype or start.device != end.device:
        raise ValueError(
            "start and end: expected the same shape (P, d), dtype and device, got "
            f"{tuple(start.shape)} {start.dtype} {start.device} and {tuple(end.shape)} {end.dtype} {end.device}"
        )


def geodesic(
    decoder: Decoder,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 16,
    tol: float = 1e-4,
    max_iter: int = 200,
    initial: Tensor | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
) -> Geodesic:
    r"""Geodesics of the pull-back metric between pairs of latent points.

    .. math:: \min_{z(0) = a,\; z(1) = b} \int_0^1 \Big\| \tfrac{d}{dt} f(z(t)) \Big\|^2 dt

    solved with N/2 and then N segments; length and energy are extrapolated from the two. A pair's result does not
    depend on the other pairs, nor on ``chunk_size``, beyond rounding. Local minimisation finds a geodesic near the
    initial curve, which need not be the shortest on a manifold with holes; hand other curves in as ``initial`` and
    compare the energies.

    Args:
        decoder: f, a callable (B, d) -> (B, *event) acting row by row; neither changed nor given gradients.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: N, an even number of segments, at least 4.
        tol: relative energy excess at which a pair has converged. In float32 ask for no less than about 1e-6.
        max_iter: steps of the solver at most, at each level of refinement.
        initial: initial curves (P, M + 1, d) with the given ends; straight lines by default.
        chunk_size: pairs solved at a time; chosen from the decoder's memory need by default.
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
    _checked_ends(start, end)
    if not isinstance(segments, int) or segments < 4 or segments % 2:
        raise ValueError(f"segments: expected an even number of at least 4, got {segments!r}")
    if not (tol > 0 and math.isfinite(tol)):
        raise ValueError(f"tol: expected a positive finite number, got {tol!r}")
    if max_iter < 1 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(f"max_iter and chunk_size: expected at least 1, got {max_iter!r} and {chunk_size!r}")
    if initial is not None:
        check_points("initial", initial, ndim=3)
        ends_fit = initial.shape[::2] == start.shape and initial.dtype == start.dtype and initial.shape[1] >= 2
        if not (ends_fit and torch.allclose(initial[:, 0], start) and torch.allclose(initial[:, -1], end)):
            raise ValueError(
                f"initial: expected curves (P, M + 1, d) = ({len(start)}, M + 1, {start.shape[1]}) of dtype "
                f"{start.dtype} that begin in start and finish in end, got {tuple(initial.shape)} {initial.dtype}"
            )
    # Nothing of the caller's may be written to, or be tracked by its autograd.
    start, end = start.detach().clone(), end.detach().clone()
    decode = _Counter(flat_decoder(decoder, start))
    if len(start) == 0:
        return _no_geodesics(start, segments)
    with torch.no_grad():
        if chunk_size is None:
            chunk_size = max(1, _BUDGET // _bytes_per_pair(decode, start, segments))
        parts: list[Geodesic] = []
        for first in tqdm(range(0, len(start), chunk_size), desc="geodesics", unit="chunk", disable=not progress):
            part = slice(first, first + chunk_size)
            curves = (
                None if initial is None else torch.cat([start[part, None], initial[part, 1:-1], end[part, None]], 1)
            )
            parts.append(_solve_chunk(decode, start[part], end[part], curves, segments, tol, max_iter))
    merged = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Geodesic)
        if field.name != "decoder_rows"
    }
    result = Geodesic(**merged, decoder_rows=decode.rows)
    failed = int((~result.converged).sum())
    if failed:
        warnings.warn(
            f"{failed} of {len(result)} geodesics did not converge (worst excess {result.excess.max():.1e}, "
            f"tol {tol:.1e}); see Geodesic.converged, and raise max_iter or segments",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


def distance(decoder: Decoder, start: Tensor, end: Tensor, **options: object) -> Tensor:
    """Geodesic distances between pairs of latent points.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points, shape (P, d).
        end: latent points, shape (P, d).
        **options: as for :func:`geodesic`, which also returns the certificates.

    Returns:
        Distances, shape (P,), in data units.

    Raises:
        TypeError, ValueError: see :func:`geodesic`.

    Example:
        >>> import torch
        >>> distance(lambda z: 3.0 * z, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([15.])
    """
    return geodesic(decoder, start, end, **options).length


def distance_matrix(decoder: Decoder, z: Tensor, **options: object) -> Tensor:
    """Geodesic distances between all points, each unordered pair solved once.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (n, d).
        **options: as for :func:`geodesic`, but for ``initial``.

    Returns:
        Symmetric matrix with zero diagonal, shape (n, n), in data units.

    Raises:
        TypeError, ValueError: see :func:`geodesic`.

    Example:
        >>> import torch
        >>> distance_matrix(lambda z: 2.0 * z, torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([[0., 2., 6.],
                [2., 0., 4.],
                [6., 4., 0.]])
    """
    check_points("z", z, ndim=2)
    i, j = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    matrix = z.new_zeros(len(z), len(z))
    matrix[i, j] = matrix[j, i] = distance(decoder, z[i], z[j], **options)
    return matrix
