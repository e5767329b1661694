"""The paper's study: many seeds of one configuration, the same test pairs for each, every distance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from latentgeo.adapters.model import POINTS
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
    SEEDS,
    RunConfig,
    digest,
    training_preset,
)
from latentgeo.paper.store import Run, epochs_done

_SCHEMA = 8  # raise it whenever the same model would give other distances
_ACTIVE = 0.01  # variance of posterior means over data, from which a dimension counts as used
_LOOKED_AT = 2000  # test data that tell which dimensions are used
_BLOCK = 50  # pairs that one job measures by default


def checked_seeds(seeds: int | Sequence[int], least: int) -> tuple[int, ...]:
    """The seeds themselves, or as many as are asked for, from 0.

    Raises:
        ValueError: they are too few, or not different, or negative.
    """
    found = tuple(range(seeds)) if isinstance(seeds, int | np.integer) else tuple(int(seed) for seed in seeds)
    if len(set(found)) < max(least, len(found)) or min(found) < 0:
        raise ValueError(f"seeds: expected at least {least}, all different and at least 0, got {seeds!r}")
    return found


class Sweep:
    """Models that differ in a few numbers, such as their seed, and what is measured under each; kept in a run store.

    A subclass has the fields ``dataset``, ``seeds`` and ``store``, and a method ``config`` that gives the
    :class:`~latentgeo.paper.profiles.RunConfig` of a model by its numbers.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed",)
    """Names of the numbers by which a model is known."""

    def models(self) -> list[tuple[int, ...]]:
        """Numbers of each model, in the order in which they are trained."""
        return [(seed,) for seed in self.seeds]

    def data(self, *_: int) -> Dataset:
        """Data of a model by its numbers; the same for all of them."""
        return load_dataset(self.dataset)

    def stored(self, *model: int) -> Run:
        """A model in the store by its numbers, trained or not."""
        return Run(self.store, self.config(*model), self.data(*model))

    @functools.cached_property
    def runs(self) -> dict[str, float]:
        """Seconds of training of the models by their names in the run store, for records of figures and tables.

        Raises:
            ValueError: a model is not trained yet.
        """
        seconds = {}
        for run in (self.stored(*model) for model in self.models()):
            marker = run.marker
            if marker is None:
                raise ValueError(
                    f"expected a trained model, got none in {run.folder}; name only models that are shown, after they "
                    "are trained"
                )
            seconds[run.folder.name] = round(marker["seconds"], 3)
        return seconds

    def active_dimensions(self) -> pd.Series:
        r"""How many latent dimensions each model uses: in how many the posterior mean varies over the test data.

        .. math:: \#\{u : \mathrm{Var}_x\, \mathbb{E}[z_u \mid x] > 0.01\}

        Returns:
            By the model's numbers, over the first 2,000 of them.

        Reference:
            Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016 (active units).
        """
        active = {}
        for model in self.models():
            with single_thread():  # where it is not trained yet
                codes = self.stored(*model).train().encode(self.data(*model).test[:_LOOKED_AT])
            active[model[0] if len(model) == 1 else model] = int((codes.var(dim=0) > _ACTIVE).sum())
        return pd.Series(active, name="active dimensions")

    def measure(
        self,
        name: str,
        function: Callable[..., pd.DataFrame],
        pairs: Sequence[Sequence[int]],
        *,
        part: str = "test",
        block: int = _BLOCK,
        workers: int | None = None,
        **options: object,
    ) -> pd.DataFrame:
        """Measure pairs under every model: train what is not trained yet, measure what is not measured yet.

        Worker processes import the script they were started from: a script calls this under
        ``if __name__ == "__main__":``, a notebook needs nothing.

        Args:
            name: of the tables in the store, different from that of all other functions.
            function: ``function(model, start, end, **options)`` of a module, of a model and the data of both ends; it
                returns one row for each pair and method, with the columns ``pair`` (counted from 0) and ``method``.
            pairs: indices of the starts and of the ends, P each; or of more corners, whose data the function gets in
                the same order, where not pairs but triangles or the like are measured.
            part: of the data set that they are indices of: ``"test"``, or ``"everything"``.
            block: pairs that one job measures.
            workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.
            **options: of the function; JSON must have words for them.

        Returns:
            One row for each model, method and pair: the model's numbers, ``pair``, ``method``, and what the function
            measures.

        Raises:
            MissingDataError: the data set is not on this machine.
            RuntimeError: the script that calls this has no main guard.
            JobsFailedError: a model failed; the others are finished and stored.
        """
        corners = ["start", "end"] if len(pairs) == 2 else [f"corner_{i}" for i in range(len(pairs))]
        ends = pd.DataFrame(dict(zip(corners, map(np.asarray, pairs), strict=True)))
        ends["pair"] = np.arange(len(ends))
        table = f"{name}-{digest([_SCHEMA, METHODS, part, options])}"
        found, jobs, trainings = {}, [], {}
        for model in self.models():
            run = self.stored(*model)
            found[model] = _measured(run, table, ends)
            missing = ends[~ends["pair"].isin(found[model]["pair"])]
            if missing.empty:
                continue
            of = ", ".join(f"{number} {value}" for number, value in zip(self.numbers, model, strict=True))
            train = Job(f"training of {of}", _train, (self, model))
            trainings[model] = (of, run.folder, run.config.training.epochs)
            jobs.append(train)
            for first in range(0, len(missing), block):
                rows = missing.iloc[first : first + block]
                numbers = f"{rows['pair'].iloc[0]} to {rows['pair'].iloc[-1]}"
                task = (self, model, table, function, rows[corners], part, options)
                jobs.append(Job(f"pairs {numbers} of {of}", _measure, task, after=(train.name,)))
        if jobs:
            run_jobs(jobs, workers=workers, label="jobs", status=lambda: _status(trainings.values()))
            found |= {model: _measured(self.stored(*model), table, ends) for model in trainings}
        tables = [rows.assign(**dict(zip(self.numbers, model, strict=True))) for model, rows in found.items()]
        whole = pd.concat(tables, ignore_index=True).drop(columns=corners)
        return whole[list(dict.fromkeys([*self.numbers, "pair", *whole]))]


def _measured(run: Run, table: str, ends: pd.DataFrame) -> pd.DataFrame:
    """What the store has of the pairs already, in the order of methods and pairs."""
    stored = run.read_tables(f"{table}-*")
    if not stored:
        return ends[:0]
    rows = pd.concat(stored, ignore_index=True) if len(stored) > 1 else stored[0]
    order = {method: number for number, method in enumerate(rows["method"].unique())}
    rows = rows.merge(ends, on=[*ends.columns.drop("pair")]).drop_duplicates(["pair", "method"])
    rows = rows.assign(order=rows["method"].map(order)).sort_values(["order", "pair"], ignore_index=True)
    return rows.drop(columns="order")


def _train(sweep: Sweep, model: tuple[int, ...]) -> None:
    sweep.stored(*model).train()


def _measure(
    sweep: Sweep,
    model: tuple[int, ...],
    table: str,
    function: Callable[..., pd.DataFrame],
    ends: pd.DataFrame,
    part: str,
    options: dict[str, object],
) -> None:
    """What a function says of some pairs under one model, into the store."""
    run = sweep.stored(*model)
    trained, images = run.train(), getattr(run.dataset, part)
    found = function(trained, *(images[ends[corner].tolist()] for corner in ends), **options)
    of = ends.iloc[found["pair"]].reset_index(drop=True)
    whole = pd.concat([of, found.drop(columns="pair")], axis=1)
    run.write_table(f"{table}-{digest(ends.to_numpy().tolist())}", whole)


def _status(trainings: Iterable[tuple[str, Path, int]]) -> str:
    """Epochs that each training under way has done, of those at most."""
    done = [(of, epochs_done(folder), epochs) for of, folder, epochs in trainings]
    return ", ".join(f"{of}: epoch {n}/{epochs}" for of, n, epochs in done if n is not None)


@dataclasses.dataclass(frozen=True)
class Study(Sweep):
    """S models that differ only in their seed, and the distances of the same P test pairs under each.

    Attributes:
        dataset: name of the data set, see :func:`latentgeo.paper.load_dataset`.
        model: architecture, one of those of :func:`latentgeo.paper.build_vae`; by default ``"conv"``, the paper's, in
            the paper profile, and ``"mlp"`` in the others.
        seeds: the number of models S (seeds 0 to S - 1), or the seeds themselves; by default 5 (quick) or 30.
        pairs: the number of test pairs P, drawn by the paper's rule.
        points: between what they are measured, see :meth:`latentgeo.LatentModel.points`: ``"nearest"``, or the paper's
            ``"mean"``.
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
        (8, (0, 1), 40)
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
    points: str = "nearest"

    def __post_init__(self) -> None:
        """Fill in what depends on the profile, and refuse what cannot be run."""
        model = self.model or ARCHITECTURE.get(self.profile, "mlp")
        preset = training_preset(self.dataset, model, self.profile)
        seeds = SEEDS[self.profile] if self.seeds is None else self.seeds
        if self.pairs < 1 or self.decoders < 1 or (self.latent_dim is not None and self.latent_dim < 1):
            raise ValueError(
                "pairs, decoders and latent_dim: expected at least 1, got "
                f"{self.pairs!r}, {self.decoders!r} and {self.latent_dim!r}"
            )
        if self.points not in POINTS:
            raise ValueError(f"points: expected one of {', '.join(POINTS)}, got {self.points!r}")
        if self.activation not in (None, *ACTIVATIONS):
            raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        fill = {
            "model": model,
            "seeds": checked_seeds(seeds, least=1),
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

    def only(self, *seeds: int) -> Study:
        """The same study of these seeds alone, such as those that a figure shows."""
        return dataclasses.replace(self, seeds=seeds)

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

    def run(self, *, workers: int | None = None) -> pd.DataFrame:
        """Every distance of the study's pairs under every model, see :meth:`measure`.

        Args:
            workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

        Returns:
            One row for each model, pair and method: ``seed``, ``pair``, ``method``, ``value``, ``converged``,
            ``error``, ``unique`` and ``points``, see :func:`latentgeo.agreement.pairs.pair_distances`.

        Raises:
            MissingDataError: the data set is not on this machine.
            JobsFailedError: a model failed; the others are finished and stored.
        """
        pairs = draw_pairs(len(self.data().test), self.pairs)  # before anything is trained
        return self.measure("distances", pair_distances, pairs, points=self.points, workers=workers)

    def trained(self, seed: int) -> VAE:
        """One of the models, trained if it is not yet.

        Raises:
            ValueError: the seed is not one of the study's.
            MissingDataError: the data set is not on this machine.
        """
        if seed not in self.seeds:
            raise ValueError(f"expected a seed among {self.seeds}, got {seed!r}")
        with single_thread():
            return self.stored(seed).train()
