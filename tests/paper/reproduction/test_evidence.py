import math

import pandas as pd
import pytest

from latentgeo.paper.paths import project_root
from latentgeo.paper.reproduction import evidence
from latentgeo.paper.reproduction.evidence import Evidence, format_evidence, read_evidence, save_evidence, with_evidence


def test_the_readme_shows_the_committed_results():
    """Stale after a change of data/results: `latentgeo report` writes it anew."""
    text = (project_root() / "README.md").read_text(encoding="utf-8")
    assert with_evidence(text, read_evidence(project_root() / "data" / "results")) == text


def test_a_changed_number_makes_the_readme_stale(monkeypatch, tmp_path):
    rows = [Evidence("claim", "CV", 1.25, 0.5, 2.0, unit="%", note="S = 3"), Evidence("other", "x", 3e-9)]
    monkeypatch.setenv("LATENTGEO_RESULTS", str(tmp_path))
    save_evidence(rows, "07_one", [])
    before = with_evidence(f"a\n{evidence.BEGIN}\nold\n{evidence.END}\nb", read_evidence(tmp_path))
    assert before.startswith("a\n")
    assert before.endswith("\nb")
    assert "old" not in before
    assert "| claim | CV ([07](notebooks/07_one.ipynb)) | 1.25 % | [0.5, 2] % | – | S = 3 | reproduced |" in before
    assert with_evidence(before, read_evidence(tmp_path)) == before
    save_evidence([Evidence("claim", "CV", 1.26, 0.5, 2.0, unit="%", note="S = 3"), rows[1]], "07_one", [])
    assert with_evidence(before, read_evidence(tmp_path)) != before


def test_rows_come_back_as_they_were_saved_in_the_order_of_the_notebooks(monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTGEO_RESULTS", str(tmp_path))
    save_evidence([Evidence("b", "y", math.nan, status="needs data")], "09_two", [])
    save_evidence([Evidence("a", "x", 1 / 3, tolerance=1e-6)], "07_one", [])
    table = read_evidence(tmp_path)
    assert table["notebook"].tolist() == ["07_one", "09_two"]
    assert table["value"][0] == 1 / 3
    assert (tmp_path / "MANIFEST.json").exists()
    assert "| b | y ([09](notebooks/09_two.ipynb)) | – | – | – |  | needs data |" in format_evidence(table)
    assert read_evidence(tmp_path / "none").empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": math.nan}, "expected a finite number"),
        ({"value": 1.0, "status": "good"}, "status: expected one of reproduced"),
        ({"value": 1.0, "low": 2.0, "high": 1.0}, "expected an interval"),
        ({"value": 1.0, "low": 2.0}, "expected an interval"),
    ],
)
def test_rows_that_say_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Evidence("item", "quantity", **arguments)


def test_a_readme_without_a_place_and_a_table_without_a_column_are_refused(tmp_path):
    with pytest.raises(ValueError, match="once each"):
        with_evidence("no markers", read_evidence(tmp_path))
    pd.DataFrame({"item": ["a"]}).to_csv(tmp_path / "07_one_evidence.csv", index=False)
    with pytest.raises(ValueError, match="but high"):
        read_evidence(tmp_path)
