"""Fan-out of independent jobs over processes, one thread each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from tqdm import tqdm

# Dask asks the allocator to hand freed memory back at once. For a training loop, which frees and takes the same large
# tensors at every step, that means faulting every page in again: it costs a third of the speed.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
}

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def single_thread() -> Iterator[None]:
    """Use one PyTorch thread inside the block: processes share the cores, and results do not depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _single_threaded(task: Callable[[Job], Result], job: Job) -> Result:
    with single_thread():
        return task(job)


def run_jobs(
    task: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    label: str = "runs",
    progress: bool = True,
) -> list[Result]:
    """Run a task on every job, several at a time, and finish the others when one fails.

    Args:
        task: a function that a worker process can import, of one job.
        jobs: what it is called with.
        workers: processes; one for each core by default, 0 for none (everything here, one after another).
        label: what the progress bar counts.
        progress: whether to show it.

    Returns:
        The results in the order of the jobs.

    Raises:
        RuntimeError: jobs failed; the message has the first failure, which is also the cause, and their number.

    Example:
        >>> run_jobs(abs, [-1, 2], workers=0, progress=False)
        [1, 2]
    """
    workers = min(os.cpu_count() or 1, len(jobs)) if workers is None else workers
    results: dict[int, Result] = {}
    failures: dict[int, BaseException] = {}
    with tqdm(total=len(jobs), desc=label, disable=not progress) as bar:
        for number, outcome in _outcomes(task, jobs, workers):
            (failures if isinstance(outcome, BaseException) else results)[number] = outcome
            bar.update()
    if failures:
        first = failures[min(failures)]
        raise RuntimeError(
            f"{len(failures)} of {len(jobs)} {label} failed and {len(results)} finished; the first failure: "
            f"{type(first).__name__}: {first}"
        ) from first
    return [results[number] for number in range(len(jobs))]


def _outcomes(
    task: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[int, Result | BaseException]]:
    """Number and result, or exception, of each job as it ends."""
    if workers <= 1:
        for number, job in enumerate(jobs):
            try:
                outcome: Result | BaseException = _single_threaded(task, job)
            except Exception as error:
                outcome = error
            yield number, outcome
        return
    import dask
    from distributed import Client, LocalCluster, as_completed

    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT}),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        futures = {client.submit(_single_threaded, task, job, pure=False): number for number, job in enumerate(jobs)}
        for future in as_completed(futures, raise_errors=False):
            error = future.exception()
            yield futures[future], error if error is not None else future.result()
