"""Fan-out of jobs over processes, here or on a cluster, one thread each."""

from __future__ import annotations

import ast
import dataclasses
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from latentgeo.progress import bar_options

# Dask asks the allocator to return freed memory at once. For a training loop, which frees and takes the same large
# tensors at every step, that means faulting every page in again: it costs a third of the speed.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "DASK_LOGGING__DISTRIBUTED": "critical",  # what fails comes back as a Failure, not as lines among a cell's outputs
}
_POLL = 1.0  # seconds between looks at what is going on


@dataclasses.dataclass(frozen=True)
class Job:
    """One call of a function.

    Attributes:
        name: different from that of all others.
        task: a function that a worker process can import.
        arguments: what it is called with; they are pickled on their way.
        after: names of jobs that must have succeeded before.
    """

    name: str
    task: Callable[..., object]
    arguments: tuple[object, ...] = ()
    after: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Failure:
    """What became of a job that failed.

    Attributes:
        name: the job's.
        error: type and message.
        traceback: as text.
    """

    name: str
    error: str
    traceback: str


class JobsFailedError(RuntimeError):
    """Some jobs failed, after all others have ended.

    Attributes:
        failures: one record for each, in the order of the jobs.
    """

    def __init__(self, failures: Sequence[Failure], finished: int, label: str) -> None:
        self.failures = list(failures)
        first = self.failures[0]
        super().__init__(
            f"{len(self.failures)} of {len(self.failures) + finished} {label} failed and {finished} finished; "
            f"the first failure: {first.name}: {first.error}"
        )
        if first.traceback:
            self.add_note(f"where it was raised:\n{first.traceback}")


@contextmanager
def single_thread() -> Iterator[None]:
    """Use one PyTorch thread inside the block: processes share the cores, and results do not depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _call(job: Job, before: Sequence[object]) -> object | Failure:
    """Run a job, given the outcomes of those that it comes after; what it raises comes back as a record."""
    for outcome in before:
        if isinstance(outcome, Failure):
            return Failure(job.name, f"not run, as {outcome.name} failed", "")
    try:
        with single_thread():
            return job.task(*job.arguments)
    except Exception as error:
        return Failure(job.name, f"{type(error).__name__}: {error}", traceback.format_exc())


def _check_main_guard() -> None:
    """Refuse a script that would start itself again and again.

    Raises:
        RuntimeError: the line of it that is being run stands under no condition on ``__name__``, and after none.
    """
    frame = sys._getframe()
    while frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) != ("__main__", "<module>"):
        frame = frame.f_back
    try:
        tree = ast.parse(Path(frame.f_code.co_filename).read_bytes())
    except (AttributeError, OSError, SyntaxError, ValueError):  # a notebook or a shell, which no process imports
        return
    guards = [node for node in tree.body if isinstance(node, ast.If) and "'__name__'" in ast.dump(node.test)]
    if not any(guard.lineno <= frame.f_lineno for guard in guards):
        raise RuntimeError(
            f"{Path(frame.f_code.co_filename).name}: expected the call that starts processes under `if __name__ == "
            '"__main__":`, as each of them imports this script, got it at the top; put it there, or pass '
            "workers=0 to start none"
        )


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    label: str = "runs",
    status: Callable[[], str] | None = None,
) -> dict[str, object]:
    """Run jobs, several at a time, and finish the others when one fails.

    They run on a cluster of worker processes that lives as long as the call; or, where the environment variable
    ``DASK_SCHEDULER_ADDRESS`` is set and no number of workers is given, on the workers of that scheduler, which must
    see the same files. A job whose worker dies is run again by another.

    Args:
        jobs: what is to be done; jobs come after those that they wait for.
        workers: processes; by default one for each core, or those of the scheduler; with 0 or 1 everything is done
            here, one after another.
        label: what the progress bar counts, which is shown where somebody watches.
        status: says what is going on, for the progress bar; called about once a second.

    Returns:
        The results by the jobs' names.

    Raises:
        ValueError: two jobs have the same name, or one waits for a job that does not come before it.
        RuntimeError: processes would be started, each of which runs the script that calls this: one without a main
            guard.
        JobsFailedError: jobs failed; those that wait for them count as failed too.

    Example:
        >>> run_jobs([Job("one", abs, (-1,)), Job("two", abs, (-2,), after=("one",))], workers=0)
        {'one': 1, 'two': 2}
    """
    names: set[str] = set()
    for job in jobs:
        if job.name in names or not names.issuperset(job.after):
            raise ValueError(f"jobs: expected different names, and each job after those it waits for; got {job.name!r}")
        names.add(job.name)
    outcomes: dict[str, object] = {}
    options = bar_options(None)
    with tqdm(total=len(jobs), desc=label, **options) as bar:
        looked = time.monotonic() + options["delay"]  # a bar that is not there yet has nothing to say
        for name, outcome in _outcomes(jobs, workers):
            if name is not None:
                outcomes[name] = outcome
                bar.update()
            if status is not None and not bar.disable and time.monotonic() - looked >= _POLL:
                bar.set_postfix_str(status())
                looked = time.monotonic()
    failures = [outcomes[job.name] for job in jobs if isinstance(outcomes[job.name], Failure)]
    if failures:
        raise JobsFailedError(failures, len(jobs) - len(failures), label)
    return {job.name: outcomes[job.name] for job in jobs}


def _outcomes(jobs: Sequence[Job], workers: int | None) -> Iterator[tuple[str | None, object]]:
    """Name and result, or failure, of each job as it ends; (None, None) now and then meanwhile."""
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if workers is None and not address:
        workers = min(os.cpu_count() or 1, len(jobs))
    if workers is not None and workers <= 1:
        outcomes: dict[str, object] = {}
        for job in jobs:
            outcomes[job.name] = _call(job, [outcomes[name] for name in job.after])
            yield job.name, outcomes[job.name]
        return
    import dask
    from distributed import Client, LocalCluster, wait

    nanny = logging.getLogger("distributed.nanny")
    with ExitStack() as stack:
        if workers is None:
            client = stack.enter_context(Client(address))
        else:
            _check_main_guard()
            stack.callback(nanny.setLevel, nanny.level)
            stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT}))
            options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
            client = stack.enter_context(Client(stack.enter_context(LocalCluster(**options))))
            stack.callback(nanny.setLevel, logging.ERROR)  # or it warns of workers that take their time to end
        futures = {}
        for job in jobs:
            futures[job.name] = client.submit(_call, job, [futures[name] for name in job.after], pure=False)
        running = {futures.pop(job.name): job.name for job in jobs}  # what is not held here is not kept after its end
        while running:
            try:
                done = wait(list(running), timeout=_POLL, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                yield None, None
                continue
            for future in done:
                name, error = running.pop(future), future.exception()
                # An error is the cluster's own, such as that of a job that has killed several workers.
                yield name, Failure(name, f"{type(error).__name__}: {error}", "") if error else future.result()
