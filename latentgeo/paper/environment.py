"""What a result is computed with, and whether its sources are committed."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from latentgeo.paper.paths import project_root

PACKAGES = ("latentgeo", "torch", "numpy", "scipy", "pandas", "safetensors", "matplotlib", "zuko")
RESULTS = ("figures", "data/results")  # folders whose files are committed with a record of the commit before
# The part of the README that `latentgeo report` writes from them.
BEGIN = "<!-- evidence: written by `latentgeo report` from data/results -->"
END = "<!-- end of evidence -->"


def environment() -> dict[str, object]:
    """Versions, platform, threads and device, and the commit of the checkout; the commit is None without git.

    ``dirty`` says whether tracked files differ from the commit, other than results.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        commit, dirty = _git("rev-parse", "HEAD").strip(), bool(_changes())
    except (OSError, subprocess.SubprocessError):
        commit = dirty = None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "commit": commit,
        "dirty": dirty,
        **versions,
    }


def refuse_uncommitted(folder: Path) -> None:
    """Let files be written into the committed ``figures/`` and ``data/results/`` from a clean commit only.

    Args:
        folder: any; only these two, and folders in them, are ever refused.

    Raises:
        ValueError: it is one of them, and tracked files other than results have uncommitted changes, or git does not
            say.
    """
    if not any(folder.resolve().is_relative_to((project_root() / name).resolve()) for name in RESULTS):
        return
    try:
        changes = _changes()
    except (OSError, subprocess.SubprocessError) as error:
        changes = [f"(git failed: {error})"]
    if changes:
        raise ValueError(
            f"{folder}: expected sources without uncommitted changes, as its files name the commit that they come "
            f"from; got changes in {', '.join(changes)}; commit them, or have LATENTGEO_FIGURES and LATENTGEO_RESULTS "
            "name other folders, such as build/figures and build/results"
        )


def _git(*arguments: str) -> str:
    options = {"capture_output": True, "check": True, "timeout": 60, "encoding": "utf-8"}
    return subprocess.run(["git", "-C", str(project_root()), *arguments], **options).stdout


def _changes() -> list[str]:
    """Tracked files that differ from the commit: a run writes its results one by one, so these do not count.

    Raises:
        OSError, subprocess.SubprocessError: git, or a commit, is not there.
    """
    sources = ("--", ".", *(f":(exclude){name}" for name in RESULTS))
    changes = _git("diff", "HEAD", "--name-only", "--relative", *sources).splitlines()
    readme = project_root() / "README.md"
    if readme.name in changes and readme.is_file():
        texts = readme.read_text(encoding="utf-8"), _git("show", f"HEAD:./{readme.name}")
        written, committed = ((text.partition(BEGIN)[0], text.partition(END)[2]) for text in texts)
        if written == committed:
            changes.remove(readme.name)
    return changes
