r"""Distances between classes of a data set: means over pairs of their members, the same members under every model.

.. math:: D_s(A, B) = \frac{1}{M} \sum_{m=1}^{M} d_s(a_m, b_m), \qquad a_m \in A,\ b_m \in B.

A mean of identified distances, geodesic ones between identified points, is identified. The code of a class,
such as the mean of its members' codes, is not; and a class's medoid is chosen by distances, so that it could be another
under each model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor

from latentgeo.agreement.pairs import PAIR_SEED, pair_distances
from latentgeo.paper.study import Study

_NAMED = 0.02  # share of all cells that a family of classes needs to be named
_PERMUTATIONS = 1000  # of the Mantel test


def draw_class_pairs(
    labels: Tensor, class_names: Sequence[str], members: int, largest: int | None = None, seed: int = PAIR_SEED
) -> pd.DataFrame:
    """Draw pairs of members for every pair of classes.

    Args:
        labels: class of each cell, shape (n,).
        class_names: names of the classes.
        members: the number M of pairs of members; they are drawn with replacement, as some classes have few.
        largest: the number of classes that are taken, those with most members; all by default.
        seed: of NumPy's legacy generator.

    Returns:
        One row for each pair of members: ``first`` and ``second``, the names of the classes, and ``start`` and
        ``end``, the members' indices.

    Raises:
        ValueError: there are not two classes with members, or ``members`` or ``largest`` is out of range.

    Example:
        >>> import torch
        >>> pairs = draw_class_pairs(torch.tensor([0, 1, 2, 0]), ["A", "B", "C"], members=1)
        >>> pairs[["first", "second"]].values.tolist()
        [['A', 'B'], ['A', 'C'], ['B', 'C']]
    """
    sizes = np.bincount(labels.numpy(), minlength=len(class_names))
    taken = np.flatnonzero(sizes)
    if largest is not None:
        if largest < 2:
            raise ValueError(f"largest: expected at least 2 classes, got {largest}")
        taken = np.sort(np.argsort(-sizes, kind="stable")[: min(largest, len(taken))])
    if members < 1 or len(taken) < 2:
        raise ValueError(
            f"expected members of at least two classes and one pair of them, got {len(taken)} classes and {members}"
        )
    random = np.random.RandomState(seed)
    of_class = {c: np.flatnonzero(labels.numpy() == c) for c in taken}
    tables = []
    for a, b in itertools.combinations(taken, 2):
        start, end = random.choice(of_class[a], members), random.choice(of_class[b], members)
        tables.append(pd.DataFrame({"first": class_names[a], "second": class_names[b], "start": start, "end": end}))
    return pd.concat(tables, ignore_index=True)


def medoids(cells: Tensor, labels: Tensor) -> dict[int, int]:
    """The member of each class that is nearest to the others on average, in data space: no model enters.

    Args:
        cells: data, shape (n, *event).
        labels: class of each, shape (n,).

    Returns:
        Index of a cell by class.
    """
    found = {}
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        x = cells[members].flatten(1)
        found[label] = int(members[torch.cdist(x, x).mean(1).argmin()])
    return found


def neighbour_accuracy(codes: Tensor, labels: Tensor, neighbours: int = 10) -> float:
    """Share of points whose class is the most frequent one among their nearest neighbours, themselves left out.

    Args:
        codes: shape (n, d).
        labels: shape (n,).
        neighbours: how many are asked.
    """
    distances = torch.cdist(codes, codes).fill_diagonal_(torch.inf)
    voted = labels[distances.topk(neighbours, largest=False).indices].mode(1).values
    return float((voted == labels).double().mean())


def family_names(class_names: Sequence[str], labels: Tensor) -> list[str]:
    """For classes too many to be named: the first word of each name, on the largest class of those that share it.

    Args:
        class_names: names of the classes.
        labels: class of each cell, shape (n,).

    Returns:
        A text for each class, empty for most, and for families of less than 2 % of the cells.

    Example:
        >>> family_names(["Vip a", "Vip b", "Sst c"], torch.tensor([0, 1, 1, 2]))
        ['', 'Vip', 'Sst']
    """
    sizes = torch.bincount(labels, minlength=len(class_names)).tolist()
    families = [name.split()[0] for name in class_names]
    texts = [""] * len(class_names)
    for family in set(families):
        members = [number for number, other in enumerate(families) if other == family]
        if sum(sizes[number] for number in members) >= _NAMED * len(labels):
            texts[max(members, key=lambda number: sizes[number])] = family
    return texts


def mantel(table: pd.DataFrame, method: str, seeds: tuple[int, int]) -> tuple[float, float]:
    """Rank correlation between two models' distances between classes, and the Mantel test of it.

    Args:
        table: from :func:`class_distances`.
        method: one of the methods.
        seeds: of the two models.

    Returns:
        Spearman's correlation, and the share that reach it of 1,000 permutations of the classes of the second model,
        the order as it is among them.

    Reference:
        Mantel, "The detection of disease clustering and a generalized regression approach", Cancer Research 1967.
    """
    classes = list(pd.unique(pd.concat([table["first"], table["second"]])))
    n = len(classes)
    upper, ranks = np.triu_indices(n, 1), np.zeros((2, n, n))
    for matrix, seed in zip(ranks, seeds, strict=True):
        matrix[upper] = scipy.stats.rankdata(distance_matrix_of(table, seed, method, classes)[upper])
    a, b = ranks[0][upper], ranks[1] + ranks[1].T
    observed = float(np.corrcoef(a, b[upper])[0, 1])
    random, reached = np.random.default_rng(0), 1
    for _ in range(_PERMUTATIONS - 1):
        order = random.permutation(n)
        reached += int(np.corrcoef(a, b[np.ix_(order, order)][upper])[0, 1] >= observed - 1e-12)
    return observed, reached / _PERMUTATIONS


def class_distances(
    study: Study, pairs: pd.DataFrame, *, segments: int = 16, workers: int | None = None
) -> pd.DataFrame:
    """Distances between classes under every model of a study; what is in the run store is not computed again.

    Args:
        study: the models; those not trained yet are trained.
        pairs: from :func:`draw_class_pairs`, for the labels of :func:`latentgeo.paper.data.cells.all_cells`.
        segments: N of the geodesics; straight lines have four times as many, or 64.
        workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

    Returns:
        One row for each model, pair of classes and method: ``seed``, ``pair`` (numbered), ``first``, ``second``,
        ``method``, ``value`` (mean over the pairs of members, units as in
        :mod:`latentgeo.agreement.pairs`), ``converged`` (whether all of them did), ``error`` (estimated relative
        error of the value) and ``unique`` (whether all of the points are).

    Raises:
        MissingDataError: the data set is not on this machine.
        JobsFailedError: a model failed; the others are finished and stored.
    """
    options = {"segments": segments, "line_segments": min(64, 4 * segments), "workers": workers}
    options["points"] = study.points
    rows = study.measure("classes", pair_distances, (pairs["start"], pairs["end"]), part="everything", **options)
    number = pairs.groupby(["first", "second"], sort=False).ngroup().to_numpy()
    rows = rows.assign(
        first=pairs["first"].to_numpy()[rows["pair"]],
        second=pairs["second"].to_numpy()[rows["pair"]],
        pair=number[rows["pair"]],
    )
    rows["error"] *= rows["value"]
    means = rows.groupby(["seed", "method", "pair", "first", "second"], sort=False, as_index=False).agg(
        value=("value", "mean"), converged=("converged", "all"), error=("error", "mean"), unique=("unique", "all")
    )
    means["error"] /= means["value"]
    return means[["seed", "pair", "first", "second", "method", "value", "converged", "error", "unique"]]


def distance_matrix_of(table: pd.DataFrame, seed: int, method: str, class_names: Sequence[str]) -> np.ndarray:
    """Distances between classes under one model as a symmetric matrix; NaN on the diagonal.

    Args:
        table: from :func:`class_distances`.
        seed: of the model.
        method: one of the methods.
        class_names: the classes in the order of the rows.
    """
    rows = table[(table["seed"] == seed) & (table["method"] == method)]
    upper = rows.pivot(index="first", columns="second", values="value").reindex(index=class_names, columns=class_names)
    matrix = upper.to_numpy()
    return np.where(np.isnan(matrix), matrix.T, matrix)


def permute_classes(table: pd.DataFrame, seed: int, random: np.random.Generator) -> pd.DataFrame:
    """The same distances after the names of the classes were dealt out anew in one model.

    Args:
        table: from :func:`class_distances`.
        seed: of the model whose classes are renamed.
        random: source of the permutation.

    Returns:
        The table with the values of that model moved to other pairs of classes, all methods alike.
    """
    classes = pd.unique(pd.concat([table["first"], table["second"]]))
    renamed = dict(zip(classes, random.permutation(classes), strict=True))
    names = table.drop_duplicates("pair").set_index("pair")[["first", "second"]]
    pair_of = {frozenset(ends): pair for pair, *ends in names.itertuples()}
    moved = {pair: pair_of[frozenset((renamed[a], renamed[b]))] for pair, a, b in names.itertuples()}
    pair = table["pair"].where(table["seed"] != seed, table["pair"].map(moved))
    table = table.assign(pair=pair, **{end: pair.map(names[end]) for end in names})
    return table.sort_values(["seed", "method", "pair"], ignore_index=True)
