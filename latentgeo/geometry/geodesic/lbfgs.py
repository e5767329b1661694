r"""Batched L-BFGS: many small, independent minimisations at once, each with its own step, memory and end.

Every row is one problem. A round evaluates one trial point of each unfinished row; a row whose trial is accepted
updates its memory and direction, another shortens its step, and no row waits for a slower one. Finished rows leave
the batch. Reference: Nocedal and Wright, "Numerical Optimization", 2006, algorithms 3.1 and 7.4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_ARMIJO = 1e-4
_MAX_BACKTRACKS = 12
_WINDOW = 10  # steps over which the rate of convergence is measured
_SLOWEST = 0.95  # rate of decrease, per window, that a row is at most credited with


@dataclasses.dataclass
class Minimum:
    """Where each row ended.

    Attributes:
        x: last accepted points, shape (P, n).
        value: objective there, shape (P,).
        gradient: of the objective there, shape (P, n).
        gain: estimated relative decrease still to be had there, shape (P,); infinite where the value is not finite.
        converged: whether no estimate of it is above the tolerance, shape (P,).
        iterations: accepted steps, shape (P,).
    """

    x: Tensor
    value: Tensor
    gradient: Tensor
    gain: Tensor
    converged: Tensor
    iterations: Tensor


@dataclasses.dataclass
class _Rows:
    """State of the unfinished rows; every tensor has one entry per row along its first axis."""

    index: Tensor  # which problem the row is
    x: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    slope: Tensor  # directional derivative, negative
    step: Tensor
    backtracks: Tensor
    gain: Tensor
    worst: Tensor  # the largest of the estimates
    steps: Tensor  # [A, m, n] differences of points, oldest first
    changes: Tensor  # [A, m, n] differences of gradients
    curvature: Tensor  # [A, m] inner products of the two, zero in an empty slot
    values: Tensor  # [A, 2 w + 1] the last values, newest last
    iterations: Tensor

    def keep(self, mask: Tensor) -> _Rows:
        return _Rows(**{f.name: getattr(self, f.name)[mask] for f in dataclasses.fields(self)})


def _two_loop(gradient: Tensor, steps: Tensor, changes: Tensor, curvature: Tensor) -> Tensor:
    """Inverse Hessian of the memory times the gradient, per row; the identity where the memory is empty."""
    filled = curvature > 0
    rho = torch.where(filled, 1.0 / curvature.where(filled, torch.ones_like(curvature)), 0.0)
    slots = range(curvature.shape[1] - int(filled.sum(1).max()), curvature.shape[1])  # the others are empty in all rows
    q = gradient.clone()
    alphas = []
    for j in reversed(slots):
        alpha = rho[:, j] * (steps[:, j] * q).sum(1)
        q -= alpha[:, None] * changes[:, j]
        alphas.append(alpha)
    newest = changes[:, -1]
    scale = torch.where(
        filled[:, -1], curvature[:, -1] / newest.square().sum(1).clamp_min(torch.finfo(q.dtype).tiny), 1.0
    )
    q *= scale[:, None]
    for j, alpha in zip(slots, reversed(alphas), strict=True):
        beta = rho[:, j] * (changes[:, j] * q).sum(1)
        q += (alpha - beta)[:, None] * steps[:, j]
    return q


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    tol: float,
    max_iter: int = 200,
    memory: int = 10,
    floor: Tensor | None = None,
) -> Minimum:
    r"""Minimise a positive function of each row, to a relative tolerance.

    How much a row can still fall is estimated in three ways. With inverse Hessian estimate
    B and gradient g, the Newton decrement :math:`\tfrac12 g^\top B g`, under the memory and under the newest secant
    pair's long step :math:`s^\top s / s^\top y`; it has the directions that the memory has seen. And, as badly
    scaled rows creep along directions that it has not, the tail of a geometric series: where the last w steps brought
    a decrease :math:`\Delta` and the w before them :math:`\Delta'`, :math:`\Delta\, q / (1 - q)` with
    :math:`q = \Delta / \Delta'`. A row has converged when the estimate is at most ``tol`` times its value, or no more
    than rounding may change.

    Args:
        objective: maps points (A, n) and the numbers (A,) of the rows they belong to, to values (A,), at least zero,
            and gradients (A, n). A value that is not finite is treated as a failed step.
        start: initial points, shape (P, n); the problem is assumed to be scaled so that a unit step is sensible.
        tol: relative decrease at which a row has converged.
        max_iter: accepted steps of a row at most.
        memory: secant pairs kept by each row.
        floor: what rounding may change a value by, shape (P,), where that is more than a few units in its last place,
            as of a difference of large numbers.

    Returns:
        The result as data, also for rows that did not converge; nothing is raised for numerical failure.

    Example:
        >>> import torch
        >>> bowl = lambda x, rows: ((x - 3.0).square().sum(1) + 1.0, 2.0 * (x - 3.0))
        >>> result = minimise(bowl, torch.zeros(2, 4), tol=1e-6)
        >>> result.value, result.converged
        (tensor([1., 1.]), tensor([True, True]))
    """
    P, n = start.shape
    everyone = torch.arange(P, device=start.device)
    value, gradient = objective(start, everyone)
    eps = torch.finfo(start.dtype).eps
    floor = torch.zeros_like(value) if floor is None else floor
    rows = _Rows(
        index=everyone,
        x=start.clone(),
        value=value,
        gradient=gradient,
        direction=-gradient,
        slope=-gradient.square().sum(1),
        step=torch.ones_like(value),
        backtracks=torch.zeros(P, dtype=torch.long, device=start.device),
        gain=0.5 * gradient.square().sum(1) / value.clamp_min(torch.finfo(value.dtype).tiny),
        worst=0.5 * gradient.square().sum(1) / value.clamp_min(torch.finfo(value.dtype).tiny),
        steps=start.new_zeros(P, memory, n),
        changes=start.new_zeros(P, memory, n),
        curvature=start.new_zeros(P, memory),
        values=value[:, None].repeat(1, 2 * _WINDOW + 1),
        iterations=torch.zeros(P, dtype=torch.long, device=start.device),
    )
    result = Minimum(
        x=start.clone(),
        value=value.clone(),
        gradient=gradient.clone(),
        gain=torch.full_like(value, torch.inf),
        converged=torch.zeros(P, dtype=torch.bool, device=start.device),
        iterations=rows.iterations.clone(),
    )
    while True:
        finite = torch.isfinite(rows.value) & torch.isfinite(rows.gradient).all(1)
        lost = floor[rows.index]
        converged = finite & ((rows.worst <= tol) | (rows.worst * rows.value <= lost))
        stuck = ~finite | (rows.iterations >= max_iter) | (rows.backtracks > _MAX_BACKTRACKS)
        done = converged | stuck
        if done.any():
            out = rows.keep(done)
            result.x[out.index], result.value[out.index], result.gradient[out.index] = out.x, out.value, out.gradient
            result.gain[out.index] = out.gain.where(finite[done], torch.full_like(out.gain, torch.inf))
            result.converged[out.index] = converged[done]
            result.iterations[out.index] = out.iterations
            rows, lost = rows.keep(~done), lost[~done]
        if len(rows.index) == 0:
            return result
        trial = rows.x + rows.step[:, None] * rows.direction
        value, gradient = objective(trial, rows.index)
        # Near the minimum the decrease drowns in rounding; a step that changes nothing measurable is accepted.
        allowed = rows.value + _ARMIJO * rows.step * rows.slope + 4.0 * eps * rows.value + lost
        accepted = torch.isfinite(value) & torch.isfinite(gradient).all(1) & (value <= allowed)
        if not accepted.all():
            _backtrack(rows, ~accepted, value)
        if accepted.any():
            _advance(rows, accepted, trial, value, gradient, lost)


def _backtrack(rows: _Rows, failed: Tensor, value: Tensor) -> None:
    """Shorten the step of the failed rows to the minimum of the parabola through what is known."""
    step, slope = rows.step[failed], rows.slope[failed]
    rise = value[failed] - rows.value[failed] - step * slope
    parabola = torch.nan_to_num(-0.5 * slope * step / rise, nan=0.1, posinf=0.1, neginf=0.1)
    rows.step[failed] = step * parabola.clamp(0.1, 0.5)
    rows.backtracks[failed] += 1


def _tail(values: Tensor, iterations: Tensor, floor: Tensor) -> Tensor:
    """Decrease still to come if the rate of the last steps goes on, (A, 2 w + 1) -> (A,); none that is rounding's."""
    window = (iterations // 2).clamp(1, _WINDOW)[:, None]
    newest = values.shape[1] - 1
    now, before = values[:, -1], values.gather(1, newest - window).squeeze(1)
    earlier = values.gather(1, newest - 2 * window).squeeze(1)
    last = (before - now).where(before - now > floor, 0.0)
    rate = (last / (earlier - before).clamp_min(torch.finfo(values.dtype).tiny)).clamp(0.0, _SLOWEST)
    # A single step says nothing of a rate; it may be as far again.
    return torch.where(iterations > 1, last * rate / (1.0 - rate), last)


def _remember(memory: Tensor, new: Tensor, rows: Tensor) -> Tensor:
    """Push new entries (A, ...) to the end of some rows' memory (A, m, ...), whose oldest fall out."""
    pushed = torch.cat([memory[:, 1:], new[:, None]], dim=1)
    return pushed if rows.all() else torch.where(rows.reshape(-1, *[1] * (memory.ndim - 1)), pushed, memory)


def _advance(rows: _Rows, accepted: Tensor, trial: Tensor, value: Tensor, gradient: Tensor, floor: Tensor) -> None:
    """Move the accepted rows, remember their secant pair and choose their next direction."""
    if accepted.all():
        accepted = slice(None)  # spares copies
    tiny = torch.finfo(value.dtype).tiny
    s = trial[accepted] - rows.x[accepted]
    y = gradient[accepted] - rows.gradient[accepted]
    sy = (s * y).sum(1)
    # A pair without positive curvature is not remembered: its row keeps the memory it has.
    convex = sy > torch.finfo(s.dtype).eps * s.norm(dim=1) * y.norm(dim=1)
    steps = _remember(rows.steps[accepted], s, convex)
    changes = _remember(rows.changes[accepted], y, convex)
    curvature = _remember(rows.curvature[accepted], sy, convex)
    rows.steps[accepted], rows.changes[accepted], rows.curvature[accepted] = steps, changes, curvature
    new_gradient, new_value = gradient[accepted], value[accepted]
    direction = -_two_loop(new_gradient, steps, changes, curvature)
    slope = (new_gradient * direction).sum(1)
    uphill = slope >= 0
    if uphill.any():
        direction[uphill] = -new_gradient[uphill]
        slope[uphill] = -new_gradient[uphill].square().sum(1)
    newest = steps[:, -1]
    long_step = newest.square().sum(1) / curvature[:, -1].clamp_min(torch.finfo(s.dtype).tiny)
    decrement = -0.5 * slope
    longest = 0.5 * torch.where(curvature[:, -1] > 0, long_step, 1.0).clamp_min(1.0) * new_gradient.square().sum(1)
    values = torch.cat([rows.values[accepted, 1:], new_value[:, None]], 1)
    rows.values[accepted] = values
    tail, scale = _tail(values, rows.iterations[accepted] + 1, floor[accepted]), new_value.clamp_min(tiny)
    rows.worst[accepted] = decrement.maximum(longest).maximum(tail) / scale
    # Of the three the one in the middle: decrements fall short where rows creep, and tails say too much of fast ones.
    rows.gain[accepted] = decrement.maximum((longest * tail).sqrt()) / scale
    rows.x[accepted], rows.value[accepted], rows.gradient[accepted] = trial[accepted], new_value, new_gradient
    rows.direction[accepted], rows.slope[accepted] = direction, slope
    rows.step[accepted], rows.backtracks[accepted] = 1.0, 0
    rows.iterations[accepted] += 1
