r"""What is concluded from distances between cells, and whether the conclusions survive a retraining.

Under each of S models the same n cells have a matrix of distances :math:`D_s`, from which a conclusion c is drawn; a
measure a says how far two conclusions agree:

.. math:: A = \binom{S}{2}^{-1} \sum_{s < t} a\big(c(D_s), c(D_t)\big)

============== ============================================= ================================ =====================
name           the conclusion c                              the agreement a                  of unrelated models
============== ============================================= ================================ =====================
``neighbours`` the k nearest cells of each cell              share that both have             :math:`k / (n - 1)`
``clusters``   average linkage, as many as there are types   adjusted Rand index              0
``types``      mean distances of the pairs of types          Spearman's rank correlation      0
``order``      mean distance from the cells of a root type   Kendall's rank correlation       0
============== ============================================= ================================ =====================

The first two are also held against the types, which no model was told: ``neighbours`` by the share of the k nearest
that have a cell's own type, with m cells of each :math:`(m - 1) / (n - 1)` where distances say nothing; ``clusters`` by
the adjusted Rand index, 0.

Unrelated models are those whose cells are dealt out anew, see :func:`dealt_anew`. The chance levels are expectations
over all ways to deal them, exact for any distances, for the order with the root's cells left out of it, and for the
types with as many cells of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.stats
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from latentgeo.adapters.model import as_images, latent_model
from latentgeo.agreement.pairs import METHOD_NAMES, PAIR_SEED, measure_pairs, tidy
from latentgeo.agreement.reliability import resampled, with_interval, with_log_interval
from latentgeo.geometry.decoder import as_decoder
from latentgeo.paper.study import Study

NAMES = {
    "geodesic": "geodesic",
    "ambient_chord": METHOD_NAMES["ambient_chord"],
    "straight_line": METHOD_NAMES["straight_line"],
    "euclidean": "Euclidean, codes",
    "ambient_chord_means": "chord, posterior means",
    "euclidean_nearest": "Euclidean, nearest points",
    "pca_2": "2 principal components",
    "pca_50": "50 principal components",
}
CONCLUSIONS = {
    ("neighbours", "trainings"): "same neighbours",
    ("clusters", "trainings"): "same clusters",
    ("types", "trainings"): "same order of types",
    ("order", "trainings"): "same order from the root",
    ("neighbours", "types"): "neighbours of the same type",
    ("clusters", "types"): "clusters and types",
}
_COMPONENTS = (2, 50)  # principal ones
_LINES = 16  # segments of straight lines
_PAIRS = 400  # of one job, which looks up their cells: more than elsewhere, as few cells have many pairs
_ROUNDING = 1e-12  # standard errors below this are none


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells that conclusions are about.

    Attributes:
        rows: of all cells of the data set, shape (n,).
        types: a number for each, shape (n,).
        names: of the types, by number.
        root: number of the type that the order begins at.
        neighbours: k.
    """

    rows: np.ndarray
    types: np.ndarray
    names: tuple[str, ...]
    root: int
    neighbours: int

    def __len__(self) -> int:
        """Return the number of cells n."""
        return len(self.rows)

    @property
    def chance(self) -> dict[tuple[str, str], float]:
        """Agreement of unrelated models, by conclusion and what it is held against."""
        others = len(self) - 1
        of_type = ((np.bincount(self.types) - 1) * np.bincount(self.types)).sum() / len(self) / others
        shares = {("neighbours", "trainings"): self.neighbours / others, ("neighbours", "types"): of_type}
        return {key: float(shares.get(key, 0.0)) for key in CONCLUSIONS}


def draw_cells(
    labels: Tensor,
    class_names: Sequence[str],
    members: int,
    root: str,
    *,
    neighbours: int,
    largest: int | None = None,
    seed: int = PAIR_SEED,
) -> Cells:
    """Draw as many cells of each type, without replacement.

    Args:
        labels: type of each cell of the data set.
        class_names: of the types.
        members: cells of each type; types with fewer are left out.
        root: name of the type that the order begins at.
        neighbours: k.
        largest: the number of types that are taken, those with most cells; all by default.
        seed: of NumPy's legacy generator.

    Raises:
        ValueError: fewer than three types have as many cells, the root is not among them, or k is out of range.

    Example:
        >>> draw_cells(torch.tensor([0, 1, 2, 0, 1, 2]), "ABC", 2, "B", neighbours=1).types.tolist()
        [0, 0, 1, 1, 2, 2]
    """
    sizes = np.bincount(labels.numpy(), minlength=len(class_names))
    enough = np.flatnonzero(sizes >= max(members, 1))
    taken = np.sort(enough[np.argsort(-sizes[enough], kind="stable")[:largest]])
    names = tuple(class_names[c] for c in taken)
    if len(taken) < 3 or root not in names:
        raise ValueError(
            f"expected at least three types with {members} cells and {root!r} among them, got {', '.join(names)}"
        )
    if not 1 <= neighbours < members * len(taken) - 1:
        raise ValueError(f"neighbours: expected between 1 and {members * len(taken) - 2}, got {neighbours!r}")
    random = np.random.RandomState(seed)
    rows = [random.choice(np.flatnonzero(labels.numpy() == c), members, replace=False) for c in taken]
    types = np.repeat(np.arange(len(taken)), members)
    return Cells(np.concatenate(rows), types, names, names.index(root), neighbours)


def cell_pairs(model: object, start: Tensor, end: Tensor, *, points: str, segments: int, tol: float) -> pd.DataFrame:
    """Distances of pairs of cells under a model, each cell looked up once.

    Args:
        model: the trained model.
        start: cells, shape (P, genes).
        end: cells, shape (P, genes).
        points: what stands for cells, see :meth:`latentgeo.LatentModel.points`.
        segments: N of the geodesics.
        tol: tolerance of the geodesics.

    Returns:
        The table of :func:`latentgeo.agreement.pairs.measure_pairs` between these points, but that ``euclidean`` is
        between posterior means; with ``ambient_chord_means``, the chord between these, and ``euclidean_nearest``
        between the points.
    """
    x, place = torch.unique(as_images(torch.cat([start, end])), dim=0, return_inverse=True)
    i, j = place.chunk(2)
    seen = latent_model(model)
    means, found = seen.codes(x), seen.points(x, points)
    f = as_decoder(seen.decoder, means)
    options = {"segments": segments, "tol": tol, "line_segments": max(_LINES, segments)}
    table, _ = measure_pairs(f, found.codes[i], found.codes[j], **options)
    table["converged"] &= (found.converged[i] & found.converged[j]).numpy()[table["pair"]]
    table["method"] = table["method"].replace("euclidean", "euclidean_nearest")
    with torch.no_grad():
        apart = {
            "euclidean": (means[i] - means[j]).norm(dim=1),
            "ambient_chord_means": f.chord(f(means)[i], f(means)[j]),
        }
    own = tidy({method: (of, of.isfinite(), torch.zeros_like(of)) for method, of in apart.items()})
    return pd.concat([table, own], ignore_index=True)


def cell_distances(
    study: Study, cells: Cells, *, segments: int, tol: float = 1e-2, workers: int | None = None
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Distances between cells under every model of a study; one table for each model in the run store.

    All pairs are solved, as clusters need them all: n (n - 1) / 2 geodesics, the cost of which chooses n.

    Args:
        study: the models; those not trained yet are trained.
        cells: n of :func:`latentgeo.paper.data.cells.all_cells`.
        segments: N of the geodesics.
        tol: tolerance of the geodesics; the default leaves errors of a few parts in a thousand.
        workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

    Returns:
        By method the distances of each model, shape (S, n, n); those of principal components, which no model enters,
        have S = 1. And the share of pairs that ``converged`` and the largest estimated relative ``error``, by method.

    Raises:
        MissingDataError: the data set is not on this machine.
        JobsFailedError: a model failed; the others are finished and stored.
    """
    i, j = np.triu_indices(len(cells), 1)
    options = {"points": study.points, "segments": segments, "tol": tol, "workers": workers}
    ends = cells.rows[i], cells.rows[j]
    table = study.measure("conclusions", cell_pairs, ends, part="everything", block=_PAIRS, **options)
    found = {}
    for method, of in table.groupby("method", sort=False):
        values = of.pivot(index="seed", columns="pair", values="value").loc[list(study.seeds)].to_numpy()
        found[method] = np.stack([squareform(row) for row in values])
    x = study.data().everything
    found |= principal_components(x.log1p() if study.model == "counts" else x, cells.rows)
    how = table.groupby("method", sort=False).agg(converged=("converged", "mean"), error=("error", "max"))
    return found, how


def principal_components(x: Tensor, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Euclidean distances in the first principal components of data, of which there may be fewer than asked for.

    Args:
        x: data, shape (N, genes), all of which decide the components.
        rows: the n that distances are wanted of.

    Returns:
        By ``pca_2`` and ``pca_50``, shape (1, n, n).
    """
    most = min(max(_COMPONENTS), *x.shape)
    z = PCA(most, svd_solver="covariance_eigh").fit(x.numpy()).transform(x[rows].numpy())
    return {f"pca_{m}": torch.cdist(*2 * [torch.from_numpy(z[:, :m]).double()]).numpy()[None] for m in _COMPONENTS}


def nearest(D: np.ndarray, k: int) -> np.ndarray:
    """Whether each cell (column) is among the k nearest of another (row): (n, n) distances -> (n, n)."""
    order = np.argsort(np.where(np.eye(len(D), dtype=bool), np.inf, D), axis=1, kind="stable")
    found = np.zeros(D.shape, dtype=bool)
    np.put_along_axis(found, order[:, :k], True, axis=1)
    return found


def between_types(D: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Mean distance of each pair of types, shape (T (T - 1) / 2,)."""
    member = np.eye(types.max() + 1)[types] / np.bincount(types)
    return (member.T @ D @ member)[np.triu_indices(types.max() + 1, 1)]


def agreements(distances: Mapping[str, np.ndarray], cells: Cells) -> dict[tuple[str, str, str], np.ndarray]:
    """How far each conclusion from each distance agrees between models, and with the types.

    Args:
        distances: by method, shape (S, n, n).
        cells: of the rows and columns.

    Returns:
        By conclusion, what it is held against and method: of two trainings shape (S, S), symmetric, ones on the
        diagonal; of the types shape (S,).
    """
    found, k, T = {}, cells.neighbours, len(cells.names)
    same, root = cells.types[:, None] == cells.types, cells.types == cells.root
    for method, D in distances.items():
        near = np.stack([nearest(of, k) for of in D])
        trees = [linkage(squareform(of, checks=False), "average") for of in D]
        clusters = [fcluster(tree, T, "maxclust") for tree in trees]
        types = [scipy.stats.rankdata(between_types(of, cells.types)) for of in D]
        order = [of[root][:, ~root].mean(0) for of in D]
        shares = np.einsum("sij,tij->st", near.astype(float), near.astype(float)) / (k * len(cells))
        found["neighbours", "trainings", method] = shares
        found["clusters", "trainings", method] = _pairwise(adjusted_rand_score, clusters)
        found["types", "trainings", method] = _pairwise(lambda a, b: np.corrcoef(a, b)[0, 1], types)
        found["order", "trainings", method] = _pairwise(lambda a, b: scipy.stats.kendalltau(a, b)[0], order)
        found["neighbours", "types", method] = (near & same).sum((1, 2)) / (k * len(cells))
        found["clusters", "types", method] = np.array([adjusted_rand_score(cells.types, of) for of in clusters])
    return found


def _pairwise(measure: Callable[[np.ndarray, np.ndarray], float], conclusions: Sequence[np.ndarray]) -> np.ndarray:
    """Agreement of every two of S conclusions, shape (S, S)."""
    S = len(conclusions)
    values = np.eye(S)
    for s, t in zip(*np.triu_indices(S, 1), strict=True):
        values[s, t] = values[t, s] = measure(conclusions[s], conclusions[t])
    return values


def dealt_anew(
    distances: Mapping[str, np.ndarray], cells: Cells, random: np.random.Generator, *, within: bool = False
) -> dict[str, np.ndarray]:
    """Distances of unrelated models: the same numbers, but each model takes each cell for another one.

    Args:
        distances: by method, shape (S, n, n).
        cells: of the rows and columns.
        random: source of the permutations.
        within: whether a cell is only taken for another of its own type, so that what the types alone account for is
            left.
    """
    n, found = len(cells), {}
    S = max(map(len, distances.values()))
    shuffled = np.stack([random.permutation(n) for _ in range(S)])
    if within:  # cells stand by type, and so do they after a stable sort
        shuffled = np.stack([of[np.argsort(cells.types[of], kind="stable")] for of in shuffled])
        shuffled = shuffled[:, np.argsort(np.argsort(cells.types, kind="stable"), kind="stable")]
    for method, D in distances.items():
        found[method] = np.stack([of[np.ix_(p, p)] for of, p in zip(D, shuffled, strict=False)])
    return found


def compare(
    found: Mapping[tuple[str, str, str], np.ndarray],
    cells: Cells,
    method: str = "geodesic",
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Agreement by every distance, its chance level, and how much better or worse one of them does than each other.

    A resample draws S of the S models; of the pairs of trainings it has those of two different models, each as often as
    both were drawn. The difference is paired: the same draws for both distances.

    Args:
        found: from :func:`agreements`.
        cells: of the same.
        method: that is compared with the others.
        resamples: of the models.
        level: of the Student intervals, with S - 1 degrees of freedom.
        seed: of the resampling.

    Returns:
        Index ``conclusion``, ``against`` (``trainings`` or ``types``) and ``method``: ``agreement`` with ``_low`` and
        ``_high``, Student's on the logarithmic scale of 1 - A, so that none exceeds 1; ``chance``, of unrelated models;
        ``calibrated``, :math:`(A - A_0) / (1 - A_0)`; ``difference``, the method's agreement minus this one's, with
        ``_low`` and ``_high``, and ``p``, two-sided; ``models``. What no model enters agrees with itself: it has no row
        between trainings, and no limits of its agreement with the types, NaN.
    """
    S = max(map(len, found.values()))
    counts, rows = resampled(S, resamples, np.random.default_rng(seed)), {}
    for (conclusion, against, other), values in found.items():
        chance, alone = cells.chance[conclusion, against], len(values) < S
        if alone and against == "trainings":
            continue
        value, draws = _resampled(values, counts)
        row = {"agreement": value, **dict.fromkeys(("agreement_low", "agreement_high"), np.nan)}
        if not alone:
            row |= _limits(value, draws, level, S)
        row |= {"chance": chance, "calibrated": (value - chance) / (1 - chance)}
        if other != method:
            mean, of = _resampled(found[conclusion, against, method], counts)
            row |= with_interval("difference", mean - value, of - draws, level, S)
            error, gap = np.nanstd(of - draws), abs(mean - value)
            row["p"] = 2 * scipy.stats.t.sf(gap / max(error, _ROUNDING), S - 1)
        rows[conclusion, against, other] = row | {"models": S}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["conclusion", "against", "method"])


def _limits(value: float, draws: np.ndarray, level: float, models: int) -> dict[str, float]:
    """Limits of an agreement that exceed 1 at no level: those of what is missing to 1, on the logarithmic scale."""
    of = with_log_interval("missing", 1.0 - value, (1.0 - draws).clip(0.0), level, models)
    return {"agreement_low": 1.0 - of["missing_high"], "agreement_high": 1.0 - of["missing_low"]}


def _resampled(values: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over models (S,), or over pairs of different ones (S, S), and those of resamples; NaN without a pair."""
    S = counts.shape[1]
    if len(values) < S:
        return float(values[0]), np.full(len(counts), values[0])
    if values.ndim == 1:
        mean, draws = values.mean(), counts @ values / S
    else:
        i, j = np.triu_indices(S, 1)
        weights = counts[:, i] * counts[:, j]
        mean = values[i, j].mean()
        with np.errstate(invalid="ignore"):
            draws = weights @ values[i, j] / weights.sum(1)
    # A resample repeats models, and so varies too little by (S - 1) / S.
    return float(mean), mean + (draws - mean) * np.sqrt(S / (S - 1))
