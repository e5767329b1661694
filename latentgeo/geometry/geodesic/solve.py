r"""Geodesics and geodesic distances of a decoder's pull-back metric.

A geodesic minimises the energy of its image in data space. Curves of N segments with fixed ends are improved by
L-BFGS in coordinates that whiten that energy, see :mod:`latentgeo.geometry.geodesic.preconditioner`: coarse curves by
the mean metric of their ends, the finest by the metric along them, so that one step solves the flat problem and L-BFGS
is left with the curvature. One evaluation costs a forward and a backward pass through the decoder for each interior
point. What is left to gain in the end is known from the derivative of the curve that is measured, see
:mod:`latentgeo.geometry.geodesic.certificate`. Where that does not lead anywhere soon the curve is carried on in data
space, see :mod:`latentgeo.geometry.geodesic.newton`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.curve import straight_line
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_points
from latentgeo.geometry.differentiation import full_precision
from latentgeo.geometry.geodesic.certificate import OF_DIRECTIONS, warn_of_failures
from latentgeo.geometry.geodesic.refinement import bytes_per_pair, refine
from latentgeo.geometry.geodesic.result import Geodesic, improved, scaled
from latentgeo.geometry.geodesic.starts import DataGraph, data_graph
from latentgeo.progress import bar_options

_CACHED = 128 * 2**20  # bytes that one chunk may take on a CPU; larger ones leave the processor's cache and are slower
_DETOUR = 1e-3  # relative excess over the way by a third point that is put up with
_DETOURS = 4  # rounds in which such ways are followed
Initial = Tensor | Sequence[Tensor | None] | None


class Options(TypedDict, total=False):
    """What all functions that solve for geodesics pass on to the solver.

    Attributes:
        segments: N, an even number of segments, at least 4; 16 by default.
        tol: relative energy excess at which a pair has converged; 1e-4 by default. In float32 ask for no less than
            about 1e-6.
        max_iter: steps of the solver at most, at each level of refinement; 200 by default.
        chunk_size: pairs solved at a time; by default as many as by the decoder's memory need stay in a processor's
            cache, or take an eighth of what a GPU has free. Where the points of one pair are too many for the decoder
            at once, pass it as :class:`latentgeo.Chunked`.
        progress: whether to show a progress bar; None, the default, for after two seconds where somebody watches, in a
            terminal or a notebook.
        data: latent codes of data, shape (n, d); None by default. Each pair is then also solved from a path through
            their images, see :mod:`latentgeo.geometry.geodesic.starts`, and keeps the shorter curve.
    """

    segments: int
    tol: float
    max_iter: int
    chunk_size: int | None
    progress: bool | None
    data: Tensor | DataGraph | None


_DEFAULTS = {"segments": 16, "tol": 1e-4, "max_iter": 200, "chunk_size": None, "progress": False, "data": None}


def _checked(options: Options) -> tuple[int, float, int, int | None, bool, Tensor | DataGraph | None]:
    """The options in the order of :class:`Options`, with defaults for those that are not given."""
    unknown = sorted(set(options) - set(_DEFAULTS))
    if unknown:
        raise TypeError(f"expected options among {', '.join(_DEFAULTS)}, got {', '.join(unknown)}")
    segments, tol, max_iter, chunk_size, progress, data = (_DEFAULTS | options).values()
    if not isinstance(segments, numbers.Integral) or segments < 4 or segments % 2:
        raise ValueError(f"segments: expected an even number of at least 4, got {segments!r}")
    if not (tol > 0 and math.isfinite(tol)):
        raise ValueError(f"tol: expected a positive finite number, got {tol!r}")
    if max_iter < 1 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(f"max_iter and chunk_size: expected at least 1, got {max_iter!r} and {chunk_size!r}")
    return int(segments), tol, max_iter, chunk_size, progress, data


def door(decoder: DecoderLike, start: Tensor, end: Tensor, names: tuple[str, str] = ("start", "end")) -> Decoder:
    """The decoder as the solver takes it, see :func:`as_decoder`, after a look at the pairs of points, (P, d) each.

    Args:
        decoder: f.
        start: latent points.
        end: latent points.
        names: what the caller calls the points.
    """
    check_points(names[0], start, ndim=2)
    check_points(names[1], end, ndim=2)
    if start.shape != end.shape or start.dtype != end.dtype or start.device != end.device:
        raise ValueError(
            f"{' and '.join(names)}: expected the same shape (P, d), dtype and device, got "
            f"{tuple(start.shape)} {start.dtype} {start.device} and {tuple(end.shape)} {end.dtype} {end.device}"
        )
    if start.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{names[0]}: expected float32 or float64, got {start.dtype}; half precision is too coarse")
    return as_decoder(decoder, start)


@takes_arrays("start", "end", "initial", "data")
def geodesic(
    decoder: DecoderLike, start: Tensor, end: Tensor, *, initial: Initial = None, **options: Unpack[Options]
) -> Geodesic:
    r"""Geodesics of the pull-back metric between pairs of latent points.

    .. math:: \min_{z(0) = a,\; z(1) = b} \int_0^1 \dot z^\top G(z)\, \dot z\, dt
        = \min \int_0^1 \Big\| \tfrac{d}{dt} f(z(t)) \Big\|^2 dt

    solved for N + 1 nodes, with an error of :math:`N^{-6}` where the decoder is smooth; the length is that of the
    curve through the nodes, measured by 64 chords or more. Where the decoder returns distributions, G is the
    Fisher-Rao metric, and their divergences take the place of chords. A pair's result does not depend on the other
    pairs, nor on ``chunk_size``, beyond rounding. Local minimisation finds a geodesic near the initial curve, which
    need not be the shortest: where the image has holes, or a hill between the points, or meets itself, the straight
    line alone does not tell, and nor does the certificate. With ``data=codes`` each pair is also solved from the
    shortest path through the images of data, and keeps, of the curves that its segments resolve, the shortest; so it
    does with several initial curves, such as ``[None, curves]`` for the straight lines and curves of your own. Curves
    are continuous in latent space: two codes of one image are as far apart as the way between them is long.

    Args:
        decoder: f, a callable (B, d) -> (B, *event) acting row by row, or one that returns a
            ``torch.distributions.Distribution`` of as many rows; neither changed nor given gradients.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        initial: initial curves (P, M + 1, d) with the given ends, None for straight lines, or a sequence of these to
            choose the best from.
        **options: ``segments=16``, ``tol=1e-4``, ``max_iter=200``, ``chunk_size=None``, ``progress=None`` and
            ``data=None``, see :class:`~latentgeo.geometry.geodesic.solve.Options`.

    Returns:
        The curves with their lengths (data units; standard deviations of the data for distributions) and certificates.
        Failure is data: ``converged`` is False, and a warning counts such pairs.

    Raises:
        TypeError, ValueError: shapes, types or options do not fit; the message says what was expected.

    References:
        Shao, Kumar and Fletcher, "The Riemannian Geometry of Deep Generative Models", CVPR workshops 2018 (discrete
        geodesics); Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (of distributions); Syrota et
        al., ICML 2025 (geodesic distance is identified).

    Example:
        The unit circle, where the distance between angles 0 and 2 is 2:

        >>> import torch
        >>> circle = lambda z: torch.cat([z.cos(), z.sin()], -1)
        >>> result = geodesic(circle, torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0).double())
        >>> round(result.length.item(), 4), result.converged.item()
        (2.0, True)

        Gaussians in the half plane of means and standard deviations; from σ = 1 to σ = e it is √2:

        >>> normal = lambda z: torch.distributions.Normal(z[:, :1], z[:, 1:].exp())
        >>> a, b = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
        >>> round(geodesic(normal, a, b).length.item(), 3)
        1.414
    """
    found = solve(door(decoder, start, end), start, end, {"progress": None} | options, initial=initial)
    warn_of_failures(found, "their converged is False")
    return found


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


@full_precision()
def solve(
    f: Decoder,
    start: Tensor,
    end: Tensor,
    options: Options | None = None,
    *,
    initial: Initial = None,
    gradient: bool = False,
) -> Geodesic:
    """What :func:`geodesic` returns, without its warnings; with the gradients of the lengths if asked for.

    For callers behind the door that say themselves what did not converge.
    """
    segments, tol, max_iter, chunk_size, progress, data = _checked(options or {})
    candidates = _checked_initial(initial, start, end)
    with torch.inference_mode(False), torch.no_grad():
        # Nothing of the caller's may be written to, or be tracked by its autograd.
        start, end = start.detach().clone(), end.detach().clone()
        if len(start) == 0:
            return Geodesic.empty(start, segments, tol)
        before = f.rows
        f = f.condensed().in_units_of(torch.cat([start[:1], end[:1]]))
        if data is not None:
            candidates.append(data_graph(f, data, start).curves(start, end, segments))
        size = chunk_size or max(1, _budget(start.device) // bytes_per_pair(f, start, segments))
        chunks = [slice(first, first + size) for first in range(0, len(start), size)]
        rows = f.rows - before

    def solved(part: slice) -> Geodesic:
        g = copy.copy(f)  # which counts rows of its own
        best: Geodesic | None = None
        with torch.inference_mode(False), torch.no_grad():  # which threads do not pass on
            for curves in candidates:
                if curves is None:
                    curves = straight_line(start[part], end[part], 1)
                else:
                    curves = torch.cat([start[part, None], curves[part, 1:-1].detach(), end[part, None]], 1)
                found = refine(g, curves, segments, tol, max_iter, gradient)
                best = found if best is None else improved(best, torch.arange(len(found), device=start.device), found)
        return dataclasses.replace(best, decoder_rows=g.rows - f.rows)

    threads = min(torch.get_num_threads(), len(chunks)) if f.stateless() and start.device.type == "cpu" else 1
    each = tqdm(_mapped(solved, chunks, threads), "geodesics", len(chunks), unit="chunk", **bar_options(progress))
    parts = list(each)
    rows += sum(part.decoder_rows for part in parts)
    return dataclasses.replace(scaled(Geodesic.joined(parts), f.unit), decoder_rows=rows)


def _budget(device: torch.device) -> int:
    """Bytes that one chunk may take. A GPU takes hardly longer for a large chunk than for a small one."""
    return max(_CACHED, torch.cuda.mem_get_info(device)[0] // 8) if device.type == "cuda" else _CACHED


def _mapped(function: Callable[[slice], Geodesic], parts: list[slice], threads: int) -> Iterator[Geodesic]:
    """Results in order, from several threads with one of PyTorch's own each: operations this small gain little by two.

    Which threads work on a chunk changes nothing in it.
    """
    if threads == 1:
        yield from map(function, parts)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, parts)
    finally:
        torch.set_num_threads(before)


def finest_tol(z: Tensor) -> float:
    """The least relative energy excess that it makes sense to ask for; directions are as good as its root."""
    return 1e-16 if z.dtype == torch.float64 else 1e-6


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


@takes_arrays("start", "end", "initial", "data")
def distance(
    decoder: DecoderLike, start: Tensor, end: Tensor, *, initial: Initial = None, **options: Unpack[Options]
) -> Tensor:
    r"""Geodesic distances between pairs of latent points, differentiable with respect to both.

    The derivative comes from the envelope theorem, not through the solver: the inner points of a geodesic are
    stationary, so that only its outermost chords count,

    .. math:: \frac{\partial}{\partial b} d(a, b) = G(b)\, \frac{\dot\gamma(1)}{\|\dot\gamma(1)\|}.

    It is scaled to length one in the metric, as :math:`\partial d^\top G^{-1}\, \partial d = 1` says where G has full
    rank. In that norm a relative error ε of the length allows an error of :math:`\sqrt{2\varepsilon}` of the
    derivative. Where one is asked for, geodesics are therefore solved to ``tol`` squared, but no less than 1e-16 (1e-6
    in float32), and ends that miss the length one by more than 0.3 % again by as many segments: ``geodesic(…,
    tol=tol**2).error`` says for each pair what ε is, if it is more than that. Over 280 pairs of seven trained decoders
    no error was larger, and the medians were 1e-4 to 2e-3. Ends that still miss it by a tenth are warned of.

    Args:
        decoder: f, a callable (B, d) -> (B, *event); its parameters get no gradients.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        initial: as for :func:`geodesic`.
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
    f = door(decoder, start, end)
    wanted = torch.is_grad_enabled() and (start.requires_grad or end.requires_grad)
    if wanted:
        tol = options.get("tol", _DEFAULTS["tol"])
        options = options | {"tol": min(tol, max(tol**2, finest_tol(start)))}
    found = solve(f, start, end, {"progress": None} | options, initial=initial, gradient=wanted)
    warn_of_failures(found, OF_DIRECTIONS if wanted else "lg.geodesic(...).converged says which")
    return _WithEndGradient.apply(start, end, found.length, found.gradient) if wanted else found.length


def _number(i: Tensor, j: Tensor, n: int) -> Tensor:
    """Which of the pairs i < j of n points, in the order of ``torch.triu_indices``, some are."""
    return i * (2 * n - i - 1) // 2 + j - i - 1


def _detours(found: Geodesic, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the pairs of n points that the way by a third one is shorter for, that point, and its length."""
    i, j = torch.triu_indices(n, n, offset=1, device=found.length.device)
    d = found.length.new_full((n, n), torch.inf)
    d[i, j] = d[j, i] = found.length.where(found.converged, torch.inf)
    least, by = torch.full_like(d, torch.inf), torch.zeros_like(d, dtype=torch.long)
    for k in range(n):
        way = d[:, k, None] + d[k]
        by[way < least] = k
        least = torch.minimum(least, way)
    longer = torch.nonzero(found.length > (1.0 + _DETOUR) * least[i, j]).squeeze(1)
    return longer, by[i[longer], j[longer]], least[i[longer], j[longer]]


@takes_arrays("z", "data")
def distance_matrix(
    decoder: DecoderLike, z: Tensor | np.ndarray, *, with_error: bool = False, **options: Unpack[Options]
) -> Tensor | np.ndarray | tuple[Tensor, Tensor] | tuple[np.ndarray, np.ndarray]:
    r"""Geodesic distances between all points, each unordered pair solved once.

    Where the way by a third point is shorter than what was found, :math:`d_{ij} > d_{ik} + d_{kj}`, by more than 0.1 %,
    the pair is solved again from that way. Where even that finds no shorter geodesic the entry is the length of the
    way, and counts as not converged: no triangle among converged entries breaks the inequality by more.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), of tensors.
        z: latent points, shape (n, d); a NumPy array gives NumPy arrays. ``data=z`` has them for data as well.
        with_error: whether to return the certificates too.
        **options: as for :func:`geodesic`.

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
    check_points("z", z, ndim=2)
    n = len(z)
    i, j = torch.triu_indices(n, n, offset=1, device=z.device)
    f = door(decoder, z[i], z[j])
    options = {"progress": None} | options
    found = solve(f, z[i], z[j], options)
    for _ in range(_DETOURS):
        longer, by, _ = _detours(found, n)
        if len(longer) == 0:
            break
        legs = [torch.stack([end[longer], by]) for end in (i, j)]
        numbers = [_number(*leg.sort(0).values.unbind(), n) for leg in legs]
        ways = [
            torch.where((leg[0] < by)[:, None, None], found.points[k], found.points[k].flip(1))
            for leg, k in zip(legs, numbers, strict=True)
        ]
        ways = torch.cat([ways[0], ways[1].flip(1)[:, 1:]], 1)
        again = solve(f, z[i[longer]], z[j[longer]], options | {"data": None}, initial=ways)
        found = improved(found, longer, again)
    longer, _, way = _detours(found, n)
    length, converged = found.length.clone(), found.converged.clone()
    length[longer], converged[longer] = way, False
    found = dataclasses.replace(found, length=length, converged=converged)
    warn_of_failures(found, "with_error=True gives them an infinite error")
    matrix, error = z.new_zeros(n, n), z.new_zeros(n, n)
    matrix[i, j] = matrix[j, i] = found.length
    error[i, j] = error[j, i] = found.error.where(found.converged, torch.inf)
    return (matrix, error) if with_error else matrix
