"""Where a figure or a table comes from: a record beside the file, from which :func:`trace` reads it back.

What a process uses on its way (trained models, profiles) is noted as it is used, and written down with whatever the
process saves: the models' keys in the run store, the commit, the versions, the profile, the device and the seconds.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from latentgeo.paper.paths import project_root

_PACKAGES = ("latentgeo", "torch", "numpy", "scipy", "pandas", "safetensors", "matplotlib", "zuko")
_ENDING = ".provenance.json"
_began = time.monotonic()
_runs: dict[str, dict[str, object]] = {}
_profiles: set[str] = set()


def environment(device: str = "cpu") -> dict[str, object]:
    """What a result is computed with: versions, platform, threads, device, and the commit of the checkout."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "device": device,
        **_commit(),
        **versions,
    }


@functools.cache
def _commit() -> dict[str, object]:
    """Commit of the checkout, and whether its tracked files differ from it, but for results; None without git."""

    def git(*arguments: str) -> str:
        options = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        return subprocess.run(["git", "-C", str(project_root()), *arguments], **options).stdout.strip()

    try:
        # A run rewrites figures and tables one by one: none of them says how the next was made.
        sources = ["--", ".", ":(exclude)figures", ":(exclude)data/results"]
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno", *sources))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def used(name: str, **facts: object) -> None:
    """Note that this process has used a trained model.

    Args:
        name: its folder in the run store, which ends with the key.
        **facts: what else is to be kept, such as the seconds of its training.
    """
    _runs[name] = facts


def used_profile(profile: str) -> None:
    """Note that this process works at the scale of a profile."""
    _profiles.add(profile)


def write_record(*paths: Path) -> Path:
    """Write down where files come from, beside the first of them.

    Args:
        *paths: files of one name with different endings, just written.

    Returns:
        Path of the record, ``<name>.provenance.json``.
    """
    record = {
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths},
        "profile": ", ".join(sorted(_profiles)) or None,
        "runs": {name: _runs[name] for name in sorted(_runs)},
        "environment": environment(),
        "seconds": round(time.monotonic() - _began, 1),
    }
    path = _record_of(paths[0])
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def _record_of(path: Path) -> Path:
    return path.with_name(path.stem + _ENDING)


def trace(path: Path) -> str:
    """Say where a figure or a table comes from.

    Args:
        path: of the file.

    Returns:
        Several lines of text.

    Raises:
        ValueError: there is no record of the file, or the file is not the one that the record is of.
    """
    record_path = _record_of(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a figure or a table, got no such file")
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        wanted = record["files"][path.name]
        content = path.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected {record_path.name} beside it with a record of it, got {type(error).__name__}; only "
            "what notebooks save has a record: run the one that makes it, `latentgeo reproduce --only NAME`"
        ) from error
    if hashlib.sha256(content).hexdigest() != wanted:
        raise ValueError(
            f"{path}: expected the file with SHA-256 {wanted[:16]}…, which {record_path.name} describes; the file has "
            "been changed since; run the notebook that makes it"
        )
    told = record["environment"]
    versions = ", ".join(f"{name} {told[name]}" for name in ("python", *_PACKAGES) if name in told)
    trained = sum(float(facts.get("seconds", 0.0)) for facts in record["runs"].values())
    lines = [
        f"{path.name}  SHA-256 {wanted}",
        f"commit    {told['commit'] or 'unknown'}{' with uncommitted changes' if told['dirty'] else ''}",
        f"profile   {record['profile'] or 'none'}",
        f"device    {told['device']}, {told['threads']} threads, {told['platform']}",
        f"versions  {versions}",
        f"seconds   {record['seconds']:.0f} in the process that made it, {trained:.0f} of training in its models",
        f"models    {len(record['runs'])}",
        *(f"  {name}" for name in record["runs"]),
    ]
    return "\n".join(lines)
