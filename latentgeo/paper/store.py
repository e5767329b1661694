"""The run store: one folder for each trained model, from which a killed training goes on where it was.

A run's folder holds ``config.json``, ``environment.json``, ``metrics.jsonl`` (the training curve), ``log.txt`` and
checkpoints while it is trained; then ``weights.safetensors`` and, written last, ``SUCCESS.json`` with the checksums of
the others. Files are written under another name, flushed to the disk and moved into place, so that each is whole or
absent. What does not match its checksum is moved aside and made again. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from latentgeo.paper.data import Dataset
from latentgeo.paper.environment import environment
from latentgeo.paper.models.perceptual import PerceptualVAE
from latentgeo.paper.models.training import TrainingState, train
from latentgeo.paper.models.vae import VAE, build_vae
from latentgeo.paper.profiles import RunConfig

_CHECKPOINT_SECONDS = 20.0  # between checkpoints; one takes some tenths of a second
_MARKER, _WEIGHTS, _CONFIG = "SUCCESS.json", "weights.safetensors", "config.json"
_ENVIRONMENT, _METRICS, _LOG = "environment.json", "metrics.jsonl", "log.txt"


def checksum(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent, also after a crash or on a full disk.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def move_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it is neither trusted nor lost, and return its new path."""
    candidates = (path.with_name(f"{path.name}.damaged{i}") for i in range(100_000))
    aside = next(candidate for candidate in candidates if not candidate.exists())
    os.replace(path, aside)
    return aside


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its marker says.

    Attributes:
        folder: the run's folder.
        files: SHA-256 of each of its files, by name.
        seconds: time that its training took, without interruptions.
    """

    folder: Path
    files: Mapping[str, str]
    seconds: float

    def read(self, name: str) -> bytes:
        """Content of one of its files.

        Raises:
            ValueError: the file is not what was written.
            OSError: it cannot be read.
        """
        content = (self.folder / name).read_bytes()
        if checksum(content) != self.files.get(name):
            raise ValueError(f"{self.folder / name} does not have the checksum that its {_MARKER} states")
        return content


class RunStore:
    """Trained models on disk, keyed by their configuration; safe to share between processes and machines.

    Args:
        root: folder of the store; made when something is written.
        checkpoint_seconds: least time between two checkpoints of a training; by default that of the environment
            variable ``LATENTGEO_CHECKPOINT_SECONDS``, or 20.
    """

    def __init__(self, root: Path | str, checkpoint_seconds: float | None = None) -> None:
        self.root = Path(root)
        if checkpoint_seconds is None:
            checkpoint_seconds = float(os.environ.get("LATENTGEO_CHECKPOINT_SECONDS", _CHECKPOINT_SECONDS))
        self.checkpoint_seconds = checkpoint_seconds

    def folder(self, config: RunConfig, dataset: Dataset) -> Path:
        """Folder of a run, whether or not it exists."""
        name = f"{config.dataset}-{config.architecture}-seed{config.seed}-{config.key(dataset.sha256)}"
        return self.root / name

    def find(self, config: RunConfig, dataset: Dataset) -> Run | None:
        """A run, if it is finished: by its marker and its configuration; weights are checked when they are read."""
        folder = self.folder(config, dataset)
        try:
            marker = json.loads((folder / _MARKER).read_bytes())
            run = Run(folder, dict(marker["files"]), float(marker["seconds"]))
            if run.read(_CONFIG) != _json(config.as_dict(dataset.sha256)):
                return None
            return run if (folder / _WEIGHTS).stat().st_size == marker["weights_bytes"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def training_seconds(self, runs: Iterable[tuple[RunConfig, Dataset]]) -> dict[str, float]:
        """Seconds of training of finished runs by the names of their folders, for records of figures and tables.

        Raises:
            ValueError: a run is not finished.
        """
        seconds = {}
        for config, dataset in runs:
            run = self.find(config, dataset)
            if run is None:
                raise ValueError(
                    f"expected a trained model, got none in {self.folder(config, dataset)}; name only models that are "
                    "shown, after they are trained"
                )
            seconds[run.folder.name] = round(run.seconds, 3)
        return seconds

    def load(self, config: RunConfig, dataset: Dataset) -> VAE | None:
        """The model of a finished run, in evaluation mode; None where there is none, or where it is damaged."""
        run = self.find(config, dataset)
        if run is None:
            return None
        try:
            weights = load(run.read(_WEIGHTS))
        except (OSError, ValueError, SafetensorError):
            return None
        model = _fresh_model(config, dataset)
        model.load_state_dict(weights)
        return model.eval()

    def train(self, config: RunConfig, dataset: Dataset) -> VAE:
        """Load a run where it is finished; else train it, from its last checkpoint where there is one.

        Of several processes that want the same run one trains, and the others wait for it.

        Args:
            config: the run.
            dataset: its data.

        Returns:
            The trained model, in evaluation mode.

        Raises:
            OSError: the store cannot be written, for instance as the disk is full; checkpoints are kept.
        """
        model = self.load(config, dataset)
        if model is not None:
            return model
        with self.lock(config, dataset) as folder:
            model = self.load(config, dataset)
            if model is None:
                self._set_up(folder, config, dataset)
                with _logging_to(folder / _LOG):
                    model = self._train(folder, config, dataset)
            return model

    @contextmanager
    def lock(self, config: RunConfig, dataset: Dataset) -> Iterator[Path]:
        """Hold a run, and get its folder; other processes wait. The system lets go of it when a process dies."""
        folder = self.folder(config, dataset)
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{folder.name}.lock"):
            yield folder

    def _set_up(self, folder: Path, config: RunConfig, dataset: Dataset) -> None:
        """Make the folder of a run that is to be trained; what is not this run's, or is damaged, moves aside."""
        wanted = _json(config.as_dict(dataset.sha256))
        try:
            usable = (folder / _CONFIG).read_bytes() == wanted and not (folder / _MARKER).exists()
        except OSError:
            usable = False
        if folder.exists() and not usable:
            move_aside(folder)
        folder.mkdir(exist_ok=True)
        for partial in folder.glob(".*.partial"):  # of a process that was killed
            partial.unlink(missing_ok=True)
        for table in folder.glob("*.csv"):  # of a model whose marker was lost
            move_aside(table)
        write_atomically(folder / _ENVIRONMENT, _json(environment()))
        write_atomically(folder / _CONFIG, wanted)

    def _train(self, folder: Path, config: RunConfig, dataset: Dataset) -> VAE:
        log = logging.getLogger(__name__)
        state, rows = _last_checkpoint(folder)
        begun = epochs_done(folder) or 0
        if begun or state:
            log.info("going on after %s epochs, lost %s epochs", len(rows), max(begun - len(rows), 0))
        else:
            log.info("starting")
        _write_rows(folder / _METRICS, rows)
        written = time.monotonic()
        with (folder / _METRICS).open("a", encoding="utf-8") as metrics:

            def on_epoch(row: dict[str, float], snapshot: Callable[[], TrainingState]) -> None:
                nonlocal written
                rows.append(row)
                metrics.write(json.dumps(row) + "\n")
                metrics.flush()
                if time.monotonic() - written >= self.checkpoint_seconds:
                    try:
                        _write_checkpoint(folder, snapshot(), rows)
                    except OSError as error:  # of a full disk, for instance; what is there is still good
                        log.warning("no checkpoint after epoch %s: %s", row["epoch"], error)
                    written = time.monotonic()

            model = train(
                _fresh_model(config, dataset),
                dataset.train,
                dataset.validation,
                config.training,
                seed=config.seed,
                on_epoch=on_epoch,
                resume=state,
            )
        log.info("finished after %s epochs", len(rows))
        weights = save(model.state_dict())
        write_atomically(folder / _WEIGHTS, weights)
        _write_rows(folder / _METRICS, rows)
        names = (_CONFIG, _ENVIRONMENT, _METRICS)
        files = {name: checksum((folder / name).read_bytes()) for name in names} | {_WEIGHTS: checksum(weights)}
        marker = {"files": files, "weights_bytes": len(weights), "seconds": sum(row["seconds"] for row in rows)}
        write_atomically(folder / _MARKER, _json(marker))
        for path in _checkpoints(folder):
            path.unlink(missing_ok=True)
        return model

    def write_table(self, run: Run, name: str, table: pd.DataFrame) -> None:
        """Keep a table that was computed from a run's model; its first line has the checksum of the rest.

        Args:
            run: the run.
            name: of the table; it must change whenever what it holds would.
            table: with an index that says nothing.
        """
        content = table.to_csv(index=False).encode()
        write_atomically(run.folder / f"{name}.csv", f"# sha256 {checksum(content)}\n".encode() + content)

    def read_tables(self, run: Run, pattern: str) -> list[pd.DataFrame]:
        """Tables of a run by a glob pattern of their names; damaged ones are moved aside and left out."""
        tables = []
        for path in sorted(run.folder.glob(f"{pattern}.csv")):
            first, _, rest = path.read_bytes().partition(b"\n")
            if first != f"# sha256 {checksum(rest)}".encode():
                move_aside(path)
                continue
            tables.append(pd.read_csv(path, comment="#"))
        return tables


def epochs_done(folder: Path) -> int | None:
    """Epochs that a training has done; None where it has not begun, or is finished."""
    try:
        return None if (folder / _MARKER).exists() else (folder / _METRICS).read_bytes().count(b"\n")
    except OSError:
        return None


def _fresh_model(config: RunConfig, dataset: Dataset) -> VAE:
    model = build_vae(
        config.architecture,
        dataset.event_shape,
        config.latent_dim,
        config.decoders,
        seed=config.seed,
        noise=config.noise,
        activation=config.activation,
    )
    return model if config.perceptual is None else PerceptualVAE(model, config.perceptual)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Append what the package says meanwhile to a file."""
    logger = logging.getLogger("latentgeo")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(before or logging.INFO, logging.INFO))
    try:
        yield
    except BaseException:
        logger.exception("ended early")
        raise
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, newest first; a name ends with the beginning of the content's checksum."""
    return sorted(folder.glob("checkpoint-*.safetensors"), reverse=True)


def _write_checkpoint(folder: Path, state: TrainingState, rows: list[dict[str, float]]) -> None:
    """Write a checkpoint and delete all older ones but the last."""
    best_loss = None if math.isinf(state.best_loss) else state.best_loss
    scalars = {"epoch": state.epoch, "step": state.step, "best_epoch": state.best_epoch, "best_loss": best_loss}
    content = save(dict(state.tensors), metadata={"state": json.dumps(scalars), "rows": json.dumps(rows)})
    write_atomically(folder / f"checkpoint-{state.epoch:06d}-{checksum(content)[:16]}.safetensors", content)
    for path in _checkpoints(folder)[2:]:
        path.unlink(missing_ok=True)


def _last_checkpoint(folder: Path) -> tuple[TrainingState | None, list[dict[str, float]]]:
    """State and training curve of the newest checkpoint that is whole; damaged ones are moved aside."""
    for path in _checkpoints(folder):
        content = path.read_bytes()
        if not path.stem.endswith(checksum(content)[:16]):
            move_aside(path)
            continue
        tensors: dict[str, Tensor] = load(content)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        scalars = json.loads(metadata["state"])
        if scalars["best_loss"] is None:
            scalars["best_loss"] = math.inf
        return TrainingState(tensors=tensors, **scalars), json.loads(metadata["rows"])
    return None, []
