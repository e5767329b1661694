"""Shared cases: decoders with closed forms, and small random networks, in float64."""

import pytest
import torch
from torch import nn

from latentgeo.geometry.decoder import Ensemble

torch.set_num_threads(1)


def mlp(seed: int, d: int = 3, D: int = 7, width: int = 16) -> nn.Module:
    """A smooth random decoder (tanh) in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, D))
    return layers.double().eval()


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def decoder() -> nn.Module:
    return mlp(0)


@pytest.fixture
def ensemble() -> Ensemble:
    return Ensemble([mlp(seed) for seed in range(4)])


@pytest.fixture
def ends(random) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(2, 6, 3, generator=random, dtype=torch.float64))
