"""The same experiment between identified points, and between the paper's."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import latentgeo as lg
from latentgeo.agreement.pairs import METHODS
from latentgeo.paper.protocols import (
    against_epochs,
    by_points,
    compare_points,
    compare_protocols,
    compare_studies,
    effect_of_points,
    headline,
    in_words,
    overview,
    paper_headline,
    protocol_evidence,
    readable,
    readable_split,
    split_protocols,
    under_both_protocols,
)
from latentgeo.paper.reproduction.record import interval, percent

SPREAD = {"nearest": 0.01, "mean": 0.05}


@pytest.fixture
def table():
    """Distances of six models and thirty pairs; models agree better between nearest points."""
    random, rows = np.random.default_rng(0), []
    for points, spread in SPREAD.items():
        for method in METHODS:
            noise = {"data": 0.0, "euclidean": 0.1}.get(method, spread) * random.standard_normal((6, 30))
            value = (1 + np.arange(30)) * (1 + noise)
            seed, pair = np.indices(value.shape)
            columns = {"seed": seed.ravel(), "pair": pair.ravel(), "value": value.ravel()}
            rows.append(pd.DataFrame(columns).assign(method=method, points=points))
    return pd.concat(rows, ignore_index=True)


def test_protocols_are_compared_each_with_its_own_baseline(table):
    compared = compare_protocols(table)
    for points, of in by_points(table).items():
        pd.testing.assert_frame_equal(compared.loc[points], lg.compare_reliability(of))
    effect = effect_of_points(table)
    gap = compared.loc[("nearest", "geodesic"), "mean_cv"] - compared.loc[("mean", "geodesic"), "mean_cv"]
    assert effect["difference"] == pytest.approx(gap)
    assert effect["difference_high"] < 0
    across = compared.loc[("nearest", "geodesic"), "mean_cv"] - compared.loc[("mean", "euclidean"), "mean_cv"]
    assert effect_of_points(table, baseline="euclidean")["difference"] == pytest.approx(across)
    assert effect_of_points(table, "data")["difference"] == 0  # the control: what no model enters
    assert split_protocols(table)[["ends", "path", "covariance"]].sum(1).to_numpy() == pytest.approx(1.0)


def test_evidence_of_one_decoder_and_of_several(table):
    rows = protocol_evidence("item", table, "note")
    single = protocol_evidence("item", table[table["method"] != "geodesic_one_decoder"], "note", status="new")
    names = [row.quantity for row in rows]
    assert len(set(names)) == len(names) == len(single) + 1
    assert {row.status for row in rows} == {"paper result reproduced", "new"}
    assert {row.status for row in single} == {"new"}
    assert rows[0].tolerance == 0.0
    lost = table.assign(converged=table["method"] != "geodesic_one_decoder")
    status = {row.quantity: row.status for row in protocol_evidence("item", lost, "note")}
    alone = [of for quantity, of in status.items() if "K = 1" in quantity]
    assert alone == ["paper result not reproduced"]  # curves that may still become shorter bear nothing out
    assert status[rows[0].quantity] == "paper result reproduced"
    assert all(math.isnan(row.tolerance) for row in single)


def test_a_comparison_in_words(table):
    studies = {"a": _Fixed(3), "b": _Fixed(5)}
    compared = compare_studies(studies, {"a": table, "b": table}, ["name"])
    assert compared.columns[:2].tolist() == ["d", "active"]
    shown = readable(compared)
    assert len(shown) == 2 * 2 * (len(METHODS) - 1)
    assert (shown.xs("b", level="name")["d"] == "5").all()
    row = compared.loc[("a", "mean", "geodesic")]
    assert shown.loc[("a", "mean", "geodesic"), "CV"].startswith(f"{100 * row.mean_cv:.1f} % [")
    assert (shown.xs("Euclidean", level="method")["CV − Euclidean"] == "").all()
    gaps = [100 * compared.loc[("a", points, "geodesic"), "difference"] for points in SPREAD]
    assert all(f" {gap:.1f} % [" in headline(compared.loc["a"]) for gap in gaps)
    assert f"geodesic {100 * row.mean_cv:.1f} %, Euclidean" in in_words(table)


class _Fixed:
    """A study as far as a comparison asks."""

    model = "mlp"

    def __init__(self, latent_dim, epochs=1):
        self.latent_dim = latent_dim
        self.training = lg.paper.TrainingConfig(epochs=epochs)

    def active_dimensions(self):
        return pd.Series([2, 3])


@pytest.mark.thorough
def test_points_of_a_study(trained, counts):
    found = compare_points(trained, data=20)
    assert found.index.tolist() == ["nearest", "posterior", "mean"]
    assert (found.loc["mean", ["not converged", "not unique", "moved", "moved at most"]] == 0).all()
    assert (found["moved at most"] >= found["moved"]).all()
    codes = torch.cat([trained.trained(seed).encode(counts.test[:20]) for seed in trained.seeds])
    assert found.loc["mean", "largest code"] == pytest.approx(codes.norm(dim=1).max().item())


@pytest.mark.thorough
def test_a_single_decoder_is_not_repeated(tmp_path):
    config = lg.paper.TrainingConfig(epochs=1, batch_size=64, warmup_steps=2)
    for decoders, methods in ((1, len(METHODS) - 1), (2, len(METHODS))):
        study = lg.paper.Study("digits", "mlp", 1, 4, decoders=decoders, training=config, store=tmp_path)
        table = under_both_protocols(study, lambda study: study.run(workers=0))
        assert table["method"].nunique() == methods
        assert list(table["points"].unique()) == list(SPREAD)
        wide = table.pivot(index=["seed", "pair"], columns=["method", "points"], values="value")
        assert (wide["data", "nearest"] == wide["data", "mean"]).all()
        assert (wide["geodesic", "nearest"] != wide["geodesic", "mean"]).any()


def test_protocols_in_tables_and_lines(table):
    compared = compare_protocols(table)
    shown = overview(table.assign(converged=True, unique=True, error=0.01))
    assert (shown["rows"] == table.groupby(["points", "method"], sort=False).size()).all()
    assert list(readable(compared, "CV", "p").columns) == ["CV", "p"]
    split = split_protocols(table)
    stretch, spread = split.loc["nearest", ["stretch", "spread"]]
    assert readable_split(split).loc["nearest", "length / chord"] == f"{stretch:.3f} ± {100 * spread:.2g} %"
    said = paper_headline(compared, effect_of_points(table), decoders=8)
    alone = compared.loc[("mean", "geodesic_one_decoder")]
    assert percent(*interval(alone, "difference")) in said.partition("K = 1")[2]
    assert percent(*interval(compared.loc[("mean", "geodesic")], "difference")) in said.partition("K = 1")[0]


def test_protocols_against_epochs(table):
    longer = table.assign(value=table["value"].where(table["method"] == "euclidean", table["value"] ** 2))
    tables = {"longer": longer, "shorter": table}
    compared = {name: compare_protocols(of) for name, of in tables.items()}
    found = against_epochs({"longer": _Fixed(3, 40), "shorter": _Fixed(3, 12)}, compared)
    assert found.index.tolist() == [("mlp", 12), ("mlp", 40)]
    for epochs, name in ((12, "shorter"), (40, "longer")):
        row, of = found.loc[("mlp", epochs)], compared[name]
        assert row["models"] == "6"
        assert row["geodesic, nearest"] == percent(of.loc[("nearest", "geodesic"), "mean_cv"])
        assert row["Euclidean, means"] == percent(of.loc[("mean", "euclidean"), "mean_cv"])
        assert row.iloc[-1] == percent(*interval(of.loc[("mean", "geodesic")], "difference"))
    assert found["geodesic, means"].nunique() == 2
