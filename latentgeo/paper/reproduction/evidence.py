"""The table of evidence: what each notebook found at the committed scale, gathered into the README."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from latentgeo.paper.environment import BEGIN, END
from latentgeo.paper.paths import project_root
from latentgeo.paper.reproduction.manifest import Source
from latentgeo.paper.reproduction.verdict import save_table

STATUSES = ("reproduced", "not reproduced", "needs data", "new")
_SUFFIX = "_evidence"


@dataclasses.dataclass(frozen=True)
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
        status: ``"reproduced"``, ``"not reproduced"``, ``"needs data"``, or ``"new"`` for what the paper does not
            have.
        note: the scale: n, seeds, networks.
    """

    item: str
    quantity: str
    value: float
    low: float = math.nan
    high: float = math.nan
    tolerance: float = math.nan
    unit: str = ""
    status: str = "reproduced"
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse a status that the table does not explain, and an interval that does not hold its value."""
        if self.status not in STATUSES:
            raise ValueError(f"status: expected one of {', '.join(STATUSES)}, got {self.status!r}")
        if not math.isfinite(self.value) and self.status != "needs data":
            raise ValueError(f"value: expected a finite number, got {self.value!r}; without data say 'needs data'")
        if self.low > self.high or math.isnan(self.low) != math.isnan(self.high):
            raise ValueError(f"low, high: expected an interval or two NaN, got {self.low!r} and {self.high!r}")


def save_evidence(rows: Sequence[Evidence], name: str, sources: Collection[Source]) -> pd.DataFrame:
    """Save a notebook's rows of the table of evidence among the results.

    Args:
        rows: in the order in which they are to be shown.
        name: of the notebook, such as ``"07_fashion_mnist"``.
        sources: the models that they are about, see :func:`latentgeo.paper.reproduction.manifest.save_files`.

    Returns:
        The rows as a table.
    """
    table = pd.DataFrame([dataclasses.asdict(row) for row in rows])
    save_table(table, f"{name}{_SUFFIX}", sources)
    return table


def read_evidence(folder: Path) -> pd.DataFrame:
    """Rows of all notebooks in a folder of results, in the order of the notebooks, with a column ``notebook``.

    Raises:
        ValueError: a file lacks a column.
    """
    fields = [field.name for field in dataclasses.fields(Evidence)]
    tables = []
    for path in sorted(folder.glob(f"*{_SUFFIX}.csv")):
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"note": str, "unit": str})
        missing = set(fields) - set(table.columns)
        if missing:
            raise ValueError(f"{path}: expected the columns {', '.join(fields)}, but {', '.join(sorted(missing))} lack")
        table[["unit", "note"]] = table[["unit", "note"]].fillna("")
        tables.append(table[fields].assign(notebook=path.stem.removesuffix(_SUFFIX)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*fields, "notebook"])


def _number(value: float, unit: str = "") -> str:
    """Three significant digits and the unit.

    Example:
        >>> [_number(v) for v in (-0.01234, 5.678, 1.4e-08, float("nan"))], _number(1.0, " %")
        (['−0.0123', '5.68', '1.4e−08', '–'], '1 %')
    """
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−") + unit


def format_evidence(table: pd.DataFrame) -> str:
    """The table of evidence in Markdown.

    Args:
        table: from :func:`read_evidence`.
    """
    lines = [
        "| paper item | ours | value | 95 % interval | tolerance | scale | status |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        unit = f" {row.unit}" if row.unit else ""
        interval = "–" if math.isnan(row.low) else f"[{_number(row.low)}, {_number(row.high)}]{unit}"
        value, tolerance = _number(row.value, unit), _number(row.tolerance, unit)
        link = f"{row.quantity} ([{row.notebook[:2]}](notebooks/{row.notebook}.ipynb))"
        lines.append(f"| {row.item} | {link} | {value} | {interval} | {tolerance} | {row.note} | {row.status} |")
    return "\n".join(lines)


def with_evidence(readme: str, table: pd.DataFrame) -> str:
    """Text of a README with its table of evidence written anew.

    Args:
        readme: text with the two marker lines.
        table: from :func:`read_evidence`.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(
            f"expected a clone of latentgeo, whose README.md has the lines {BEGIN!r} and {END!r} once each; run this "
            "there"
        )
    return f"{before}{BEGIN}\n{format_evidence(table)}\n{END}{after}"


def update_readme() -> Path:
    """Write the README's table of evidence anew from ``data/results``, and return the path of the README.

    Raises:
        ValueError: this is not a clone of the project.
    """
    path = project_root() / "README.md"
    if not path.is_file():
        raise ValueError(
            f"expected a clone of latentgeo with its README.md, got the folder {path.parent}; run this there"
        )
    text = path.read_text(encoding="utf-8")
    path.write_text(with_evidence(text, read_evidence(project_root() / "data" / "results")), encoding="utf-8")
    return path
