"""How long geodesics take, to which error, by which solver; and how that grows with the problem."""

from __future__ import annotations

import copy
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from latentgeo.geometry.curve import richardson
from latentgeo.geometry.decoder import Decoder, as_decoder
from latentgeo.geometry.geodesic.solve import geodesic, solve
from latentgeo.paper.baselines import (
    BaselineCurves,
    adam,
    collocation,
    gauss_newton,
    georce,
    lbfgs,
    spline_adam,
    stochman_splines,
)
from latentgeo.paper.study import Study

COLLOCATION_DIM = 4  # largest number of latent dimensions that SciPy's collocation is run in
OURS = (
    {"segments": 8, "tol": 1e-3},
    {"segments": 16, "tol": 1e-4},  # the default
    {"segments": 32, "tol": 1e-5},
    {"segments": 64, "tol": 1e-6},
)
DEFAULT = "segments 16, tol 0.0001"
_FLOOR = 1e-4  # relative error that every claim counts as covering
FAILED = 0.01  # relative length error from which a pair counts as failed
LONG = 1.0  # seconds from which one run is measurement enough
# Each solver with its settings, the short ones and those that are added to them where there is time.
OTHERS: dict[str, tuple[Callable[..., BaselineCurves], Sequence[dict[str, float]], Sequence[dict[str, float]]]] = {
    "Gauss-Newton": (gauss_newton, [{"max_steps": 4}, {"max_steps": 20}], [{"max_steps": 2}, {"segments": 16}]),
    "torch L-BFGS": (lbfgs, [{"max_steps": 100}], [{"max_steps": 1000}]),
    "torch Adam": (adam, [{"max_steps": 100}], [{"max_steps": 1000}]),
    "GEORCE": (
        georce,
        [{"segments": 16, "max_steps": 10}],
        [{"segments": 32, "max_steps": 200}, {"segments": 100, "max_steps": 50}],
    ),
    "stochman": (stochman_splines, [{}], [{"nodes": 11, "points": 64, "max_steps": 600}]),
    "spline, Adam (paper)": (spline_adam, [{"max_steps": 20}], [{}]),
    "collocation (SciPy)": (collocation, [{"tol": 0.1, "max_nodes": 20}], [{"tol": 0.1, "max_nodes": 40}]),
}
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


def problem(study: Study, pairs: int) -> tuple[nn.Module, Tensor, Tensor]:
    """One decoder of the study's first model, and codes (P, d) of the two ends of pairs of its test data."""
    model, data = study.trained(study.seeds[0]), study.data().test
    half = len(data) // 2
    if not 1 <= pairs <= half:
        raise ValueError(f"pairs: expected 1 to {half}, half of the test data, got {pairs}")
    return model.decoders[0], model.encode(data[:pairs]), model.encode(data[half : half + pairs])


def timed(call: Callable[[], Result], repeats: int = 5) -> tuple[Result, float]:
    """Last result of some calls, and their median seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, statistics.median(seconds)


def _alternately(calls: Sequence[Callable[[], Result]], repeats: int) -> tuple[list[Result], np.ndarray]:
    """Last results of some calls, and the seconds of each in turn, (repeats, calls): NaN where it was long already."""
    results, seconds = [None] * len(calls), np.full((repeats, len(calls)), np.nan)
    for row in range(repeats):
        for column, call in enumerate(calls):
            if row == 0 or seconds[0, column] < LONG:
                began = time.perf_counter()
                results[column] = call()
                seconds[row, column] = time.perf_counter() - began
    return results, seconds


def _measured(decoder: Decoder, points: Tensor) -> Tensor:
    """Lengths (P,) of cubic splines through points of curves (P, M, d), by 128 and 256 chords, extrapolated."""
    spline = CubicSpline(np.linspace(0.0, 1.0, points.shape[1]), points.double().numpy(), axis=1)
    fine = torch.from_numpy(spline(np.linspace(0.0, 1.0, 257)))
    with torch.no_grad():
        x = decoder(fine.flatten(0, 1)).unflatten(0, fine.shape[:2])
    return richardson(*(x[:, ::every].diff(dim=1).norm(dim=2).sum(1) for every in (2, 1)))


def error_against_time(
    decoder: nn.Module, start: Tensor, end: Tensor, *, thorough: bool = False, repeats: int = 3
) -> pd.DataFrame:
    """Every solver on the same decoder and pairs, alternately in one process, at several settings each.

    The truth is our own length in double precision with 64 segments and ``tol`` 1e-8 (1e-7 unless thorough) or, where
    the curve of another solver is shorter, that curve's. Curves are measured in double precision by far more chords
    than they have points, which favours none; solvers that extrapolate, ours among them, by the length they report.

    Args:
        decoder: f, a module in single precision.
        start: latent points, shape (P, d), float32.
        end: latent points, shape (P, d), float32.
        thorough: whether to give the other solvers all their settings, the paper's to its own stop among them, which
            takes minutes; else the short ones.
        repeats: runs of each, in turn; one of those that take long.

    Returns:
        One row for each setting: ``solver``, ``setting``; ``seconds`` for all pairs and ``ratio``, that divided by our
        default's (both medians over the runs); ``mean_error``, ``median_error`` and ``worst_error`` (relative length
        error over the pairs, dimensionless); ``failed``, the share of pairs without a finite length or with an error
        above 1 %; ``unfinished``, the share that its own criterion did not end; ``steps``; and ``at_equal_error``,
        the seconds divided by ours to the same mean error, see :func:`at_equal_error`.
    """
    f = copy.deepcopy(decoder).double()
    a, b = start.double(), end.double()
    others = {name: (solver, short + long * thorough) for name, (solver, short, long) in OTHERS.items()}
    if importlib.util.find_spec("stochman") is None:
        warnings.warn("stochman is missing from the table: pip install 'latentgeo[benchmark]'", stacklevel=2)
        del others["stochman"]
    if start.shape[1] > COLLOCATION_DIM:
        del others["collocation (SciPy)"]
    runs = [("ours", setting, partial(geodesic, decoder, start, end, **setting)) for setting in OURS]
    for name, (solver, settings) in others.items():
        problem = (f, a, b) if solver is collocation else (decoder, start, end)
        runs += [(name, setting, partial(solver, *problem, **setting)) for setting in settings]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what failed is in the table
        truth = geodesic(f, a, b, segments=64, tol=1e-8 if thorough else 1e-7, max_iter=300).length
        geodesic(decoder, start, end)  # what is slow the first time is not the solver
        found, seconds = _alternately([call for _, _, call in runs], repeats)
    measured = [_measured(as_decoder(f, a), curves.points) for curves in found]
    truth = torch.stack([truth, *(length.nan_to_num(torch.inf) for length in measured)]).amin(0)
    rows = []
    for (name, setting, _), curves, length in zip(runs, found, measured, strict=True):
        reported = length if getattr(curves, "length", None) is None else curves.length.double()
        error = (reported / truth - 1.0).abs()
        ours = name == "ours"
        rows.append(
            {
                "solver": name,
                "setting": ", ".join(f"{option} {value:g}" for option, value in setting.items()) or "its defaults",
                "mean_error": error.mean().item(),
                "median_error": error.median().item(),
                "worst_error": error.max().item(),
                "failed": (~(error <= FAILED)).double().mean().item(),
                "unfinished": (~(curves.converged if ours else curves.stopped)).double().mean().item(),
                "steps": int(curves.iterations.max()) if ours else curves.steps,
            }
        )
    table = pd.DataFrame(rows)
    default = seconds[:, table["setting"].tolist().index(DEFAULT)]
    table.insert(2, "seconds", np.nanmedian(seconds, 0))
    table.insert(3, "ratio", np.nanmedian(seconds / default[:, None], 0))
    return table.assign(at_equal_error=at_equal_error(table))


def at_equal_error(table: pd.DataFrame) -> pd.Series:
    """Time of each run divided by ours to the same mean error: 0 where that is below what any of our settings reached.

    Between our settings time is a power of the error; a run with a larger error than all of them is compared with the
    fastest.

    Args:
        table: ``solver``, ``seconds`` and ``mean_error``.

    Example:
        >>> runs = {"solver": ["ours", "ours", "b", "c"], "seconds": [1.0, 4.0, 6.0, 9.0]}
        >>> at_equal_error(pd.DataFrame(runs | {"mean_error": [1e-2, 1e-4, 1e-3, 1e-5]})).round(6).tolist()
        [1.0, 1.0, 3.0, 0.0]
    """
    ours = table[table["solver"] == "ours"].sort_values("mean_error")
    fastest = np.log(ours["seconds"].cummin())  # that comes at least as close
    error, reached = (np.log(part["mean_error"].clip(lower=1e-16)) for part in (table, ours))
    return table["seconds"] / np.exp(np.interp(error, reached, fastest, left=np.inf))


def calibration(
    decoder: nn.Module,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 64,
    **options: float,
) -> pd.DataFrame:
    """Claimed error of every geodesic beside its true one, against a far finer solution.

    The reference continues from the geodesic that was found: whether that is the shortest of several is another
    question.

    Args:
        decoder: f, a module.
        start: latent points, shape (P, d).
        end: latent points, shape (P, d).
        segments: of the reference, which is solved in double precision.
        **options: of the geodesics under test.

    Returns:
        One row for each pair: ``length`` and ``truth`` in data units; ``true``, ``claimed`` and ``reference_error``
        (relative errors); ``converged``, ``reference_converged``; ``evaluations`` (mean over pairs).
    """
    found = geodesic(decoder, start, end, **options)
    reference = solve(
        as_decoder(copy.deepcopy(decoder).double(), start.double()),
        start.double(),
        end.double(),
        {"segments": segments, "tol": 1e-8, "max_iter": 300},
        initial=torch.cat([start[:, None], found.points[:, 1:-1], end[:, None]], 1).double(),
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


def coverage(table: pd.DataFrame) -> float:
    """Share of the converged pairs of :func:`calibration` whose true error is below the claimed one, or 1e-4."""
    kept = table[table["converged"]]
    return float((kept["true"] <= kept["claimed"].clip(lower=_FLOOR)).mean())


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
