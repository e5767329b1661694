"""Where files live: resolved from the package, so that notebooks find them from any folder."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """Folder of the checkout that the package runs from; the current folder where it was installed without one."""
    checkout = Path(__file__).resolve().parent.parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def data_dir() -> Path:
    """Folder of downloads, runs and results: ``data/`` of the project."""
    return project_root() / "data"


def runs_dir() -> Path:
    """Folder of the run store: ``LATENTGEO_RUNS``, or ``data/runs``."""
    return Path(os.environ.get("LATENTGEO_RUNS") or data_dir() / "runs")


def figures_dir() -> Path:
    """Folder that notebooks draw into: ``LATENTGEO_FIGURES``, or ``build/figures``.

    ``make evidence`` draws the committed ones, and sets that variable to ``figures/``.
    """
    return Path(os.environ.get("LATENTGEO_FIGURES") or project_root() / "build" / "figures")


def results_dir() -> Path:
    """Folder that notebooks write tables into: ``LATENTGEO_RESULTS``, or ``build/results``.

    ``make evidence`` writes the committed ones, and sets that variable to ``data/results/``.
    """
    return Path(os.environ.get("LATENTGEO_RESULTS") or project_root() / "build" / "results")
