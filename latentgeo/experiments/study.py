"""The paper's study: many seeds of one configuration, the same test pairs for each, every distance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from latentgeo.experiments.config import (
    ACTIVATION,
    ARCHITECTURE,
    LATENT_DIM,
    NOISE,
    PROFILES,
    SEEDS,
    RunConfig,
    digest,
    training_preset,
)
from latentgeo.experiments.data import Dataset, load_dataset
from latentgeo.experiments.distances import METHODS, PAIR_SEED, draw_pairs, pair_distances
from latentgeo.experiments.runner import run_jobs, single_thread
from latentgeo.experiments.store import RunStore
from latentgeo.models.networks import ACTIVATIONS
from latentgeo.models.training import TrainingConfig
from latentgeo.models.vae import VAE
from latentgeo.paths import runs_dir

_TABLE_SCHEMA = 2  # raise it whenever the same model would give other distances


@dataclasses.dataclass(frozen=True)
class Study:
    """S models that differ only in their seed, and the distances of the same P test pairs under each.

    Attributes:
        dataset: name of the data set, see :func:`latentgeo.load_dataset`.
        model: architecture, ``"mlp"`` or ``"conv"``; by default the first for the quick profile and the second, the
            paper's, for the paper's.
        seeds: the number of models S (seeds 0 to S - 1), or the seeds themselves; 5 (quick) or 30 (paper) by default.
        pairs: the number of test pairs P, drawn by the paper's rule.
        profile: ``"quick"`` or ``"paper"``, how the models are trained.
        latent_dim: the number of latent dimensions d; the paper's by default (8 for digits).
        decoders: the number of decoders K.
        activation: of the networks; the paper's ELU by default, SiLU for digits.
        training: the optimiser's settings; those of the profile by default.
        store: folder of the run store; ``data/runs`` by default.

    Example:
        >>> study = Study("digits", "mlp", seeds=2, pairs=10)
        >>> study.latent_dim, study.seeds, study.training.epochs
        (8, (0, 1), 100)
    """

    dataset: str = "fashion_mnist"
    model: str | None = None
    seeds: int | Sequence[int] | None = None
    pairs: int = 100
    profile: str = "quick"
    latent_dim: int | None = None
    decoders: int = 8
    activation: str | None = None
    training: TrainingConfig | None = None
    store: Path | str | None = None

    def __post_init__(self) -> None:
        """Fill in what depends on the profile, and refuse what cannot be run."""
        if self.profile not in PROFILES:
            raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {self.profile!r}")
        seeds = SEEDS[self.profile] if self.seeds is None else self.seeds
        seeds = tuple(range(seeds)) if isinstance(seeds, int | np.integer) else tuple(int(seed) for seed in seeds)
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds: expected a positive number, or different seeds of at least 0, got {self.seeds!r}")
        if self.pairs < 1 or self.decoders < 1 or (self.latent_dim is not None and self.latent_dim < 1):
            raise ValueError(
                "pairs, decoders and latent_dim: expected at least 1, got "
                f"{self.pairs!r}, {self.decoders!r} and {self.latent_dim!r}"
            )
        model = self.model or ARCHITECTURE[self.profile]
        preset = training_preset(self.dataset, model, self.profile)
        if self.activation not in (None, *ACTIVATIONS):
            raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        fill = {
            "model": model,
            "seeds": seeds,
            "latent_dim": self.latent_dim or LATENT_DIM[self.dataset],
            "activation": self.activation or ACTIVATION[self.dataset],
            "training": self.training or preset,
            "store": Path(self.store) if self.store is not None else runs_dir(),
        }
        for name, value in fill.items():
            object.__setattr__(self, name, value)

    def config(self, seed: int) -> RunConfig:
        """Configuration of one of the models."""
        return RunConfig(
            dataset=self.dataset,
            architecture=self.model,
            latent_dim=self.latent_dim,
            decoders=self.decoders,
            noise=NOISE[self.dataset],
            activation=self.activation,
            seed=seed,
            training=self.training,
        )

    def run(self, *, workers: int | None = None, progress: bool = True) -> pd.DataFrame:
        """Train what is not trained yet, measure what is not measured yet, and gather everything.

        Worker processes import the script they were started from: a script calls this under
        ``if __name__ == "__main__":``, a notebook needs nothing.

        Args:
            workers: processes, see :func:`latentgeo.experiments.runner.run_jobs`.
            progress: whether to show a progress bar.

        Returns:
            One row for each model, pair and method: ``seed``, ``pair``, ``method``, ``value``, ``converged`` and
            ``error``, see :func:`latentgeo.experiments.distances.pair_distances`.

        Raises:
            MissingDataError: the data set is not on this machine.
            RuntimeError: a model failed; the others are finished and stored.
        """
        dataset = load_dataset(self.dataset)
        draw_pairs(len(dataset.test), self.pairs)  # before anything is trained
        missing = [seed for seed in self.seeds if not self._is_measured(seed, dataset)]
        if missing:
            run_jobs(_measure, [(self, seed) for seed in missing], workers=workers, label="models", progress=progress)
        tables = [self._table(seed, dataset).assign(seed=seed) for seed in self.seeds]
        return pd.concat(tables, ignore_index=True)[["seed", "pair", "method", "value", "converged", "error"]]

    def trained(self, seed: int) -> VAE:
        """One of the models, trained if it is not yet.

        Raises:
            ValueError: the seed is not one of the study's.
            MissingDataError: the data set is not on this machine.
        """
        if seed not in self.seeds:
            raise ValueError(f"expected a seed among {self.seeds}, got {seed!r}")
        with single_thread():
            return _train((self, seed))

    def _table_name(self) -> str:
        return f"distances-{digest([_TABLE_SCHEMA, self.pairs, PAIR_SEED, METHODS])}"

    def _is_measured(self, seed: int, dataset: Dataset) -> bool:
        store, config = RunStore(self.store), self.config(seed)
        table = store.folder(config, dataset) / f"{self._table_name()}.csv"
        return store.is_complete(config, dataset) and table.is_file()

    def _table(self, seed: int, dataset: Dataset) -> pd.DataFrame:
        def measure(model: VAE) -> pd.DataFrame:
            start, end = draw_pairs(len(dataset.test), self.pairs)
            return pair_distances(model, dataset.test[start], dataset.test[end])

        return RunStore(self.store).table(self.config(seed), dataset, self._table_name(), measure)


def _train(job: tuple[Study, int]) -> VAE:
    study, seed = job
    return RunStore(study.store).train(study.config(seed), load_dataset(study.dataset))


def _measure(job: tuple[Study, int]) -> int:
    study, seed = job
    _train(job)
    return len(study._table(seed, load_dataset(study.dataset)))
