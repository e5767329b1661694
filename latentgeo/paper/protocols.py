"""Distances between identified points, and between the paper's: the same experiment under two protocols.

The paper measures between the posterior means of the encoder, which other latent coordinates place elsewhere; the
points of the image nearest to the data are identified. Everything that is measured is measured between both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pandas as pd

from latentgeo.agreement.reliability import compare_reliability, split_into_ends_and_path
from latentgeo.paper.reproduction.evidence import Evidence
from latentgeo.paper.study import Sweep

PROTOCOLS = {"nearest": "nearest points", "mean": "posterior means"}


def under_both_protocols(study: Sweep, measure: Callable[[Sweep], pd.DataFrame]) -> pd.DataFrame:
    """What a study measures between nearest points and between posterior means, one table with a column ``points``.

    Args:
        study: a study with a field ``points``.
        measure: what it measures, such as ``lambda study: study.run()``.
    """
    tables = [measure(dataclasses.replace(study, points=points)).assign(points=points) for points in PROTOCOLS]
    return pd.concat(tables, ignore_index=True)


def compare_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """Reliability of every method against Euclidean distance, under either protocol: index ``points`` and ``method``.

    Args:
        table: from :func:`under_both_protocols`.
    """
    return pd.concat({points: compare_reliability(of) for points, of in _by_points(table)}, names=["points"])


def effect_of_points(table: pd.DataFrame, paper: str = "geodesic") -> pd.Series:
    """How much steadier geodesics between nearest points are than what the paper measures between posterior means.

    Args:
        table: from :func:`under_both_protocols`.
        paper: the method between posterior means; ``"euclidean"`` for the paper's baseline. Between nearest points
            Euclidean distance would be none, for these lie far apart along directions that the decoder nearly ignores.

    Returns:
        A row of :func:`latentgeo.compare_reliability`, in which ``difference`` is the difference of the mean CVs, with
        its interval over models, the same ones for both.
    """
    ours = table[(table["method"] == "geodesic") & (table["points"] == "nearest")].assign(method="nearest")
    theirs = table[(table["method"] == paper) & (table["points"] == "mean")].assign(method="mean")
    return compare_reliability(pd.concat([ours, theirs]), "mean").loc["nearest"]


def split_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of ends and path in the variance of log geodesic distance, one row for either protocol.

    Args:
        table: from :func:`under_both_protocols`.
    """
    splits = {points: split_into_ends_and_path(of) for points, of in _by_points(table)}
    return pd.DataFrame(splits).T.rename_axis("points")


def protocol_evidence(item: str, table: pd.DataFrame, note: str, *, status: str | None = None) -> list[Evidence]:
    """Rows of the table of evidence that every experiment with a study gives.

    Args:
        item: what of the paper they answer to.
        table: from :func:`under_both_protocols`.
        note: the scale.
        status: of the paper's own comparison; by default whether its interval lies below zero.
    """
    compared, split = compare_protocols(table), split_protocols(table)
    paper = compared.loc[("mean", "geodesic")]
    alone = compared.loc[("mean", "geodesic_one_decoder")]

    def of(row: pd.Series, name: str) -> tuple[float, float, float]:
        return tuple(100 * float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))

    rows = []
    compared_so = {"mean CV, geodesic − Euclidean, posterior means": "", "the same, scale-free": "scale_free_"}
    for quantity, name in compared_so.items():
        gap = of(paper, f"{name}difference")
        found = status or ("reproduced" if gap[2] < 0 else "not reproduced")
        rows.append(Evidence(item, quantity, *gap, 0.0, "%", found, note))
    new = {"status": "new", "note": note}
    quantity = "decoder 0 alone − Euclidean, posterior means"
    rows.append(Evidence(item, quantity, *of(alone, "difference"), unit="%", **new))
    for baseline, name in (("geodesic", "geodesic"), ("euclidean", "Euclidean")):
        quantity = f"mean CV, geodesic between nearest points − {name} between posterior means"
        rows.append(Evidence(item, quantity, *of(effect_of_points(table, baseline), "difference"), unit="%", **new))
    for points, name in PROTOCOLS.items():
        row = compared.loc[(points, "geodesic")]
        ratio = (float(row[f"signal_ratio{end}"]) for end in ("", "_low", "_high"))
        rows.append(Evidence(item, f"signal to noise, geodesic / Euclidean, {name}", *ratio, **new))
    for points, name in PROTOCOLS.items():
        quantity = f"share of the path in the variance of log geodesic, {name}"
        rows.append(Evidence(item, quantity, *of(split.loc[points], "path"), unit="%", **new))
    return rows


def _by_points(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(points, table[table["points"] == points]) for points in PROTOCOLS]
