"""Where figures and tables come from: one record for each, all those of a folder in its ``MANIFEST.json``.

A record lists the models that the figure or table shows, its profile, the commit, versions and machine that it was
made with, and the checksums of its files; :func:`trace` reads it back.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import psutil
from filelock import FileLock

from latentgeo.paper.environment import PACKAGES, environment, refuse_uncommitted
from latentgeo.paper.paths import checksum, write_atomically

MANIFEST = "MANIFEST.json"


class Source(Protocol):
    """Models that a figure or a table shows, such as a :class:`latentgeo.paper.Study`.

    Attributes:
        profile: the scale that they are trained at; None for one of their own.
        runs: seconds of training by the name of each model, which in the run store is its folder; None where they
            were not taken.
    """

    profile: str | None
    runs: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Models:
    """A :class:`Source` of models that are not in the run store.

    Example:
        >>> Models("quick", dict.fromkeys(f"mine-seed{seed}" for seed in range(2))).runs
        {'mine-seed0': None, 'mine-seed1': None}
    """

    profile: str | None
    runs: Mapping[str, float | None]


def save_files(folder: Path, files: Mapping[str, bytes], sources: Collection[Source]) -> None:
    """Write the files of a figure or table, and its record into the manifest of their folder.

    Other processes that write into the folder wait. A process that is killed leaves each file as it was or as it is to
    be.

    Args:
        folder: made if it is not there.
        files: content by name: one figure, or one table, in one or several formats.
        sources: the models that it shows, and no others.

    Raises:
        ValueError: the folder is one of committed results and sources have uncommitted changes, a model of the sources
            is not trained, or the manifest is damaged.
    """
    refuse_uncommitted(folder)
    runs = {name: seconds for source in sources for name, seconds in source.runs.items()}
    record = {
        "files": {name: checksum(content) for name, content in files.items()},
        "profile": ", ".join(sorted({source.profile for source in sources if source.profile})) or None,
        "models": dict(sorted(runs.items())),
        "environment": environment(),
        "seconds": round(time.time() - psutil.Process().create_time(), 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{MANIFEST}.lock"):
        others = [other for other in _read(folder) if not other["files"].keys() & files.keys()]
        for name, content in files.items():
            write_atomically(folder / name, content)
        records = sorted([*others, record], key=lambda record: min(record["files"]))
        write_atomically(folder / MANIFEST, (json.dumps(records, indent=2) + "\n").encode())


def _read(folder: Path) -> list[dict]:
    """Records of a folder; none where it has no manifest.

    Raises:
        ValueError: the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        records = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a list of records, got {error}; restore it, or delete it") from error
    whole = isinstance(records, list) and all(isinstance(r, dict) and isinstance(r.get("files"), dict) for r in records)
    if not whole:
        raise ValueError(f"{path}: expected a list of records with files, got something else; restore it, or delete it")
    return records


def trace(path: Path) -> str:
    """Say where a figure or a table comes from.

    Args:
        path: of the file, or of a folder, for all files that have a record there.

    Returns:
        Several lines of text.

    Raises:
        ValueError: there is no record of the file, or the file is not the one that the record is of.
    """
    if path.is_dir():
        names = sorted(name for record in _read(path) for name in record["files"])
        if not names:
            raise ValueError(
                f"{path}: expected a {MANIFEST} of figures or tables, got none; give the folder that has one"
            )
        return "\n\n".join(trace(path / name) for name in names)
    if not path.is_file():
        raise ValueError(f"{path}: expected a figure or a table, got no such file")
    record = next((record for record in _read(path.parent) if path.name in record["files"]), None)
    if record is None:
        raise ValueError(
            f"{path}: expected a record of it in {path.parent / MANIFEST}, got none; only what notebooks save has a "
            "record: run the one that makes it, `latentgeo reproduce --only NAME`"
        )
    wanted = record["files"][path.name]
    if checksum(path.read_bytes()) != wanted:
        raise ValueError(
            f"{path}: expected the file with SHA-256 {wanted[:16]}… that {MANIFEST} describes, but it has been changed "
            "since; run the notebook that makes it"
        )
    told, models = record["environment"], record["models"]
    versions = ", ".join(f"{name} {told[name]}" for name in ("python", *PACKAGES) if name in told)
    trained = sum(seconds or 0.0 for seconds in models.values())
    lines = [
        f"{path.name}  SHA-256 {wanted}",
        f"commit    {told['commit'] or 'unknown'}{' with uncommitted changes' if told['dirty'] else ''}",
        f"profile   {record['profile'] or 'none'}",
        f"device    {told['device']}, {told['threads']} threads, {told['platform']}",
        f"versions  {versions}",
        f"seconds   {record['seconds']:.0f} in the process until it was made, {trained:.0f} of training in its models",
        f"models    {len(models)}",
        *(f"  {name}" for name in models),
    ]
    return "\n".join(lines)
