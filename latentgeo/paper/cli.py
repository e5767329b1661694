"""Command line: ``latentgeo reproduce``, ``report``, ``trace`` and ``data``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from latentgeo.extras import require
from latentgeo.paper.data import DATASETS, DataError, fetch_dataset
from latentgeo.paper.paths import project_root
from latentgeo.paper.profiles import PROFILES
from latentgeo.paper.reproduction.evidence import update_page
from latentgeo.paper.reproduction.html import write_report
from latentgeo.paper.reproduction.manifest import trace
from latentgeo.paper.reproduction.notebooks import (
    FAILED,
    INTERRUPTED,
    format_table,
    read_outcomes,
    reproduce,
    show_outputs,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="latentgeo", description="Identified geometry of deep latent variable models")
    parser.add_argument("--version", action="version", version=f"latentgeo {version('latentgeo')}")
    commands = parser.add_subparsers(dest="command", required=True)
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        default=project_root() / "build" / "reproduce",
        help="for executed notebooks and figures (default: build/reproduce)",
    )
    run = commands.add_parser("reproduce", parents=[output], help="run the notebooks and print what each of them found")
    run.add_argument("--profile", choices=PROFILES, default="quick", help="scale of the experiments (default: quick)")
    run.add_argument("--only", nargs="+", default=(), metavar="NAME", help="beginnings of notebook names, such as 07")
    run.add_argument(
        "--from", dest="first", default="", metavar="NAME", help="beginning of the name of the first notebook to run"
    )
    run.add_argument("--keep-going", action="store_true", help="run the others when a notebook fails")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks run at the same time (default: 1)")
    run.add_argument("--parameters", type=Path, metavar="FILE", help="YAML or JSON file of notebook parameters")
    report = commands.add_parser(
        "report",
        parents=[output],
        help="write the table of evidence in data/results/README.md, and what `reproduce` left as HTML",
    )
    report.add_argument("--in-place", action="store_true", help="show its outputs in notebooks/ too")
    tracing = commands.add_parser("trace", help="say where a figure or a table comes from")
    tracing.add_argument("path", type=Path, nargs="+", metavar="PATH", help="a figure, a table, or a folder of them")
    data = commands.add_parser("data", help="get a data set: from here, from Debian's package, or by download")
    data.add_argument("name", choices=DATASETS)
    return parser


def _read_parameters(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    require("--parameters", "notebooks", "yaml")
    import yaml

    try:
        parameters = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--parameters: {path} cannot be read: {error}") from error
    if not isinstance(parameters, dict):
        raise ValueError(f"--parameters: expected {path} to map names to values, got {type(parameters).__name__}")
    if "profile" in parameters:
        raise ValueError("--parameters: the profile is chosen with --profile, not in the file")
    return parameters


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: command-line arguments; those of the process by default.

    Returns:
        Exit status: 0, 1 where a notebook failed or data could not be got, 2 for unusable arguments, or files that
        cannot be read or written.
    """
    options = vars(_parser().parse_args(arguments))
    try:
        return _COMMANDS[options.pop("command")](**options) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"latentgeo: {error}", file=sys.stderr)
        return 1 if isinstance(error, DataError) else 2


def _data(name: str) -> None:
    fetch_dataset(name)


def _trace(path: Sequence[Path]) -> None:
    told = "\n\n".join(map(trace, path))
    try:
        print(told, flush=True)
    except BrokenPipeError:  # whoever reads has read enough, as `head` does; Python flushes once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(output: Path, in_place: bool) -> None:
    print(update_page())
    outcomes = read_outcomes(output)
    if in_place:
        require("--in-place", "notebooks", "nbformat")
        print(*show_outputs(output), sep="\n")
    if outcomes:
        print(write_report(output, outcomes))


def _reproduce(parameters: Path | None, output: Path, **options: object) -> int:
    require("`latentgeo reproduce`", "notebooks", "papermill", "nbconvert", "jupyterlab", "jupyter_server_mathjax")
    outcomes = reproduce(parameters=_read_parameters(parameters), output=output, **options)
    print(f"\n{format_table(outcomes)}")
    if any(output.glob("*.ipynb")):
        print(f"\nreport: {write_report(output, read_outcomes(output))}")
    return 1 if any(outcome.status in (FAILED, INTERRUPTED) for outcome in outcomes) else 0


_COMMANDS = {"reproduce": _reproduce, "report": _report, "trace": _trace, "data": _data}
