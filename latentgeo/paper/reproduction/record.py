"""What a notebook found: its verdict, its rows of evidence, its figures and tables, recorded by one call at its end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from latentgeo.paper.paths import results_dir
from latentgeo.paper.reproduction.manifest import Source, save_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIME = "application/vnd.latentgeo.verdict+json"
SUFFIX = "_evidence"  # of the tables of evidence among the results
NEEDS_DATA = "needs data"
# By status, what it says.
STATUSES = {
    "verified": "of mathematics or about the software; held against closed forms, with a control that fails",
    "not verified": "the same, and it did not hold",
    "paper result reproduced": "the paper states it, and the interval over models bears it out here",
    "paper result not reproduced": "the paper states it, and the interval over models does not bear it out here",
    "new": "not in the paper, and nothing was predicted",
    "new, as predicted": "not in the paper; predicted before it was measured, and borne out",
    "new, not as predicted": "not in the paper; predicted before it was measured, and not borne out",
    NEEDS_DATA: "its data have to be fetched by hand",
}


def verified(holds: bool) -> str:
    """Status of mathematics and software.

    Example:
        >>> verified(True), reproduced(False), predicted(True)
        ('verified', 'paper result not reproduced', 'new, as predicted')
    """
    return "verified" if holds else "not verified"


def reproduced(holds: bool) -> str:
    """Status of what the paper states."""
    return "paper result reproduced" if holds else "paper result not reproduced"


def predicted(holds: bool) -> str:
    """Status of what the paper does not have and the notebook predicts."""
    return "new, as predicted" if holds else "new, not as predicted"


def _check_status(status: str) -> None:
    if status not in STATUSES:
        raise ValueError(f"status: expected one of {'; '.join(STATUSES)}; got {status!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """One row of the table of evidence.

    Attributes:
        item: what of the paper it answers to.
        quantity: what the number is.
        value: the number; NaN where there is none yet.
        low: lower end of its 95 % interval; NaN where it has none.
        high: upper end.
        tolerance: the largest value at which the claim would still count as borne out; NaN where that is a matter of
            the interval's sign.
        unit: of all of these; ``"%"`` or a power for a number that is shown as it is.
        status: one of :data:`STATUSES`.
        note: the scale: n, seeds, networks.
    """

    item: str
    quantity: str
    value: float
    low: float = math.nan
    high: float = math.nan
    tolerance: float = math.nan
    unit: str = ""
    status: str
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a status that the table does not explain, and an interval that does not hold its value."""
        _check_status(self.status)
        if not math.isfinite(self.value) and self.status != NEEDS_DATA:
            raise ValueError(f"value: expected a finite number, got {self.value!r}; without data say {NEEDS_DATA!r}")
        holds = self.low <= self.value <= self.high
        if not holds and not (math.isnan(self.low) and math.isnan(self.high)):
            raise ValueError(
                f"low, high: expected an interval that holds the value {self.value!r}, or two NaN, got {self.low!r} "
                f"and {self.high!r}"
            )

    @classmethod
    def of(cls, row: Mapping[str, float], name: str, **fields: object) -> Evidence:
        """A number with its interval from the columns ``name``, ``name_low`` and ``name_high``; shares with unit ``%``.

        Args:
            row: of a table.
            name: of the column.
            fields: the other attributes.

        Example:
            >>> row = {"cv": 0.03, "cv_low": 0.02, "cv_high": 0.05}
            >>> found = Evidence.of(row, "cv", item="codes", quantity="CV", unit="%", status="new")
            >>> found.value, found.low, found.high
            (3.0, 2.0, 5.0)
        """
        numbers = interval(row, name, 100 if fields.get("unit") == "%" else 1)
        return cls(**dict(zip(("value", "low", "high"), numbers, strict=True)), **fields)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a notebook; as the last value of a cell it is shown, and found again by the runner.

    Attributes:
        claim: what was tested, in one sentence.
        status: one of :data:`STATUSES`.
        headline: the number, or the few lines of numbers, that say so.
        profile: the scale at which it was tested.

    Example:
        >>> print(Verdict("Geodesics agree better.", "paper result reproduced", "CV 3 % against 5 %", "quick"))
        paper result reproduced (quick scale): Geodesics agree better.
        CV 3 % against 5 %
    """

    claim: str
    status: str
    headline: str
    profile: str

    def __post_init__(self) -> None:
        """Refuse a status that is not explained."""
        _check_status(self.status)

    def __str__(self) -> str:
        """Status, scale, claim and headline as plain text."""
        return f"{self.status} ({self.profile} scale): {self.claim}\n{self.headline}"

    def _repr_mimebundle_(self, **_: object) -> Mapping[str, object]:
        payload = {"claim": self.claim, "status": self.status, "headline": self.headline}
        return {"text/plain": str(self), MIME: payload}


def record(
    notebook: str,
    *,
    profile: str,
    claim: str,
    status: str,
    headline: str,
    evidence: Sequence[Evidence] = (),
    tables: Mapping[str, pd.DataFrame | tuple[pd.DataFrame, Collection[Source]]] | None = None,
    figures: Mapping[str, Figure | tuple[Figure, Collection[Source]]] | None = None,
    sources: Collection[Source] = (),
) -> Verdict:
    """Save what a notebook found, and say it: the one call at its end.

    Args:
        notebook: its name, such as ``"07_fashion_mnist"``.
        profile: the scale at which it ran.
        claim: what was tested, in one sentence.
        status: of the claim, from :func:`verified`, :func:`reproduced` or :func:`predicted`, or one of
            :data:`STATUSES`.
        headline: the number, or the few lines of numbers, that say so.
        evidence: rows for the table of evidence, in the order in which they are to be shown.
        tables: to be saved as CSV, by file name without ending; what the index says is lost.
        figures: to be saved as PDF and PNG, by file name without ending.
        sources: the models that all of these show, see :func:`latentgeo.paper.reproduction.manifest.save_files`; a
            table or a figure of other models comes as a pair with its own.

    Returns:
        The verdict, as the last value of the cell.

    Raises:
        ValueError: a status that is not explained, or what :func:`~latentgeo.paper.reproduction.manifest.save_files`
            refuses.
    """
    verdict = Verdict(claim, status, headline, profile)

    def with_sources(shown: Mapping[str, object] | None) -> dict[str, tuple]:
        return {name: of if isinstance(of, tuple) else (of, sources) for name, of in (shown or {}).items()}

    for name, (table, its) in with_sources(tables).items():
        save_table(table, name, its)
    if figures:
        from latentgeo.paper.figures import save

        for name, (figure, its) in with_sources(figures).items():
            save(figure, name, its)
    if evidence:
        save_table(pd.DataFrame([dataclasses.asdict(row) for row in evidence]), f"{notebook}{SUFFIX}", sources)
    return verdict


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
    between = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:.1f} %{between}"


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
