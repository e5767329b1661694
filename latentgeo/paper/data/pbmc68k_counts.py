"""The same blood cells as integers: how many molecules of each gene were counted in each cell."""

from __future__ import annotations

import numpy as np

from latentgeo.paper.data import pbmc68k
from latentgeo.paper.data.base import DataError, Dataset

_ROUNDING = 5e-4  # of the logarithms, which are stored with three decimals


def counts_from(expression: np.ndarray) -> np.ndarray:
    r"""Counts from logarithms of normalised counts, :math:`\log(1 + c\, x)` with an unknown factor c for each cell.

    A cell's smallest positive value belongs to a count of one, if all others are integers in that unit.

    Args:
        expression: shape (n, genes), with three decimals.

    Returns:
        Integers, shape (n, genes).

    Raises:
        DataError: some are not integers within what rounding allows, or a cell is empty.

    Example:
        >>> counts_from(np.log1p(1.7 * np.array([[0.0, 1.0, 3.0, 12.0]])).round(3))
        array([[ 0,  1,  3, 12]])
    """
    normalised = np.expm1(expression.astype(np.float64))
    one = np.where(normalised > 0, normalised, np.inf).min(1, keepdims=True)
    if not np.isfinite(one).all():
        raise DataError("expected at least one positive value in every cell, got an empty cell")
    counts = np.round(normalised / one)
    allowed = 1e-6 + counts * _ROUNDING * ((1 + normalised) / np.maximum(normalised, one) + (1 + one) / one)
    away = np.abs(normalised / one - counts)
    if (away > allowed).any() or allowed.max() >= 0.5:
        raise DataError(
            f"expected multiples of each cell's smallest value, but some are {away.max():.2g} from an integer; these "
            "are not logarithms of normalised counts"
        )
    return counts.astype(np.int64)


def load() -> Dataset:
    """The 700 cells with 765 genes as counts (integers in float32), for a negative binomial likelihood.

    Raises:
        MissingDataError: scanpy is not installed.
        DataError: what it holds are not normalised counts.
    """
    return pbmc68k.deal("pbmc68k_counts", counts_from(pbmc68k.read()[0]))
