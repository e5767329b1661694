r"""From a first curve to a geodesic: coarse to fine by L-BFGS, and what that leaves, by Gauss-Newton steps.

Coarse curves serve to start the finest, whose nodes are the solution. A curve that is given starts at the finest at
once: coarser nodes might jump across what it follows. Pairs that do not converge soon, or whose straight line runs
wild in data space, are solved by :mod:`latentgeo.geometry.geodesic.newton`, in a way that does not depend on latent
coordinates, and those that remain, by L-BFGS whitened by the metric at every node.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from latentgeo.geometry.curve import resample
from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.certificate import certified, length_of, parts
from latentgeo.geometry.geodesic.energy import end_covectors, energy_and_gradient
from latentgeo.geometry.geodesic.lbfgs import Minimum, minimise
from latentgeo.geometry.geodesic.newton import along_chord, between, gauss_newton
from latentgeo.geometry.geodesic.preconditioner import (
    FULL_METRIC_DIM,
    CurvePreconditioner,
    FlatPreconditioner,
    MetricFactor,
)
from latentgeo.geometry.geodesic.result import Geodesic, improved

_MEMORY = 10  # secant pairs of the solver
_PATIENCE = 15  # steps of the first attempt at a pair for every decimal digit that is asked for
_LAST_PATIENCE = 60  # steps before a pair is whitened anew at every node
_STARTING_TOL = 3e-4  # relative excess of curves that only serve to start the next level
_ROUGH = 1e-4  # relative error of a measurement that asks for a finer one
_LOOKS = 8  # chords that a straight line is looked at by
_SMOOTH = 1.5  # order of convergence of chords, above which a decoder counts as smooth along a curve
_EXACT = 1e-8  # tolerance below which cost does not count
_UNSURE = 10.0  # times the tolerance, that a length may be off by before it is measured another way
_CREEPING = 8.0  # times, that estimates fall shorter in more dimensions
_FEW = 4  # dimensions, up to which Jacobians at all nodes cost little
_TURNING = 0.05  # of the mean metric, that another may be along some direction before the mean says too little
_WILD = 4.0  # times the chord, that the straight line's image may be long to be a first curve


def bytes_per_pair(f: Decoder, start: Tensor, segments: int) -> int:
    """Memory that one more pair takes: autograd's, the solver's, and that of a Jacobian."""
    row, output = f.bytes_per_row(start)
    d = start.shape[1]
    activations = 2 * (segments - 1) * (row + output)
    memory = 2 * (_MEMORY + 4) * (segments - 1) * d * start.element_size()
    jacobian = 3 * d * (3 * output + row) if d <= FULL_METRIC_DIM else 0
    return activations + memory + jacobian


def _decoded(f: Decoder, interior: Tensor, ends: Tensor) -> Tensor:
    """Decoded points of whole curves: inner points (P, N - 1, d) and decoded ends (P, 2, D) -> (P, N + 1, D)."""
    return _joined(f(interior.flatten(0, 1)).unflatten(0, interior.shape[:2]), ends)


def _joined(inner: Tensor, ends: Tensor) -> Tensor:
    """Inner points (P, N - 1, D) and ends (P, 2, D) as curves (P, N + 1, D)."""
    return torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)


def _minimise_energy(
    f: Decoder,
    curve: Tensor,
    ends: Tensor,
    preconditioner: FlatPreconditioner | CurvePreconditioner,
    tol: float,
    max_iter: int | Tensor,
) -> tuple[Tensor, Minimum]:
    """Minimise the energy of curves (P, N + 1, d) in whitened coordinates."""
    P, N, d = curve.shape[0], curve.shape[1] - 1, curve.shape[2]

    def interior(y: Tensor, rows: Tensor) -> Tensor:
        return curve[rows, 1:-1] + preconditioner.step(y.reshape(-1, N - 1, d), rows)

    def value_and_gradient(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        z = interior(y, rows).flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            x = f(z)
            value, slope = energy_and_gradient(f, _joined(x.detach().unflatten(0, (-1, N - 1)), ends[rows]))
            (gradient,) = torch.autograd.grad(x, z, slope.flatten(0, 1))
        return value, preconditioner.gradient(gradient.unflatten(0, (-1, N - 1)), rows).flatten(1)

    start = curve.new_zeros(P, (N - 1) * d)
    floor = 4.0 * (N * f.rounding(ends)).square()  # rounding turns every chord by an angle of its own
    report = minimise(value_and_gradient, start, tol=tol, max_iter=max_iter, memory=_MEMORY, floor=floor)
    solved = interior(report.x, torch.arange(P, device=curve.device))
    return torch.cat([curve[:, :1], solved, curve[:, -1:]], dim=1), report


def levels(segments: int) -> list[int]:
    """Numbers of segments from coarse to fine, halving down to eight, and once at least.

    Example:
        >>> levels(64), levels(16), levels(8), levels(10)
        ([8, 16, 32, 64], [8, 16], [4, 8], [5, 10])
    """
    result = [segments // 2, segments]
    while result[0] % 2 == 0 and result[0] >= 16:
        result.insert(0, result[0] // 2)
    return result


def refine(f: Decoder, curve: Tensor, segments: int, tol: float, max_iter: int, gradient: bool) -> Geodesic:
    """Solve some pairs, and say how far to trust the result.

    Args:
        f: the decoder.
        curve: initial curves, shape (P, M + 1, d); straight lines where M is 1.
        segments: N.
        tol: relative energy excess to stop at.
        max_iter: steps of each level at most.
        gradient: whether to differentiate the lengths by the ends.
    """
    start, end = curve[:, 0], curve[:, -1]
    ends = f(torch.cat([start, end])).reshape(2, len(start), -1).transpose(0, 1)  # [P, 2, D]
    straight = curve.shape[1] == 2
    jacobians = start.shape[1] <= FULL_METRIC_DIM  # whether there are any to be had
    wild = _wild(f, curve, ends) if straight and jacobians else torch.zeros_like(start[:, 0], dtype=torch.bool)
    metric = MetricFactor(f, resample(curve, 6)[:, 1::2])
    nodes, report = _first_attempt(f, curve, ends, metric, segments, tol, max_iter, ~wild)
    # What is left along directions that are soft at some nodes and not in the mean, only their own metric shows.
    turning = (metric.softest < _TURNING) & (start.shape[1] <= _FEW)
    rows = torch.nonzero(report.converged & turning).squeeze(1)
    if len(rows):
        nodes[rows], exact = gauss_newton(f, nodes[rows], ends[rows], tol, max_iter)
        for name in ("value", "gain", "converged"):
            getattr(report, name)[rows] = getattr(exact, name)
        report.iterations[rows] += exact.iterations
    found = _result(f, nodes, ends, report, tol)
    if jacobians:
        found = _improved(f, found, curve, ends, tol, max_iter, wild)
    if gradient:
        x = _decoded(f, found.points[:, 1:-1], ends)
        covector = end_covectors(f, x) / found.length[:, None, None]
        covector = covector.masked_fill((found.length == 0)[:, None, None], 0.0)
        slopes = f.vjp(torch.stack([start, end], 1).flatten(0, 1), covector.flatten(0, 1))
        found = dataclasses.replace(found, gradient=slopes.unflatten(0, (-1, 2)))
    return found


def _first_attempt(
    f: Decoder,
    curve: Tensor,
    ends: Tensor,
    metric: MetricFactor,
    segments: int,
    tol: float,
    max_iter: int,
    chosen: Tensor,
) -> tuple[Tensor, Minimum]:
    """Curves by L-BFGS in coordinates whitened by a mean metric; only the starts where a level did not end soon."""
    P = len(curve)
    nodes = resample(curve, segments)
    report = Minimum(
        x=nodes,
        value=curve.new_full((P,), torch.inf),
        gain=curve.new_full((P,), torch.inf),
        converged=torch.zeros(P, dtype=torch.bool, device=curve.device),
        iterations=torch.zeros(P, dtype=torch.long, device=curve.device),
    )
    rows, straight = torch.nonzero(chosen).squeeze(1), curve.shape[1] == 2
    curve = curve[rows]
    for N in levels(segments) if straight else [segments]:
        finest = segments == N
        goal = tol if finest else max(tol, _STARTING_TOL)
        patience = max_iter
        if curve.shape[2] <= FULL_METRIC_DIM:
            patience = min(max_iter, math.ceil(_PATIENCE * max(1.0, -math.log10(goal))))
        curve = resample(curve, N)
        flat = FlatPreconditioner(metric.of(rows), N)
        curve, found = _minimise_energy(f, curve, ends[rows], flat, goal, patience)
        report.iterations[rows] += found.iterations
        go = found.converged | finest
        rows, curve = rows[go], curve[go]
    nodes[rows] = curve
    for name in ("value", "gain", "converged"):
        getattr(report, name)[rows] = getattr(found, name)[go]
    if curve.shape[2] > FULL_METRIC_DIM:  # estimates of what is left are not known to hold
        report.gain = report.gain.clamp_min(tol)
    return nodes, report


def _safety(f: Decoder, d: int) -> float:
    """By which estimates of the energy that a curve may still lose fall short: rows creep in many dimensions."""
    return f.safety * (_CREEPING if _FEW < d <= FULL_METRIC_DIM else 1.0)


def _wild(f: Decoder, curve: Tensor, ends: Tensor) -> Tensor:
    """Which straight lines (P, 2, d) make such detours in data space that they are no place to start."""
    x = _decoded(f, resample(curve, _LOOKS)[:, 1:-1], ends)
    return f.step(x[:, :-1], x[:, 1:]).sum(1) > _WILD * f.chord(ends[:, 0], ends[:, 1])


def _improved(
    f: Decoder, found: Geodesic, curve: Tensor, ends: Tensor, tol: float, max_iter: int, wild: Tensor
) -> Geodesic:
    """What other methods make of the pairs that have not converged, one after the other."""
    N, possible = found.points.shape[1] - 1, torch.isfinite(ends).flatten(1).all(1)

    def newton(rows: Tensor) -> Geodesic:
        c = curve[rows]
        straight = c.shape[1] == 2
        first = along_chord(f, c[:, 0], c[:, -1], ends[rows], N) if straight else resample(c, N)
        nodes, report = gauss_newton(f, first, ends[rows], tol, max_iter)
        return _result(f, nodes, ends[rows], report, tol, carried=True)

    def first_attempt(rows: Tensor) -> Geodesic:
        everyone = torch.ones_like(rows, dtype=torch.bool)
        metric = MetricFactor(f, resample(curve[rows], 6)[:, 1::2])
        nodes, report = _first_attempt(f, curve[rows], ends[rows], metric, N, tol, max_iter, everyone)
        return _result(f, nodes, ends[rows], report, tol)

    def last_attempt(rows: Tensor) -> Geodesic:
        nodes, report = _last_attempt(f, found.points[rows], ends[rows], tol, max_iter)
        return _result(f, nodes, ends[rows], report, tol)

    def measured_anew(rows: Tensor) -> Geodesic:
        nothing, excess = torch.zeros_like(rows), found.excess[rows]
        report = Minimum(curve, excess, excess, excess <= tol, nothing)
        return _result(f, found.points[rows], ends[rows], report, tol, carried=True)

    # Splines in latent coordinates are poor where these turn quickly. Where the decoder has kinks all curves are rough,
    # and in many dimensions carrying points along them is dear.
    unsure = possible & (found.excess <= tol)
    if curve.shape[2] > _FEW:
        unsure &= (found.order > _SMOOTH) & (tol < _EXACT)
    unsure &= found.error > _UNSURE * tol + _safety(f, curve.shape[2]) * found.excess
    rows = torch.nonzero(unsure).squeeze(1)
    if len(rows):
        found = improved(found, rows, measured_anew(rows))
    for method, chosen in ((newton, possible), (first_attempt, possible & wild), (last_attempt, possible)):
        rows = torch.nonzero(chosen & ~found.converged).squeeze(1)
        if len(rows):
            found = improved(found, rows, method(rows))
    return found


def _last_attempt(f: Decoder, curve: Tensor, ends: Tensor, tol: float, max_iter: int) -> tuple[Tensor, Minimum]:
    """Curves by L-BFGS, whitened by the metric at every node of their present shape, and again every few steps."""
    curve = curve.clone()
    report, left = None, torch.arange(len(curve), device=curve.device)
    while len(left):
        J = f.jacobian(curve[left, 1:-1].flatten(0, 1)).unflatten(0, (len(left), -1))
        budget = torch.full_like(left, _LAST_PATIENCE) if report is None else max_iter - report.iterations[left]
        budget = budget.clamp_max(min(_LAST_PATIENCE, max_iter))
        curve[left], more = _minimise_energy(f, curve[left], ends[left], CurvePreconditioner(J), tol, budget)
        if report is None:
            report = more
        else:
            for old, new in (
                (report.value, more.value),
                (report.gain, more.gain),
                (report.converged, more.converged),
                (report.iterations, report.iterations[left] + more.iterations),
            ):
                old[left] = new
        # A row that could not move, or whose value is not finite, would do no better again.
        go = ~more.converged & torch.isfinite(more.gain) & (more.iterations > 0)
        left = left[go & (report.iterations[left] < max_iter)]
    return curve, report


def _result(f: Decoder, nodes: Tensor, ends: Tensor, report: Minimum, tol: float, carried: bool = False) -> Geodesic:
    """Curves (P, N + 1, d) with their lengths and certificates."""
    x = _decoded(f, nodes[:, 1:-1], ends)
    N = x.shape[1] - 1

    def measured(rows: Tensor, each: int) -> tuple[Tensor, Tensor, Tensor]:
        """Some curves by so many chords for each segment."""
        if carried:
            return length_of(f, between(f, nodes[rows], x[rows], each))
        inner = resample(nodes[rows], each * N)[:, :-1].unflatten(1, (N, each))[:, :, 1:]  # [A, N, each - 1, d]
        decoded = f(inner.flatten(0, 2)).unflatten(0, inner.shape[:3])
        points = torch.cat([x[rows, :-1, None], decoded], 2).flatten(1, 2)
        return length_of(f, torch.cat([points, x[rows, -1:]], 1))

    found = measured(torch.arange(len(x), device=x.device), parts(N))
    rough = torch.nonzero(found[1] > _ROUGH * found[0]).squeeze(1)
    if len(rough):
        for old, new in zip(found, measured(rough, 4 * parts(N)), strict=True):
            old[rough] = new
    # Between two identical ends there is no curve, only the rounding of two passes through the decoder.
    same = (nodes[:, 0] == nodes[:, -1]).all(1)
    return Geodesic(
        points=torch.where(same[:, None, None], nodes[:, :1], nodes),
        iterations=report.iterations,
        tol=tol,
        decoder_rows=0,
        **certified(f, x, found, report, same, _safety(f, nodes.shape[2])),
    )
