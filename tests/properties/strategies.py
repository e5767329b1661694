"""Random cases for properties: decoders, changes of latent coordinates, points and directions, all in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, Transform

import latentgeo as lg
from latentgeo.geometry import surfaces
from tests.surfaces import paraboloid, spheroid

# Cases are drawn through seeds, which nothing is gained by shrinking.
PROPERTY = settings(
    deadline=None,
    derandomize=True,
    max_examples=12,
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
)
SEEDS = st.integers(0, 10**6)

SURFACES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...]]] = {
    # name: (surface, the point of its chart that is moved to the origin)
    "cylinder": (surfaces.cylinder, (0.0, 0.0)),
    "swiss roll": (surfaces.swiss_roll, (6.0, 0.0)),
    "torus": (surfaces.torus, (0.0, 0.3)),
    "paraboloid": (paraboloid, (0.2, 0.0)),
    "pseudosphere": (surfaces.pseudosphere, (0.0, 3.0)),
    "spheroid": (lambda z: spheroid(z, 1.0, 0.2), (0.0, 0.4)),
}


def uniform(seed: int, *shape: int, half_width: float = 1.0) -> Tensor:
    """Draws from the cube around the origin."""
    random = torch.Generator().manual_seed(seed)
    return half_width * (2.0 * torch.rand(*shape, generator=random, dtype=torch.float64) - 1.0)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal draws."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apply(matrix: Tensor, v: Tensor) -> Tensor:
    """Matrices times vectors: (..., m, n), (..., n) -> (..., m)."""
    return (matrix @ v.unsqueeze(-1)).squeeze(-1)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, scale: float = 0.0) -> None:
    """Entries differ by no more than the tolerance times the largest entry, or the scale if that is larger."""
    size = max(float(expected.abs().max()), float(actual.abs().max()), scale)
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=tolerance * size)


def differs(actual: Tensor, expected: Tensor) -> bool:
    """Whether a control has changed: an entry by more than one per cent of itself."""
    return bool(((actual - expected).abs() > 1e-2 * expected.abs()).any())


@dataclasses.dataclass(frozen=True)
class Case:
    """A decoder that is smooth and of full rank around the origin of latent space.

    Attributes:
        name: what it is.
        d: number of latent dimensions.
        seed: of its weights, and of what is drawn with it.
        decoder: f.
    """

    name: str
    d: int
    seed: int
    decoder: Callable[[Tensor], Tensor] = dataclasses.field(repr=False)

    def points(self, n: int, half_width: float = 0.5, stream: int = 1) -> Tensor:
        """Points of a cube around the origin, (n, d)."""
        return uniform(self.seed + stream, n, self.d, half_width=half_width)

    def directions(self, n: int, stream: int = 11) -> Tensor:
        """Directions of any size, (n, d)."""
        return normal(self.seed + stream, n, self.d)


def immersion(seed: int, d: int, codimension: int, activation: Callable[[Tensor], Tensor]) -> Callable:
    """Map (B, d) -> (B, d + codimension) whose first coordinates are z/2: injective, of full rank everywhere."""
    width = 5
    B, W, C = (normal(seed + k, *s) for k, s in enumerate([(d, codimension), (d, width), (width, codimension)]))
    phase = uniform(seed + 3, width, half_width=3.0)
    return lambda z: torch.cat([0.5 * z, z @ B + 0.3 * activation(z @ W + phase) @ C], 1)


def scaled_surface(name: str, scale: float) -> Callable[[Tensor], Tensor]:
    """A surface with a closed form, moved and scaled."""
    surface, origin = SURFACES[name]
    return lambda z: scale * surface(z + z.new_tensor(origin))


@st.composite
def cases(draw: st.DrawFn, dimensions: Sequence[int] = (1, 2, 3)) -> Case:
    """Immersions, ensembles of two or three of them, spheres and, in two dimensions, scaled surfaces."""
    d, seed = draw(st.sampled_from(dimensions)), draw(SEEDS)
    kind = draw(st.sampled_from(["immersion", "ensemble", "sphere"] + ["surface"] * 2 * (d == 2)))
    if kind == "surface":
        name, scale = draw(st.sampled_from(sorted(SURFACES))), draw(st.floats(0.3, 3.0))
        return Case(f"{scale:.2f} {name}", d, seed, scaled_surface(name, scale))
    if kind == "sphere":
        scale = draw(st.floats(0.3, 3.0))
        return Case(f"{scale:.2f} sphere", d, seed, lambda z: scale * surfaces.sphere(z))
    codimension, activation = draw(st.integers(1, 4)), draw(st.sampled_from([torch.sin, torch.tanh]))
    K = draw(st.integers(2, 3)) if kind == "ensemble" else 1
    members = [immersion(seed + 100 * k, d, codimension, activation) for k in range(K)]
    return Case(f"{kind} of {K}", d, seed, members[0] if K == 1 else lg.Ensemble(members))


@st.composite
def transforms(draw: st.DrawFn, d: int, parts: int = 3) -> Transform:
    """Indeterminacy transformations of all families and their inverses, and compositions of several parts at most."""
    families = ["rotation", "affine", "warp"] + ["twist", "flow"] * (d > 1)
    chosen = draw(st.lists(st.sampled_from(families), min_size=1, max_size=parts))
    chain = [transform(family, d, draw(SEEDS)) for family in chosen]
    chain = [A.inv if draw(st.booleans()) else A for A in chain]
    return chain[0] if len(chain) == 1 else ComposeTransform(chain)


def transform(family: str, d: int, seed: int) -> Transform:
    """A transformation of a family, away from the identity (but a rotation in one dimension)."""
    random = torch.Generator().manual_seed(seed)
    strength = torch.rand(d, generator=random, dtype=torch.float64)
    match family:
        case "rotation":
            return lg.random_rotation(d, generator=random)
        case "affine" if d == 1:
            return lg.LinearTransform(torch.diag(2.0 + strength), strength)
        case "affine":
            return lg.random_affine(d, condition=2.0 + 4.0 * strength[0].item(), generator=random)
        case "warp":
            return lg.CoordinateWarp(1.3 + strength, 2.0 * torch.rand(d, generator=random) - 1.0)
        case "twist":
            return lg.RadialTwist(0.5 + strength[0].item())
        case "flow":
            return lg.random_flow(d, seed=seed, transforms=2, hidden=(8,), scale=0.5)
    raise ValueError(family)
