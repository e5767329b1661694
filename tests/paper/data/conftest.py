"""A place for data sets in which a test finds what it wrote, and nothing else."""

import pytest

from latentgeo.paper import data, paths


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder ``data/`` of a project, and no ``LATENTGEO_DATA``."""
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.delenv("LATENTGEO_DATA", raising=False)
    data._load_cached.cache_clear()
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"
    data._load_cached.cache_clear()


@pytest.fixture
def folder(place, monkeypatch):
    """A folder of the reader's own."""
    monkeypatch.setenv("LATENTGEO_DATA", str(place.parent))
    return place.parent
