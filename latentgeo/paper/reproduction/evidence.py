"""The table of evidence: what each notebook found at the committed scale, on one page of ``data/results``."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd

from latentgeo.paper.paths import project_root
from latentgeo.paper.reproduction.record import STATUSES, SUFFIX, Evidence

BEGIN = "<!-- evidence: written by `latentgeo report` from the tables beside this page -->"
END = "<!-- end of evidence -->"
_EMPTY = "A paper item or a scale that is left empty is that of the row above."


def read_evidence(folder: Path) -> pd.DataFrame:
    """Rows of all notebooks in a folder of results, in the order of the notebooks, with a column ``notebook``.

    Raises:
        ValueError: a file lacks a column.
    """
    fields = [field.name for field in dataclasses.fields(Evidence)]
    tables = []
    for path in sorted(folder.glob(f"*{SUFFIX}.csv")):
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"note": str, "unit": str})
        missing = set(fields) - set(table.columns)
        if missing:
            raise ValueError(f"{path}: expected the columns {', '.join(fields)}, but {', '.join(sorted(missing))} lack")
        table[["unit", "note"]] = table[["unit", "note"]].fillna("")
        tables.append(table[fields].assign(notebook=path.stem.removesuffix(SUFFIX)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*fields, "notebook"])


def _number(value: float, unit: str = "") -> str:
    """Three significant digits and the unit.

    Example:
        >>> [_number(v) for v in (-0.01234, 5.678, 1.4e-08, float("nan"))], _number(1.0, " %")
        (['−0.0123', '5.68', '1.4e−08', '–'], '1 %')
    """
    return "–" if math.isnan(value) else f"{value:.3g}".replace("-", "−") + unit


def format_evidence(table: pd.DataFrame) -> str:
    """The evidence in Markdown, a table for each notebook; items and scales are said once where rows share them.

    Args:
        table: from :func:`read_evidence`.
    """
    lines = []
    for notebook, rows in table.groupby("notebook", sort=False):
        lines += ["", f"### [{notebook}](../../notebooks/{notebook}.ipynb)", ""]
        lines += ["| paper item | ours | value | 95 % interval | tolerance | scale | status |", f"|{'---|' * 7}"]
        above = "", ""
        for row in rows.itertuples():
            unit = f" {row.unit}" if row.unit else ""
            interval = "–" if math.isnan(row.low) else f"[{_number(row.low)}, {_number(row.high)}]{unit}"
            value, tolerance, scale = _number(row.value, unit), _number(row.tolerance, unit), row.note or "–"
            same_item, same = row.item == above[0], (row.item, scale) == above
            above = row.item, scale
            said = ["" if same_item else row.item, row.quantity, value, interval, tolerance, "" if same else scale]
            lines.append(f"| {' | '.join(said)} | {row.status} |")
    return "\n".join(lines[1:])


def with_evidence(page: str, table: pd.DataFrame) -> str:
    """Text of a page with its table of evidence written anew.

    Args:
        page: text with the two marker lines.
        table: from :func:`read_evidence`.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(
            f"expected a clone of latentgeo, whose data/results/README.md has the lines {BEGIN!r} and {END!r} once "
            "each; run this there"
        )
    said = "\n".join(f"- *{status}*: {words}." for status, words in STATUSES.items())
    return f"{before}{BEGIN}\n{said}\n\n{_EMPTY}\n\n{format_evidence(table)}\n{END}{after}"


def update_page() -> Path:
    """Write the table of evidence anew from ``data/results``, and return the path of its page.

    Raises:
        ValueError: this is not a clone of the project.
    """
    path = evidence_page()
    if not path.is_file():
        raise ValueError(
            f"expected a clone of latentgeo with its {path.name}, got the folder {path.parent}; run this there"
        )
    text = path.read_text(encoding="utf-8")
    path.write_text(with_evidence(text, read_evidence(path.parent)), encoding="utf-8")
    return path


def evidence_page() -> Path:
    """Path of the page with the table of evidence."""
    return project_root() / "data" / "results" / "README.md"
