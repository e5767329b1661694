r"""How distances agree between models as the data grow.

The theorem speaks of models that give the data the same distribution. Models of finite data only come close to that,
so that a distance varies over models for three reasons: estimation, which fades as the sample grows; optimisation,
which does not; and, where the distance is not identified, the freedom of coordinates, which does not either:

.. math:: \mathrm{CV}^2(n) \approx \frac{a^2}{n} + c^2, \qquad c > 0 \text{ where the distance is not identified.}

Each model gets training data of its own, and every n the same number of optimiser steps.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from latentgeo.adapters.model import latent_model
from latentgeo.agreement.pairs import draw_pairs, pair_distances
from latentgeo.identifiability.coordinates import RadialTwist
from latentgeo.paper.data import Dataset, load_dataset
from latentgeo.paper.models.training import TrainingConfig
from latentgeo.paper.models.vae import VAE
from latentgeo.paper.paths import runs_dir
from latentgeo.paper.profiles import NOISE, RunConfig
from latentgeo.paper.study import Sweep, checked_seeds
from latentgeo.paper.torus import NOISE as TORUS_NOISE
from latentgeo.paper.torus import torus_dataset

TWISTED = "euclidean_twisted"
SERIES = ("independent", "shared", "halves")
_NETWORK = {
    "torus": {"latent_dim": 2, "decoders": 1, "noise": TORUS_NOISE, "activation": "silu"},
    "fashion_mnist": {"latent_dim": 8, "decoders": 8, "noise": NOISE["fashion_mnist"], "activation": "elu"},
}

# What each profile runs. "evidence" is the scale of the committed results; "paper" has the paper's number of seeds.
_TORUS = {"steps": 4290, "epochs": 10, "batch_size": 128, "learning_rate": 2e-2, "half_life": 450}
_SIZES = (500, 1250, 2750, 6875, 13750, 27500, 55000)
SETTINGS = {
    "quick": {
        "torus": {"sizes": (80, 640, 5120), "seeds": 6, "pairs": 30, "steps": 320, "epochs": 4, "batch_size": 64}
        | {"learning_rate": 4e-2, "half_life": 55, "warmup_steps": 30},
        "halves": {"sizes": (80, 5120), "seeds": 3},
    },
    "evidence": {
        "torus": {"sizes": _SIZES, "seeds": 10} | _TORUS,
        "shared": {"sizes": (500, 6875, 55000)},
        "halves": {"sizes": (500, 6875, 55000)},
        "fashion_mnist": {"sizes": (500, 1250, 5000, 13750, 55000), "seeds": 6},
    },
    "paper": {
        "torus": {"sizes": _SIZES, "seeds": 30} | _TORUS | {"steps": 12870, "epochs": 30, "half_life": 1350},
        "shared": {"sizes": (500, 6875, 55000)},
        "halves": {"sizes": (500, 6875, 55000)},
        "fashion_mnist": {"sizes": (500, 1250, 5000, 13750, 55000), "seeds": 30}
        | {"steps": 12840, "epochs": 60, "half_life": 2000},
    },
}


def subset(dataset: Dataset, n: int, seed: int, validation: int) -> Dataset:
    """Take n of the training images, a different part for each seed as far as there are enough.

    The images are shuffled and dealt out in blocks of n to the seeds in turn; when none is left they are shuffled
    anew. Two seeds of the same round share no image; of different rounds, a share of n/N on average.

    Args:
        dataset: with N training images.
        n: images of the subset.
        seed: of the model that it is for.
        validation: number of validation images to keep, the first ones.

    Returns:
        The data set with fewer images, under another checksum.

    Raises:
        ValueError: there are not as many images.
    """
    total = len(dataset.train)
    if not (1 <= n <= total and 1 <= validation <= len(dataset.validation) and seed >= 0):
        raise ValueError(
            f"expected n from 1 to {total}, validation from 1 to {len(dataset.validation)} and a seed of at least 0, "
            f"got {n!r}, {validation!r} and {seed!r}"
        )
    turn, block = divmod(seed, total // n)
    chosen = torch.from_numpy(np.random.default_rng((n, turn)).permutation(total)[block * n : (block + 1) * n])
    return dataclasses.replace(
        dataset,
        train=dataset.train[chosen],
        train_labels=dataset.train_labels[chosen],
        validation=dataset.validation[:validation],
        validation_labels=dataset.validation_labels[:validation],
        sha256={**dataset.sha256, "subset": f"n={n} turn={turn} block={block} validation={validation}"},
    )


def expected_overlap(total: int, n: int, seeds: Sequence[int]) -> float:
    """Share of its images that a subset has in common with another one's, expected over all pairs of seeds.

    Args:
        total: N, the images that the subsets are taken from.
        n: images of a subset.
        seeds: of the models, at least two.

    Example:
        >>> expected_overlap(100, 50, range(2)), expected_overlap(100, 100, range(2))
        (0.0, 1.0)
    """
    rounds = [seed // (total // n) for seed in seeds]
    different = [a != b for i, a in enumerate(rounds) for b in rounds[:i]]
    if not different:
        raise ValueError(f"seeds: expected at least two, got {list(seeds)!r}")
    return n / total * float(np.mean(different))


@dataclasses.dataclass(frozen=True)
class SampleSizeStudy(Sweep):
    """Models of samples that grow, and the distances of the same test pairs under each.

    Attributes:
        dataset: ``"torus"`` (:mod:`latentgeo.paper.torus`, d = 2, one decoder) or ``"fashion_mnist"`` (d = 8,
            K = 8 decoders); fully connected networks.
        sizes: numbers of training points n.
        seeds: the number of models S of each size, or their seeds. A seed sets the initial weights and the noise of
            training, the same for each n, and which data the model gets.
        pairs: the number of test pairs P.
        steps: optimiser steps of each model, rounded to whole epochs.
        epochs: an epoch has ``steps / epochs`` steps; a sample smaller than that is repeated. After each epoch the
            validation loss is taken, and the weights of the least one are kept.
        batch_size: points per step.
        learning_rate: peak learning rate.
        half_life: steps in which it halves.
        warmup_steps: steps of linear warm-up.
        validation: validation images (Fashion-MNIST; of the torus all 2,000).
        series: ``"independent"``: a sample of its own for each model. ``"shared"``: the same sample for all models of
            a size, so that they differ by optimisation alone. ``"halves"``, a negative control, on the torus only:
            each model gets data from another half of the chart, so that the marginal distributions are not equal.
        profile: whose settings these are; None for settings of one's own.
        store: folder of the run store.
        points: between what distances are measured, see :meth:`latentgeo.LatentModel.points`.
    """

    numbers = ("n", "seed")
    dataset: str
    sizes: Sequence[int]
    seeds: int | Sequence[int]
    pairs: int = 100
    steps: int = 2568
    epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 2e-3
    half_life: int = 400
    warmup_steps: int = 100
    validation: int = 2000
    series: str = "independent"
    profile: str | None = None
    store: Path | str | None = None
    points: str = "nearest"

    def __post_init__(self) -> None:
        """Refuse what cannot be run, with matched steps above all."""
        if self.dataset not in _NETWORK:
            raise ValueError(f"dataset: expected one of {', '.join(_NETWORK)}, got {self.dataset!r}")
        if self.series not in SERIES or (self.series == "halves" and self.dataset != "torus"):
            raise ValueError(
                f"series: expected one of {', '.join(SERIES)}, and halves for the torus only, got {self.series!r} for "
                f"{self.dataset}"
            )
        seeds, sizes = checked_seeds(self.seeds, least=2), tuple(int(n) for n in self.sizes)
        if not sizes or sorted(set(sizes)) != list(sizes) or sizes[0] < 1:
            raise ValueError(f"sizes: expected increasing numbers of at least 1, got {self.sizes!r}")
        if not 1 <= self.epochs <= self.steps:
            raise ValueError(f"epochs: expected from 1 to the {self.steps} steps, got {self.epochs!r}")
        for name, value in {"seeds": seeds, "sizes": sizes, "store": Path(self.store or runs_dir())}.items():
            object.__setattr__(self, name, value)
        for n in sizes:
            self.schedule(n)

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions d."""
        return _NETWORK[self.dataset]["latent_dim"]

    def schedule(self, n: int) -> tuple[int, int]:
        """How often a sample of n is repeated to make an epoch, and the number of epochs.

        Raises:
            ValueError: the number of steps would be off by more than 3 %.
        """
        wanted = self.steps / self.epochs  # steps of an epoch
        repeats = max(1, round(wanted * self.batch_size / n))
        per_epoch = repeats * n // self.batch_size
        epochs = max(1, round(self.steps / per_epoch)) if per_epoch else 1
        if abs(epochs * per_epoch / self.steps - 1.0) > 0.03:
            raise ValueError(
                f"sizes: {n} points repeated {repeats} times give {epochs * per_epoch} steps, not {self.steps}; choose "
                f"sizes that divide the {wanted * self.batch_size:.0f} points of an epoch, or multiples of it"
            )
        return repeats, epochs

    def models(self) -> list[tuple[int, int]]:
        """Size and seed of each model; all sizes of a seed first."""
        return [(n, seed) for seed in self.seeds for n in self.sizes]

    def config(self, n: int, seed: int) -> RunConfig:
        """Configuration of one model."""
        _, epochs = self.schedule(n)
        own = ("batch_size", "learning_rate", "warmup_steps", "half_life")
        training = TrainingConfig(epochs, patience=epochs, **{name: getattr(self, name) for name in own})
        return RunConfig(
            dataset=self.dataset, architecture="mlp", seed=seed, training=training, **_NETWORK[self.dataset]
        )

    def data(self, n: int, seed: int) -> Dataset:
        """Data of one model, repeated to fill an epoch."""
        own = 0 if self.series == "shared" else seed
        if self.dataset == "torus":
            half = seed if self.series == "halves" else None
            sample = torus_dataset(n, own, pairs=self.pairs, half=half)
        else:
            sample = subset(load_dataset(self.dataset), n, own, self.validation)
        repeats, _ = self.schedule(n)
        return dataclasses.replace(
            sample,
            train=sample.train.repeat(repeats, *[1] * (sample.train.ndim - 1)),
            train_labels=sample.train_labels.repeat(repeats),
            sha256={**sample.sha256, "repeated": str(repeats)},
        )

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the pairs' starts and ends among the test data, each of shape (P,)."""
        if self.dataset == "torus":
            return np.arange(self.pairs), np.arange(self.pairs) + self.pairs
        return draw_pairs(len(load_dataset(self.dataset).test), self.pairs)

    def run(self, *, workers: int | None = None) -> pd.DataFrame:
        """Train and measure what is not in the store yet, and gather everything.

        Args:
            workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

        Returns:
            One row for each size, model, pair and method: ``n``, ``seed``, ``pair``, ``method``, ``value``,
            ``converged`` and ``error``, see :func:`latentgeo.agreement.pairs.pair_distances`; one method more,
            ``euclidean_twisted``, see :func:`sample_distances`.

        Raises:
            MissingDataError: the data set is not on this machine.
            JobsFailedError: a model failed; the others are finished and stored.
        """
        tables = self.measure("sample-size", sample_distances, self.ends(), points=self.points, workers=workers)
        return tables.sort_values(["n", "seed"], kind="stable", ignore_index=True)

    def curves(self) -> pd.DataFrame:
        """Training curves of the finished models.

        Returns:
            One row for each size, model and epoch: ``n``, ``seed``, ``step``, ``train_loss`` and ``validation_loss``
            (nats per point).
        """
        tables = []
        for n, seed in sorted(self.models()):
            run = self.stored(n, seed)
            if run.marker is not None:
                rows = pd.DataFrame(json.loads(line) for line in run.read("metrics.jsonl").splitlines())
                step = (rows["epoch"] + 1) * (len(run.dataset.train) // self.batch_size)
                tables.append(rows[["train_loss", "validation_loss"]].assign(n=n, seed=seed, step=step))
        order = ["n", "seed", "step", "train_loss", "validation_loss"]
        return pd.concat(tables, ignore_index=True)[order] if tables else pd.DataFrame(columns=order)


def profile_studies(
    profile: str, *, seeds: int | None = None, pairs: int | None = None, store: Path | str | None = None
) -> dict[str, SampleSizeStudy]:
    """Build the studies of a profile.

    Args:
        profile: ``"quick"`` (the torus only), ``"evidence"`` or ``"paper"``.
        seeds: models of each size; those of the profile by default.
        pairs: test pairs; those of the profile by default.
        store: folder of the run store.

    Returns:
        By name: ``torus`` and ``fashion_mnist`` (independent samples), ``shared`` and ``halves`` (of the torus).

    Raises:
        ValueError: the profile is unknown.
    """
    if profile not in SETTINGS:
        raise ValueError(f"profile: expected one of {', '.join(SETTINGS)}, got {profile!r}")
    settings, studies = SETTINGS[profile], {}
    for name, own in settings.items():
        control = name in SERIES
        values = (settings["torus"] if control else {}) | own | {"profile": profile}
        given = {"seeds": seeds, "pairs": pairs, "store": store}
        values |= {key: value for key, value in given.items() if value is not None}
        if control:
            values["series"] = name
        studies[name] = SampleSizeStudy("torus" if control else name, **values)
    return studies


def sample_distances(model: VAE, start: torch.Tensor, end: torch.Tensor, *, points: str = "nearest") -> pd.DataFrame:
    r"""Distances of a model, and Euclidean ones in other coordinates in which it is exactly as good.

    For these the codes are moved by a prior-preserving twist :math:`A_s(z) = R(\omega_s \|z\|^2 / d)\, z` with
    :math:`\omega_s \sim U(-1, 1)` drawn for each seed s of a model; the decoder :math:`f \circ A_s^{-1}` then gives the
    data the same distribution. What remains of their variation over models as n grows is what the theorem leaves open.

    Args:
        model: the trained model, from :func:`latentgeo.paper.build_vae`, which knows its seed.
        start: images, shape (P, *event).
        end: images, shape (P, *event).
        points: between what distances are measured, see :meth:`latentgeo.LatentModel.points`.

    Returns:
        The table of :func:`latentgeo.agreement.pairs.pair_distances`, and below it the twisted distances.
    """
    table = pair_distances(model, start, end, points=points)
    a, b = latent_model(model).points(torch.cat([start, end]), points).codes.chunk(2)
    A = RadialTwist(rate=float(np.random.default_rng((model.seed, 7)).uniform(-1.0, 1.0) / a.shape[1]))
    twisted = (A(a) - A(b)).norm(dim=1).double().numpy()
    moved = table[table["method"] == "euclidean"].assign(method=TWISTED, value=twisted)
    return pd.concat([table, moved], ignore_index=True)
