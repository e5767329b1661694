import json
import subprocess

import pandas as pd
import pytest

import latentgeo as lg
from latentgeo.paper import cli
from latentgeo.paper.reproduction import manifest
from latentgeo.paper.reproduction.verdict import save_table

SHORT = lg.paper.TrainingConfig(epochs=1, batch_size=64, learning_rate=4e-3, warmup_steps=10)


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_RESULTS", str(tmp_path))
    monkeypatch.setattr(manifest, "_runs", {})
    monkeypatch.setattr(manifest, "_profiles", set())
    study = lg.paper.Study(
        "digits", "mlp", seeds=1, pairs=2, latent_dim=2, decoders=2, training=SHORT, store=tmp_path / "s"
    )
    save_table(study.run(workers=0, progress=False), "distances")
    return tmp_path / "distances.csv"


def test_a_table_is_traced_to_models_code_and_machine(table, capsys):
    assert cli.main(["trace", str(table)]) == 0
    told = capsys.readouterr().out
    (folder,) = (path.name for path in (table.parent / "s").glob("digits-*"))
    assert folder in told
    assert f"torch {manifest.environment()['torch']}" in told
    assert "profile   quick" in told
    record = json.loads((table.parent / "distances.provenance.json").read_text())
    assert record["environment"]["commit"] is None or record["environment"]["commit"] in told
    assert record["runs"][folder]["seconds"] > 0


def test_a_file_that_was_changed_or_has_no_record_is_not_traced(table, capsys):
    other = table.with_name("other.csv")
    pd.DataFrame({"a": [1]}).to_csv(other)
    assert cli.main(["trace", str(other)]) == 2
    assert "latentgeo reproduce --only" in capsys.readouterr().err
    assert cli.main(["trace", str(other.with_name("none.pdf"))]) == 2
    assert "no such file" in capsys.readouterr().err
    table.write_text(table.read_text() + "9\n")
    with pytest.raises(ValueError, match="has been changed since"):
        manifest.trace(table)


def test_results_do_not_count_as_changes_of_the_code_and_sources_do(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    files = [tmp_path / name for name in ("module.py", "figures/a.png", "data/results/a.csv")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first")
    git("init")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    monkeypatch.setattr(manifest, "project_root", lambda: tmp_path)
    dirty = []
    for path in reversed(files):
        path.write_text("second")
        dirty.append(manifest._commit.__wrapped__()["dirty"])
    assert dirty == [False, False, True]
