"""Run the notebooks in order through papermill and say what each of them found."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from latentgeo.experiments.report import MIME
from latentgeo.paths import project_root

FAILED, NEEDS_DATA = "failed", "needs data"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one notebook.

    Attributes:
        notebook: its name without the ending.
        status: ``reproduced``, ``not reproduced``, ``needs data`` or ``failed``.
        seconds: wall time.
        headline: its number, or what went wrong.
    """

    notebook: str
    status: str
    seconds: float
    headline: str


def find_notebooks(only: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """Notebooks in order of their number.

    Args:
        only: beginnings of the names that are wanted, such as ``"07"``; all by default.
        folder: where they are; ``notebooks/`` of the project by default.

    Raises:
        ValueError: there is no notebook of such a name.
    """
    folder = folder or project_root() / "notebooks"
    everything = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    for wanted in only:
        if not any(path.name.startswith(wanted) for path in everything):
            names = ", ".join(path.stem for path in everything) or f"none in {folder}"
            raise ValueError(f"expected the beginning of a notebook's name, got {wanted!r}; there are: {names}")
    return [path for path in everything if not only or any(path.name.startswith(wanted) for wanted in only)]


def check_parameters(notebooks: Sequence[Path], parameters: Mapping[str, object]) -> None:
    """Refuse parameters that a notebook does not have: papermill itself would only warn.

    Raises:
        ValueError: a notebook lacks a parameter; the message lists those it has.
    """
    import papermill

    for path in notebooks:
        known = papermill.inspect_notebook(str(path))
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise ValueError(f"{path.stem} has no parameter {', '.join(unknown)}; it has: {', '.join(sorted(known))}")


def run_notebook(path: Path, output: Path, parameters: Mapping[str, object]) -> Outcome:
    """Run one notebook and read its verdict.

    Args:
        path: the notebook.
        output: folder for the executed copy.
        parameters: its parameters, already checked.
    """
    import papermill

    output.mkdir(parents=True, exist_ok=True)
    executed = output / path.name
    began = time.perf_counter()
    try:
        notebook = papermill.execute_notebook(
            str(path),
            str(executed),
            parameters=dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            cwd=str(path.parent),
            extra_arguments=["--log-level=ERROR"],
        )
    except papermill.PapermillExecutionError as error:
        status = NEEDS_DATA if error.ename == "MissingDataError" else FAILED
        return Outcome(path.stem, status, time.perf_counter() - began, f"{error.ename}: {error.evalue}\nsee {executed}")
    except Exception as error:  # a kernel that died, was killed for memory, or never started
        return Outcome(path.stem, FAILED, time.perf_counter() - began, f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - began
    for cell in reversed(notebook.cells):
        for shown in cell.get("outputs", []):
            verdict = shown.get("data", {}).get(MIME)
            if verdict is not None:
                return Outcome(path.stem, verdict["status"], seconds, verdict["headline"])
    return Outcome(path.stem, FAILED, seconds, "the notebook shows no verdict")


def reproduce(
    *, profile: str = "quick", only: Sequence[str] = (), parameters: Mapping[str, object] | None = None, output: Path
) -> list[Outcome]:
    """Run notebooks one after another; a failure does not stop the others.

    Args:
        profile: ``"quick"`` or ``"paper"``.
        only: which notebooks, see :func:`find_notebooks`.
        parameters: further parameters, which every chosen notebook must have.
        output: folder for executed notebooks and the figures they draw.

    Returns:
        What became of each.

    Raises:
        ValueError: an unknown notebook or parameter, before anything runs.
    """
    notebooks = find_notebooks(only)
    if not notebooks:
        raise ValueError(f"there are no notebooks in {project_root() / 'notebooks'}; run this from a checkout")
    chosen = {**(parameters or {}), "profile": profile}
    check_parameters(notebooks, chosen)
    outcomes = []
    # Threads that wait by spinning make a busy machine ten times slower.
    with _environment(LATENTGEO_FIGURES=str((output / "figures").resolve()), OMP_WAIT_POLICY="PASSIVE"):
        for path in notebooks:
            print(f"running {path.stem} …", flush=True)
            outcomes.append(run_notebook(path, output, chosen))
            print(f"  {outcomes[-1].status} after {outcomes[-1].seconds:.0f} s", flush=True)
    return outcomes


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables, which the kernels inherit, inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def format_table(outcomes: Sequence[Outcome]) -> str:
    r"""The outcomes as a table of plain text.

    Example:
        >>> print(format_table([Outcome("07_fashion_mnist", "reproduced", 181.2, "CV 3 %\nCV 5 %")]))
        notebook          status      seconds  headline
        ----------------  ----------  -------  --------
        07_fashion_mnist  reproduced      181  CV 3 %
                                               CV 5 %
    """
    rows = [("notebook", "status", "seconds", "headline")]
    rows += [(o.notebook, o.status, f"{o.seconds:.0f}", o.headline) for o in outcomes]
    widths = [max(len(line) for row in rows for line in row[i].split("\n")) for i in range(4)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = []
    for name, status, seconds, headline in rows:
        first, *rest = headline.split("\n")
        prefix = f"{name:<{widths[0]}}  {status:<{widths[1]}}  {seconds:>{widths[2]}}  "
        lines += [prefix + first, *(" " * len(prefix) + line for line in rest)]
    return "\n".join(lines)
