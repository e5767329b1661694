"""What is computed when two points are chosen."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
from torch import Tensor

from latentgeo.agreement.pairs import IDENTIFIED, METHOD_NAMES
from latentgeo.geometry.geodesic.result import Geodesic

_SHOWN = ("geodesic", "straight_line", "ambient_chord", "euclidean")


@dataclasses.dataclass(frozen=True)
class Selection:
    """Two data points, and two ways between the latent points that stand for them.

    Attributes:
        pair: rows (i, j) of the data.
        distances: one row for each method (index ``method``): ``value`` (data units; latent units for ``euclidean``),
            ``converged`` and ``error``, see :func:`latentgeo.agreement.pairs.measure_pairs`.
        geodesic: the geodesic between these with its certificates, P = 1.
        straight: the straight latent line, shape (N + 1, d).
        decoded: the geodesic decoded as it is drawn: images (N + 1, height, width, channels) with values in [0, 1], or
            features (N + 1, F).
        decoded_straight: the straight line likewise.
        originals: the two data likewise, shape (2, ...); None where they are something else than is drawn.
        unit: of the distances but ``euclidean``.
        points: what stands for the data, see :meth:`latentgeo.LatentModel.points`.
        sure: whether both were found, and a second search found no others about as near.
    """

    pair: tuple[int, int]
    distances: pd.DataFrame
    geodesic: Geodesic
    straight: Tensor
    decoded: Tensor
    decoded_straight: Tensor
    originals: Tensor | None
    unit: str
    points: str
    sure: bool

    def __repr__(self) -> str:
        """Name the rows, the geodesic's length and how far to trust it, not the curves."""
        geodesic = f"geodesic {_number(self.length)} {self.unit} ± {_percent(self.error)}"
        converged = "converged" if self.converged else "not converged"
        return f"Selection(rows {self.pair[0]} and {self.pair[1]}, {geodesic}, {converged})"

    @property
    def length(self) -> float:
        """Length of the geodesic, in ``unit``."""
        return self.geodesic.length.item()

    @property
    def error(self) -> float:
        """Estimated relative error of the geodesic's length."""
        return self.geodesic.error.item()

    @property
    def converged(self) -> bool:
        """Whether the geodesic was found to tolerance, and the points at its ends were."""
        return bool(self.distances["converged"]["geodesic"])

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, value, unit and certificate of each distance, as text."""
        rows = []
        for row in self.distances.loc[list(_SHOWN)].itertuples():
            notes = {"ambient_chord": ["of the reconstructions"], "euclidean": []}.get(
                row.Index, [f"± {_percent(row.error)}"]
            )
            if row.Index == "geodesic":
                lost = "raise segments" if not self.geodesic.converged else "the point of an end was not found"
                notes[0] += ", converged" if row.converged else f", not converged: do not trust it, {lost}"
            if row.Index == "geodesic" and not self.sure:
                notes.append("an end has other points as near")
            if row.Index not in IDENTIFIED or self.points == "mean":
                notes.append("not identified")
            unit = "latent units" if row.Index == "euclidean" else self.unit
            rows.append((METHOD_NAMES[row.Index], _number(row.value), unit, "; ".join(notes)))
        return rows


def _number(value: float) -> str:
    return f"{value:#.4g}" if math.isfinite(value) else "not finite"


def _percent(share: float) -> str:
    if not share <= 1.0:
        return "more than 100 %"
    return f"{100 * share:.2g} %"
