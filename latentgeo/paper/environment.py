"""What a result is computed with, and whether its sources are committed."""

from __future__ import annotations

import functools
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from latentgeo.paper.paths import project_root

PACKAGES = ("latentgeo", "torch", "numpy", "scipy", "pandas", "safetensors", "matplotlib", "zuko")
RESULTS = ("figures", "data/results")  # folders whose files are committed with a record of the commit before


def environment(device: str | torch.device = "cpu") -> dict[str, object]:
    """Versions, platform, threads and device, and the commit of the checkout; the commit is None without git.

    ``dirty`` says whether tracked files differ from the commit, other than results.

    Args:
        device: that is computed on.
    """
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    commit, changes = _sources(project_root())
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device),
        "commit": commit,
        "dirty": bool(changes) if commit else None,
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
    _, changes = _sources(project_root())
    if changes:
        raise ValueError(
            f"{folder}: expected sources without uncommitted changes, as its files name the commit that they come "
            f"from; got changes in {', '.join(changes)}; commit them and start again, or have LATENTGEO_FIGURES and "
            "LATENTGEO_RESULTS name other folders, such as build/figures and build/results"
        )


@functools.cache
def _sources(root: Path) -> tuple[str | None, list[str]]:
    """The commit, and tracked files that differ from it; a run writes results one by one, so these do not count.

    Asked for once in a process: a commit that is made meanwhile is not of the code that it runs.
    """

    def git(*arguments: str) -> str:
        options = {"capture_output": True, "check": True, "timeout": 60, "encoding": "utf-8"}
        return subprocess.run(["git", "-C", str(root), *arguments], **options).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        others = ("--", ".", *(f":(exclude){name}" for name in RESULTS))
        changes = git("diff", "HEAD", "--name-only", "--relative", *others).splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return None, [f"(git failed: {error})"]
    return commit, changes
