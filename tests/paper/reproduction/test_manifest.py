"""Records of figures and tables: whose they are, what two processes or a kill do to them, and the committed ones."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pandas as pd
import pytest

import latentgeo as lg
from latentgeo.paper import cli
from latentgeo.paper.environment import environment
from latentgeo.paper.paths import checksum, project_root
from latentgeo.paper.reproduction.manifest import MANIFEST, Models, save_files, trace
from latentgeo.paper.reproduction.record import save_table

SHORT = lg.paper.TrainingConfig(epochs=1, batch_size=64, learning_rate=4e-3, warmup_steps=10)
OWN = Models("paper", {"mine-seed0": None})


def _records(folder):
    """Records of a folder by the name of each file."""
    return {name: record for record in json.loads((folder / MANIFEST).read_bytes()) for name in record["files"]}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_RESULTS", str(tmp_path / "results"))
    return lg.paper.Study(
        "digits", "mlp", seeds=2, pairs=2, latent_dim=2, decoders=2, training=SHORT, store=tmp_path / "s"
    )


def test_a_record_lists_the_models_of_its_artefact_and_no_others(study, tmp_path):
    table = study.run(workers=0)
    save_table(table, "both", sources=[study])
    save_table(table[table["seed"] == 1], "one", sources=[study.only(1), OWN])
    save_table(table.head(0), "none", sources=[])
    records = _records(tmp_path / "results")
    folders = sorted(path.name for path in (tmp_path / "s").glob("digits-*"))
    assert list(records["both.csv"]["models"]) == folders
    assert min(records["both.csv"]["models"].values()) > 0
    assert list(records["one.csv"]["models"]) == [*(name for name in folders if "-seed1-" in name), "mine-seed0"]
    assert records["none.csv"]["models"] == {}
    profiles = {name: record["profile"] for name, record in records.items()}
    assert profiles == {"both.csv": "quick", "one.csv": "paper, quick", "none.csv": None}


def test_models_that_are_not_trained_are_not_recorded(study, tmp_path):
    with pytest.raises(ValueError, match=r"expected a trained model, got none in .*digits-mlp-seed0"):
        save_table(pd.DataFrame(), "early", sources=[study])
    assert not (tmp_path / "results").exists()


def test_a_table_is_traced_to_models_code_and_machine(study, tmp_path, capsys):
    study.trained(0)
    save_table(pd.DataFrame({"a": [1]}), "traced", sources=[study.only(0)])
    assert cli.main(["trace", str(tmp_path / "results" / "traced.csv")]) == 0
    told = capsys.readouterr().out
    (folder,) = (path.name for path in (tmp_path / "s").glob("digits-*"))
    assert "models    1\n" in told
    assert folder in told
    assert f"torch {environment()['torch']}" in told
    assert "profile   quick" in told
    commit = _records(tmp_path / "results")["traced.csv"]["environment"]["commit"]
    assert commit is None or commit in told


def test_a_folder_is_traced_file_by_file(study, tmp_path, capsys):
    for name in ("second", "first"):
        save_table(pd.DataFrame({"a": [1]}), name, sources=[OWN])
    told = trace(tmp_path / "results")
    assert told == "\n\n".join(trace(tmp_path / "results" / f"{name}.csv") for name in ("first", "second"))
    assert cli.main(["trace", str(tmp_path)]) == 2
    assert f"expected a {MANIFEST}" in capsys.readouterr().err


def test_a_reader_that_has_read_enough_is_no_error():
    command = [sys.executable, "-m", "latentgeo", "trace", str(project_root() / "figures")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"00_")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_file_that_was_changed_or_has_no_record_is_not_traced(tmp_path, capsys):
    save_files(tmp_path, {"a.csv": b"1\n"}, [])
    path, other = tmp_path / "a.csv", tmp_path / "other.csv"
    other.write_text("1\n")
    assert cli.main(["trace", str(other)]) == 2
    assert "latentgeo reproduce --only" in capsys.readouterr().err
    assert cli.main(["trace", str(tmp_path / "none.pdf")]) == 2
    assert "no such file" in capsys.readouterr().err
    path.write_text("1\n9\n")
    with pytest.raises(ValueError, match="has been changed since"):
        trace(path)
    save_files(tmp_path, {"a.csv": b"1\n9\n"}, [OWN])  # written again, it has one record
    assert "mine-seed0" in trace(path)
    for damaged in ("<<<<<<<", "[1]", "[{}]", "null", '{"a": 1}', "3"):
        (tmp_path / MANIFEST).write_text(damaged)
        with pytest.raises(ValueError, match=r"MANIFEST.json: expected a list of records"):
            trace(path)


def _write_many(folder, name, count, barrier):
    barrier.wait(60)
    for i in range(count):
        save_files(folder, {f"{name}{i}.csv": f"{i}\n".encode() * 1000}, [OWN])


def _writers(folder, names, count):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(names) + 1)
    writers = [context.Process(target=_write_many, args=(folder, name, count, barrier)) for name in names]
    for writer in writers:
        writer.start()
    barrier.wait(60)
    return writers


@pytest.mark.thorough
def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    for writer in _writers(tmp_path, "ab", 20):
        writer.join(60)
        assert writer.exitcode == 0
    records = _records(tmp_path)
    assert sorted(records) == sorted(f"{name}{i}.csv" for name in "ab" for i in range(20))
    assert all(
        records[path.name]["files"] == {path.name: checksum(path.read_bytes())} for path in tmp_path.glob("*.csv")
    )


def test_a_writer_that_is_killed_leaves_a_whole_manifest_to_go_on_from(tmp_path):
    (writer,) = _writers(tmp_path, "a", 10_000)
    while not (tmp_path / "a9.csv").exists():
        time.sleep(0.01)
    writer.kill()
    writer.join()
    before = _records(tmp_path)
    assert len(before) >= 9
    save_files(tmp_path, {"b.csv": b""}, [])
    assert _records(tmp_path).keys() == before.keys() | {"b.csv"}


def test_a_manifest_is_replaced_or_left_as_it_was(tmp_path, monkeypatch):
    save_files(tmp_path, {"a.csv": b"1"}, [])
    replace = os.replace

    def full(source, target):
        if target.name == MANIFEST:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    before = (tmp_path / MANIFEST).read_bytes()
    with pytest.raises(OSError, match="No space"):
        save_files(tmp_path, {"b.csv": b"1"}, [])
    assert (tmp_path / MANIFEST).read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("folder", ["figures", "data/results"])
def test_every_committed_figure_and_table_has_a_record_of_its_bytes(folder):
    folder = project_root() / folder
    files = {path.name: path for path in folder.iterdir() if path.suffix in (".pdf", ".png", ".csv")}
    records = _records(folder)
    assert records.keys() == files.keys()
    for name, path in files.items():
        assert records[name]["files"][name] == checksum(path.read_bytes()), name
        assert f"models    {len(records[name]['models'])}\n" in trace(path) + "\n"
        made = records[name]["environment"]  # from what was committed
        assert made["dirty"] is False, name
        assert len(made["commit"]) == 40, name
