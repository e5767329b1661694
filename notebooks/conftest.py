"""Notebooks whose data set is not on this machine are skipped under pytest, and the summary says so."""

from __future__ import annotations

import functools
import json

import pytest

from latentgeo.paper.data import MissingDataError, load_dataset


def pytest_configure(config: pytest.Config) -> None:
    """Show skipped notebooks with their reason in the summary, also without ``-rs``."""
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"


@functools.cache
def _missing(path: str) -> str | None:
    """Why a notebook cannot run here: its metadata name the data set that it cannot do without."""
    with open(path, encoding="utf-8") as file:
        name = json.load(file)["metadata"].get("latentgeo", {}).get("data")
    try:
        if name is not None:
            load_dataset(name)
    except MissingDataError as error:
        return f"needs data: {error}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all cells of such a notebook."""
    for item in items:
        if item.path.suffix == ".ipynb" and (reason := _missing(str(item.path))):
            item.add_marker(pytest.mark.skip(reason=reason))
