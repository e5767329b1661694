"""How long geodesics take, to which error, by which solver; and how that grows with the problem."""

from __future__ import annotations

import copy
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from latentgeo.geometry.curve import chord_length
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.geodesic.solve import geodesic, solve
from latentgeo.paper.baselines import collocation, spline_adam, stochman_splines

COLLOCATION_DIM = 4  # largest number of latent dimensions that SciPy's collocation is run in
OURS = (
    {"segments": 8, "tol": 1e-3},
    {"segments": 16, "tol": 1e-4},
    {"segments": 32, "tol": 1e-5},
    {"segments": 64, "tol": 1e-6},
)
ADAM = ({"max_steps": 10}, {"max_steps": 30}, {"max_steps": 100}, {"max_steps": 300}, {"max_steps": 4096})
STOCHMAN = (
    {"nodes": 5, "points": 20, "max_steps": 150},  # its defaults
    {"nodes": 11, "points": 64, "max_steps": 150},
    {"nodes": 11, "points": 64, "max_steps": 600},
)
COLLOCATION = ({"tol": 1e-1, "max_nodes": 20}, {"tol": 1e-1, "max_nodes": 40})
Result = TypeVar("Result")


class Subspace(nn.Module):
    r"""A decoder on a plane of its latent space: :math:`w \mapsto f(c + W w)`.

    Args:
        decoder: f, a module (B, d) -> (B, *event).
        origin: c, shape (d,).
        directions: W, shape (d, m), of full rank.

    Example:
        >>> plane = Subspace(nn.Identity(), torch.zeros(3), torch.eye(3)[:, :2])
        >>> plane(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2., 0.]])
    """

    def __init__(self, decoder: nn.Module, origin: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("origin", origin)
        self.register_buffer("directions", directions)

    def forward(self, w: Tensor) -> Tensor:
        """Decode points of the plane: (B, m) -> (B, *event)."""
        return self.decoder(self.origin + w @ self.directions.mT)


def principal_plane(decoder: nn.Module, codes: Tensor, dimensions: int) -> tuple[Subspace, Tensor]:
    """A decoder on the principal plane of codes, and the codes' coordinates there.

    Args:
        decoder: f, a module (B, d) -> (B, *event).
        codes: latent codes of data, shape (n, d).
        dimensions: m, of the plane.

    Returns:
        The decoder (B, m) -> (B, *event), and coordinates (n, m).
    """
    origin = codes.mean(0)
    directions = torch.linalg.svd(codes - origin, full_matrices=False).Vh[:dimensions].mT.contiguous()
    return Subspace(decoder, origin, directions), (codes - origin) @ directions


def timed(call: Callable[[], Result], repeats: int = 5) -> tuple[Result, float]:
    """Last result of some calls, and their median seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, statistics.median(seconds)


def error_against_time(
    decoder: nn.Module, start: Tensor, end: Tensor, *, thorough: bool = False, repeats: int = 5
) -> pd.DataFrame:
    """Every solver on the same decoder and pairs, in one process, at several settings each.

    The truth is our own length in double precision with 64 segments and ``tol`` 1e-9. Other solvers' curves are
    measured by 256 chords in double precision, which favours none; ours by the length that it reports.

    Args:
        decoder: f, a module in single precision.
        start: latent points, shape (P, d), float32.
        end: latent points, shape (P, d), float32.
        thorough: whether to give the other solvers all their settings, the paper's to its own stop among them, which
            takes minutes; else the first two, and SciPy's the first.
        repeats: runs of ours, whose median counts; the others take long enough to be run once.

    Returns:
        One row for each setting: ``solver``, ``setting``, ``seconds``, ``mean_error`` and ``worst_error`` (relative
        length error over the pairs, dimensionless), ``steps``, ``stopped`` (by its own criterion).
    """
    precise = copy.deepcopy(decoder).double()
    a, b = start.double(), end.double()
    truth = solve(as_decoder(precise, a), a, b, {"segments": 64, "tol": 1e-9, "max_iter": 1000}).length
    rows = []

    def add(solver: str, setting: dict[str, float], seconds: float, length: Tensor, steps: int, stopped: bool) -> None:
        error = (length.double() / truth - 1.0).abs()
        errors = {"mean_error": error.mean().item(), "worst_error": error.max().item()}
        text = ", ".join(f"{name} {value:g}" for name, value in setting.items())
        rows.append(
            {"solver": solver, "setting": text, "seconds": seconds, **errors, "steps": steps, "stopped": stopped}
        )

    f = as_decoder(decoder, start)
    solve(f, start, end)  # what is slow the first time is not the solver
    for setting in OURS:
        found, seconds = timed(lambda s=setting: solve(f, start, end, s), repeats)
        add("ours", setting, seconds, found.length, int(found.iterations.max()), bool(found.converged.all()))
    chosen = slice(None) if thorough else slice(2)
    others = [("spline, Adam (paper)", spline_adam, decoder, start, end, setting) for setting in ADAM[chosen]]
    if importlib.util.find_spec("stochman") is not None:
        others += [("stochman", stochman_splines, decoder, start, end, setting) for setting in STOCHMAN[chosen]]
    else:
        warnings.warn("stochman is missing from the table: pip install 'latentgeo[benchmark]'", stacklevel=2)
    if start.shape[1] <= COLLOCATION_DIM:
        settings = COLLOCATION if thorough else COLLOCATION[:1]
        others += [("collocation (SciPy)", collocation, precise, a, b, setting) for setting in settings]
    for solver, other, f, first, last, setting in others:
        found, seconds = timed(lambda other=other, f=f, x=first, y=last, s=setting: other(f, x, y, **s), 1)
        add(solver, setting, seconds, chord_length(precise, found.points.double()), found.steps, found.stopped)
    return pd.DataFrame(rows)


def calibration(
    decoder: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 64,
    precision: torch.dtype = torch.float64,
    **options: float,
) -> pd.DataFrame:
    """Claimed error of every geodesic beside its true one, against a far finer solution.

    The reference continues from the geodesic that was found: whether that is the shortest of several is another
    question.

    Args:
        decoder: f, a module.
        start: latent points, shape (P, d).
        end: latent points, shape (P, d).
        segments: of the reference.
        precision: of the reference.
        **options: of the geodesics under test.

    Returns:
        One row for each pair: ``length`` and ``truth`` in data units; ``true``, ``claimed`` and ``reference_error``
        (relative errors); ``converged``, ``reference_converged``; ``evaluations`` (mean over pairs).
    """
    found = geodesic(decoder, start, end, **options)
    reference = solve(
        as_decoder(copy.deepcopy(decoder).to(precision), start.to(precision)),
        start.to(precision),
        end.to(precision),
        {"segments": segments, "tol": 1e-7 if precision == torch.float64 else 1e-6, "max_iter": 300},
        initial=torch.cat([start[:, None], found.points[:, 1:-1], end[:, None]], 1).to(precision),
    )
    columns = {
        "length": found.length,
        "truth": reference.length,
        "true": (found.length / reference.length - 1.0).abs(),
        "claimed": found.error,
        "converged": found.converged,
        "reference_error": reference.error,
        "reference_converged": reference.converged,
    }
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    return table.assign(evaluations=found.decoder_rows / len(start) / (found.points.shape[1] - 2))


def coverage(table: pd.DataFrame, floor: float = 1e-4) -> float:
    """Share of the converged pairs of :func:`calibration` whose true error is below the claimed one, or the floor."""
    kept = table[table["converged"]]
    return float((kept["true"] <= kept["claimed"].clip(lower=floor)).mean())


def scaling(
    decoders: Sequence[nn.Module],
    codes: Tensor,
    *,
    pairs: Sequence[int] = (30, 100, 300, 1000),
    segments: Sequence[int] = (8, 16, 32, 64),
    dimensions: Sequence[int] = (2, 4, 8, 16),
    ensembles: Sequence[Callable[[Tensor], Tensor]] = (),
    repeats: int = 3,
) -> pd.DataFrame:
    """Time of our solver as one of P, N, d and K grows, the others being 100, 16, that of the codes, and 1.

    Args:
        decoders: decoders of one model; the first is used but for K.
        codes: latent codes of data, shape (n, d); pair i joins codes i and n/2 + i.
        pairs: numbers of pairs P.
        segments: numbers of segments N.
        dimensions: d, of principal planes of the codes.
        ensembles: for K, ensembles of 1, 2, … decoders as one.
        repeats: runs whose median counts.

    Returns:
        One row for each problem: ``variable`` (P, N, d, K), ``size``, ``seconds``, ``evaluations`` (passes through
        the decoder for each inner point of the finest curve).
    """
    half = len(codes) // 2
    rows = []

    def add(variable: str, size: int, f: Callable, z: Tensor, P: int = 100, N: int = 16) -> None:
        if half < P:
            raise ValueError(f"codes: expected at least {2 * P} for {P} pairs, got {len(codes)}")
        found, seconds = timed(lambda: solve(as_decoder(f, z), z[:P], z[half : half + P], {"segments": N}), repeats)
        evaluations = found.decoder_rows / P / (N - 1)
        rows.append({"variable": variable, "size": size, "seconds": seconds, "evaluations": evaluations})

    f = decoders[0]
    solve(as_decoder(f, codes), codes[:1], codes[1:2])
    for P in pairs:
        add("P", P, f, codes, P=P)
    for N in segments:
        add("N", N, f, codes, N=N)
    for m in dimensions:
        add("d", m, *principal_plane(f, codes, m))
    for ensemble in ensembles:
        add("K", len(ensemble), ensemble, codes)
    return pd.DataFrame(rows)


def exponents(table: pd.DataFrame) -> pd.Series:
    """Exponents p of time, which grows as size to the power p, in each variable of :func:`scaling`.

    Example:
        >>> table = pd.DataFrame({"variable": "P", "size": [1, 2, 4], "seconds": [3.0, 12.0, 48.0]})
        >>> exponents(table).round(6).to_dict()
        {'P': 2.0}
    """
    groups = table.groupby("variable", sort=False)[["size", "seconds"]]
    return groups.apply(lambda part: np.polyfit(np.log(part["size"]), np.log(part["seconds"]), 1)[0])
