r"""Coarse to fine: the same curves with more and more segments, and the limit of their lengths.

With N segments the least energy is :math:`E_N`, and :math:`L_N = \sqrt{E_N}` has an expansion in even powers of 1/N
where the decoder is smooth. Two levels of refinement cancel the first term, three the second (Romberg's scheme):

.. math:: L = \sum_j w_j L_{N_j}, \qquad w = (-1, 4) / 3 \quad\text{or}\quad w = (1, -20, 64) / 45.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentgeo.geometry.curve import resample
from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.certificate import certified
from latentgeo.geometry.geodesic.energy import curve_energy, end_covectors
from latentgeo.geometry.geodesic.lbfgs import Minimum, minimise
from latentgeo.geometry.geodesic.preconditioner import FULL_METRIC_DIM, CurvePreconditioner, FlatPreconditioner
from latentgeo.geometry.geodesic.result import Geodesic

_MEMORY = 10  # secant pairs of the solver
_FIRST_PATIENCE = 30  # steps before a pair is whitened by the metric at every node
_PATIENCE = 60  # steps before it is whitened so again
_STARTING_TOL = 1e-3  # relative excess of curves that only serve to start the next level
_WEIGHTS = {2: (-1 / 3, 4 / 3), 3: (1 / 45, -20 / 45, 64 / 45)}


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
    x = f(interior.reshape(-1, interior.shape[2])).reshape(*interior.shape[:2], -1)
    return torch.cat([ends[:, :1], x, ends[:, 1:]], dim=1)


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
        z = interior(y, rows).requires_grad_()
        with torch.enable_grad():
            value = curve_energy(f, _decoded(f, z, ends[rows]))
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), preconditioner.gradient(gradient, rows).flatten(1)

    start = curve.new_zeros(P, (N - 1) * d)
    report = minimise(value_and_gradient, start, tol=tol, max_iter=max_iter, memory=_MEMORY)
    solved = interior(report.x, torch.arange(P, device=curve.device))
    return torch.cat([curve[:, :1], solved, curve[:, -1:]], dim=1), report


def _solve_level(
    f: Decoder, curve: Tensor, ends: Tensor, hard: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Minimum]:
    """Minimise the energy of curves with a given number of segments.

    Curves that take long under the mean metric, and those known to be hard, are whitened by the metric at every node
    of their present shape, and again every few steps.

    Args:
        f: the decoder.
        curve: initial curves, shape (P, N + 1, d).
        ends: decoded end points, shape (P, 2, D).
        hard: which curves not to try the mean metric on, shape (P,).
        tol: relative energy excess to stop at.
        max_iter: steps at most.

    Returns:
        The curves and the solver's report.
    """
    P, d = curve.shape[0], curve.shape[2]
    curve = curve.clone()
    report = Minimum(
        x=curve,
        value=curve.new_zeros(P),
        gain=curve.new_full((P,), torch.inf),
        converged=torch.zeros(P, dtype=torch.bool, device=curve.device),
        iterations=torch.zeros(P, dtype=torch.long, device=curve.device),
    )

    def go_on(rows: Tensor, preconditioner: FlatPreconditioner | CurvePreconditioner, budget: Tensor) -> None:
        curve[rows], more = _minimise_energy(f, curve[rows], ends[rows], preconditioner, tol, budget)
        for old, new in (
            (report.value, more.value),
            (report.gain, more.gain),
            (report.converged, more.converged),
            (report.iterations, report.iterations[rows] + more.iterations),
        ):
            old[rows] = new

    every_node = d <= FULL_METRIC_DIM  # whether there are Jacobians to be had
    easy = torch.nonzero(~hard | (not every_node)).squeeze(1)
    if len(easy):
        patience = min(max_iter, _FIRST_PATIENCE) if every_node else max_iter
        go_on(easy, FlatPreconditioner(f, curve[easy]), torch.full_like(easy, patience))
    left = torch.nonzero(hard | (~report.converged & torch.isfinite(report.gain))).squeeze(1)
    left = left[every_node & (report.iterations[left] < max_iter)]
    while len(left):
        before = report.iterations[left]
        go_on(left, CurvePreconditioner(f, curve[left]), (max_iter - before).clamp_max(_PATIENCE))
        # A row that could not move, or whose value is not finite, would do no better again.
        after = report.iterations[left]
        go = ~report.converged[left] & torch.isfinite(report.gain[left]) & (after > before) & (after < max_iter)
        left = left[go]
    return curve, report


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


def refine(
    f: Decoder,
    curve: Tensor,
    segments: int,
    tol: float,
    max_iter: int,
    gradient: bool,
) -> Geodesic:
    """Solve all levels for some pairs, extrapolate, and say how far to trust the result.

    Args:
        f: the decoder.
        curve: initial curves, shape (P, M + 1, d).
        segments: N of the finest level.
        tol: relative energy excess to stop at.
        max_iter: steps of each level at most.
        gradient: whether to differentiate the lengths by the ends.
    """
    start, end = curve[:, 0], curve[:, -1]
    ends = f(torch.cat([start, end])).reshape(2, len(start), -1).transpose(0, 1)  # [P, 2, D]
    iterations = torch.zeros(len(start), dtype=torch.long, device=start.device)
    ladder = levels(segments)
    weights = _WEIGHTS[min(len(ladder), 3)]
    lengths, gains, covectors = [], [], []
    solved = torch.ones(len(start), dtype=torch.bool, device=start.device)
    hard = ~solved
    for N in ladder:
        enters = N in ladder[-len(weights) :]
        goal = tol if enters else max(tol, _STARTING_TOL)
        curve, report = _solve_level(f, resample(curve, N), ends, hard, goal, max_iter)
        hard = report.iterations >= _FIRST_PATIENCE
        iterations += report.iterations
        if enters:
            x = _decoded(f, curve[:, 1:-1], ends)
            lengths.append(report.value.sqrt())
            gains.append(report.gain)
            solved &= report.converged
            if gradient:
                covectors.append(end_covectors(f, x))
    # Between two identical ends there is no curve, only the rounding of two passes through the decoder.
    same = (start == end).all(1)
    slopes = None
    if gradient:
        covector = sum(w * c / L[:, None, None] for w, c, L in zip(weights, covectors, lengths, strict=True))
        covector = covector.masked_fill((same | (lengths[-1] == 0))[:, None, None], 0.0)
        slopes = f.vjp(torch.stack([start, end], 1).flatten(0, 1), covector.flatten(0, 1))
        slopes = slopes.unflatten(0, (-1, 2))
    return Geodesic(
        points=torch.where(same[:, None, None], start[:, None], curve),
        iterations=iterations,
        tol=tol,
        decoder_rows=0,
        gradient=slopes,
        **certified(f, x, lengths, weights, gains, solved, same),
    )
