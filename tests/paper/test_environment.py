"""Which changes keep committed results from being written."""

import subprocess

import pytest

from latentgeo.paper import environment as module
from latentgeo.paper.environment import environment, refuse_uncommitted
from latentgeo.paper.reproduction.manifest import save_files


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    for name in ("module.py", "figures/a.png", "data/results/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    (tmp_path / "README.md").write_text("first")
    git("init")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    return tmp_path


def test_results_and_their_table_do_not_count_as_changes(checkout):
    (checkout / "figures" / "a.png").write_text("second")
    (checkout / "data" / "results" / "a.csv").write_text("second")
    (checkout / "untracked.py").write_text("anything")
    assert environment()["dirty"] is False
    save_files(checkout / "data" / "results", {"b.csv": b"1"}, [])
    assert (checkout / "data" / "results" / "b.csv").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["module.py", "README.md"])
def test_changed_sources_are_named_and_committed_folders_closed_to_them(checkout, name):
    (checkout / name).write_text("second")
    assert environment()["dirty"] is True
    for folder in ("figures", "data/results", "figures/new"):
        with pytest.raises(ValueError, match=f"got changes in {name}; commit them and start again, or have"):
            save_files(checkout / folder, {"a.png": b"2"}, [])
    assert (checkout / "figures" / "a.png").read_text() == "first"
    assert not (checkout / "figures" / "MANIFEST.json").exists()
    for folder in (checkout / "build" / "figures", checkout / "data" / "runs"):
        save_files(folder, {"a.png": b"2"}, [])
    assert (checkout / "build" / "figures" / "a.png").read_bytes() == b"2"


def test_a_commit_that_is_made_meanwhile_is_not_of_the_code_that_runs(checkout):
    (checkout / "module.py").write_text("second")
    before = environment()
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-am", "second"]
    subprocess.run(["git", "-C", checkout, *commit], check=True, capture_output=True)
    assert environment() == before
    with pytest.raises(ValueError, match=r"got changes in module.py"):
        refuse_uncommitted(checkout / "figures")


def test_a_folder_without_a_commit_is_no_clean_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["commit"] is environment()["dirty"] is None
    with pytest.raises(ValueError, match="git failed"):
        refuse_uncommitted(tmp_path / "figures")
    refuse_uncommitted(tmp_path / "build" / "figures")
