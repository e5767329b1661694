"""How close distances come to Euclidean ones: the best flat chart, and what it leaves over."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike
from torch import Tensor

_SYMMETRIC = 1e-6  # asymmetry, relative to the largest distance, that passes for rounding
_ROUNDING = 1e-12  # an eigenvalue this small, relative to the largest, is zero


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Points of Euclidean space whose distances approximate given ones.

    Attributes:
        coordinates: the points, centred, along their principal axes, shape (n, dim), in the unit of the distances.
        stress: normalised stress (Kruskal's stress-1); 0 for an isometric embedding.
        negative_share: share of the negative eigenvalues of the doubly centred matrix in the sum of all absolute
            eigenvalues; 0 if and only if the points embed in a Euclidean space of some dimension.
    """

    coordinates: np.ndarray
    stress: float
    negative_share: float

    def __repr__(self) -> str:
        """Say how well distances are kept, not where the points are."""
        n, dim = self.coordinates.shape
        stress, negative = f"stress {self.stress:.2g}", f"negative share {self.negative_share:z.2g}"
        return f"Embedding({n} points, dim = {dim}, {stress}, {negative})"


def isometric_embedding(distances: ArrayLike | Tensor, dim: int, *, max_iter: int = 3000) -> Embedding:
    r"""Best Euclidean chart of points known by their distances: metric multidimensional scaling.

    .. math:: \sigma = \min_{y_1, \dots, y_n \in \mathbb{R}^{dim}} \left(
        \frac{\sum_{i<j} (\|y_i - y_j\| - \delta_{ij})^2}{\sum_{i<j} \|y_i - y_j\|^2} \right)^{1/2}

    Geodesic distances :math:`\delta` of points in a flat, geodesically convex patch have :math:`\sigma = 0` in
    dim = d; points of a curved one do not in general, though few of them may. The minimum is sought by SMACOF from one
    start, classical scaling: deterministic, exact for Euclidean distances, otherwise a local minimum. Classical
    scaling takes the leading eigenvectors of

    .. math:: B = -\tfrac12 H (\delta_{ij}^2) H, \qquad H = I - \tfrac1n \mathbf{1} \mathbf{1}^\top,

    whose negative eigenvalues show that no Euclidean space of any dimension will do (Schoenberg).

    Args:
        distances: δ, symmetric with zero diagonal, shape (n, n), n ≥ 2; a tensor or an array.
        dim: dimension of the Euclidean space, from 1 to n - 1.
        max_iter: steps of SMACOF at most.

    Returns:
        Coordinates, stress and share of negative eigenvalues, see :class:`Embedding`.

    Raises:
        ValueError: not a matrix of distances, all of them zero, or a dimension out of range.

    References:
        Kruskal, "Multidimensional scaling by optimizing goodness of fit to a nonmetric hypothesis", Psychometrika
        1964 (stress-1); de Leeuw and Mair, "Multidimensional scaling using majorization: SMACOF in R", Journal of
        Statistical Software 2009; Torgerson, "Multidimensional scaling: I. Theory and method", Psychometrika 1952
        (classical scaling).

    Example:
        Three corners of a right-angled triangle lie in a plane; not so on a line:

        >>> triangle = [[0.0, 3.0, 4.0], [3.0, 0.0, 5.0], [4.0, 5.0, 0.0]]
        >>> isometric_embedding(triangle, 2).stress < 1e-12, round(isometric_embedding(triangle, 1).stress, 2)
        (True, 0.17)
    """
    delta = _checked_distances(distances)
    n = len(delta)
    if not 1 <= dim <= n - 1:
        raise ValueError(f"dim: expected a dimension between 1 and n - 1 = {n - 1} for {n} points, got {dim!r}")
    if max_iter < 1:
        raise ValueError(f"max_iter: expected at least 1, got {max_iter!r}")
    unit = delta.max()
    start, negative_share = _classical_scaling(delta / unit, dim)
    from sklearn.manifold import smacof

    found, _ = smacof(
        delta / unit, n_components=dim, init=start, n_init=1, max_iter=max_iter, eps=1e-13, normalized_stress=False
    )
    # Rounding alone moves a start that is exact already.
    best = min((start, found), key=lambda points: _stress(points, delta / unit))
    centred = best - best.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    return Embedding(unit * centred @ axes.T, _stress(best, delta / unit), negative_share)


def _array(values: ArrayLike | Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, np.float64)


def _checked_distances(distances: ArrayLike | Tensor) -> np.ndarray:
    delta = _array(distances)
    if delta.ndim != 2 or delta.shape[0] != delta.shape[1] or len(delta) < 2:
        raise ValueError(f"distances: expected a square matrix (n, n) of at least two points, got {delta.shape}")
    if not np.isfinite(delta).all():
        raise ValueError("distances: expected finite values, got NaN or infinity; drop the points they belong to")
    largest = delta.max()
    if delta.min() < 0 or largest == 0:
        raise ValueError(
            f"distances: expected values of at least 0, not all zero, got a range of {delta.min()} to {largest}"
        )
    asymmetry = np.abs(delta - delta.T).max()
    if asymmetry > _SYMMETRIC * largest or np.diagonal(delta).max() > _SYMMETRIC * largest:
        raise ValueError(
            "distances: expected a symmetric matrix with zero diagonal, got an asymmetry of up to "
            f"{asymmetry:.2g} and a diagonal of up to {np.diagonal(delta).max():.2g}"
        )
    delta = 0.5 * (delta + delta.T)
    np.fill_diagonal(delta, 0.0)
    return delta


def _classical_scaling(delta: np.ndarray, dim: int) -> tuple[np.ndarray, float]:
    squared = delta**2
    B = -0.5 * (squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean())
    values, vectors = np.linalg.eigh(B)
    values[np.abs(values) < _ROUNDING * np.abs(values).max()] = 0.0
    leading = slice(-1, -dim - 1, -1)
    coordinates = vectors[:, leading] * np.sqrt(values[leading].clip(0.0))
    return coordinates, float(-values.clip(max=0.0).sum() / np.abs(values).sum())


def _stress(points: np.ndarray, delta: np.ndarray) -> float:
    pairs = np.triu_indices(len(delta), 1)
    fitted = np.linalg.norm(points[pairs[0]] - points[pairs[1]], axis=1)
    return float(np.linalg.norm(fitted - delta[pairs]) / np.linalg.norm(fitted))


def align(points: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    r"""Rigid motion (rotation or reflection, and shift) that brings points closest to others.

    .. math:: \min_{Q^\top Q = I,\; b} \Big( \frac{\sum_i \|Q y_i + b - t_i\|^2}{\sum_i \|t_i - \bar t\|^2}
        \Big)^{1/2}

    Isometric charts of the same points differ by such a motion and by nothing else.

    Args:
        points: y, shape (n, m).
        target: t, shape (n, m).

    Returns:
        The moved points, shape (n, m), and the relative root-mean-square difference that remains.

    Raises:
        ValueError: the shapes differ, a value is not finite, or all targets are equal.

    References:
        Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.

    Example:
        >>> corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> align(corners[:, ::-1] + 5.0, corners)[1] < 1e-12  # mirrored and shifted
        True
    """
    y, t = np.asarray(points, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if y.ndim != 2 or y.shape != t.shape:
        raise ValueError(f"points and target: expected the same shape (n, m), got {y.shape} and {t.shape}")
    if not (np.isfinite(y).all() and np.isfinite(t).all()):
        raise ValueError("points and target: expected finite values, got NaN or infinity; drop those rows from both")
    y, centre = y - y.mean(0), t.mean(0)
    size = np.linalg.norm(t - centre)
    if size == 0:
        raise ValueError("target: expected at least two different points, got all of them equal")
    rotation, _ = scipy.linalg.orthogonal_procrustes(y, t - centre)
    moved = y @ rotation + centre
    return moved, float(np.linalg.norm(moved - t) / size)


def scale_fit(distances: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> tuple[float, float]:
    r"""Single factor that brings distances closest to others, and the relative deviation that it leaves.

    .. math:: \varepsilon = \min_c \Big( \frac1P \sum_p \Big( \frac{c\, e_p}{g_p} - 1 \Big)^2 \Big)^{1/2},
        \qquad c = \frac{\sum_p e_p / g_p}{\sum_p (e_p / g_p)^2}

    Args:
        distances: e, shape (P,), such as Euclidean distances of codes.
        reference: g, positive, shape (P,), such as geodesic distances of the same pairs.

    Returns:
        The factor c, in units of the reference per unit of the distances, and ε, the root-mean-square relative
        deviation: zero if and only if the distances are proportional, and below 1.

    Raises:
        ValueError: the shapes differ, a value is not finite, a reference is not positive, or all distances are zero.

    Example:
        >>> scale_fit([1.0, 2.0], [3.0, 6.0])
        (3.0, 0.0)
    """
    e, g = _array(distances), _array(reference)
    if e.ndim != 1 or e.shape != g.shape or not e.size:
        raise ValueError(f"distances and reference: expected the same shape (P,), got {e.shape} and {g.shape}")
    if not (np.isfinite(e).all() and np.isfinite(g).all() and (g > 0).all() and (e >= 0).all() and e.any()):
        raise ValueError(
            "expected finite distances of at least 0, not all zero, and positive references; drop pairs of equal points"
        )
    ratio = e / g
    scale = ratio.sum() / np.square(ratio).sum()
    return float(scale), float(np.sqrt(np.square(scale * ratio - 1.0).mean()))
