r"""Angles, areas, volumes and densities across trainings, beside their Euclidean counterparts.

Under each model the same data give m + 1 points of the image, the corners of a simplex, and with the logarithms
:math:`v_i = \log_{z_0} z_i` at the first of them

.. math:: \alpha = \angle(v_1, v_2), \qquad
    \mathrm{vol}_k = \frac1{k!} \sqrt{\det\big(\langle v_i, v_j \rangle\big)_{i, j \le k}}, \qquad
    \log \rho(z_0) = \log p(z_0) - \tfrac12 \log\det G(z_0).

The angle lies between two geodesics; vol of k = 1 is the distance, and of more dimensions the volume of the simplex of
the logarithms, in the tangent space, which curvature makes differ from that of the simplex of geodesics. *area* is that
of the flat triangle with the three geodesics' lengths (Heron), *excess* the sum of its angles less 180°, and where
there are two latent dimensions *enclosed area* is what the three geodesics enclose. ρ is the density of
:math:`f(Z), Z \sim p` by the Riemannian volume of the image. All are identified: in other coordinates
:math:`z' = A(z)` lengths and angles are the same, and of the density p and :math:`\sqrt{\det G}` are both divided by
:math:`|\det J_A|`, provided that the prior is pushed forward by A too. Neither of the two alone is identified.

Where a model leaves dimensions unused, G is nearly singular. Volumes and the density are then those of the active
subspace of rank r: of G the r largest eigenvalues, of the prior its marginal along their eigenvectors. Where unused
coordinates do not change the image at all, that is the density of the image by its volume of r dimensions.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from numpy.polynomial.chebyshev import chebfit
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import Transform

from latentgeo.adapters.model import as_images, latent_model
from latentgeo.agreement.pairs import METHOD_NAMES, PAIR_SEED
from latentgeo.agreement.reliability import compare_reliability
from latentgeo.geometry.decoder import Decoder, as_decoder
from latentgeo.geometry.geodesic.solve import Options, solve
from latentgeo.geometry.metric import jacobian
from latentgeo.geometry.triangles import GeodesicTriangle, triangle_integral
from latentgeo.identifiability.coordinates import reparametrise
from latentgeo.paper.models.vae import VAE
from latentgeo.paper.recipes import components, recipes
from latentgeo.paper.study import Study, Sweep

NAMES = METHOD_NAMES | {"euclidean": "Euclidean, nearest points", "euclidean_means": "Euclidean, posterior means"}
BASELINE = "euclidean_means"
_SEEDS = {"quick": range(3), "evidence": range(3, 9), "paper": range(30)}
_DEGREE = 180.0 / math.pi
# Compared as they are, angles in degrees and the others in nats; areas and volumes by their logarithms.
_ADDITIVE = {"angle": _DEGREE, "excess": _DEGREE, "density": 1.0, "volume element": 1.0}
NOT_IDENTIFIED = ("euclidean", "euclidean_means")
_SIDE = 10  # degree of the polynomials that sides are, where they enclose something
_NODES = (8, 12)
_ROUNDING = 1e-9  # of double precision, at the points and in the sums of this module
_TOL = {torch.float32: 1e-6, torch.float64: 1e-8}  # directions are as good as its root


def studies(profile: str = "quick", store: Path | None = None) -> dict[str, Study]:
    """Studies of the digits, Fashion-MNIST and blood cells, between nearest points.

    Args:
        profile: ``"quick"`` (3 models each, of one decoder; those of the digits are the centre of
            :func:`latentgeo.paper.recipes.recipes`), ``"evidence"`` (6 others) or ``"paper"`` (30).
        store: folder of the run store; ``data/runs`` by default.
    """
    options = {"model": "mlp", "seeds": _SEEDS[profile], "profile": profile, "store": store}
    if profile != "quick":
        return {name: Study(name, **options) for name in ("digits", "fashion_mnist", "pbmc68k")}
    found = {"digits": dataclasses.replace(recipes(profile, store=store)["centre"], points="nearest")}
    return found | {name: Study(name, decoders=1, **options) for name in ("fashion_mnist", "pbmc68k")}


def draw_corners(data: int, simplices: int, corners: int) -> tuple[np.ndarray, ...]:
    """Indices of the corners of simplices of test data: each corner is drawn without replacement.

    Args:
        data: the number of test data.
        simplices: P.
        corners: of each, m + 1.

    Returns:
        An array (P,) for each corner; no two corners of a simplex are the same datum.

    Raises:
        ValueError: there are not enough data.

    Example:
        >>> corners = draw_corners(10, 4, 3)
        >>> all(len(set(of)) == 3 for of in zip(*corners))
        True
    """
    if not 1 <= simplices <= data or corners > data:
        raise ValueError(f"expected data for {simplices} simplices of {corners} corners, got {data}")
    random = np.random.default_rng(PAIR_SEED)
    first, steps = random.permutation(data)[:simplices], random.permutation(np.arange(1, data))[: corners - 1]
    order = random.permutation(data)
    return tuple(order[(first + step) % data] for step in (0, *steps))


def simplices(model: object, *corners: Tensor, rank: int, points: str = "nearest") -> pd.DataFrame:
    """Angles, areas, volumes and densities of simplices of data under a model, by every method of this module.

    Args:
        model: the trained model, in evaluation mode.
        *corners: data, shape (P, *event) for each of m + 1 ≥ 3 corners.
        rank: r of the active subspace.
        points: what stands for the data, see :meth:`latentgeo.LatentModel.points`. Euclidean quantities are those of
            the same codes, and beside them (``euclidean_means``) of the posterior means.

    Returns:
        The table of :func:`measure_simplices`; ``converged`` says that the points were found, too.
    """
    seen, x, P = latent_model(model), torch.cat([as_images(of) for of in corners]), len(corners[0])
    found, means = seen.points(x, points), seen.codes(x)
    f = as_decoder(seen.decoder, found.codes)
    of = [z.unflatten(0, (-1, P)) for z in (found.codes, means)]
    table = measure_simplices(f, of[0], rank=rank)
    beside = _euclidean(of[1], rank, _principal(f, of[1][0], rank)[1])
    table = pd.concat([table, _tidy({f"{name}: {BASELINE}": column for name, column in beside.items()})])
    there = found.converged.unflatten(0, (-1, P)).all(0).numpy()
    return table.assign(converged=table["converged"] & there[table["pair"]]).reset_index(drop=True)


def measure_simplices(
    f: Decoder,
    z: Tensor,
    *,
    rank: int,
    log_prior: Callable[[Tensor], Tensor] | None = None,
    **options: Unpack[Options],
) -> pd.DataFrame:
    r"""Angles, areas, volumes and densities of simplices of latent points under a decoder.

    Args:
        f: a decoder that :func:`latentgeo.geometry.decoder.as_decoder` has made.
        z: corners, shape (m + 1, P, d), m ≥ 2.
        rank: r of the active subspace, at most d.
        log_prior: log p of latent points (P, d), where it is not that of N(0, I); for r = d alone.
        **options: of the geodesics, see :func:`latentgeo.geodesic`.

    Returns:
        One row for each quantity, method and simplex: ``pair`` (of the simplex); ``method``, as ``"quantity: method"``;
        ``value`` (angle and excess in degrees; areas and ``volume k`` in data units to the power 2 and k, latent ones
        for Euclidean methods; ``density`` and ``volume element`` as logarithms, in nats); ``converged``; and ``error``,
        what the geodesics' claims allow the value to be off by, absolute for angle, excess and logarithms and relative
        for areas and volumes; infinite where nothing is claimed.

    Raises:
        ValueError: the corners or the rank do not fit.
    """
    if z.ndim != 3 or len(z) < 3 or not 1 <= rank <= z.shape[-1]:
        raise ValueError(
            f"expected at least three corners (m + 1, P, d) and a rank between 1 and d, got {tuple(z.shape)} and "
            f"rank {rank}"
        )
    if log_prior is not None and rank < z.shape[-1]:
        raise ValueError(f"log_prior: expected none for an active subspace, got one for rank {rank} of {z.shape[-1]}")
    m, P = len(z) - 1, z.shape[1]
    start, end = torch.cat([z[:1].expand(m, -1, -1), z[1:2]]), torch.cat([z[1:], z[2:3]])
    options = {"tol": _TOL[z.dtype], "max_iter": 1000} | options
    solved = solve(f, start.flatten(0, 1), end.flatten(0, 1), options, gradient=True)
    length, error, converged = (
        value.unflatten(0, (m + 1, P)) for value in (solved.length.double(), solved.error.double(), solved.converged)
    )
    slopes = solved.gradient.double().unflatten(0, (m + 1, P))  # [m + 1, P, 2, d]
    ends = (slopes[:m, :, 0], torch.stack([slopes[0, :, 1], slopes[m, :, 0]]), slopes[[1, m], :, 1])
    frames = [_principal(f, z[corner]) for corner in range(3)]
    logs = [-_raised(slope, *frame) for slope, frame in zip(ends, frames, strict=True)]  # unit vectors, orthonormal
    turned = (2.0 * error).sqrt()  # by how much directions may be off
    angles, off = [_between(*of[:2]) for of in logs], turned[0] + turned[1] + turned[m]
    sides = length[[0, 1, m]]
    columns = {
        "angle: geodesic": (_DEGREE * angles[0], converged[:2].all(0), _DEGREE * (turned[0] + turned[1])),
        "excess: geodesic": (
            _DEGREE * (sum(angles) - math.pi),
            converged[[0, 1, m]].all(0),
            2.0 * _DEGREE * off,
        ),
        "area: geodesic": (heron(sides), converged[[0, 1, m]].all(0), _heron_error(sides, error[[0, 1, m]])),
    }
    with torch.no_grad():
        x = f(z.flatten(0, 1)).double().unflatten(0, (m + 1, P))
    vectors = {"geodesic": logs[0] * length[:m, :, None], "ambient_chord": x[1:] - x[0]}
    for method, of in vectors.items():
        for k in range(1, m + 1):
            volume, sensitive = _volume(of[:k])
            claim = torch.zeros_like(volume)
            if method == "geodesic":
                across = (length[:k] * sensitive * turned[:k]).sum(0) if k > 1 else 0.0
                claim = across + error[:k].sum(0)
            columns[f"volume {k}: {method}"] = (volume, converged[:k].all(0) | (method != "geodesic"), claim)
    exact = torch.ones(P, dtype=torch.bool, device=z.device)
    ambient = torch.stack([(x[1] - x[0]), (x[2] - x[0]), (x[2] - x[1])])
    columns["angle: ambient_chord"] = (_DEGREE * _between(ambient[0], ambient[1]), exact)
    columns["area: ambient_chord"] = (heron(ambient.norm(dim=2)), exact)
    sigma, V = frames[0]
    active = V[:, :rank]
    element = sigma[:, :rank].log().sum(1)
    prior = _standard_normal(active @ z[0].double().unsqueeze(-1)) if log_prior is None else log_prior(z[0]).double()
    rounding = rank * 1e3 * torch.finfo(z.dtype).eps * sigma[:, 0] / sigma[:, rank - 1]
    columns["density: geodesic"] = (prior - element, element.isfinite(), rounding)
    columns["volume element: geodesic"] = (element, element.isfinite(), rounding)
    beside = _euclidean(z, rank, active) | {"density": (prior, exact)}
    if z.shape[2] == 2:
        sides_of = solved.points.unflatten(0, (m + 1, P))
        enclosed, claim = _enclosed(f, torch.stack([sides_of[0], sides_of[m], sides_of[1].flip(1)]))
        across = (sides.square() * turned[[0, 1, m]]).sum(0) / enclosed
        columns["enclosed area: geodesic"] = (enclosed, converged[[0, 1, m]].all(0), claim + across)
        beside["enclosed area"] = beside["area"]
    columns |= {f"{name}: euclidean": column for name, column in beside.items()}
    return _tidy(columns)


def _principal(f: Decoder, z: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Singular values (P, d) of J at points, falling, and its right singular vectors as rows (P, d, d), in float64."""
    _, sigma, V = torch.linalg.svd(jacobian(f, z).double(), full_matrices=False)
    return sigma[:, :rank], V[:, :rank]


def _raised(slope: Tensor, sigma: Tensor, V: Tensor) -> Tensor:
    """Unit vectors of the gradients of lengths, (k, P, d) -> (k, P, d), in coordinates in which G is the identity."""
    inverse = torch.where(sigma > 1e-6 * sigma[:, :1], 1.0 / sigma, 0.0)
    raised = inverse * (V @ slope.unsqueeze(-1)).squeeze(-1)
    return raised / raised.norm(dim=-1, keepdim=True)


def _between(u: Tensor, v: Tensor) -> Tensor:
    """Angles (P,) between vectors (P, n), in radians."""
    u, v = u / u.norm(dim=-1, keepdim=True), v / v.norm(dim=-1, keepdim=True)
    return 2.0 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))


def _volume(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Volumes (P,) of the simplices of vectors (k, P, n), and 1 / distance of each from the others' span, (k, P)."""
    R = torch.linalg.qr(vectors.movedim(0, -1), mode="r").R  # [P, k, k]
    inverse = torch.linalg.pinv(R)
    return R.diagonal(dim1=-2, dim2=-1).abs().prod(-1) / math.factorial(len(vectors)), inverse.norm(dim=-1).T


def heron(sides: Tensor) -> Tensor:
    r"""Area of the flat triangle with three given sides, (3, P) -> (P,); zero where there is no such triangle.

    .. math:: \tfrac14 \sqrt{(a + (b + c))\,(c - (a - b))\,(c + (a - b))\,(a + (b - c))}, \qquad a \ge b \ge c

    Reference:
        Kahan, "Miscalculating area and angles of a needle-like triangle", 2014.

    Example:
        >>> heron(torch.tensor([[3.0], [4.0], [5.0]]))
        tensor([6.])
    """
    a, b, c = sides.sort(0, descending=True).values
    return ((a + (b + c)) * (c - (a - b)) * (c + (a - b)) * (a + (b - c))).clamp_min(0.0).sqrt() / 4.0


def _heron_error(sides: Tensor, error: Tensor) -> Tensor:
    """Relative error of a triangle's area that relative errors (3, P) of its sides allow; infinite for a needle."""
    squares = sides.square()
    bent = (squares * (squares.sum(0) - 2.0 * squares)).abs()
    return (bent * error).sum(0) / (8.0 * heron(sides).square())


def _standard_normal(z: Tensor) -> Tensor:
    """Logarithm of the density of N(0, I), (P, r, 1) -> (P,)."""
    return -0.5 * (z.square() + math.log(2.0 * math.pi)).sum((1, 2))


def _euclidean(z: Tensor, rank: int, active: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """The Euclidean counterparts, of codes (m + 1, P, d)."""
    z = z.double()
    exact = torch.ones(z.shape[1], dtype=torch.bool, device=z.device)
    vectors, third = z[1:] - z[0], z[2] - z[1]
    found = {
        "angle": _DEGREE * _between(vectors[0], vectors[1]),
        "area": heron(torch.stack([vectors[0], vectors[1], third]).norm(dim=2)),
        "density": _standard_normal(active @ z[0].unsqueeze(-1)),
    }
    if z.shape[2] == 2:
        found["enclosed area"] = found["area"]
    found |= {f"volume {k}": _volume(vectors[:k])[0] for k in range(1, len(vectors) + 1)}
    return {name: (value, exact) for name, value in found.items()}


def _enclosed(f: Decoder, curves: Tensor) -> tuple[Tensor, Tensor]:
    """Areas that three curves ab, bc and ca, (3, P, N + 1, 2), enclose on a surface, and how sure the rule is, (P,)."""
    t, areas = np.linspace(0.0, 1.0, curves.shape[2]), []
    for sides in curves.movedim(1, 0):
        series = torch.stack([torch.from_numpy(chebfit(2.0 * t - 1.0, side.double().numpy(), _SIDE)) for side in sides])
        nothing = curves.new_zeros(3)
        triangle = GeodesicTriangle(sides[:, 0], nothing, nothing, 0.0, series.to(sides))
        areas.append([triangle_integral(f, triangle, nodes=nodes) for nodes in _NODES])
    coarse, fine = torch.tensor(areas, dtype=torch.float64).T
    return fine, (fine - coarse).abs() / fine


def _tidy(columns: dict[str, tuple[Tensor, ...]]) -> pd.DataFrame:
    rows = []
    for method, (value, converged, *error) in columns.items():
        claim = error[0] if error else torch.zeros_like(value)
        arrays = {"value": value.numpy(), "converged": converged.numpy(), "error": claim.numpy()}
        rows.append(pd.DataFrame({"pair": np.arange(len(value)), "method": method} | arrays))
    return pd.concat(rows, ignore_index=True)


def measured(study: Sweep, count: int, rank: int, *, workers: int | None = None) -> pd.DataFrame:
    """Simplices of full dimension of the test data, under every model of a study; kept in the run store.

    Args:
        study: the models; between what they are measured is its ``points``.
        count: the number of simplices P.
        rank: r of the active subspace, and the dimension of the simplices (at least 2).
        workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

    Returns:
        The table of :func:`simplices` with the column ``seed``, and the quantity's name in one of its own.
    """
    corners = draw_corners(len(study.data().test), count, max(rank, 2) + 1)
    options = {"rank": rank, "points": study.points, "workers": workers}
    table = study.measure("simplices", simplices, corners, **options)
    names = table["method"].str.split(": ", expand=True)
    return table.assign(quantity=names[0], method=names[1])


def worth(table: pd.DataFrame, **options: float) -> pd.DataFrame:
    """How much each quantity varies over models, and how much it says, beside its Euclidean counterpart.

    Args:
        table: from :func:`measured`.
        **options: ``resamples``, ``level`` and ``seed`` of the intervals, see :func:`latentgeo.compare_reliability`.

    Returns:
        Index ``quantity``, ``method``. ``noise``: the standard deviation over models, root mean square over simplices,
        in degrees, nats, or of the logarithm; ``noise_free``: the same after each model's mean is subtracted;
        ``mean_cv`` of areas and volumes; ``signal_to_noise``; ``signal_ratio``, over that of the Euclidean counterpart
        between posterior means, where there is one; each with ``_low`` and ``_high``, models resampled.
        ``unconverged``; ``models``; ``pairs``, the number of simplices, and ``dropped_pairs``, without those.
    """
    tables = {}
    for quantity, of in table.groupby("quantity", sort=False):
        additive, alone = quantity in _ADDITIVE, of["method"].nunique() == 1
        unit = _ADDITIVE.get(quantity, 1.0)
        value = np.exp(of["value"] / unit) if additive else of["value"]
        compared = compare_reliability(of.assign(value=value), of["method"].iloc[0] if alone else BASELINE, **options)
        if additive:
            compared = compared.drop(columns=compared.columns[compared.columns.str.startswith("mean_cv")])
        if alone:
            compared = compared.drop(columns=compared.columns[compared.columns.str.startswith("signal_ratio")])
        y = of.assign(y=unit * np.log(value.where(value > 0))).pivot(
            index=["method", "seed"], columns="pair", values="y"
        )
        y = y.dropna(axis=1)
        for method in compared.index:
            values = y.loc[method].to_numpy()[None]
            for name, part in {"noise": values, "noise_free": values - values.mean(2, keepdims=True)}.items():
                found = components(part, **options)
                for end in ("", "_low", "_high"):
                    compared.loc[method, f"{name}{end}"] = found[f"within{end}"]
        tables[quantity] = compared
    whole = pd.concat(tables, names=["quantity", "method"])
    kept = ("noise", "noise_free", "mean_cv", "signal_to_noise", "signal_ratio")
    columns = [f"{name}{end}" for name in kept for end in ("", "_low", "_high") if name in whole]
    return whole[[*columns, "unconverged", "models", "pairs", "dropped_pairs"]]


def in_other_coordinates(
    model: VAE, transform: Transform, *corners: Tensor, **options: Unpack[Options]
) -> pd.DataFrame:
    r"""The same simplices under a model and under the same model in other coordinates, :math:`f \circ A^{-1}`, A(z).

    Args:
        model: the model, of which all dimensions are active; computed with in double precision.
        transform: A; the prior N(0, I) is pushed forward by it.
        *corners: data, as for :func:`simplices`.
        **options: of the geodesics.

    Returns:
        One row for each quantity and method: ``identified``; ``difference``, the largest of all simplices that
        converged, absolute for angle, excess (degrees) and logarithms (nats) and relative for the others; ``claim``,
        the largest that the errors of both allow, and ``within``, the share of the simplices within it; ``median``, the
        median difference; ``unconverged``.
    """
    x, P = torch.cat([as_images(of) for of in corners]), len(corners[0])
    z = latent_model(model).points(x).codes.double().unflatten(0, (-1, P))
    model = copy.deepcopy(model).double()
    d = z.shape[2]
    moved = transform(z.flatten(0, 1)).unflatten(0, (-1, P))
    normal = Independent(Normal(z.new_zeros(d), z.new_ones(d)), 1)
    prior = TransformedDistribution(normal, [transform]).log_prob
    f = as_decoder(model.decode, z[0])
    g = as_decoder(reparametrise(model, transform).decode, moved[0])
    here = measure_simplices(f, z, rank=d, **options)
    there = measure_simplices(g, moved, rank=d, log_prior=prior, **options)
    both = here.merge(there, on=["method", "pair"], suffixes=("", "_there"))
    names = both["method"].str.split(": ", expand=True)
    relative = ~names[0].isin(_ADDITIVE)
    off = (both["value"] - both["value_there"]).abs()
    both["off"] = np.where(relative, off / both[["value", "value_there"]].max(axis=1), off)
    both["claim"] = both["error"] + both["error_there"] + _ROUNDING
    both["converged"] &= both["converged_there"]
    rows = {}
    for (quantity, method), of in both.groupby([names[0], names[1]], sort=False):
        sure = of[of["converged"]]
        rows[quantity, method] = {
            "identified": method not in NOT_IDENTIFIED and quantity != "volume element",
            "difference": sure["off"].max(),
            "claim": sure["claim"].max(),
            "within": (sure["off"] <= sure["claim"]).mean(),
            "median": sure["off"].median(),
            "unconverged": 1.0 - of["converged"].mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["quantity", "method"])
