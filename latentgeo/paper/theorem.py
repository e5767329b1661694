"""The theorem's table: several models, several changes of latent coordinates, every quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.distributions.transforms import Transform
from tqdm import tqdm

from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.surfaces import sphere, swiss_roll, torus
from latentgeo.identifiability.coordinates import (
    CoordinateWarp,
    RadialTwist,
    random_affine,
    random_flow,
    random_rotation,
)
from latentgeo.identifiability.invariance import QUANTITIES, check_identifiability
from latentgeo.paper.data import load_dataset
from latentgeo.paper.study import Study
from latentgeo.progress import bar_options

POINTS = 8  # latent points at which a model is compared
PAIRS = 2  # pairs of them that geodesics join, and near whose ends data are
SLOW = ("logarithm", "exponential", "Fréchet mean")  # they take integrations, or many geodesics


def surfaces() -> dict[str, tuple[Decoder, Tensor]]:
    """Surfaces in closed form and latent points on them, in float64, by name."""
    random = torch.Generator().manual_seed(0)
    drawn = 0.4 * torch.randn(3, POINTS, 2, dtype=torch.float64, generator=random)
    # The swiss roll's first coordinate is an angle, and its sheet begins away from zero.
    placed = {"sphere": drawn[0], "swiss roll": drawn[1] + drawn.new_tensor([4.0, 0.0]), "torus": drawn[2]}
    return {name: (f, placed[name]) for name, f in zip(placed, (sphere, swiss_roll, torus), strict=True)}


def network_studies(profile: str) -> dict[str, Study]:
    """Single VAEs with smooth activations and K = 8 decoders, by name; any decoder will do, so short trainings do.

    Args:
        profile: ``"quick"`` has the digits alone.
    """
    datasets = {"digits VAE": "digits"} | ({} if profile == "quick" else {"Fashion-MNIST VAE": "fashion_mnist"})
    return {name: Study(dataset, "mlp", seeds=1, activation="tanh") for name, dataset in datasets.items()}


def networks(studies: Mapping[str, Study]) -> dict[str, tuple[Decoder, Tensor]]:
    """The models of :func:`network_studies`, trained, and codes of test images, in float64, by name.

    Args:
        studies: from :func:`network_studies`.

    Raises:
        MissingDataError: a data set is not on this machine.
    """
    found = {}
    for name, study in studies.items():
        model = study.trained(0).double().requires_grad_(False)
        found[name] = (model.decode, model.encode(load_dataset(study.dataset).test[:POINTS].double()))
    return found


def families(z: Tensor) -> dict[str, Transform]:
    """Changes of latent coordinates for codes z (n, d), by name; the twist turns the median code by one radian."""
    d, random = z.shape[1], torch.Generator().manual_seed(1)
    return {
        "rotation": random_rotation(d, generator=random),
        "affine": random_affine(d, condition=4.0, generator=random),
        "twist": RadialTwist(1.0 / z.square().sum(1).median().item()),
        "warp": CoordinateWarp(),
        "flow": random_flow(d, seed=0),
    }


def identifiability_table(
    models: Mapping[str, tuple[Decoder, Tensor]],
    *,
    quantities: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compare every model with itself in other coordinates, under every family of changes.

    Args:
        models: decoder and latent points (n, d) by name, such as :func:`surfaces` and :func:`networks`.
        quantities: names among :data:`latentgeo.identifiability.invariance.QUANTITIES`; by default all that the number
            of dimensions has.
        only: names among those of :func:`families`; all by default.

    Returns:
        The rows of :func:`latentgeo.check_identifiability` with the columns ``model`` and ``family`` before them.
    """
    jobs = [
        (name, f, z, family, A)
        for name, (f, z) in models.items()
        for family, A in families(z).items()
        if only is None or family in only
    ]
    tables = {
        (name, family): check_identifiability(f, A, z, "all" if quantities is None else quantities, pairs=PAIRS)
        for name, f, z, family, A in tqdm(jobs, desc="comparisons", **bar_options(None))
    }
    return pd.concat(tables, names=["model", "family", None]).reset_index(["model", "family"]).reset_index(drop=True)


def intact_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Which controls each family leaves alone, in every model and in some.

    Args:
        table: from :func:`identifiability_table`.

    Returns:
        Share of the models in which a control (row) agrees under a family (column): 0 where it always differs.
    """
    controls = table[table["kind"] == "not identified"]
    agrees = controls.assign(agrees=controls["verdict"] == "agrees").pivot_table(
        index="quantity", columns="family", values="agrees", aggfunc="mean"
    )
    rows = [name for name in QUANTITIES if name in agrees.index]
    return agrees.loc[rows, list(dict.fromkeys(table["family"]))]
