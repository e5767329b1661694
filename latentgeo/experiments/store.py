"""The run store: one folder for each trained model, complete or not there at all.

A run is written under a temporary name and moved into place as a whole; its success marker, written last, carries the
checksum of the weights. A finished run is never trained again, and a half-written one is never taken for whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from latentgeo.experiments.config import RunConfig
from latentgeo.experiments.data import Dataset
from latentgeo.models.training import train
from latentgeo.models.vae import VAE, build_vae

_MARKER, _WEIGHTS = "SUCCESS.json", "weights.safetensors"


def _environment() -> dict[str, object]:
    versions = {name: importlib.metadata.version(name) for name in ("latentgeo", "torch", "numpy", "pandas")}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **versions,
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class RunStore:
    """Trained models on disk, keyed by their configuration.

    Args:
        root: folder of the store; made when something is written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def folder(self, config: RunConfig, dataset: Dataset) -> Path:
        """Folder of a run, whether or not it exists."""
        name = f"{config.dataset}-{config.architecture}-seed{config.seed}-{config.key(dataset.sha256)}"
        return self.root / name

    def is_complete(self, config: RunConfig, dataset: Dataset) -> bool:
        """Whether the run is finished and its weights are those that were written."""
        folder = self.folder(config, dataset)
        try:
            marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
            return marker["weights_sha256"] == _sha256(folder / _WEIGHTS)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def model(self, config: RunConfig, dataset: Dataset) -> VAE:
        """Load a finished run's model, in evaluation mode.

        Raises:
            FileNotFoundError: the run is not finished, or its weights are damaged.
        """
        if not self.is_complete(config, dataset):
            raise FileNotFoundError(
                f"{self.folder(config, dataset)} holds no finished run; train it first, e.g. with Study.run()"
            )
        model = _fresh_model(config, dataset)
        model.load_state_dict(load_file(self.folder(config, dataset) / _WEIGHTS))
        return model.eval()

    def train(self, config: RunConfig, dataset: Dataset) -> VAE:
        """Train a run and store it, or load it where it is finished.

        Args:
            config: the run.
            dataset: its data.

        Returns:
            The trained model, in evaluation mode.
        """
        if self.is_complete(config, dataset):
            return self.model(config, dataset)
        folder = self.folder(config, dataset)
        if folder.exists() and not self.is_complete(config, dataset):  # it may have been finished meanwhile
            os.replace(folder, _unused(folder.with_name(f"{folder.name}.damaged")))
        self.root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=self.root))
        partial.chmod(0o755)  # a store may be shared
        try:
            _write_json(partial / "config.json", config.as_dict(dataset.sha256))
            _write_json(partial / "environment.json", _environment())
            with (partial / "metrics.jsonl").open("w", encoding="utf-8") as metrics:

                def on_epoch(row: dict[str, float]) -> None:
                    metrics.write(json.dumps(row) + "\n")
                    metrics.flush()

                model = train(
                    _fresh_model(config, dataset),
                    dataset.train,
                    dataset.validation,
                    config.training,
                    seed=config.seed,
                    on_epoch=on_epoch,
                )
            save_file(model.state_dict(), partial / _WEIGHTS)
            _write_json(partial / _MARKER, {"weights_sha256": _sha256(partial / _WEIGHTS)})
            try:
                os.replace(partial, folder)
            except OSError:
                # Another process finished the same run first; its result is as good as ours.
                if not self.is_complete(config, dataset):
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return self.model(config, dataset)

    def table(
        self, config: RunConfig, dataset: Dataset, name: str, make: Callable[[VAE], pd.DataFrame]
    ) -> pd.DataFrame:
        """Read a table computed from a run's model, computing it where it is not there yet.

        Args:
            config: the run, finished.
            dataset: its data.
            name: of the table; it must change whenever what it holds would.
            make: computes the table from the model.

        Returns:
            The table as read back from disk, so that the first and every later call agree to the last digit.
        """
        path = self.folder(config, dataset) / f"{name}.csv"
        if not path.is_file():
            made = make(self.model(config, dataset))
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            made.to_csv(partial, index=False)
            os.replace(partial, path)
        return pd.read_csv(path, engine="python")  # which reads back every float as it was


def _fresh_model(config: RunConfig, dataset: Dataset) -> VAE:
    return build_vae(
        config.architecture,
        dataset.event_shape,
        config.latent_dim,
        config.decoders,
        seed=config.seed,
        noise=config.noise,
        activation=config.activation,
    )


def _unused(path: Path) -> Path:
    candidates = (path.with_name(f"{path.name}{i}") for i in range(10_000))
    return next(candidate for candidate in candidates if not candidate.exists())
