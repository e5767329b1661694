"""Configurations: everything that determines a trained model, and the settings of each profile."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping

from latentgeo.paper.models.training import TrainingConfig
from latentgeo.paper.paths import checksum, file_checksum

SCHEMA = 3  # raise it whenever the same configuration would give another model
PROFILES = ("quick", "evidence", "paper")
ARCHITECTURE = {"quick": "mlp", "evidence": "mlp", "paper": "conv"}
SEEDS = {"quick": 5, "evidence": 30, "paper": 30}


def digest(value: object) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a value as JSON, with sorted keys and no spaces.

    Example:
        >>> digest({"b": 1, "a": [1.5]}) == digest({"a": [1.5], "b": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return checksum(text.encode())[:16]


_file_checksum = functools.lru_cache(file_checksum)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One model: a run is one seed of one configuration.

    Attributes:
        dataset: name of the data set.
        architecture: ``"mlp"``, ``"conv"``, ``"flow"`` or, for counts, ``"counts"``, see
            :func:`latentgeo.paper.build_vae`.
        latent_dim: the number of latent dimensions d.
        decoders: the number of decoders K.
        noise: standard deviation τ of the Gaussian likelihood, in data units.
        activation: of the networks, see :func:`latentgeo.paper.build_vae`.
        seed: of the initial weights, the order of images and the noise.
        training: the optimiser's settings.
        perceptual: file of VGG16 weights for the perceptual loss; None for the plain one.
    """

    dataset: str
    architecture: str
    latent_dim: int
    decoders: int
    noise: float
    activation: str
    seed: int
    training: TrainingConfig
    perceptual: str | None = None

    def as_dict(self, data_sha256: Mapping[str, str]) -> dict[str, object]:
        """Everything that determines the model, with the checksums of the data and of other files it learns from."""
        values = {"schema": SCHEMA, "data_sha256": dict(data_sha256), **dataclasses.asdict(self)}
        path = values.pop("perceptual")
        return values if path is None else {**values, "perceptual_sha256": _file_checksum(path)}

    def key(self, data_sha256: Mapping[str, str]) -> str:
        """Name of the run in the store: a digest of :meth:`as_dict`."""
        return digest(self.as_dict(data_sha256))


_DIGITS = TrainingConfig(epochs=100, batch_size=64, learning_rate=4e-3, warmup_steps=50, half_life=1000, patience=100)
_CELLS = TrainingConfig(epochs=30, batch_size=100, learning_rate=1e-2, warmup_steps=10, half_life=60, patience=30)
_TASIC = TrainingConfig(epochs=5, batch_size=250, learning_rate=5e-3, warmup_steps=50, half_life=150, patience=5)
_QUICK = {
    ("digits", "mlp"): dataclasses.replace(_DIGITS, epochs=40, half_life=400, patience=40),
    ("digits", "conv"): dataclasses.replace(_DIGITS, epochs=40),
    ("fashion_mnist", "mlp"): TrainingConfig(epochs=5, batch_size=1024, learning_rate=6e-3, warmup_steps=25),
    ("fashion_mnist", "conv"): TrainingConfig(epochs=4, learning_rate=2e-3, warmup_steps=100),
    ("digits", "flow"): dataclasses.replace(_DIGITS, epochs=30, learning_rate=8e-3, half_life=300),
    ("fashion_mnist", "flow"): TrainingConfig(epochs=1, learning_rate=4e-3, warmup_steps=50),
    ("cifar10", "mlp"): TrainingConfig(epochs=3, batch_size=128, learning_rate=2e-3, warmup_steps=50),
    ("cifar10", "conv"): TrainingConfig(epochs=2, batch_size=128, learning_rate=2e-3, warmup_steps=100),
    ("celeba", "mlp"): TrainingConfig(epochs=1, batch_size=64, learning_rate=2e-3, warmup_steps=100),
    ("celeba", "conv"): TrainingConfig(epochs=1, batch_size=64, learning_rate=2e-3, warmup_steps=100),
    ("pbmc68k", "mlp"): _CELLS,
    ("pbmc68k_counts", "counts"): _CELLS,
    ("tasic", "mlp"): _TASIC,
    ("tasic_pca50", "mlp"): _TASIC,
}
# Where the committed results were trained longer than `quick`.
_EVIDENCE = {
    ("digits", "mlp"): _DIGITS,
    ("pbmc68k", "mlp"): dataclasses.replace(_CELLS, epochs=100, half_life=200, patience=100),
    ("pbmc68k_counts", "counts"): dataclasses.replace(_CELLS, epochs=100, half_life=200, patience=100),
    ("tasic", "mlp"): dataclasses.replace(_TASIC, epochs=20, half_life=600, patience=20),
    ("tasic_pca50", "mlp"): dataclasses.replace(_TASIC, epochs=20, half_life=600, patience=20),
    ("fashion_mnist", "mlp"): TrainingConfig(epochs=12, learning_rate=2e-3, warmup_steps=100),
    ("fashion_mnist", "conv"): TrainingConfig(epochs=20, learning_rate=2e-3, warmup_steps=100),
    ("digits", "flow"): dataclasses.replace(_DIGITS, epochs=60, learning_rate=8e-3, half_life=600),
    ("fashion_mnist", "flow"): TrainingConfig(epochs=6, learning_rate=4e-3, warmup_steps=100, half_life=500),
    ("cifar10", "conv"): TrainingConfig(epochs=30, batch_size=128, learning_rate=2e-3, warmup_steps=100),
}
_CELL_DATA = ("pbmc68k", "pbmc68k_counts", "tasic", "tasic_pca50")
LATENT_DIM = {"digits": 8, "fashion_mnist": 16, "cifar10": 64, "celeba": 64, **dict.fromkeys(_CELL_DATA, 2)}
# The paper's unit variance; on the 64 pixels of a digit it would leave the data nothing to say (posterior collapse).
# Standardised genes are mostly noise, so that 1 is about right there; the negative binomial has its own variance.
NOISE = {"digits": 0.25, "fashion_mnist": 1.0, "cifar10": 1.0, "celeba": 1.0}
NOISE |= {"pbmc68k": 1.0, "pbmc68k_counts": 1.0, "tasic": 0.3, "tasic_pca50": 0.2}
# The paper's; where it has none, smooth, as its theorem asks.
ACTIVATION = {"digits": "tanh", "fashion_mnist": "elu", "cifar10": "elu", "celeba": "elu"}
# The seven markers are on or off; tanh makes such steep steps of that that geodesics need hundreds of segments.
ACTIVATION |= {"pbmc68k": "tanh", "pbmc68k_counts": "tanh", "tasic": "silu", "tasic_pca50": "silu"}
_BATCH_SIZE = {"fashion_mnist": 256, "cifar10": 128, "celeba": 64}  # of the paper


def training_preset(dataset: str, architecture: str, profile: str) -> TrainingConfig:
    """How a model of a data set is trained under a profile.

    Args:
        dataset: name of the data set.
        architecture: ``"mlp"``, ``"conv"``, ``"flow"`` or, for counts, ``"counts"``, see
            :func:`latentgeo.paper.build_vae`.
        profile: ``"quick"`` (minutes on two cores), ``"evidence"`` (the committed results: hours) or ``"paper"`` (the
            settings of the paper; digits and cells, for which there are none, are trained three times as long).

    Raises:
        ValueError: there is no such preset.

    Example:
        >>> training_preset("fashion_mnist", "conv", "paper").epochs
        500
    """
    if profile not in PROFILES:
        raise ValueError(f"profile: expected one of {', '.join(PROFILES)}, got {profile!r}")
    if dataset not in LATENT_DIM:
        raise ValueError(f"expected a data set among {', '.join(LATENT_DIM)}, got {dataset!r}")
    known = [name for other, name in _QUICK if other == dataset]
    if architecture not in known:
        raise ValueError(f"expected an architecture among {', '.join(known)} for {dataset}, got {architecture!r}")
    if profile == "paper" and dataset in _BATCH_SIZE:
        return TrainingConfig(batch_size=_BATCH_SIZE[dataset])
    quick = _QUICK[dataset, architecture]
    if profile == "quick":
        return quick
    committed = _EVIDENCE.get((dataset, architecture), quick)
    if profile == "evidence":
        return committed
    longer = {name: 3 * getattr(committed, name) for name in ("epochs", "half_life", "patience")}
    return dataclasses.replace(committed, **longer)
