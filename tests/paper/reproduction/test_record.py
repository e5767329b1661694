"""The record of a notebook: its verdict is shown, and what it saves has the models that it shows."""

import json
import math

import pandas as pd
import pytest

from latentgeo.paper.reproduction.manifest import MANIFEST, Models
from latentgeo.paper.reproduction.record import MIME, STATUSES, Evidence, predicted, record, reproduced, verified


def test_a_record_saves_all_of_a_notebook_each_with_its_models_and_says_what_was_found(tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setenv("LATENTGEO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LATENTGEO_FIGURES", str(tmp_path / "figures"))
    shown = plt.get_fignums()
    both, one = Models("quick", {"a": 1.0, "b": 2.0}), Models("quick", {"a": 1.0})
    table = pd.DataFrame({"x": [1.0]})
    said = record(
        "07_some",
        profile="quick",
        claim="It holds.",
        status=reproduced(False),
        headline="n = 0",
        evidence=[Evidence(item="i", quantity="q", value=1.0, status="new")],
        tables={"07_all": table, "07_one": (table, [one])},
        figures={"07_drawn": (plt.figure(), [one])},
        sources=[both],
    )
    assert str(said) == "paper result not reproduced (quick scale): It holds.\nn = 0"
    payload = said._repr_mimebundle_()[MIME]
    assert payload == {"claim": "It holds.", "status": "paper result not reproduced", "headline": "n = 0"}
    records = {
        name: list(of["models"])
        for folder in ("results", "figures")
        for of in json.loads((tmp_path / folder / MANIFEST).read_bytes())
        for name in of["files"]
    }
    assert records == {
        "07_all.csv": ["a", "b"],
        "07_one.csv": ["a"],
        "07_some_evidence.csv": ["a", "b"],
        "07_drawn.pdf": ["a"],
        "07_drawn.png": ["a"],
    }
    assert plt.get_fignums() == shown


def test_every_status_is_explained():
    given = {make(holds) for make in (verified, reproduced, predicted) for holds in (True, False)}
    assert given | {"new", "needs data"} == set(STATUSES)
    with pytest.raises(ValueError, match=r"expected one of verified; .* got 'good'"):
        record("07_some", profile="quick", claim="It holds.", status="good", headline="n = 0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": math.nan}, "expected a finite number"),
        ({"value": 1.0, "status": "good"}, "status: expected one of verified"),
        ({"value": 1.0, "low": 2.0, "high": 1.0}, "expected an interval"),
        ({"value": 1.0, "low": 2.0}, "expected an interval"),
        ({"value": 5.0, "low": 0.0, "high": 1.0}, "expected an interval that holds the value 5.0"),
    ],
)
def test_rows_that_say_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Evidence(item="item", quantity="quantity", **{"status": "new"} | arguments)
