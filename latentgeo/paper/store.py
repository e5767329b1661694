"""The run store: one folder for each trained model, from which a killed training goes on where it was.

A run's folder holds ``config.json``, ``environment.json``, ``metrics.jsonl`` (the training curve), ``log.txt`` and
checkpoints while it is trained; then ``weights.safetensors`` and, written last, ``SUCCESS.json`` with the checksums of
the others. Files are written under another name, flushed to the disk and moved into place, so that each is whole or
absent. What does not match its checksum is moved aside and made again. Nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from latentgeo.paper.data import Dataset
from latentgeo.paper.environment import environment
from latentgeo.paper.models.perceptual import PerceptualVAE
from latentgeo.paper.models.training import train
from latentgeo.paper.models.vae import VAE, build_vae
from latentgeo.paper.paths import checksum, move_aside, write_atomically
from latentgeo.paper.profiles import RunConfig

_CHECKPOINT_SECONDS = 20.0  # least time between checkpoints, of which one takes some tenths of a second
_MARKER, _WEIGHTS, _CONFIG = "SUCCESS.json", "weights.safetensors", "config.json"
_ENVIRONMENT, _METRICS, _LOG = "environment.json", "metrics.jsonl", "log.txt"


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


class Run:
    """A model in the store, trained or not; safe to share between processes and machines.

    Args:
        root: folder of the store; made when something is written.
        config: of the model.
        dataset: its data.

    Attributes:
        folder: the run's own, whether or not it exists.
    """

    def __init__(self, root: Path | str, config: RunConfig, dataset: Dataset) -> None:
        self.config, self.dataset = config, dataset
        name = f"{config.dataset}-{config.architecture}-seed{config.seed}-{config.key(dataset.sha256)}"
        self.folder = Path(root) / name

    @property
    def marker(self) -> dict[str, Any] | None:
        """What is known of a finished run, None of others; its weights are checked when they are read.

        ``files`` has the SHA-256 of each of its files by name; ``seconds`` is the time that its training took, without
        interruptions.
        """
        try:
            found = json.loads((self.folder / _MARKER).read_bytes())
            marker = {"files": dict(found["files"]), "seconds": float(found["seconds"])}
            whole = (self.folder / _WEIGHTS).stat().st_size == found["weights_bytes"]
            return marker if whole and (self.folder / _CONFIG).read_bytes() == self._described() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read(self, name: str) -> bytes:
        """Content of one of the files of a finished run.

        Raises:
            ValueError: the run is not finished, or the file is not what was written.
            OSError: it cannot be read.
        """
        content, marker = (self.folder / name).read_bytes(), self.marker
        if marker is None or checksum(content) != marker["files"].get(name):
            raise ValueError(f"{self.folder / name} does not have the checksum that its {_MARKER} states")
        return content

    def load(self) -> VAE | None:
        """The trained model, in evaluation mode; None where there is none, or where it is damaged."""
        try:
            weights = load(self.read(_WEIGHTS))
        except (OSError, ValueError, SafetensorError):
            return None
        model = self._fresh_model()
        model.load_state_dict(weights)
        return model.eval()

    def train(self) -> VAE:
        """Load the model where it is trained; else train it, from its last checkpoint where there is one.

        Of several processes that want the same model one trains, and the others wait for it. The system lets go of the
        lock when a process dies. Checkpoints are written every 20 seconds at most, or as the environment variable
        ``LATENTGEO_CHECKPOINT_SECONDS`` says. ``LATENTGEO_DEVICE`` names the device to train on, such as ``cuda``;
        by default ``cpu``. Other devices draw other noise: the same seed gives another model, and ``environment.json``
        says which it was.

        Returns:
            The trained model, on the CPU and in evaluation mode.

        Raises:
            OSError: the store cannot be written, for instance as the disk is full; checkpoints are kept.
        """
        model = self.load()
        if model is not None:
            return model
        locks = self.folder.parent / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{self.folder.name}.lock"):
            model = self.load()
            if model is None:
                self._set_up()
                try:
                    model = self._train()
                except BaseException:
                    self._log(f"ended early\n{traceback.format_exc()}")
                    raise
            return model

    def _described(self) -> bytes:
        return _json(self.config.as_dict(self.dataset.sha256))

    def _log(self, text: str) -> None:
        # A log that cannot be written, on a full disk for instance, does not end a training.
        with suppress(OSError), (self.folder / _LOG).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def _set_up(self) -> None:
        """Make the folder of a run that is to be trained; what is not this run's, or is damaged, moves aside."""
        folder = self.folder
        try:
            usable = (folder / _CONFIG).read_bytes() == self._described() and not (folder / _MARKER).exists()
        except OSError:
            usable = False
        if folder.exists() and not usable:
            move_aside(folder)
        folder.mkdir(exist_ok=True)
        for partial in folder.glob(".*.partial"):  # of a process that was killed
            partial.unlink(missing_ok=True)
        for table in folder.glob("*.csv"):  # of a model whose marker was lost
            move_aside(table)
        write_atomically(folder / _ENVIRONMENT, _json(environment(_device())))
        write_atomically(folder / _CONFIG, self._described())

    def _fresh_model(self) -> VAE:
        config = self.config
        model = build_vae(
            config.architecture,
            self.dataset.event_shape,
            config.latent_dim,
            config.decoders,
            seed=config.seed,
            noise=config.noise,
            activation=config.activation,
        )
        return model if config.perceptual is None else PerceptualVAE(model, config.perceptual)

    def _train(self) -> VAE:
        state, rows = self._last_checkpoint()
        begun = epochs_done(self.folder) or 0
        if begun or state:
            self._log(f"going on after {len(rows)} epochs, lost {max(begun - len(rows), 0)} epochs")
        else:
            self._log("starting")
        path = self.folder / _METRICS
        _write_rows(path, rows)
        pause = float(os.environ.get("LATENTGEO_CHECKPOINT_SECONDS", _CHECKPOINT_SECONDS))
        written = time.monotonic()
        with path.open("a", encoding="utf-8") as metrics:

            def on_epoch(row: dict[str, float], snapshot: Callable[[], dict[str, Tensor]]) -> None:
                nonlocal written
                rows.append(row)
                metrics.write(json.dumps(row) + "\n")
                metrics.flush()
                if time.monotonic() - written >= pause:
                    try:
                        self._write_checkpoint(snapshot(), rows)
                    except OSError as error:  # of a full disk, for instance; what is there is still good
                        self._log(f"no checkpoint after epoch {row['epoch']}: {error}")
                    written = time.monotonic()

            device = _device()
            model = train(
                self._fresh_model().to(device),
                self.dataset.train.to(device),
                self.dataset.validation.to(device),
                self.config.training,
                seed=self.config.seed,
                on_epoch=on_epoch,
                resume=state,
            ).cpu()
        self._log(f"finished after {len(rows)} epochs")
        weights = save(model.state_dict())
        write_atomically(self.folder / _WEIGHTS, weights)
        _write_rows(path, rows)
        names = (_CONFIG, _ENVIRONMENT, _METRICS)
        files = {name: checksum((self.folder / name).read_bytes()) for name in names} | {_WEIGHTS: checksum(weights)}
        marker = {"files": files, "weights_bytes": len(weights), "seconds": sum(row["seconds"] for row in rows)}
        write_atomically(self.folder / _MARKER, _json(marker))
        for checkpoint in self._checkpoints():
            checkpoint.unlink(missing_ok=True)
        return model

    def _checkpoints(self) -> list[Path]:
        """Checkpoints, newest first; a name ends with the content's checksum."""
        return sorted(self.folder.glob("checkpoint-*.safetensors"), reverse=True)

    def _write_checkpoint(self, state: dict[str, Tensor], rows: list[dict[str, float]]) -> None:
        """Write a checkpoint and delete all older ones but the last."""
        content = save(state, metadata={"rows": json.dumps(rows), "device": _device().type})
        write_atomically(self.folder / f"checkpoint-{len(rows):06d}-{checksum(content)}.safetensors", content)
        for path in self._checkpoints()[2:]:
            path.unlink(missing_ok=True)

    def _last_checkpoint(self) -> tuple[dict[str, Tensor] | None, list[dict[str, float]]]:
        """State and training curve of the newest checkpoint; what is damaged, or of another device, moves aside."""
        for path in self._checkpoints():
            content = path.read_bytes()
            if path.stem.endswith(checksum(content)):
                with safe_open(path, "pt") as file:
                    found = file.metadata()
                if found["device"] == _device().type:
                    return load(content), json.loads(found["rows"])
            move_aside(path)
        return None, []

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Keep a table that was computed from the trained model; its first line has the checksum of the rest.

        Args:
            name: of the table; it must change whenever what it holds would.
            table: with an index that says nothing.
        """
        content = table.to_csv(index=False).encode()
        write_atomically(self.folder / f"{name}.csv", f"# sha256 {checksum(content)}\n".encode() + content)

    def read_tables(self, pattern: str) -> list[pd.DataFrame]:
        """Tables of a finished run by a glob pattern of their names; damaged ones are moved aside and left out."""
        tables = []
        for path in sorted(self.folder.glob(f"{pattern}.csv")) if self.marker else []:
            first, _, rest = path.read_bytes().partition(b"\n")
            if first == f"# sha256 {checksum(rest)}".encode():
                tables.append(pd.read_csv(io.BytesIO(rest)))
            else:
                move_aside(path)
        return tables


def _device() -> torch.device:
    return torch.device(os.environ.get("LATENTGEO_DEVICE") or "cpu")


def epochs_done(folder: Path) -> int | None:
    """Epochs that a training has done; None where it has not begun, or is finished."""
    try:
        return None if (folder / _MARKER).exists() else (folder / _METRICS).read_bytes().count(b"\n")
    except OSError:
        return None


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
