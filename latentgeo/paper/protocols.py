"""Distances between identified points, and between the paper's: the same experiment under two protocols.

The paper measures between the posterior means of the encoder, which other latent coordinates place elsewhere; the
points of the image nearest to the data are identified. Everything that is measured is measured between both.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import pandas as pd
import torch

from latentgeo.adapters.model import POINTS, latent_model
from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.agreement.reliability import compare_reliability, split_into_ends_and_path
from latentgeo.geometry.decoder import as_decoder
from latentgeo.paper.reproduction.evidence import Evidence
from latentgeo.paper.reproduction.verdict import interval, percent
from latentgeo.paper.study import Study, Sweep

PROTOCOLS = {"nearest": "nearest points", "mean": "posterior means"}
_ALONE = "geodesic_one_decoder"


def under_both_protocols(study: Sweep, measure: Callable[[Sweep], pd.DataFrame]) -> pd.DataFrame:
    """What a study measures between nearest points and between posterior means, one table with a column ``points``.

    Args:
        study: a study with a field ``points``.
        measure: what it measures, such as ``lambda study: study.run()``.

    Returns:
        The table; of models with a single decoder without the rows of ``geodesic_one_decoder``, which would repeat
        those of the geodesic.
    """
    tables = [measure(dataclasses.replace(study, points=points)).assign(points=points) for points in PROTOCOLS]
    table = pd.concat(tables, ignore_index=True)
    single = study.config(*study.models()[0]).decoders == 1
    return table[table["method"] != _ALONE].reset_index(drop=True) if single else table


def by_points(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of either protocol of a table from :func:`under_both_protocols`."""
    return {points: table[table["points"] == points] for points in PROTOCOLS}


def compare_points(study: Study, data: int = 100) -> pd.DataFrame:
    r"""Where the points that may stand for test data lie: whether they were found, and how far away they are.

    Args:
        study: the models.
        data: how many of the test data.

    Returns:
        One row for each choice of :meth:`latentgeo.LatentModel.points` (index ``points``), over all models: shares of
        the data whose points ``not converged`` and are ``not unique``; ``largest code``, the largest :math:`\|z\|`; and
        how far the image is from that of the posterior mean, in units of the median distance of the images of two data:
        ``moved`` in the median and ``moved at most``.
    """
    x, rows = study.data().test[:data], []
    for seed in study.seeds:
        model = latent_model(study.trained(seed))
        codes = model.codes(x)
        f = as_decoder(model.decoder, codes)
        images = f(codes).detach()
        apart = f.chords(images, images)
        unit = apart[~torch.eye(len(x), dtype=torch.bool)].median()
        for points in POINTS:
            found = model.points(x, points)
            moved = f.chord(f(found.codes), images).detach() / unit
            row = {"not converged": ~found.converged, "not unique": ~found.unique}
            row |= {"largest code": found.codes.norm(dim=1), "moved": moved, "moved at most": moved}
            rows.append(
                pd.DataFrame({name: column.double().numpy() for name, column in row.items()} | {"points": points})
            )
    how = {
        "not converged": "mean",
        "not unique": "mean",
        "largest code": "max",
        "moved": "median",
        "moved at most": "max",
    }
    return pd.concat(rows).groupby("points", sort=False).agg(how)


def compare_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """Reliability of every method against Euclidean distance, under either protocol: index ``points`` and ``method``.

    Args:
        table: from :func:`under_both_protocols`.
    """
    return pd.concat({points: compare_reliability(of) for points, of in by_points(table).items()}, names=["points"])


def compare_studies(
    studies: Mapping[Hashable, Sweep], tables: Mapping[Hashable, pd.DataFrame], names: Sequence[str]
) -> pd.DataFrame:
    """:func:`compare_protocols` of several studies, and how many of their dimensions they use.

    Args:
        studies: by name, each with a ``latent_dim``.
        tables: of each, from :func:`under_both_protocols`.
        names: of the levels that the studies' names are in the index.

    Returns:
        Index ``names``, ``points`` and ``method``; first the columns ``d`` and ``active``, the number of latent
        dimensions and the mean over models of those in use, see :meth:`latentgeo.paper.Study.active_dimensions`.
    """
    compared = {}
    for key, study in studies.items():
        compared[key] = compare_protocols(tables[key])
        compared[key].insert(0, "d", study.latent_dim)
        compared[key].insert(1, "active", study.active_dimensions().mean())
    return pd.concat(compared, names=names)


def readable(compared: pd.DataFrame) -> pd.DataFrame:
    """A comparison of protocols as text: CV and signal to noise, each against that of Euclidean distance.

    Args:
        compared: from :func:`compare_protocols` or :func:`compare_studies`.

    Returns:
        One row for each: d and active dimensions where they are known; mean CV, CV less Euclidean and the same
        scale-free (percentage points); signal to noise, and over that of Euclidean distance; with 95 % intervals; and
        the mean rank correlation of two models.
    """

    def number(row: pd.Series, name: str) -> str:
        return "{:.3g} [{:.3g}, {:.3g}]".format(*interval(row, name))

    rows = {}
    for key, row in compared.iterrows():
        own = key[-1] == "euclidean"
        rows[*key[:-1], METHOD_NAMES.get(key[-1], key[-1])] = {
            **{name: f"{row[name]:.3g}" for name in ("d", "active") if name in row},
            "CV": percent(*interval(row, "mean_cv")),
            "CV − Euclidean": "" if own else percent(*interval(row, "difference")),
            "scale-free": "" if own else percent(*interval(row, "scale_free_difference")),
            "signal to noise": number(row, "signal_to_noise"),
            "over Euclidean": "" if own else number(row, "signal_ratio"),
            "spearman": f"{row['spearman']:.3f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(compared.index.names)


def effect_of_points(table: pd.DataFrame, method: str = "geodesic", baseline: str | None = None) -> pd.Series:
    """How much steadier a method is between nearest points: its row of :func:`latentgeo.compare_reliability`.

    Its ``difference`` is the mean CV between nearest points minus that between posterior means, with the interval over
    models, the same ones for both.

    Args:
        table: from :func:`under_both_protocols`.
        method: whose distances between nearest points are compared.
        baseline: with whose between posterior means; by default its own. Euclidean distances vary more between nearest
            points, which move along directions that the decoder nearly ignores: their best is between posterior means.
    """
    chosen = {"nearest": method, "mean": baseline or method}
    parts = [of[of["method"] == chosen[points]].assign(method=points) for points, of in by_points(table).items()]
    return compare_reliability(pd.concat(parts), "mean").loc["nearest"]


def split_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of ends and path in the variance of log geodesic distance, one row for either protocol.

    Args:
        table: from :func:`under_both_protocols`.
    """
    splits = {points: split_into_ends_and_path(of) for points, of in by_points(table).items()}
    return pd.DataFrame(splits).T.rename_axis("points")


def headline(compared: pd.DataFrame) -> str:
    """Mean CV of geodesic minus Euclidean distance under both protocols, in one line.

    Args:
        compared: from :func:`compare_protocols`.
    """
    rows = {name: compared.loc[(points, "geodesic")] for points, name in PROTOCOLS.items()}
    gaps = [f"{percent(*interval(of, 'difference'))} ({name})" for name, of in rows.items()]
    return f"CV, geodesic - Euclidean {', '.join(gaps)}"


def in_words(table: pd.DataFrame) -> str:
    """What an experiment found: a sentence for either protocol, and one that compares them.

    Args:
        table: from :func:`under_both_protocols`.
    """
    compared, split = compare_protocols(table), split_protocols(table)
    effects = {"geodesic": effect_of_points(table), "Euclidean": effect_of_points(table, baseline="euclidean")}

    sentences = []
    for points, name in PROTOCOLS.items():
        of = compared.loc[points]
        geodesic, cv, signal = of.loc["geodesic"], of["mean_cv"], of["signal_to_noise"]
        sentences.append(
            f"Between {name}, mean CV: geodesic {percent(cv['geodesic'])}, Euclidean {percent(cv['euclidean'])}, chord "
            f"{percent(cv['ambient_chord'])}; geodesic − Euclidean {percent(*interval(geodesic, 'difference'))}, "
            f"scale-free {percent(*interval(geodesic, 'scale_free_difference'))}. Signal to noise "
            f"{signal['geodesic']:.1f}, {signal['euclidean']:.1f} and {signal['ambient_chord']:.1f}; geodesic / "
            "Euclidean {:.2f} [{:.2f}, {:.2f}]. ".format(*interval(geodesic, "signal_ratio"))
            + f"Of the variance of log geodesic {percent(split.loc[points, 'path'])} is the path's, "
            f"{percent(split.loc[points, 'ends'])} the ends' and {percent(split.loc[points, 'covariance'])} of both "
            "together."
        )
    gaps = [f"{percent(*interval(of, 'difference'))} ({name})" for name, of in effects.items()]
    sentences.append(
        f"Mean CV, geodesic between nearest points − either distance between posterior means: {' and '.join(gaps)}."
    )
    return " ".join(sentences)


def protocol_evidence(item: str, table: pd.DataFrame, note: str, *, status: str | None = None) -> list[Evidence]:
    """Rows of the table of evidence that every experiment with a study gives.

    Args:
        item: what of the paper they answer to.
        table: from :func:`under_both_protocols`.
        note: the scale.
        status: of the paper's own comparison; by default whether its interval lies below zero, which it need not
            where a status is given.

    Returns:
        The rows; that of decoder 0 only where it is one of several.
    """
    compared, split = compare_protocols(table), split_protocols(table)
    effects = {"geodesic": effect_of_points(table), "Euclidean": effect_of_points(table, baseline="euclidean")}
    paper, ours = (compared.loc[(points, "geodesic")] for points in ("mean", "nearest"))

    rows = []
    compared_so = {"mean CV, geodesic − Euclidean, posterior means": "", "the same, scale-free": "scale_free_"}
    for quantity, name in compared_so.items():
        gap = interval(paper, f"{name}difference", 100)
        found = status or ("reproduced" if gap[2] < 0 else "not reproduced")
        rows.append(Evidence(item, quantity, *gap, math.nan if status else 0.0, "%", found, note))
    new = {"status": "new", "note": note}
    if ("mean", _ALONE) in compared.index:
        quantity = "decoder 0 alone − Euclidean, posterior means"
        rows.append(
            Evidence(item, quantity, *interval(compared.loc[("mean", _ALONE)], "difference", 100), unit="%", **new)
        )
    quantity = "mean CV, geodesic − Euclidean, nearest points"
    rows.append(Evidence(item, quantity, *interval(ours, "difference", 100), unit="%", **new))
    for baseline, effect in effects.items():
        quantity = f"mean CV, geodesic between nearest points − {baseline} between posterior means"
        rows.append(Evidence(item, quantity, *interval(effect, "difference", 100), unit="%", **new))
    for points, name in PROTOCOLS.items():
        row = compared.loc[(points, "geodesic")]
        ratio = interval(row, "signal_ratio")
        rows.append(Evidence(item, f"signal to noise, geodesic / Euclidean, {name}", *ratio, **new))
    for points, name in PROTOCOLS.items():
        quantity = f"share of the path in the variance of log geodesic, {name}"
        rows.append(Evidence(item, quantity, *interval(split.loc[points], "path", 100), unit="%", **new))
    return rows
