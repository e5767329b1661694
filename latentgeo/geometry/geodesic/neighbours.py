r"""Nearest neighbours by geodesic distance, without solving for all pairs, and with a certificate for every point.

No curve on the image is shorter than the chord between its ends,

.. math:: \|f(a) - f(b)\| \;\le\; d(a, b),

so that a pair whose chord exceeds the curves to a point's k nearest so far cannot be among its k nearest: whether these
curves are the shortest matters as little as how far they may be from it.
Pairs are solved in the order of their chords until every point's next chord is too long: no order needs fewer pairs
(Seidl and Kriegel's optimal multi-step search, where the chord is the cheap lower bound of the expensive distance).
"""

from __future__ import annotations

import dataclasses
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_finite, check_points
from latentgeo.geometry.differentiation import full_precision
from latentgeo.geometry.geodesic.solve import Options, door, solve
from latentgeo.geometry.geodesic.starts import data_graph
from latentgeo.progress import bar_options
from latentgeo.warn import warn

_DECODED = 2048  # points decoded at a time
_BLOCK = 64 * 2**20  # bytes that chords of one block of points may take
_ROUNDING = 16  # machine precisions by which twins may differ
_WIDTH = 4  # chords kept at first for each point, in units of k


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of n points by geodesic distance, nearest first, and how far to trust them.

    Attributes:
        index: which points they are, shape (n, k); never the point itself.
        distance: geodesic distances to them, shape (n, k), in data units; all of them converged.
        error: estimated relative errors of these distances, shape (n, k).
        certified: whether no other point can be nearer, shape (n,): every point that is left out has a longer chord
            than the curves to the k neighbours, or a longer converged geodesic. Near-ties within the estimated errors
            may still stand in either order.
        pairs: geodesics solved in all; brute force needs n (n - 1) / 2.
        unconverged: how many of them did not converge. They are nobody's neighbours, and whoever they might have been
            a neighbour of is not certified.
        untried: how many points have more candidates than were tried.
    """

    index: Tensor
    distance: Tensor
    error: Tensor
    certified: Tensor
    pairs: int
    unconverged: int
    untried: int

    def __len__(self) -> int:
        """Return the number of points n."""
        return len(self.index)

    def __repr__(self) -> str:
        """Say how many points and neighbours, and how far to trust them, not which they are."""
        n, k = self.index.shape
        solved = f"{self.pairs} pairs solved, {self.unconverged} unconverged"
        return f"Neighbours({n} points, k = {k}, {int(self.certified.sum())} certified, {solved})"


def measure(
    decoder: DecoderLike, start: Tensor, end: Tensor, **options: Unpack[Options]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Geodesic lengths of pairs of which some may be twins, without warnings: for callers that count failures.

    Points that differ by rounding alone, such as the code of the same cell from another batch, are at distance zero. A
    solver would have nothing but rounding to minimise there, and in single precision not converge.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points, shape (P, d).
        end: latent points, shape (P, d).
        **options: as for :func:`latentgeo.geodesic`.

    Returns:
        Lengths, upper bounds of the distances (data units), estimated relative errors of the lengths, and whether a
        geodesic converged, shape (P,) each.

    Example:
        >>> import torch
        >>> measure(lambda z: 2.0 * z, torch.zeros(2, 1), torch.tensor([[0.0], [3.0]]))[0]
        tensor([0., 6.])
    """
    f = door(decoder, start, end)
    size = torch.maximum(start.norm(dim=1), end.norm(dim=1))
    apart = (start - end).norm(dim=1) > _ROUNDING * torch.finfo(start.dtype).eps * size
    result = solve(f, start[apart], end[apart], options)
    length, upper, error = start.new_zeros(3, len(start)).unbind()
    length[apart], upper[apart], error[apart] = result.length, result.upper, result.error
    return length, upper, error, torch.ones_like(apart).masked_scatter(apart, result.converged)


class _Chords:
    """Chords between decoded points, shortest first."""

    def __init__(self, f: Decoder, z: Tensor) -> None:
        with torch.no_grad():
            x = torch.cat([f(part) for part in z.split(_DECODED)])
        check_finite("z", x)
        self.f, self.x = f, x.double()

    def shortest(self, points: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Chords from some points (R,) to the nearest others, and which these are: (R, width) each, ascending."""
        parts = torch.from_numpy(points).to(self.x.device).split(max(1, _BLOCK // (8 * len(self.x))))
        found = [self._block(part, width) for part in parts]
        return tuple(torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))

    def _block(self, points: Tensor, width: int) -> tuple[Tensor, Tensor]:
        chords = self.f.chords(self.x[points], self.x)
        chords[torch.arange(len(points), device=points.device), points] = torch.inf
        return chords.topk(width, largest=False)

    def between(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Chords of pairs (P,), (P,) -> (P,)."""
        parts = np.array_split(np.stack([a, b]), max(1, len(a) // _DECODED), axis=1)
        return np.concatenate([self.f.chord(self.x[i], self.x[j]).cpu().numpy() for i, j in parts])


class _Solved:
    """Pairs of points whose geodesics are known, each once."""

    def __init__(self, n: int, k: int) -> None:
        self.n, self.k = n, k
        self.keys = np.zeros(0, dtype=np.int64)  # i n + j with i < j
        self.length, self.upper, self.error = np.zeros(0), np.zeros(0), np.zeros(0)
        self.converged = np.zeros(0, dtype=bool)

    def solve(self, decoder: Decoder, z: Tensor, a: np.ndarray, b: np.ndarray, options: Options) -> None:
        """Solve those of the pairs that are not known yet."""
        keys = np.setdiff1d(np.minimum(a, b) * self.n + np.maximum(a, b), self.keys)
        first, second = (torch.from_numpy(side).to(z.device) for side in np.divmod(keys, self.n))
        length, upper, error, converged = measure(decoder, z[first], z[second], **options)
        self.keys = np.concatenate([self.keys, keys])
        self.length = np.concatenate([self.length, length.double().cpu().numpy()])
        self.upper = np.concatenate([self.upper, upper.double().cpu().numpy()])
        self.error = np.concatenate([self.error, error.double().cpu().numpy()])
        self.converged = np.concatenate([self.converged, converged.cpu().numpy()])

    def bound(self) -> np.ndarray:
        """What the k nearest of each point are no farther than; infinite where fewer are known."""
        return self.nearest()[2].max(1)

    def nearest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Index, length, its upper bound and its error of each point's k nearest at converged distances, (n, k) each.

        Where a point has fewer, the rest are the index -1 at an infinite length.
        """
        i, j = np.divmod(self.keys[self.converged], self.n)
        known = [np.tile(values[self.converged], 2) for values in (self.length, self.upper, self.error)]
        a, b = np.concatenate([i, j]), np.concatenate([j, i])
        order = np.lexsort((b, known[0], a))  # by point, then by length; among equals by index
        a = a[order]
        rank = np.arange(len(a)) - np.searchsorted(a, a)
        order, a, rank = (values[rank < self.k] for values in (order, a, rank))
        index, *nearest = np.full((self.n, self.k), -1), *np.full((3, self.n, self.k), np.inf)
        index[a, rank] = b[order]
        for found, values in zip(nearest, known, strict=True):
            found[a, rank] = values[order]
        return index, *nearest


@takes_arrays("z", "data")
def nearest_neighbours(
    decoder: DecoderLike, z: Tensor, neighbours: int, *, candidates: int | None = None, **options: Unpack[Options]
) -> Neighbours:
    r"""The k nearest neighbours of every point by geodesic distance, exact unless a number of candidates is given.

    Neighbours are chosen in data space, by distances that reparametrisations keep: two models that differ by a change
    of latent coordinates have the same ones. The search begins with a point's k shortest chords and goes on until its
    next chord exceeds the k-th distance found, see :class:`Neighbours`. Chords cost :math:`n^2 D` operations in all
    and geodesics usually most of the time; where the image bends so much that chords are poor bounds,
    ``candidates`` limits how many are tried, and ``certified`` says whom that concerns.

    A distance is that of the geodesic found from the straight line between the codes, as for
    :func:`latentgeo.geodesic`: on a manifold with holes there may be a shorter one elsewhere. ``data=z`` looks along
    the points too, at twice the time. Among 3,400 pairs of neighbours of trained decoders it found no shorter one.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (n, d).
        neighbours: k, at most n - 1.
        candidates: how many other points to try for each point at most, in the order of their chords, at least k; as
            many as it takes by default.
        **options: as for :func:`latentgeo.geodesic`; the bar that ``progress`` shows counts points whose
            neighbours are found.

    Returns:
        Indices, distances (data units) and certificates. A warning counts pairs that did not converge and points that
        are not certified.

    Raises:
        TypeError: see :func:`latentgeo.geodesic`.
        ValueError: a number is out of range, the decoder is not finite at a point, or a point has fewer than k others
            at converged distances.

    References:
        Seidl and Kriegel, "Optimal multi-step k-nearest neighbor search", SIGMOD 1998.

    Example:
        On three quarters of a circle the ends are near by their chord, but far along the circle:

        >>> import torch
        >>> circle = lambda z: torch.cat([z.cos(), z.sin()], -1)
        >>> angles = torch.tensor([0.0, 1.6, 3.1, 4.7], dtype=torch.float64)[:, None]
        >>> found = nearest_neighbours(circle, angles, 2)
        >>> found.index.tolist(), found.certified.all().item()
        ([[1, 2], [2, 0], [1, 3], [2, 1]], True)
    """
    found = search(decoder, z, neighbours, candidates, {"progress": None} | options)
    warn_of_uncertified(found)
    return found


@full_precision()
def search(decoder: DecoderLike, z: Tensor, neighbours: int, candidates: int | None, options: Options) -> Neighbours:
    """What :func:`nearest_neighbours` returns, without its warning."""
    check_points("z", z, ndim=2)
    n, k = len(z), neighbours
    if not 1 <= k < n:
        raise ValueError(f"neighbours: expected between 1 and n - 1 = {n - 1}, got {neighbours!r}")
    if candidates is not None and candidates < k:
        raise ValueError(f"candidates: expected at least neighbours = {k}, got {candidates!r}")
    limit = n - 1 if candidates is None else min(candidates, n - 1)
    z = z.detach()
    f = as_decoder(decoder, z)
    if options.get("data") is not None:
        options = options | {"data": data_graph(f, options["data"], z)}
    chords, solved = _Chords(f, z), _Solved(n, k)
    progress, options = options.get("progress", False), options | {"progress": False}
    with tqdm(total=n, desc="neighbours", unit="point", **bar_options(progress)) as bar:
        uncertain = _search(f, z, chords, solved, limit, options, bar)
    index, length, _, error = solved.nearest()
    short = np.flatnonzero(index[:, -1] < 0)
    if len(short):
        raise ValueError(
            f"{len(short)} of {n} points have fewer than {k} others at converged distances (point {short[0]} has "
            f"{int((index[short[0]] >= 0).sum())}); raise segments or max_iter"
            + ("" if candidates is None else ", or candidates")
        )
    certified = np.ones(n, dtype=bool)
    certified[uncertain] = False
    failed = np.divmod(solved.keys[~solved.converged], n)
    possible = chords.between(*failed)
    for ends in failed:
        certified[ends[possible < solved.bound()[ends]]] = False
    return Neighbours(
        index=torch.from_numpy(index).to(z.device),
        distance=torch.from_numpy(length).to(z),
        error=torch.from_numpy(error).to(z),
        certified=torch.from_numpy(certified).to(z.device),
        pairs=len(solved.keys),
        unconverged=len(possible),
        untried=len(uncertain),
    )


def warn_of_uncertified(found: Neighbours) -> None:
    """Count the points that are not certified, by what would help them."""
    if not found.certified.all():
        warn(
            f"the neighbours of {int((~found.certified).sum())} of {len(found)} points are not certified: "
            f"{found.unconverged} of {found.pairs} geodesics did not converge and were left out (raise segments or "
            f"max_iter), and {found.untried} points have more candidates than were tried (raise candidates)",
        )


def _search(
    decoder: Decoder,
    z: Tensor,
    chords: _Chords,
    solved: _Solved,
    limit: int,
    options: Options,
    bar: tqdm,
) -> np.ndarray:
    """Solve pairs until no unsolved one can matter, or ``limit`` were tried for a point; return who is left over."""
    n, k = solved.n, solved.k
    active = np.arange(n)  # points for which an unsolved pair may matter
    width, done, step = min(_WIDTH * k, n - 1), 0, k
    chord, order = chords.shortest(active, width)
    while len(active) and done < limit:
        part = slice(done, min(done + step, limit))
        rows, columns = np.nonzero(chord[:, part] < solved.bound()[active, None])
        solved.solve(decoder, z, active[rows], order[:, part][rows, columns], options)
        done, step = part.stop, max(1, k // 2)
        if done == n - 1:
            bar.update(n - bar.n)
            return active[:0]
        if width < min(done + step, n - 1) or width == done:  # one more than was tried shows who is done
            width = min(2 * width, n - 1)
            chord, order = chords.shortest(active, width)
        left = chord[:, done] < solved.bound()[active]
        active, chord, order = active[left], chord[left], order[left]
        bar.update(n - len(active) - bar.n)
    return active
