"""Run the notebooks through papermill, several at a time, and say what each of them found."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil

from latentgeo.paper.environment import refuse_uncommitted
from latentgeo.paper.paths import project_root, write_atomically
from latentgeo.paper.reproduction.record import MIME, NEEDS_DATA, STATUSES

FAILED, NOT_RUN, INTERRUPTED = "failed", "not run", "interrupted"
OUTCOMES = "outcomes.json"  # what became of each notebook, beside the executed copies
_POLL = 0.5  # seconds between looks at the memory that a notebook takes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one notebook.

    Attributes:
        notebook: its name without the ending.
        status: of its verdict, one of :data:`~latentgeo.paper.reproduction.record.STATUSES`; or ``failed``,
            ``interrupted`` or ``not run``.
        seconds: wall time.
        headline: its number, or what went wrong.
        memory: largest resident memory of its kernel and the processes under it, in bytes.
        profile: the scale at which it ran.
        claim: of its verdict, in one sentence.
    """

    notebook: str
    status: str
    seconds: float
    headline: str
    memory: int = 0
    profile: str = ""
    claim: str = ""


def find_notebooks(only: Sequence[str] = (), first: str = "") -> list[Path]:
    """Notebooks of the project in order of their number.

    Args:
        only: beginnings of the names that are wanted, such as ``"07"``; all by default.
        first: beginning of the name to begin at.

    Raises:
        ValueError: there is no notebook, or none of such a name.
    """
    everything = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not everything:
        raise ValueError(f"there are no notebooks in {project_root() / 'notebooks'}; run this from a checkout")
    for wanted in (*only, first):
        if not any(path.name.startswith(wanted) for path in everything):
            names = ", ".join(path.stem for path in everything)
            raise ValueError(f"expected the beginning of a notebook's name, got {wanted!r}; there are: {names}")
    return [path for path in everything if path.name >= first and path.name.startswith(tuple(only) or "")]


def check_parameters(notebooks: Sequence[Path], parameters: Mapping[str, object]) -> None:
    """Refuse parameters that a notebook does not have, and values that it cannot use: papermill itself would only warn.

    A parameter's annotation says of what type it is; a whole number counts something. Where its comment has words in
    quotes it is one of these, or ``None``.

    Raises:
        ValueError: a notebook lacks a parameter, or has another kind of value there; the message says which.
    """
    import papermill

    for path in notebooks:
        known = papermill.inspect_notebook(str(path))
        unknown = sorted(set(parameters) - set(known))
        if unknown:
            raise ValueError(f"{path.stem} has no parameter {', '.join(unknown)}; it has: {', '.join(sorted(known))}")
        for name, value in parameters.items():
            if name == "profile":  # which has its own argument
                continue
            wanted = _wanted(value, known[name]["inferred_type_name"], re.findall(r'"(\w+)"', known[name]["help"]))
            if wanted:
                raise ValueError(f"{path.stem}: expected {wanted} as {name}, got {value!r}")


def _wanted(value: object, annotation: str, words: Sequence[str]) -> str:
    """What a parameter should be that is not; nothing where it may be."""
    if words and (value is not None or annotation == "str") and value not in words:
        return " or ".join(map(repr, words))
    if annotation == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        return "a whole number of at least 1"
    if annotation == "str" and not isinstance(value, str):
        return "a word"
    if annotation.startswith(("list", "tuple")) and not isinstance(value, list):
        return "a list"
    # Else it is None, or one of several: a number, or one for each model.
    return "a number or a list" if annotation == "None" and isinstance(value, str | bool) and not words else ""


def run_notebook(path: Path, output: Path, parameters: Mapping[str, object]) -> Outcome:
    """Run one notebook and read its verdict.

    Args:
        path: the notebook.
        output: folder for the executed copy, and for the log of what it prints, ``<name>.log``.
        parameters: its parameters, already checked.
    """
    import papermill

    output.mkdir(parents=True, exist_ok=True)
    executed, log = output / path.name, output / f"{path.stem}.log"
    began = time.perf_counter()

    def outcome(status: str, headline: str, claim: str = "") -> Outcome:
        profile = str(parameters.get("profile", ""))
        return Outcome(path.stem, status, time.perf_counter() - began, headline, memory[0], profile, claim)

    with _peak_memory() as memory, log.open("w", encoding="utf-8") as printed:
        try:
            notebook = papermill.execute_notebook(
                str(path),
                str(executed),
                parameters=dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                stdout_file=printed,
                stderr_file=printed,
                cwd=str(path.parent),
                extra_arguments=["--log-level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            printed.write("\n".join(error.traceback) + "\n")
            status = NEEDS_DATA if error.ename == "MissingDataError" else FAILED
            return outcome(status, f"{error.ename}: {error.evalue}\nsee {executed}")
        except KeyboardInterrupt:
            return outcome(INTERRUPTED, "run the same command again; finished models are kept")
        except Exception as error:  # a kernel that died, was killed for memory, or never started
            printed.write(traceback.format_exc())
            return outcome(FAILED, f"{type(error).__name__}: {error}")
    shown = (output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
    verdicts = [data[MIME] for data in shown if MIME in data]
    if not verdicts:
        return outcome(FAILED, "the notebook shows no verdict")
    return outcome(*(verdicts[-1][name] for name in ("status", "headline", "claim")))


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Largest resident memory of the processes under this one while the block lasts, in a list of this one number."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(_POLL):
            memory = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    memory += process.memory_info().rss
            peak[0] = max(peak[0], memory)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def reproduce(
    *,
    profile: str = "quick",
    only: Sequence[str] = (),
    first: str = "",
    keep_going: bool = False,
    parameters: Mapping[str, object] | None = None,
    output: Path,
    jobs: int = 1,
) -> list[Outcome]:
    """Run notebooks in order, and leave executed copies, logs, figures, tables and what became of each.

    Args:
        profile: ``"quick"``, ``"evidence"`` or ``"paper"``.
        only: which notebooks, see :func:`find_notebooks`.
        first: beginning of the name of the first.
        keep_going: whether a notebook that fails leaves the others to be run.
        parameters: further parameters, which every chosen notebook must have.
        output: folder for all of this; the environment variables ``LATENTGEO_FIGURES`` and ``LATENTGEO_RESULTS``,
            where they are set, name other folders for figures and tables.
        jobs: notebooks that run at the same time.

    Returns:
        What became of each, in order.

    Raises:
        ValueError: an unknown notebook or parameter, no job, or a folder of committed results while sources have
            uncommitted changes, before anything runs.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected at least one notebook at a time, got {jobs!r}")
    notebooks = find_notebooks(only, first)
    chosen = {**(parameters or {}), "profile": profile}
    check_parameters(notebooks, chosen)
    folders = {
        variable: os.environ.get(variable) or str((output / name).resolve())
        for variable, name in (("LATENTGEO_FIGURES", "figures"), ("LATENTGEO_RESULTS", "results"))
    }
    for folder in folders.values():
        refuse_uncommitted(Path(folder))
    jobs = min(jobs, len(notebooks))
    # Threads that wait by spinning, or for cores that others have, make a busy machine several times slower.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    with mock.patch.dict(os.environ, folders, OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS=threads):
        outcomes = _run_all(notebooks, output, chosen, keep_going, jobs)
    write_outcomes(outcomes, output)
    return outcomes


def _run_all(
    notebooks: Sequence[Path], output: Path, parameters: Mapping[str, object], keep_going: bool, jobs: int
) -> list[Outcome]:
    """Run notebooks in ``jobs`` processes, each anew after it died; a single one at a time in this process."""
    outcomes: dict[str, Outcome] = {}
    waiting = list(notebooks)
    running: dict[Future[Outcome], tuple[Path, ProcessPoolExecutor]] = {}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.notebook] = outcome
        print(f"  {outcome.notebook}: {outcome.status} after {outcome.seconds:.0f} s", flush=True)
        if outcome.status == INTERRUPTED or (outcome.status == FAILED and not keep_going):
            for path in waiting:
                outcomes[path.stem] = Outcome(path.stem, NOT_RUN, 0.0, f"a notebook before it {outcome.status}")
            waiting.clear()

    with ExitStack() as stack:

        def process() -> ProcessPoolExecutor:
            return stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))

        free = [process() for _ in range(jobs)]
        while waiting or running:
            while waiting and len(running) < jobs:
                path = waiting.pop(0)
                print(f"running {path.stem}, {len(notebooks) - len(waiting)} of {len(notebooks)} …", flush=True)
                if jobs == 1:
                    note(run_notebook(path, output, parameters))
                else:
                    pool = free.pop()
                    running[pool.submit(run_notebook, path, output, parameters)] = path, pool
            with suppress(KeyboardInterrupt):  # the processes get it too, and say that they were interrupted
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    path, pool = running.pop(done)
                    error = done.exception()
                    free.append(pool if error is None else process())  # one that broke takes no more work
                    note(done.result() if error is None else Outcome(path.stem, FAILED, 0.0, f"its process: {error!r}"))
    return [outcomes[path.stem] for path in notebooks]


def write_outcomes(outcomes: Sequence[Outcome], output: Path) -> None:
    """Keep what became of each notebook; notebooks that were not run keep what is known of them."""
    known = {outcome.notebook: outcome for outcome in read_outcomes(output)}
    for outcome in outcomes:
        if outcome.status != NOT_RUN or outcome.notebook not in known:
            known[outcome.notebook] = outcome
    rows = [dataclasses.asdict(known[name]) for name in sorted(known)]
    write_atomically(output / OUTCOMES, (json.dumps(rows, indent=2) + "\n").encode())


def read_outcomes(output: Path) -> list[Outcome]:
    """What :func:`write_outcomes` kept; nothing where there is nothing."""
    try:
        return [Outcome(**row) for row in json.loads((output / OUTCOMES).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def show_outputs(output: Path) -> list[Path]:
    """Put the outputs of executed copies into the notebooks that they are copies of.

    Args:
        output: folder that :func:`reproduce` left. Of notebooks that failed, were interrupted or lack their data
            nothing is taken.

    Returns:
        The notebooks that were written.

    Raises:
        ValueError: a copy has other code than its notebook, before anything is written.
    """
    import nbformat

    found = {}
    for outcome in read_outcomes(output):
        if outcome.status not in STATUSES or outcome.status == NEEDS_DATA:
            continue
        path = project_root() / "notebooks" / f"{outcome.notebook}.ipynb"
        notebook, copy = (nbformat.read(of, as_version=4) for of in (path, output / path.name))
        executed = {cell.id: cell for cell in copy.cells}
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if any(cell.id not in executed or executed[cell.id].source != cell.source for cell in code):
            raise ValueError(f"{output / path.name}: expected a copy of {path}, whose code is another; run it again")
        for count, cell in enumerate(code, 1):
            cell.outputs, cell.execution_count = executed[cell.id].outputs, count
            for shown in cell.outputs:
                if "execution_count" in shown:
                    shown.execution_count = count
        found[path] = notebook
    for path, notebook in found.items():
        nbformat.write(notebook, path)
    return list(found)


def format_table(outcomes: Sequence[Outcome]) -> str:
    r"""The outcomes as a table of plain text.

    Example:
        >>> print(format_table([Outcome("07_fashion_mnist", "verified", 181.2, "CV 3 %\nCV 5 %", 2**30)]))
        notebook          status    seconds  memory   headline
        ----------------  --------  -------  -------  --------
        07_fashion_mnist  verified      181  1.0 GiB  CV 3 %
                                                      CV 5 %
    """
    rows = [("notebook", "status", "seconds", "memory", "headline")]
    rows += [(o.notebook, o.status, f"{o.seconds:.0f}", format_memory(o.memory), o.headline) for o in outcomes]
    widths = [max(len(line) for row in rows for line in row[i].split("\n")) for i in range(5)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = []
    for name, status, seconds, memory, headline in rows:
        first, *rest = headline.split("\n")
        prefix = f"{name:<{widths[0]}}  {status:<{widths[1]}}  {seconds:>{widths[2]}}  {memory:>{widths[3]}}  "
        lines += [prefix + first, *(" " * len(prefix) + line for line in rest)]
    return "\n".join(lines)


def format_memory(bytes_: int) -> str:
    """Memory in GiB, a dash where it is not known.

    Example:
        >>> format_memory(3 * 2**29), format_memory(0)
        ('1.5 GiB', '–')
    """
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ else "–"
