"""Configurations: everything that determines a trained model, and the settings of each profile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from latentgeo.models.training import TrainingConfig
from latentgeo.models.vae import ARCHITECTURES

SCHEMA = 3  # raise it whenever the same configuration would give another model
PROFILES = ("quick", "evidence", "paper")
ARCHITECTURE = {"quick": "mlp", "evidence": "mlp", "paper": "conv"}
SEEDS = {"quick": 5, "evidence": 30, "paper": 30}


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces, so that equal values give equal text.

    Example:
        >>> canonical_json({"b": 1, "a": [1.5]})
        '{"a":[1.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One model: a run is one seed of one configuration.

    Attributes:
        dataset: name of the data set.
        architecture: ``"mlp"`` or ``"conv"``.
        latent_dim: the number of latent dimensions d.
        decoders: the number of decoders K.
        noise: standard deviation τ of the Gaussian likelihood, in data units.
        activation: of the networks, see :func:`latentgeo.build_vae`.
        seed: of the initial weights, the order of images and the noise.
        training: the optimiser's settings.
    """

    dataset: str
    architecture: str
    latent_dim: int
    decoders: int
    noise: float
    activation: str
    seed: int
    training: TrainingConfig

    def as_dict(self, data_sha256: Mapping[str, str]) -> dict[str, object]:
        """Everything that determines the model, with the checksums of the data."""
        return {"schema": SCHEMA, "data_sha256": dict(data_sha256), **dataclasses.asdict(self)}

    def key(self, data_sha256: Mapping[str, str]) -> str:
        """Name of the run in the store: a digest of :meth:`as_dict`."""
        return digest(self.as_dict(data_sha256))


_DIGITS = TrainingConfig(epochs=100, batch_size=64, learning_rate=4e-3, warmup_steps=50, half_life=1000, patience=100)
_QUICK = {
    ("digits", "mlp"): _DIGITS,
    ("digits", "conv"): dataclasses.replace(_DIGITS, epochs=40),
    ("fashion_mnist", "mlp"): TrainingConfig(epochs=12, learning_rate=2e-3, warmup_steps=100),
    ("fashion_mnist", "conv"): TrainingConfig(epochs=4, learning_rate=2e-3, warmup_steps=100),
}
# Where the committed results were trained longer than `quick`.
_EVIDENCE = {
    ("fashion_mnist", "conv"): TrainingConfig(epochs=6, learning_rate=2e-3, warmup_steps=100),
}
LATENT_DIM = {"digits": 8, "fashion_mnist": 16}
# The paper's unit variance; on the 64 pixels of a digit it would leave the data nothing to say (posterior collapse).
NOISE = {"digits": 0.25, "fashion_mnist": 1.0}
# The paper's; digits, which it does not have, serve to check theorems about smooth decoders.
ACTIVATION = {"digits": "tanh", "fashion_mnist": "elu"}


def training_preset(dataset: str, architecture: str, profile: str) -> TrainingConfig:
    """How a model of a data set is trained under a profile.

    Args:
        dataset: name of the data set.
        architecture: ``"mlp"`` or ``"conv"``.
        profile: ``"quick"`` (minutes on two cores), ``"evidence"`` (the committed results: hours) or ``"paper"`` (the
            settings of the paper, which has no digits: these are trained three times as long).

    Raises:
        ValueError: there is no such preset.

    Example:
        >>> training_preset("fashion_mnist", "conv", "paper").epochs
        500
    """
    if profile not in PROFILES:
        raise ValueError(f"expected a profile among {', '.join(PROFILES)}, got {profile!r}")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"expected an architecture among {', '.join(ARCHITECTURES)}, got {architecture!r}")
    if (dataset, architecture) not in _QUICK:
        raise ValueError(f"expected a data set among {', '.join(LATENT_DIM)}, got {dataset!r}")
    quick = _QUICK[dataset, architecture]
    if profile == "quick":
        return quick
    if profile == "evidence":
        return _EVIDENCE.get((dataset, architecture), quick)
    if dataset == "digits":
        return dataclasses.replace(quick, epochs=3 * quick.epochs, half_life=3 * quick.half_life)
    return TrainingConfig()
