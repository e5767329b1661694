"""Kill, cut off, fill up and damage a sweep, and count what is lost: ``python -m tests.faults.faults``.

Every scenario works on a store of its own with real trainings on digits in other processes, and ends with a run to the
end. Lost is a run whose final weights differ from those of an undisturbed sweep; repeated is the time of epochs that
were trained more than once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

import latentgeo as lg
from latentgeo.paper.data import load_dataset
from latentgeo.paper.paths import checksum
from latentgeo.paper.store import Run

EPOCHS = 60
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "LATENTGEO_CHECKPOINT_SECONDS": "0.2"}


def study(store: Path, seeds: int, epochs: int = EPOCHS) -> lg.paper.Study:
    """Small models of digits, some seconds each."""
    training = lg.paper.TrainingConfig(
        epochs=epochs, batch_size=64, learning_rate=4e-3, warmup_steps=10, patience=epochs
    )
    return lg.paper.Study(
        "digits", "mlp", seeds=seeds, pairs=4, latent_dim=2, decoders=2, training=training, store=store
    )


def start(store: Path, seeds: int, workers: int, epochs: int = EPOCHS, **environment: str) -> subprocess.Popen[bytes]:
    """Start a sweep in a process group of its own."""
    command = [sys.executable, "-m", "tests.faults.faults", "sweep", str(store), str(seeds), str(workers), str(epochs)]
    options = {"env": ENVIRONMENT | environment, "start_new_session": True, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, **options)


def finish(store: Path, seeds: int, workers: int, epochs: int = EPOCHS) -> None:
    """Run a sweep to its end."""
    if start(store, seeds, workers, epochs).wait(600) != 0:
        raise RuntimeError(f"the sweep in {store} did not end well; its logs are in {store}/*/log.txt")


def weights(store: Path, seeds: int, epochs: int = EPOCHS) -> list[str | None]:
    """Checksum of each run's weights; None where the run is not finished."""
    s, data = study(store, seeds, epochs), load_dataset("digits")
    runs = [Run(store, s.config(seed), data) for seed in s.seeds]
    return [None if run.marker is None else checksum(run.read("weights.safetensors")) for run in runs]


def repeated(store: Path) -> float:
    """Seconds of epochs that were trained again, by the logs, at each run's own mean time of an epoch."""
    seconds = 0.0
    for log in store.glob("*/log.txt"):
        marker = json.loads((log.parent / "SUCCESS.json").read_text())
        rows = (log.parent / "metrics.jsonl").read_text().splitlines()
        done = [int(epochs) for epochs in re.findall(r"lost (\d+) epochs", log.read_text())]
        seconds += sum(done) * marker["seconds"] / len(rows)
    return seconds


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a sweep and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for_epochs(store: Path, epochs: int, process: subprocess.Popen[bytes], limit: float = 120.0) -> None:
    """Wait until the trainings in a store have done so many epochs together, or the sweep has ended."""
    deadline = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < deadline:
        done = 0
        for path in store.glob("*/metrics.jsonl"):
            with contextlib.suppress(OSError):
                done += path.read_bytes().count(b"\n")
        if done >= epochs:
            return
        time.sleep(0.02)


def killed_training(store: Path, tries: int) -> None:
    """Kill -9 a training at random moments, and start it again each time."""
    draw = random.Random(0)
    for number in range(tries):
        process = start(store, seeds=1, workers=0)
        wait_for_epochs(store, int((number + draw.random()) * EPOCHS / (tries + 1)), process)
        time.sleep(draw.random() * 0.1)
        kill(process)
    finish(store, seeds=1, workers=0)


def killed_worker(store: Path, tries: int) -> None:
    """Kill -9 a Dask worker in the middle of a sweep, which goes on by itself."""
    process = start(store, seeds=12, workers=2)
    for number in range(tries):
        wait_for_epochs(store, (2 * number + 1) * EPOCHS, process)
        children = subprocess.run(["pgrep", "-g", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        if children.stdout:
            os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    if process.wait(600) != 0:
        raise RuntimeError("the sweep did not survive the death of a worker")


def killed_sweep(store: Path, tries: int) -> None:
    """Kill -9 the whole process tree in the middle of a sweep, and start it again."""
    for number in range(tries):
        process = start(store, seeds=12, workers=2)
        wait_for_epochs(store, (3 * number + 2) * EPOCHS, process)
        kill(process)
    finish(store, seeds=12, workers=2)


def two_sweeps(store: Path, tries: int) -> None:
    """Start two sweeps at once on one store."""
    processes = [start(store, seeds=12, workers=2) for _ in range(2)]
    if any(process.wait(600) != 0 for process in processes):
        raise RuntimeError("one of two sweeps on the same store failed")


def full_disk(store: Path, tries: int) -> None:
    """Train on a file system too small for checkpoints and weights; then on one that is large enough."""
    small = store / "small"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)], check=True)
    try:
        if start(small, seeds=1, workers=0).wait(600) == 0:
            raise RuntimeError("512 kB held a model of more; the scenario needs a smaller file system")
        if any(small.glob("*/SUCCESS.json")) or any(small.glob("*/.*.partial")):
            raise RuntimeError("something on the full disk looks finished, or was left behind")
        for path in small.iterdir():
            shutil.copytree(path, store / path.name)
    finally:
        subprocess.run(["umount", str(small)], check=True)
        small.rmdir()
    finish(store, seeds=1, workers=0)


def clock_set_back(store: Path, tries: int) -> None:
    """Stop a sweep, date all of its files into the future, and go on."""
    process = start(store, seeds=2, workers=0)
    wait_for_epochs(store, EPOCHS + EPOCHS // 2, process)
    kill(process)
    future = time.time() + 10 * 365 * 86_400
    for path in store.rglob("*"):
        os.utime(path, (future, future))
    finish(store, seeds=2, workers=0)


SCENARIOS: dict[str, tuple[Callable[[Path, int], None], int, int]] = {  # what is done, tries, seeds
    "kill -9 of a training": (killed_training, 20, 1),
    "kill -9 of a Dask worker, 12 runs": (killed_worker, 3, 12),
    "kill -9 of the process tree, 12 runs": (killed_sweep, 3, 12),
    "two sweeps at once, 12 runs": (two_sweeps, 1, 12),
    "disk full": (full_disk, 1, 1),
    "clock set back by ten years": (clock_set_back, 1, 2),
}


@contextlib.contextmanager
def temporary_store() -> Iterator[Path]:
    """Folder that is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="latentgeo-faults-"))
    try:
        yield folder / "store"
    finally:
        shutil.rmtree(folder)


def table(names: list[str]) -> pd.DataFrame:
    """Run scenarios and compare each with an undisturbed sweep."""
    rows = []
    with temporary_store() as store:
        finish(store, seeds=12, workers=2)
        undisturbed = weights(store, seeds=12)
    for name in names:
        scenario, tries, seeds = SCENARIOS[name]
        with temporary_store() as store:
            began = time.monotonic()
            scenario(store, tries)
            lost = sum(a != b for a, b in zip(weights(store, seeds), undisturbed[:seeds], strict=True))
            rows.append((name, tries, seeds, lost, repeated(store), time.monotonic() - began))
            print(rows[-1], flush=True)
    return pd.DataFrame(rows, columns=["fault", "tries", "runs", "lost", "repeated (s)", "seconds"])


def main() -> None:
    """Run the scenarios, or one sweep for them."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    sweep = commands.add_parser("sweep", help="one sweep, to be disturbed")
    sweep.add_argument("store", type=Path)
    for name in ("seeds", "workers", "epochs"):
        sweep.add_argument(name, type=int)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args()
    if options.command != "sweep":
        print(table(options.only).round(2).to_string(index=False))
        return
    workers = None if options.workers < 0 else options.workers
    study(options.store, options.seeds, options.epochs).run(workers=workers)


if __name__ == "__main__":
    main()
