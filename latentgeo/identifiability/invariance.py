r"""Does a quantity survive a change of latent coordinates? One table, with the controls that must not.

A model f and the same model in other coordinates, :math:`f' = f \circ A^{-1}` with codes :math:`z' = A(z)`, describe
the same data. A is an isometry between their pull-back metrics, so that whatever isometries preserve must agree
between the two, and nothing else need. That goes for the ruler and for the points that it is laid against: the point of
the image nearest to a datum is the same under both models, the image of its posterior mean is not. Reference: Syrota et
al., "Identifying Metric Structures of Deep Latent Variable Models", ICML 2025.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.distributions.transforms import Transform

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.curvature import ricci_curvature, riemann, scalar_curvature, sectional_curvature
from latentgeo.geometry.curve import chord_energy, chord_length, straight_line
from latentgeo.geometry.decoder import Decoder, as_decoder, check_finite, check_points
from latentgeo.geometry.geodesic.result import Geodesic
from latentgeo.geometry.geodesic.solve import solve
from latentgeo.geometry.likelihood import StatisticalDecoder
from latentgeo.geometry.maps import exp_map, frechet_mean, log_map, parallel_transport
from latentgeo.geometry.metric import angle, jacobian, norm, pullback_metric, volume_element
from latentgeo.identifiability.coordinates import reparametrise
from latentgeo.identifiability.points import nearest, project

CHANGED = 1e-2  # relative difference from which a control counts as changed
_SAFETY = 4.0  # of estimates of the energy that a geodesic could still lose
_INTEGRATED = 1e-7  # relative error at which their integration is fine enough
_STEP = 0.1  # length of the geodesics that the exponential map is compared on, in data units
_CURVATURE_DIM = 6  # largest number of dimensions in which the whole curvature tensor is compared
_FINE = 64  # segments of the curves that are only measured
_NOISE = 0.3  # distance of data from the image, relative to the spread of images
_PROJECTED = 60.0  # times √ε of its distance, to which two projections of a datum are known: 30 for either, see _SAME
_WIDTH = 1.0  # standard deviation of the posteriors, relative to that of the codes
_DRAWS = 4096  # pairs ±ε of draws from a posterior
Measured = tuple[Tensor | float, Tensor | float]  # relative difference, and its tolerance


def _relative(first: Tensor, second: Tensor, scale: Tensor | None = None) -> Tensor:
    """Largest difference of tensors (B, ...) relative to their own size, or to a scale (B,)."""
    first, second = first.reshape(len(first), -1), second.reshape(len(second), -1)
    size = torch.maximum(first.norm(dim=1), second.norm(dim=1)) if scale is None else scale
    return ((first - second).norm(dim=1) / size.clamp_min(torch.finfo(first.dtype).tiny)).max()


class _Pair:
    """The same model in two coordinate systems, and what several quantities need of both."""

    def __init__(self, decoder: Decoder, transform: Transform, z: Tensor, pairs: int, seed: int) -> None:
        self.A, self.z, self.y = transform, z, transform(z).detach()
        self.f, self.g = as_decoder(decoder, z), as_decoder(reparametrise(decoder, transform), self.y)
        check_finite("z", self.decoded(self.f, z))
        self.J_A = jacobian(transform, z)
        random = torch.Generator().manual_seed(seed)
        drawn = torch.randn(2, *z.shape, generator=random, dtype=z.dtype, device="cpu").to(z.device)
        lengths = torch.stack([norm(self.f, z, w) for w in drawn])
        short = int((~(lengths > 0)).any(0).sum())
        if short:
            raise ValueError(
                f"z: the decoder's derivative is zero or not a number at {short} of {len(z)} points, where directions "
                "have no length; drop those rows first"
            )
        self.u, self.v = drawn / lengths.unsqueeze(2)  # of unit length under the metric
        self.pairs, self.seed = pairs, seed
        double = z.dtype == torch.float64
        # Gradients distinguish curves far below the rounding of their energy.
        self.options = {"tol": 1e-18 if double else 1e-5, "max_iter": 2000}
        self.eps = torch.finfo(z.dtype).eps
        # The logarithms that a Fréchet mean is found by are as good as the root of their energy's excess.
        self.mean_tol = 2e-8 if double else 1e-3

    def moved(self, v: Tensor) -> Tensor:
        """Directions at z as directions at A(z)."""
        return (self.J_A[: len(v)] @ v.unsqueeze(-1)).squeeze(-1)

    def pulled_back(self, form: Tensor) -> Tensor:
        """Bilinear forms at A(z) as bilinear forms at z: (n, d, d) -> (n, d, d)."""
        return self.J_A.mT @ form @ self.J_A

    def decoded(self, f: Decoder, z: Tensor) -> Tensor:
        return f(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1).detach()

    @functools.cached_property
    def spread(self) -> Tensor:
        """Mean distance of the images of z from their mean."""
        x = self.decoded(self.f, self.z)
        return self.f.chord(x, x.mean(0).expand_as(x)).mean()

    @functools.cached_property
    def rounding(self) -> float:
        """Relative rounding error of quantities that are linear in the metric."""
        largest = 1.0
        for f, z in ((self.f, self.z), (self.g, self.y)):
            J = jacobian(f, z)
            J = J[torch.isfinite(J).flatten(1).all(1)]
            largest = max([largest, *torch.linalg.cond(J).tolist()])
        return float(1e3 * self.eps * largest**2)

    @functools.cached_property
    def lines(self) -> tuple[Tensor, Tensor]:
        """Straight lines in z between pairs of points, and the same curves in the other coordinates."""
        line = straight_line(self.z[: self.pairs], self.z[self.pairs : 2 * self.pairs], _FINE)
        return line, self.A(line).detach()

    @property
    def straight(self) -> Tensor:
        """Straight lines in the other coordinates between the same pairs."""
        return straight_line(self.lines[1][:, 0], self.lines[1][:, -1], _FINE)

    @functools.cached_property
    def geodesics(self) -> tuple[Geodesic, Geodesic]:
        """Between the same pairs under both models, each from the straight lines of both."""
        line, moved = self.lines
        back = self.A.inv(self.straight).detach()
        back[:, 0], back[:, -1] = line[:, 0], line[:, -1]
        first = solve(self.f, line[:, 0], line[:, -1], self.options, initial=[line, back])
        second = solve(self.g, moved[:, 0], moved[:, -1], self.options, initial=[moved, self.straight])
        return first, second

    @functools.cached_property
    def unfinished(self) -> Tensor:
        """Relative energy that the two geodesics of each pair could still lose, together."""
        first, second = self.geodesics
        return _SAFETY * (first.excess + second.excess)

    @functools.cached_property
    def astray(self) -> Tensor:
        """How far apart the two curves of each pair may be, relative to their length: ε of the energy allows √ε."""
        return self.unfinished.sqrt() + 1e3 * self.eps


# Identified: what an isometry preserves.


def _geodesic_path(m: _Pair) -> Measured:
    first, second = m.geodesics
    apart = m.decoded(m.f, first.points) - m.decoded(m.g, second.points)
    return (apart.norm(dim=2).amax(1) / first.length).max(), m.astray.max()


def _volume_of_a_region(m: _Pair) -> Measured:
    # As a measure: the density in other coordinates, times the volume that the change of coordinates makes of a unit.
    stretch = torch.linalg.svdvals(m.J_A).prod(-1)
    return _relative(volume_element(m.f, m.z), volume_element(m.g, m.y) * stretch), m.rounding


def _logarithm(m: _Pair) -> Measured:
    a, b = m.z[: m.pairs], m.z[m.pairs : 2 * m.pairs]
    first, second = m.geodesics
    there = log_map(m.g, m.A(a).detach(), m.A(b).detach(), initial=second.points, **m.options)
    here = log_map(m.f, a, b, initial=first.points, **m.options)
    apart = norm(m.g, m.y[: m.pairs], m.moved(here) - there)
    # Ends of rough geodesics are solved anew from nodes that are as far astray, down to a sixteenth of the way. In
    # single precision what seems left to gain is rounding.
    return (apart / first.length).max(), (64.0 if m.z.dtype == torch.float64 else 10.0) * m.astray.max()


def _integrated(m: _Pair, decoder: Decoder, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Decoded end points of geodesics, and their largest error, with as many steps as they need."""
    coarse = m.decoded(decoder, exp_map(decoder, z, v, steps=6))
    for steps in (12, 24, 48):
        fine = m.decoded(decoder, exp_map(decoder, z, v, steps=steps))
        error = (fine - coarse) / 15.0  # of the finer, as Runge and Kutta's error falls to a sixteenth
        coarse = fine
        if (error.norm(dim=1) <= _INTEGRATED * _STEP).all():
            break
    return fine + error, error.norm(dim=1).max()


def _exponential(m: _Pair) -> Measured:
    step = _STEP * m.u
    here, error = _integrated(m, m.f, m.z, step)
    there, other_error = _integrated(m, m.g, m.y, m.moved(step))
    return (here - there).norm(dim=1).max() / _STEP, (error + other_error) / _STEP + m.rounding


def _parallel_transport(m: _Pair) -> Measured:
    line, moved = m.lines
    v = m.v[: m.pairs]
    here, there = parallel_transport(m.f, line, v), parallel_transport(m.g, moved, m.moved(v))
    J = jacobian(m.A, line[:, -1])
    return norm(m.g, moved[:, -1], (J @ here.unsqueeze(-1)).squeeze(-1) - there).max(), m.rounding


def _holonomy(m: _Pair) -> Measured:
    corners = m.z[[0, 1, 2, 0]]
    loop = torch.cat([straight_line(a[None], b[None], _FINE) for a, b in itertools.pairwise(corners)], 1)
    v, w = m.v[:1], m.moved(m.v[:1])
    here = angle(m.f, m.z[:1], v, parallel_transport(m.f, loop, v))
    there = angle(m.g, m.y[:1], w, parallel_transport(m.g, m.A(loop).detach(), w))
    return (here - there).abs().max(), m.rounding


def _curvature(first: Tensor, second: Tensor, m: _Pair) -> Measured:
    # Curvature divides by the metric once more; where it is about zero, its scale is that of unit directions.
    sizes = [curvature.reshape(len(curvature), -1).norm(dim=1) for curvature in (first, second)]
    scale = torch.maximum(*sizes).clamp_min(1e-3)
    return _relative(first, second, scale), 0.01 * m.rounding**2 / (1e3 * m.eps) + m.rounding


def _curvature_tensor(m: _Pair) -> Measured:
    J = m.J_A
    there = torch.einsum("bijkl,bip,bjq,bkr,bls->bpqrs", riemann(m.g, m.y), J, J, J, J)
    return _curvature(riemann(m.f, m.z), there, m)


def _frechet_mean(m: _Pair) -> Measured:
    near = m.z[0] + 0.25 * (m.z[:4] - m.z[0])  # close enough together for their mean to be one
    try:
        here = frechet_mean(m.f, near, tol=m.mean_tol)
        there = frechet_mean(m.g, m.A(near).detach(), tol=m.mean_tol)
    except RuntimeError as error:
        if "did not converge" not in str(error):
            raise
        return near.new_tensor(torch.nan), torch.nan
    x = m.decoded(m.f, near)
    spread = (x - x.mean(0)).norm(dim=1).mean()
    apart = (m.decoded(m.f, here[None]) - m.decoded(m.g, there[None])).norm()
    return apart / spread, 20.0 * m.mean_tol


def _nearest_point(m: _Pair) -> Measured:
    # Of a decoder that returns distributions, the data are a sample, and the point is that of greatest likelihood.
    z, y = (w[: 2 * m.pairs] for w in (m.z, m.y))
    image = m.decoded(m.f, z)
    if isinstance(m.f, StatisticalDecoder):
        with torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
            torch.default_generator.manual_seed(m.seed)
            if z.is_cuda:
                torch.cuda.manual_seed(m.seed)
            x = m.f.source(z).sample()
        here, there = project(m.f, x, z, m.z), project(m.g, x, y, m.y)
        distance = x[0].numel() ** 0.5
    else:
        noise = torch.randn(
            image.shape, generator=torch.Generator().manual_seed(m.seed), dtype=z.dtype, device="cpu"
        ).to(z.device)
        distance = _NOISE * m.spread
        x = image + distance * noise / noise.norm(dim=1, keepdim=True)
        here, there = nearest(m.f, x, z, m.z), nearest(m.g, x, y, m.y)
    sure = here.unique & there.unique
    if not sure.any():
        return float("nan"), float("nan")
    apart = m.f.chord(m.decoded(m.f, here.codes), m.decoded(m.g, there.codes))[sure].max()
    return apart / m.spread, _PROJECTED * m.eps**0.5 * distance / m.spread


# Not identified: controls.


def _euclidean_distance(m: _Pair) -> Tensor:
    first, second = (w[: m.pairs] - w[m.pairs : 2 * m.pairs] for w in (m.z, m.y))
    return _relative(first.norm(dim=1), second.norm(dim=1))


def _euclidean_angle(m: _Pair) -> Tensor:
    angles = []
    for w in (m.z, m.y):
        sides = w[1:] - w[0]
        angles.append(torch.arccos(torch.cosine_similarity(sides[1:], sides[:-1]).clamp(-1.0, 1.0)))
    return (angles[0] - angles[1]).abs().max()


def _latent_mean(m: _Pair) -> Tensor:
    here, there = m.decoded(m.f, m.z.mean(0, keepdim=True)), m.decoded(m.g, m.y.mean(0, keepdim=True))
    return m.f.chord(here, there).squeeze() / m.spread


def _posterior_mean(m: _Pair) -> Tensor:
    z = m.z[: 2 * m.pairs]
    noise = torch.randn(
        _DRAWS, 1, z.shape[1], generator=torch.Generator().manual_seed(m.seed), dtype=z.dtype, device="cpu"
    )
    step = _WIDTH * m.z.var(0).mean().sqrt() * noise.to(z.device)
    # Where A is affine the pairs ±ε leave no error of sampling. On the theorem's five models it is at most 0.03 spreads
    # under twists and 0.01 under warps and flows, about 2 to 10 % of the difference, and nothing is subtracted for it.
    mean = 0.5 * (m.A(z + step) + m.A(z - step)).mean(0)
    return m.f.chord(m.decoded(m.f, z), m.decoded(m.g, mean)).max() / m.spread


def _nearest_neighbours(m: _Pair) -> Tensor:
    k = min(5, len(m.z) - 1)
    first, second = (torch.cdist(w, w).fill_diagonal_(torch.inf).topk(k, largest=False).indices for w in (m.z, m.y))
    kept = (first[:, :, None] == second[:, None, :]).any(2).double().mean()
    return 1.0 - kept


_IDENTIFIED: dict[str, Callable[[_Pair], Measured]] = {
    "metric tensor": lambda m: (
        _relative(pullback_metric(m.f, m.z), m.pulled_back(pullback_metric(m.g, m.y))),
        m.rounding,
    ),
    "length of a curve": lambda m: (_relative(*map(chord_length, (m.f, m.g), m.lines)), m.rounding),
    "energy of a curve": lambda m: (_relative(*map(chord_energy, (m.f, m.g), m.lines)), m.rounding),
    "geodesic distance": lambda m: (
        _relative(*(g.length for g in m.geodesics)),
        # Both join the same nodes, in data space, and miss the same; only what carries points there may differ.
        m.unfinished.max() + 0.1 * sum(g.error for g in m.geodesics).max() + 1e2 * m.eps,
    ),
    "geodesic path": _geodesic_path,
    "angle": lambda m: (
        (angle(m.f, m.z, m.u, m.v) - angle(m.g, m.y, m.moved(m.u), m.moved(m.v))).abs().max(),
        m.rounding,
    ),
    "volume of a region": _volume_of_a_region,
    "logarithm": _logarithm,
    "exponential": _exponential,
    "parallel transport": _parallel_transport,
    "holonomy": _holonomy,
    "sectional curvature": lambda m: _curvature(
        sectional_curvature(m.f, m.z, m.u, m.v), sectional_curvature(m.g, m.y, m.moved(m.u), m.moved(m.v)), m
    ),
    "scalar curvature": lambda m: _curvature(scalar_curvature(m.f, m.z), scalar_curvature(m.g, m.y), m),
    "Ricci curvature": lambda m: _curvature(ricci_curvature(m.f, m.z), m.pulled_back(ricci_curvature(m.g, m.y)), m),
    "curvature tensor": _curvature_tensor,
    "Fréchet mean": _frechet_mean,
    "nearest point": _nearest_point,
}
_CONTROLS: dict[str, Callable[[_Pair], Tensor]] = {
    "codes": lambda m: _relative(m.z, m.y),
    "Euclidean distance": _euclidean_distance,
    "Euclidean angle": _euclidean_angle,
    "volume element at a code": lambda m: _relative(volume_element(m.f, m.z), volume_element(m.g, m.y)),
    "length of the straight line": lambda m: _relative(*map(chord_length, (m.f, m.g), (m.lines[0], m.straight))),
    "latent mean": _latent_mean,
    "posterior mean": _posterior_mean,
    "nearest neighbours": _nearest_neighbours,
}
QUANTITIES = (*_IDENTIFIED, *_CONTROLS)
_NEEDS_TWO_DIMENSIONS = {"angle", "sectional curvature", "Euclidean angle", "holonomy"}


@takes_arrays("z")
def check_identifiability(
    decoder: Decoder,
    transform: Transform,
    z: Tensor,
    quantities: str | Sequence[str] = "all",
    *,
    pairs: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Compare a model with the same model in other latent coordinates, quantity by quantity.

    .. math:: f' = f \circ A^{-1}, \qquad z' = A(z)

    Quantities that theory says are identified must agree, covariantly: points by A, directions by its Jacobian,
    tensors by pull-back. The rest are controls, which a change of coordinates is free to change; which of them stay the
    same depends on the transformation (a rotation keeps Euclidean distances).

    Two rows are about the points that data are given. *nearest point*: data are drawn near the image, x = f(z) + noise
    in the space of the decoder's output (of a decoder that returns distributions, a sample of them), and their nearest
    points, or those of greatest likelihood, are found from z under one model and from A(z) under the other, as
    :func:`latentgeo.project` does. Data are left out of which either search did not say that the point is unique; where
    none is left, the row is not measured. *posterior mean*: a posterior :math:`q = N(z, \sigma^2 I)` as wide as the
    codes is pushed forward by A, and the image of its mean under the second model is compared with that under the
    first,

    .. math:: f'\big(\mathbb{E}_q[A(z)]\big) \quad\text{against}\quad f\big(\mathbb{E}_q[z]\big),

    by pairs of draws ±ε, which make it exact where A is affine. Elsewhere the mean has an error of sampling of up to a
    tenth of the difference, which is not subtracted. Both are relative to the spread of the images of z.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), smooth; float64 throughout for the tolerances to mean much.
        transform: A, a bijective ``torch.distributions`` transform of (B, d), twice differentiable in forward mode.
        z: latent points, shape (n, d), at least ``2 * pairs``.
        quantities: ``"all"``, or names from ``QUANTITIES``. Of all, those are left out that the number of dimensions
            does not have (angles in one) or that would be too large (the curvature tensor above six).
        pairs: pairs of points that geodesics join; their ends are the points of the two rows above.
        seed: of the directions that angles, transport and curvature are measured with, of noise and of posteriors.

    Returns:
        One row for each quantity: ``quantity``; ``kind`` (``"identified"`` or ``"not identified"``); ``difference``,
        the largest relative difference between the models (radians for angles); ``tolerance``, which follows from the
        geodesics' certificates, from step halving, from rounding at the condition number of
        the Jacobians, or, as the root of the dtype's rounding, from what projections are known to, and is one per cent
        for controls; ``verdict``, ``"agrees"`` or ``"differs"``. A difference that is not a number, or a geodesic that
        did not converge, is ``"not measured"``.

    Raises:
        TypeError, ValueError: shapes, types, too few points, an unknown quantity, or a decoder that is not finite, or
            does not change, at one of the points.

    References:
        Syrota et al., ICML 2025.

    Example:
        >>> from latentgeo.identifiability.coordinates import RadialTwist
        >>> z = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> f = lambda z: torch.cat([z, z.square().sum(1, keepdim=True)], 1)
        >>> table = check_identifiability(f, RadialTwist(0.3), z, ["geodesic distance", "Euclidean distance"])
        >>> table["verdict"].tolist()
        ['agrees', 'differs']
    """
    check_points("z", z, ndim=2)
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"z: expected float32 or float64, got {z.dtype}; half precision is too coarse")
    if pairs < 1 or len(z) < max(2 * pairs, 4):
        raise ValueError(f"z: expected at least {max(2 * pairs, 4)} points for {pairs} pairs, got {len(z)}")
    d = z.shape[1]
    if isinstance(quantities, str):
        if quantities != "all":
            raise ValueError(f'quantities: expected "all" or a list of names, got {quantities!r}')
        left_out = {"curvature tensor"} if d > _CURVATURE_DIM else set()
        left_out |= _NEEDS_TWO_DIMENSIONS if d < 2 else set()
        quantities = [name for name in QUANTITIES if name not in left_out]
    unknown = [name for name in quantities if name not in QUANTITIES]
    if unknown:
        raise ValueError(f"quantities: expected names among {', '.join(QUANTITIES)}; got {', '.join(unknown)}")
    models = _Pair(decoder, transform, z.detach(), pairs, seed)
    rows = []
    for name in quantities:
        identified = name in _IDENTIFIED
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what did not converge is said by the verdict
            found = _IDENTIFIED[name](models) if identified else (_CONTROLS[name](models), CHANGED)
        difference, tolerance = map(float, found)
        measured = difference == difference and tolerance < float("inf")
        if name in {"geodesic distance", "geodesic path", "logarithm"}:
            measured &= all(bool(found.converged.all()) for found in models.geodesics)
        verdict = ("agrees" if difference <= tolerance else "differs") if measured else "not measured"
        kind = "identified" if identified else "not identified"
        rows.append((name, kind, difference, tolerance, verdict))
    return pd.DataFrame(rows, columns=["quantity", "kind", "difference", "tolerance", "verdict"])
