r"""Shortest paths through a neighbour graph of data: global initial curves.

The solver of :mod:`latentgeo.geometry.geodesic.solve` improves a curve locally. Where a manifold has holes, or where
the straight line runs far from data, a path along data points is a better start.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from scipy.spatial import KDTree
from torch import Tensor

from latentgeo.geometry.curve import chord_length, straight_line
from latentgeo.geometry.decoder import DecoderLike, check_points

_EDGE_SEGMENTS = 4  # chords that an edge is measured by
_BATCH = 4096  # edges measured at a time


def _edges(z: np.ndarray, neighbours: int) -> np.ndarray:
    """Edges (E, 2) of the symmetric k-nearest-neighbour graph, bridged where it falls apart, each once."""
    tree = KDTree(z)
    _, nearest = tree.query(z, k=min(neighbours + 1, len(z)), workers=-1)
    first = np.repeat(np.arange(len(z)), nearest.shape[1])
    edges = np.stack([first, nearest.ravel()], 1)
    while True:
        graph = scipy.sparse.coo_array((np.ones(len(edges)), edges.T), shape=(len(z), len(z)))
        components, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
        if components == 1:
            break
        # Join each part but the largest to the point nearest to it outside; few rounds remain, as parts halve.
        sizes = np.bincount(label)
        bridges = []
        for part in np.flatnonzero(np.arange(components) != sizes.argmax()):
            inside, outside = np.flatnonzero(label == part), np.flatnonzero(label != part)
            gap, nearest_outside = KDTree(z[outside]).query(z[inside], k=1)
            bridges.append((inside[gap.argmin()], outside[nearest_outside[gap.argmin()]]))
        edges = np.concatenate([edges, np.array(bridges)])
    edges = np.sort(edges, axis=1)
    return np.unique(edges[edges[:, 0] < edges[:, 1]], axis=0)


def _edge_lengths(decoder: DecoderLike, a: Tensor, b: Tensor) -> np.ndarray:
    """Pull-back lengths of straight edges (E, d) -> (E,), infinite where the decoder is not finite."""
    t = torch.linspace(0.0, 1.0, _EDGE_SEGMENTS + 1, dtype=a.dtype, device=a.device)[None, :, None]
    with torch.no_grad():
        parts = zip(a.split(_BATCH), b.split(_BATCH), strict=True)
        lengths = [chord_length(decoder, torch.lerp(p[:, None], q[:, None], t)).double().cpu() for p, q in parts]
    # A shortest-path search takes an edge of weight zero for none.
    return np.nan_to_num(torch.cat(lengths).numpy(), nan=np.inf).clip(min=np.finfo(np.float64).tiny)


def _weighted(edges: np.ndarray, weights: np.ndarray, nodes: int) -> scipy.sparse.csr_array:
    kept = np.isfinite(weights)
    return scipy.sparse.coo_array((weights[kept], edges[kept].T), shape=(nodes, nodes)).tocsr()


def _graph(decoder: DecoderLike, z: Tensor, neighbours: int) -> scipy.sparse.csr_array:
    """Neighbour graph of latent points (n, d), weighted by the pull-back length of its straight edges."""
    edges = _edges(z.cpu().double().numpy(), neighbours)
    first, second = (z[torch.from_numpy(edges[:, side]).to(z.device)] for side in (0, 1))
    return _weighted(edges, _edge_lengths(decoder, first, second), len(z))


def _check(z: Tensor, neighbours: int) -> None:
    check_points("data", z, ndim=2)
    if len(z) < 2:
        raise ValueError(f"data: expected at least two points, got {len(z)}")
    if neighbours < 1:
        raise ValueError(f"neighbours: expected at least 1, got {neighbours!r}")


def _resampled(path: Tensor, decoder: DecoderLike, segments: int) -> Tensor:
    """A polyline (M, d) as N + 1 points at equal pull-back length from each other."""
    with torch.no_grad():
        lengths = chord_length(decoder, torch.stack([path[:-1], path[1:]], 1)).double().cpu()
    at = np.concatenate([[0.0], np.cumsum(lengths.numpy())])
    wanted = np.linspace(0.0, at[-1], segments + 1)
    columns = [np.interp(wanted, at, column) for column in path.T.cpu().double().numpy()]
    return torch.as_tensor(np.stack(columns, 1), dtype=path.dtype, device=path.device)


def graph_curves(
    decoder: DecoderLike, data: Tensor, start: Tensor, end: Tensor, *, neighbours: int = 10, segments: int = 16
) -> Tensor:
    r"""Initial curves along data: shortest paths in the neighbour graph of encoded data and the ends.

    Hand them to :func:`latentgeo.geodesic` as ``initial=[None, curves]``, and each pair keeps the better of the
    geodesics found from the straight line and from the path.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        data: latent codes of data, shape (n, d).
        start: latent points, shape (P, d).
        end: latent points, shape (P, d).
        neighbours: k, nearest neighbours in latent space that a point is joined to; parts of the graph that are not
            connected are joined at their nearest points.
        segments: N of the curves.

    Returns:
        Curves from start to end, shape (P, N + 1, d), at equal pull-back lengths; a pair's curve does not depend on
        the other pairs. Where the decoder is finite along no path, the straight line.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    References:
        Tenenbaum, de Silva and Langford, "A global geometric framework for nonlinear dimensionality reduction",
        Science 2000 (shortest paths as geodesics).

    Example:
        >>> import torch
        >>> line = torch.linspace(0, 1, 11)[:, None]
        >>> graph_curves(lambda z: z, line, line[:1], line[-1:], segments=2, neighbours=2).flatten()
        tensor([0.0000, 0.5000, 1.0000])
    """
    _check(data, neighbours)
    if segments < 1:
        raise ValueError(f"segments: expected at least 1, got {segments!r}")
    for name, z in (("start", start), ("end", end)):
        if isinstance(z, Tensor) and not (z.is_floating_point() or z.is_complex()):
            raise TypeError(
                f"{name}: expected latent points (P, d), got {z.dtype} of shape {tuple(z.shape)}; if these are indices "
                f"of data, pass the points themselves, such as codes[{name}]"
            )
        check_points(name, z, ndim=2)
        if z.shape[1] != data.shape[1] or z.dtype != data.dtype or len(z) != len(start):
            raise ValueError(
                f"{name}: expected points (P, {data.shape[1]}) of dtype {data.dtype} like data, as many as start, "
                f"got {tuple(z.shape)} of dtype {z.dtype}"
            )
    data, start, end = data.detach(), start.detach(), end.detach()
    graph = _graph(decoder, data, neighbours)
    n, P = len(data), len(start)
    ends = torch.cat([start, end])  # [2 P, d]
    if P == 0:
        return data.new_zeros(0, segments + 1, data.shape[1])
    k = min(neighbours, n)
    _, nearest = KDTree(data.cpu().double().numpy()).query(ends.cpu().double().numpy(), k=k)
    nearest = nearest.reshape(2 * P, k)
    near = data[torch.from_numpy(nearest.ravel()).to(data.device)]
    weights = _edge_lengths(decoder, ends.repeat_interleave(k, 0), near).reshape(2 * P, k)
    straight = straight_line(start, end, segments)
    curves = []
    for p in range(P):
        # The pair's own ends are nodes n and n + 1; no path leads through other pairs' ends.
        edges = [np.stack([np.full(k, n + side), nearest[side * P + p]], 1) for side in (0, 1)]
        joined = _weighted(np.concatenate(edges), np.concatenate([weights[p], weights[P + p]]), n + 2)
        whole = joined + scipy.sparse.block_diag([graph, scipy.sparse.csr_array((2, 2))], format="csr")
        _, before = scipy.sparse.csgraph.dijkstra(whole, directed=False, indices=n, return_predecessors=True)
        if before[n + 1] < 0:  # no path: the decoder is not finite on the way
            curves.append(straight[p])
            continue
        path = [n + 1]
        while path[-1] != n:
            path.append(int(before[path[-1]]))
        inner = data[torch.tensor(path[-2:0:-1], device=data.device)]
        curve = _resampled(torch.cat([start[p, None], inner, end[p, None]]), decoder, segments)
        curve[0], curve[-1] = start[p], end[p]
        curves.append(curve)
    return torch.stack(curves)
