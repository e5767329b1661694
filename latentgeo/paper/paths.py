"""Where files live, resolved from the package, so that notebooks find them from any folder; and how they are kept."""

from __future__ import annotations

import hashlib
import os
import secrets
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


def checksum(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def file_checksum(path: Path | str) -> str:
    """SHA-256 in hexadecimal of a file that need not fit into the memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent, also after a crash or on a full disk.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    # Not by the number of the process: two machines that share the folder may have the same.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def move_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it is neither trusted nor lost, and return its new path."""
    candidates = (path.with_name(f"{path.name}.damaged{i}") for i in range(100_000))
    aside = next(candidate for candidate in candidates if not candidate.exists())
    os.replace(path, aside)
    return aside
