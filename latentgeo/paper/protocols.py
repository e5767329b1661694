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
from latentgeo.paper.reproduction.record import Evidence, interval, percent, reliability_headline, reproduced
from latentgeo.paper.study import Study, Sweep

PROTOCOLS = {"nearest": "nearest points", "mean": "posterior means"}
_ALONE = "geodesic_one_decoder"
_UNCONVERGED = 0.01  # share of distances from which a note says that they did not converge


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


def overview(table: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """How long the distances are, and how far to trust them: one row for each choice of points and method.

    Args:
        table: from :func:`under_both_protocols`.
        keys: further columns that the rows are grouped by, such as the data set.

    Returns:
        The number of ``rows``, their ``mean`` value, the share that ``converged`` and of those whose points are
        ``unique``, and the ``largest error``, relative, as the solver estimates it.
    """
    of = table.groupby([*keys, "points", "method"], sort=False)
    columns = {"rows": ("value", "size"), "mean": ("value", "mean"), "converged": ("converged", "mean")}
    columns |= {"unique": ("unique", "mean"), "largest error": ("error", "max")}
    return of.agg(**columns).round(4)


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


def readable(compared: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """A comparison of protocols as text: CV and signal to noise, each against that of Euclidean distance.

    Args:
        compared: from :func:`compare_protocols` or :func:`compare_studies`.
        columns: of the table; by default all of the first sentence below.

    Returns:
        One row for each, with 95 % intervals: ``d`` and ``active`` dimensions where they are known; mean ``CV``,
        ``CV − Euclidean`` and the same ``scale-free`` (percentage points); ``signal to noise``, and ``over Euclidean``,
        its ratio to that of Euclidean distance; and ``spearman``, the mean rank correlation of two models. By name
        also: ``models and pairs``, the difference in CV with models and pairs resampled; ``CV / Euclidean``;
        ``p (models)``, models resampled, and the paper's paired test over pairs, ``t``, ``df`` and ``p``;
        ``scale-free CV``, ``scale-free p (models)``, ``scale-free t`` and ``scale-free p``; the numbers of ``models``,
        ``pairs`` and ``dropped pairs``; and ``not converged``. Euclidean distance is not compared with itself.
    """
    rows = {(*key[:-1], METHOD_NAMES.get(key[-1], key[-1])): _as_text(row, key[-1]) for key, row in compared.iterrows()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(compared.index.names)
    return table[list(columns or [name for name in _SHOWN if name in table])]


_SHOWN = ("d", "active", "CV", "CV − Euclidean", "scale-free", "signal to noise", "over Euclidean", "spearman")


def _as_text(row: pd.Series, method: str) -> dict[str, str]:
    """All columns of :func:`readable`."""

    def number(name: str, style: str = "{:.3g}") -> str:
        return style.format(row[name]) if math.isfinite(row[name]) else "–"

    def with_limits(name: str) -> str:
        numbers = interval(row, name)
        return "{:.3g} [{:.3g}, {:.3g}]".format(*numbers) if all(map(math.isfinite, numbers)) else "–"

    over_both = (row[f"difference{end}"] for end in ("", "_pairs_low", "_pairs_high"))
    against = {
        "CV − Euclidean": percent(*interval(row, "difference")),
        "models and pairs": percent(*over_both),
        "scale-free": percent(*interval(row, "scale_free_difference")),
        "over Euclidean": with_limits("signal_ratio"),
        "CV / Euclidean": with_limits("ratio"),
        "p (models)": number("p_models", "{:.1g}"),
        "t": number("t"),
        "df": number("df"),
        "p": number("p", "{:.1g}"),
        "scale-free p (models)": number("scale_free_p_models", "{:.1g}"),
        "scale-free t": number("scale_free_t"),
        "scale-free p": number("scale_free_p", "{:.1g}"),
    }
    return {
        **{name: number(name) for name in ("d", "active") if name in row},
        **(dict.fromkeys(against, "") if method == "euclidean" else against),
        "CV": percent(*interval(row, "mean_cv")),
        "scale-free CV": percent(row["scale_free_cv"]),
        "signal to noise": with_limits("signal_to_noise"),
        "spearman": number("spearman", "{:.3f}"),
        "models": number("models"),
        "pairs": number("pairs"),
        "dropped pairs": number("dropped_pairs"),
        "not converged": percent(row["unconverged"]),
    }


def against_epochs(studies: Mapping[str, Study], compared: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean CV against epochs of training, as text: whether training for longer would change the comparison.

    Args:
        studies: by name.
        compared: of each, from :func:`compare_protocols`.

    Returns:
        One row for each kind of network and number of epochs: the number of models; the mean CV of geodesics between
        nearest points and between posterior means, and of Euclidean distances between posterior means; and the
        difference of the last two with its interval over models.
    """
    rows = {}
    for name, study in studies.items():
        of = compared[name]
        paper, cv = of.loc[("mean", "geodesic")], of["mean_cv"]
        rows[study.model, study.training.epochs] = {
            "models": f"{paper['models']:.0f}",
            "geodesic, nearest": percent(cv["nearest", "geodesic"]),
            "geodesic, means": percent(cv["mean", "geodesic"]),
            "Euclidean, means": percent(cv["mean", "euclidean"]),
            "geodesic − Euclidean, means": percent(*interval(paper, "difference")),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["network", "epochs"]).sort_index()


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


def readable_split(splits: pd.DataFrame) -> pd.DataFrame:
    """Shares of ends and path as text, with intervals over models, and length over chord: mean ± spread over pairs.

    Args:
        splits: from :func:`split_protocols`, of one experiment or of several.
    """
    rows = {
        key: {
            "ends": percent(*interval(row, "ends")),
            "path": percent(*interval(row, "path")),
            "both together": percent(row["covariance"]),
            "length / chord": f"{row['stretch']:.3f} ± {100 * row['spread']:.2g} %",
        }
        for key, row in splits.iterrows()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(splits.index.names)


def headline(compared: pd.DataFrame) -> str:
    """Mean CV of geodesic minus Euclidean distance under both protocols, in one line.

    Args:
        compared: from :func:`compare_protocols`. Of ensembles, decoder 0 alone comes after all K decoders.
    """
    found = []
    for method in ("geodesic", _ALONE):
        if ("mean", method) in compared.index:
            rows = {name: compared.loc[(points, method)] for points, name in PROTOCOLS.items()}
            gaps = ", ".join(f"{percent(*interval(of, 'difference'))} ({name})" for name, of in rows.items())
            found.append(gaps if method == "geodesic" else f"decoder 0 alone (K = 1) {gaps}")
    return f"CV, geodesic - Euclidean {'; '.join(found)}"


def paper_headline(compared: pd.DataFrame, effect: pd.Series, decoders: int) -> str:
    """What became of the paper's comparison, with K decoders and with decoder 0 alone, in a few lines.

    Args:
        compared: from :func:`compare_protocols`, of an ensemble.
        effect: from :func:`effect_of_points`.
        decoders: the number of decoders K.
    """
    paper, ours = compared.loc["mean"], compared.loc["nearest"]
    row, alone = paper.loc["geodesic"], paper.loc[_ALONE]
    over_both = percent(row["difference"], row["difference_pairs_low"], row["difference_pairs_high"])
    decided = row["difference_high"] < 0 or row["difference_low"] > 0
    return (
        f"between posterior means, as in the paper:\n{reliability_headline(paper)}\n"
        f"K = {decoders}: geodesic - euclidean {percent(*interval(row, 'difference'))} over models "
        f"(p = {row['p_models']:.1g}{'' if decided else '; the interval contains zero: undecided'}), {over_both} over "
        "models and pairs\n"
        f"K = 1 (decoder 0 alone, as in the released code): {percent(*interval(alone, 'difference'))} over models, "
        f"{reproduced(alone['difference_high'] < 0)}; {percent(1 - alone['unconverged'])} of its geodesics converged\n"
        f"paper's paired t-test over pairs, K = {decoders}: t = {row['t']:.2f}, p = {row['p']:.1e}\n"
        f"between nearest points, K = {decoders}: mean CV geodesic {percent(ours.loc['geodesic', 'mean_cv'])}, "
        f"{percent(*interval(effect, 'difference'))} against posterior means"
    )


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


def protocol_evidence(
    item: str, table: pd.DataFrame, note: str, *, decoders: int = 8, status: str | None = None
) -> list[Evidence]:
    """Rows of the table of evidence that every experiment with a study gives.

    Args:
        item: what of the paper they answer to.
        table: from :func:`under_both_protocols`.
        note: the scale.
        decoders: the number of decoders K, on which the paper's comparison depends.
        status: of the paper's own comparison; by default whether its interval lies below zero and at least half of the
            geodesics converged, which need not be where a status is given.

    Returns:
        The rows; that of decoder 0, the only one that the paper's released code uses, only where it is one of several.
    """
    compared, split = compare_protocols(table), split_protocols(table)
    effects = {"geodesic": effect_of_points(table), "Euclidean": effect_of_points(table, baseline="euclidean")}
    paper, ours = (compared.loc[(points, "geodesic")] for points in ("mean", "nearest"))

    rows, new = [], {"item": item, "note": note, "status": "new"}
    share = new | {"unit": "%"}
    compared_so = {
        f"mean CV, geodesic (K = {decoders}) − Euclidean, posterior means": (paper, "difference"),
        f"the same, scale-free (K = {decoders})": (paper, "scale_free_difference"),
    }
    if ("mean", _ALONE) in compared.index:
        alone = compared.loc[("mean", _ALONE)]
        compared_so["mean CV, decoder 0 alone (K = 1) − Euclidean, posterior means"] = (alone, "difference")
    for quantity, (row, name) in compared_so.items():
        unsolved = row["unconverged"] > 0.5
        found = {"status": status or reproduced(row[f"{name}_high"] < 0 and not unsolved), "quantity": quantity}
        found["tolerance"] = math.nan if status else 0.0
        if row["unconverged"] > _UNCONVERGED:
            found["note"] = f"{note}; {percent(row['unconverged'])} of these geodesics did not converge"
        rows.append(Evidence.of(row, name, **share | found))
    quantity = "mean CV, geodesic − Euclidean, nearest points"
    rows.append(Evidence.of(ours, "difference", quantity=quantity, **share))
    for baseline, effect in effects.items():
        quantity = f"mean CV, geodesic between nearest points − {baseline} between posterior means"
        rows.append(Evidence.of(effect, "difference", quantity=quantity, **share))
    for points, name in PROTOCOLS.items():
        quantity = f"signal to noise, geodesic / Euclidean, {name}"
        rows.append(Evidence.of(compared.loc[(points, "geodesic")], "signal_ratio", quantity=quantity, **new))
    for points, name in PROTOCOLS.items():
        quantity = f"share of the path in the variance of log geodesic, {name}"
        rows.append(Evidence.of(split.loc[points], "path", quantity=quantity, **share))
    return rows
