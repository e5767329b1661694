"""The theorem's table: a small one made here, and the committed one of all models and families."""

import pandas as pd
import pytest
import torch

from latentgeo.identifiability.invariance import CHANGED, QUANTITIES
from latentgeo.paper.paths import data_dir
from latentgeo.paper.theorem import SLOW, families, identifiability_table, intact_controls, surfaces


@pytest.mark.thorough
def test_the_table_has_every_model_family_and_quantity():
    names = ["metric tensor", "geodesic distance", "codes", "Euclidean distance"]
    table = identifiability_table(surfaces(), quantities=names, only=["rotation", "twist"])
    assert len(table) == 3 * 2 * 4
    assert (table.loc[table["kind"] == "identified", "verdict"] == "agrees").all()
    intact = intact_controls(table)
    assert intact.index.tolist() == ["codes", "Euclidean distance"]
    assert intact.loc["Euclidean distance"].tolist() == [1.0, 0.0]  # a rotation keeps it, the twist does not


def test_the_twist_turns_the_median_code_by_one_radian():
    z = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angles = families(z)["twist"].rate * z.square().sum(1)
    assert angles.median().item() == pytest.approx(1.0)


@pytest.fixture(scope="module")
def committed():
    return pd.read_csv(data_dir() / "results" / "identifiability.csv")


def test_the_committed_table_is_of_five_models_under_five_families(committed):
    counts = committed.groupby(["model", "family"]).size().unstack()
    assert counts.shape == (5, 5)
    quantities = committed["quantity"].nunique()
    assert (counts.loc[["sphere", "swiss roll", "torus"]] == quantities).all().all()
    assert (counts.drop(index=["sphere", "swiss roll", "torus"]) == quantities - 1).all().all()  # no d^4 tensor


def test_the_committed_table_has_every_quantity(committed):
    assert set(committed["quantity"]) == set(QUANTITIES)


def test_what_is_identified_agrees_in_the_committed_table_and_controls_change(committed):
    identified = committed[committed["kind"] == "identified"]
    assert (identified["verdict"] == "agrees").all()
    assert identified["tolerance"].max() <= 1e-6
    solver = identified["quantity"].isin(["geodesic distance", "geodesic path", "nearest point", *SLOW])
    assert identified.loc[~solver, "difference"].max() <= 1e-8
    controls = committed[committed["kind"] == "not identified"]
    assert (controls.groupby(["model", "quantity"])["difference"].max() >= CHANGED).all()
    assert (intact_controls(committed)["rotation"].drop("codes") == 1).all()
