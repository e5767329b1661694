"""The page with the table of evidence is that of the committed results."""

import dataclasses

import pandas as pd
import pytest

from latentgeo.paper.reproduction import evidence
from latentgeo.paper.reproduction.evidence import evidence_page, format_evidence, read_evidence, with_evidence
from latentgeo.paper.reproduction.record import NEEDS_DATA, Evidence, record

ROW = Evidence(
    item="claim",
    quantity="CV",
    value=1.25,
    low=0.5,
    high=2.0,
    unit="%",
    status="paper result reproduced",
    note="S = 3",
)


@pytest.fixture
def save(monkeypatch, tmp_path):
    """A function that records rows of a notebook among results of its own."""
    monkeypatch.setenv("LATENTGEO_RESULTS", str(tmp_path))

    def save(name, *rows):
        record(name, profile="quick", claim="It holds.", status="verified", headline="1", evidence=rows)

    return save


def test_the_page_shows_the_committed_results():
    """Stale after a change of data/results: `latentgeo report` writes it anew."""
    page = evidence_page()
    assert with_evidence(page.read_text(encoding="utf-8"), read_evidence(page.parent)) == page.read_text(
        encoding="utf-8"
    )


def test_a_changed_number_makes_the_page_stale(save, tmp_path):
    save("07_one", ROW)
    before = with_evidence(f"a\n{evidence.BEGIN}\nstale\n{evidence.END}\nb", read_evidence(tmp_path))
    assert before.startswith("a\n")
    assert before.endswith("\nb")
    assert "stale" not in before
    assert "### [07_one](../../notebooks/07_one.ipynb)\n" in before
    assert "| claim | CV | 1.25 % | [0.5, 2] % | – | S = 3 | paper result reproduced |" in before
    assert with_evidence(before, read_evidence(tmp_path)) == before
    save("07_one", dataclasses.replace(ROW, value=1.26))
    assert with_evidence(before, read_evidence(tmp_path)) != before


def test_rows_come_back_as_they_were_saved_in_the_order_of_the_notebooks(save, tmp_path):
    save("09_two", Evidence(item="b", quantity="y", value=float("nan"), status=NEEDS_DATA))
    save("07_one", Evidence(item="a", quantity="x", value=1 / 3, tolerance=1e-6, status="verified"))
    table = read_evidence(tmp_path)
    assert table["notebook"].tolist() == ["07_one", "09_two"]
    assert table["value"][0] == 1 / 3
    assert (tmp_path / "MANIFEST.json").exists()
    assert "| b | y | – | – | – | – | needs data |" in format_evidence(table)
    assert read_evidence(tmp_path / "none").empty


def test_items_and_scales_are_said_once_where_rows_share_them(save, tmp_path):
    others = {"item": "other"}, {"item": "other", "note": "S = 9"}, {"item": "other", "note": ""}
    save("07_one", ROW, ROW, *(dataclasses.replace(ROW, **other) for other in others))
    rows = [line.split(" | ") for line in format_evidence(read_evidence(tmp_path)).splitlines() if "| CV" in line]
    assert [(row[0].strip("| "), row[5]) for row in rows] == [
        ("claim", "S = 3"),
        ("", ""),
        ("other", "S = 3"),
        ("", "S = 9"),
        ("", "–"),
    ]


def test_a_page_without_a_place_and_a_table_without_a_column_are_refused(tmp_path):
    with pytest.raises(ValueError, match="once each"):
        with_evidence("no markers", read_evidence(tmp_path))
    pd.DataFrame({"item": ["a"]}).to_csv(tmp_path / "07_one_evidence.csv", index=False)
    with pytest.raises(ValueError, match="but high"):
        read_evidence(tmp_path)
