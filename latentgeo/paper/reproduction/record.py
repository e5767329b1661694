"""What a notebook found, in a form that both a reader and the runner of all notebooks can read."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import pandas as pd

from latentgeo.paper.paths import results_dir
from latentgeo.paper.reproduction.manifest import Source, save_files

MIME = "application/vnd.latentgeo.verdict+json"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a notebook; as the last value of a cell it is shown, and found again by the runner.

    Attributes:
        claim: what was to be reproduced, in one sentence.
        reproduced: whether the numbers of this run bear it out.
        headline: the number, or the few lines of numbers, that say so.

    Example:
        >>> print(Verdict("Geodesics agree better.", True, "CV 3 % against 5 %"))
        reproduced: Geodesics agree better.
        CV 3 % against 5 %
    """

    claim: str
    reproduced: bool
    headline: str

    @property
    def status(self) -> str:
        """``"reproduced"`` or ``"not reproduced"``."""
        return "reproduced" if self.reproduced else "not reproduced"

    def __str__(self) -> str:
        """Status, claim and headline as plain text."""
        return f"{self.status}: {self.claim}\n{self.headline}"

    def _repr_mimebundle_(self, **_: object) -> Mapping[str, object]:
        payload = {"claim": self.claim, "status": self.status, "headline": self.headline}
        return {"text/plain": str(self), MIME: payload}


def save_table(table: pd.DataFrame, name: str, sources: Collection[Source]) -> None:
    """Save a table as CSV in the folder of results, with a record of where it comes from.

    Args:
        table: with an index that says nothing.
        name: file name without ending.
        sources: the models that it shows, see :func:`latentgeo.paper.reproduction.manifest.save_files`.
    """
    save_files(results_dir(), {f"{name}.csv": table.to_csv(index=False).encode()}, sources)


def percent(value: float, low: float | None = None, high: float | None = None) -> str:
    """A share in per cent, with its interval where there is one.

    Example:
        >>> percent(0.0312), percent(0.0312, 0.02, 0.045)
        ('3.1 %', '3.1 % [2.0, 4.5]')
    """
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f} %{interval}"


def interval(row: Mapping[str, float], name: str, factor: float = 1.0) -> tuple[float, float, float]:
    """A number and both ends of its interval, from the columns ``name``, ``name_low`` and ``name_high``.

    Example:
        >>> interval({"cv": 0.03, "cv_low": 0.02, "cv_high": 0.05}, "cv", 100)
        (3.0, 2.0, 5.0)
    """
    return tuple(factor * float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))


def reliability_headline(comparison: pd.DataFrame) -> str:
    """Mean CV of each method with its interval, one line each.

    Args:
        comparison: from :func:`latentgeo.compare_reliability`.
    """
    return "\n".join(
        f"mean CV {method}: {percent(row.mean_cv, row.mean_cv_low, row.mean_cv_high)}"
        for method, row in comparison.iterrows()
    )
