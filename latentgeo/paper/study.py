"""The paper's study: many seeds of one configuration, the same test pairs for each, every distance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from latentgeo.agreement.pairs import METHODS, draw_pairs, pair_distances
from latentgeo.paper.data import Dataset, MissingDataError, load_dataset
from latentgeo.paper.jobs import Job, run_jobs, single_thread
from latentgeo.paper.models.networks import ACTIVATIONS
from latentgeo.paper.models.perceptual import VGG16_REMEDY
from latentgeo.paper.models.training import TrainingConfig
from latentgeo.paper.models.vae import VAE
from latentgeo.paper.paths import runs_dir
from latentgeo.paper.profiles import (
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
from latentgeo.paper.reproduction.manifest import used_profile
from latentgeo.paper.store import RunStore

_SCHEMA = 3  # raise it whenever the same model would give other distances
_TABLE = f"distances-{digest([_SCHEMA, METHODS])}"
_BLOCK = 50  # pairs that one job measures


@dataclasses.dataclass(frozen=True)
class Study:
    """S models that differ only in their seed, and the distances of the same P test pairs under each.

    Attributes:
        dataset: name of the data set, see :func:`latentgeo.paper.load_dataset`.
        model: architecture, one of those of :func:`latentgeo.paper.build_vae`; by default ``"conv"``, the paper's, in
            the paper profile, and ``"mlp"`` in the others.
        seeds: the number of models S (seeds 0 to S - 1), or the seeds themselves; by default 5 (quick) or 30.
        pairs: the number of test pairs P, drawn by the paper's rule.
        profile: ``"quick"``, ``"evidence"`` or ``"paper"``: how the models are trained, see
            :func:`latentgeo.paper.profiles.training_preset`.
        latent_dim: the number of latent dimensions d; by default the paper's, 8 for digits and 2 for cells.
        decoders: the number of decoders K.
        activation: of the networks; by default the paper's ELU, a smooth one for digits and cells.
        training: the optimiser's settings; those of the profile by default.
        perceptual: file of VGG16 weights, to train with the paper's perceptual loss; see
            :class:`latentgeo.paper.models.perceptual.PerceptualVAE`.
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
    perceptual: Path | str | None = None
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
            "perceptual": None if self.perceptual is None else str(Path(self.perceptual).resolve()),
            "store": Path(self.store) if self.store is not None else runs_dir(),
        }
        for name, value in fill.items():
            object.__setattr__(self, name, value)
        if self.perceptual is not None and not Path(self.perceptual).is_file():
            raise MissingDataError(f"perceptual: {self.perceptual} is not there; {VGG16_REMEDY}")
        used_profile(self.profile)

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
            perceptual=self.perceptual,
        )

    def run(self, *, workers: int | None = None, progress: bool = True) -> pd.DataFrame:
        """Train what is not trained yet, measure what is not measured yet, and gather everything.

        Worker processes import the script they were started from: a script calls this under
        ``if __name__ == "__main__":``, a notebook needs nothing.

        Args:
            workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.
            progress: whether to show a progress bar.

        Returns:
            One row for each model, pair and method: ``seed``, ``pair``, ``method``, ``value``, ``converged`` and
            ``error``, see :func:`latentgeo.agreement.pairs.pair_distances`.

        Raises:
            MissingDataError: the data set is not on this machine.
            JobsFailedError: a model failed; the others are finished and stored.
        """
        dataset = load_dataset(self.dataset)
        drawn = draw_pairs(len(dataset.test), self.pairs)  # before anything is trained
        pairs = pd.DataFrame({"pair": np.arange(self.pairs), "start": drawn[0], "end": drawn[1]})
        measured = {seed: self._measured(seed, dataset, pairs) for seed in self.seeds}
        jobs = []
        for seed in self.seeds:
            missing = pairs[~pairs["pair"].isin(measured[seed]["pair"])]
            if missing.empty:
                continue
            train = Job(f"training of seed {seed}", _train, (self, seed))
            jobs.append(train)
            for first in range(0, len(missing), _BLOCK):
                block = missing.iloc[first : first + _BLOCK]
                numbers = f"{block['pair'].iloc[0]} to {block['pair'].iloc[-1]}"
                jobs.append(Job(f"pairs {numbers} of seed {seed}", _measure, (self, seed, block), after=(train.name,)))
        if jobs:
            run_jobs(jobs, workers=workers, label="jobs", progress=progress, status=lambda: self._status(dataset))
            measured = {seed: self._measured(seed, dataset, pairs) for seed in self.seeds}
        tables = [measured[seed].assign(seed=seed) for seed in self.seeds]
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
            return RunStore(self.store).train(self.config(seed), load_dataset(self.dataset))

    def _measured(self, seed: int, dataset: Dataset, pairs: pd.DataFrame) -> pd.DataFrame:
        """Distances of a model that are in the store already, those of whole pairs only, in the order of the pairs."""
        store = RunStore(self.store)
        run = store.find(self.config(seed), dataset)
        found = [] if run is None else store.read_tables(run, f"{_TABLE}-*")
        if not found:
            return pd.DataFrame({"pair": pd.Series(dtype=int)})
        rows = pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]
        rows = rows.merge(pairs, on=["start", "end"]).drop_duplicates(["pair", "method"])
        rows = rows[rows.groupby("pair")["method"].transform("size") == len(METHODS)]
        order = rows["method"].map({method: number for number, method in enumerate(METHODS)})
        return rows.assign(order=order).sort_values(["order", "pair"], ignore_index=True).drop(columns="order")

    def _status(self, dataset: Dataset) -> str:
        """Epochs that each training has done, of those at most."""
        store, parts = RunStore(self.store), []
        for seed in self.seeds:
            try:
                epochs = (store.folder(self.config(seed), dataset) / "metrics.jsonl").read_bytes().count(b"\n")
            except OSError:
                continue
            if store.find(self.config(seed), dataset) is None:
                parts.append(f"seed {seed}: epoch {epochs}/{self.training.epochs}")
        return ", ".join(parts)


def _train(study: Study, seed: int) -> None:
    RunStore(study.store).train(study.config(seed), load_dataset(study.dataset))


def _measure(study: Study, seed: int, pairs: pd.DataFrame) -> None:
    """Distances of some pairs under one model, into the store."""
    dataset, store = load_dataset(study.dataset), RunStore(study.store)
    model = store.train(study.config(seed), dataset)
    table = pair_distances(model, dataset.test[pairs["start"].tolist()], dataset.test[pairs["end"].tolist()])
    ends = pairs[["start", "end"]].iloc[table["pair"]].reset_index(drop=True)
    store.write_table(
        store.find(study.config(seed), dataset),
        f"{_TABLE}-{digest(pairs[['start', 'end']].to_numpy().tolist())}",
        pd.concat([ends, table.drop(columns="pair")], axis=1),
    )
