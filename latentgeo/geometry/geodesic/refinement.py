r"""Coarse to fine: the same curves with more and more segments, and the limit of their lengths.

With N segments the least energy is :math:`E_N`, and :math:`L_N = \sqrt{E_N}` has an expansion in even powers of 1/N
where the decoder is smooth. Two levels of refinement cancel the first term, three the second (Romberg's scheme):

.. math:: L = \sum_j w_j L_{N_j}, \qquad w = (-1, 4) / 3 \quad\text{or}\quad w = (1, -20, 64) / 45.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from latentgeo.geometry.curve import resample, straight_line
from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.lbfgs import Minimum, minimise
from latentgeo.geometry.geodesic.preconditioner import CurveWhitening, FlatWhitening, Whitening

_MEMORY = 10  # secant pairs of the solver
_FULL_METRIC_DIM = 256  # above this many dimensions the whitening uses the metric's diagonal only
_FIRST_PATIENCE = 30  # steps before a pair is whitened by the metric at every node
_PATIENCE = 60  # steps before it is whitened so again
_STARTING_TOL = 1e-3  # relative excess of curves that only serve to start the next level
_SAFETY = 4.0  # by which estimates of the remaining energy fall short on the hardest trained decoders measured
_SLOWEST_RATE = 0.75  # of convergence in N that a curve is credited with
_WEIGHTS = {2: (-1 / 3, 4 / 3), 3: (1 / 45, -20 / 45, 64 / 45)}


@dataclasses.dataclass(frozen=True)
class Refined:
    """Curves solved at all levels.

    Attributes:
        points: curves of the finest level, shape (P, N + 1, d).
        length: extrapolated lengths, shape (P,).
        energy: their squares, shape (P,).
        excess: largest relative energy excess of the levels that enter the length, shape (P,).
        error: estimated relative error of the length, shape (P,).
        order: observed order of convergence of the chord lengths, shape (P,).
        speed_variation: coefficient of variation of the speed of the finest curves, shape (P,).
        converged: whether all levels that enter the length have converged, shape (P,).
        iterations: accepted steps over all levels, shape (P,).
        gradient: of the length with respect to start and end, shape (P, 2, d), if asked for.
    """

    points: Tensor
    length: Tensor
    energy: Tensor
    excess: Tensor
    error: Tensor
    order: Tensor
    speed_variation: Tensor
    converged: Tensor
    iterations: Tensor
    gradient: Tensor | None


def bytes_per_pair(decode: Decoder, start: Tensor, segments: int) -> int:
    """Memory that one more pair takes: autograd's, the solver's, and that of a Jacobian."""

    def saved(rows: int) -> tuple[int, int]:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            x = decode(start[:1].expand(rows, -1).clone().requires_grad_())
        return sum(sizes), x[0].numel() * x.element_size()

    (one, _), (two, output) = saved(1), saved(2)
    row, d = max(two - one, 0), start.shape[1]
    activations = 2 * (segments - 1) * (row + output)
    memory = 2 * (_MEMORY + 4) * (segments - 1) * d * start.element_size()
    jacobian = 3 * d * (3 * output + row) if d <= _FULL_METRIC_DIM else 0
    return activations + memory + jacobian


def _decoded(decode: Decoder, interior: Tensor, ends: Tensor) -> Tensor:
    """Decoded points of whole curves: inner points (P, N - 1, d) and decoded ends (P, 2, D) -> (P, N + 1, D)."""
    x = decode(interior.reshape(-1, interior.shape[2])).reshape(*interior.shape[:2], -1)
    return torch.cat([ends[:, :1], x, ends[:, 1:]], dim=1)


def _minimise_energy(
    decode: Decoder, curve: Tensor, ends: Tensor, whitening: Whitening, tol: float, max_iter: int | Tensor
) -> tuple[Tensor, Minimum]:
    """Minimise the chord energy of curves (P, N + 1, d) in whitened coordinates."""
    P, N, d = curve.shape[0], curve.shape[1] - 1, curve.shape[2]

    def interior(y: Tensor, rows: Tensor) -> Tensor:
        return curve[rows, 1:-1] + whitening.step(y.reshape(-1, N - 1, d), rows)

    def energy(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        z = interior(y, rows).requires_grad_()
        with torch.enable_grad():
            value = N * _decoded(decode, z, ends[rows]).diff(dim=1).square().sum((1, 2))
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), whitening.gradient(gradient, rows).flatten(1)

    report = minimise(energy, curve.new_zeros(P, (N - 1) * d), tol=tol, max_iter=max_iter, memory=_MEMORY)
    solved = interior(report.x, torch.arange(P, device=curve.device))
    return torch.cat([curve[:, :1], solved, curve[:, -1:]], dim=1), report


def _solve_level(
    decode: Decoder, curve: Tensor, ends: Tensor, hard: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Minimum]:
    """Minimise the chord energy of curves with a given number of segments.

    Curves that take long under the mean metric, and those known to be hard, are whitened by the metric at every node
    of their present shape, and again every few steps.

    Args:
        decode: flat decoder.
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

    def go_on(rows: Tensor, whitening: Whitening, budget: Tensor) -> None:
        curve[rows], more = _minimise_energy(decode, curve[rows], ends[rows], whitening, tol, budget)
        for old, new in (
            (report.value, more.value),
            (report.gain, more.gain),
            (report.converged, more.converged),
            (report.iterations, report.iterations[rows] + more.iterations),
        ):
            old[rows] = new

    if d > _FULL_METRIC_DIM:
        everyone = torch.arange(P, device=curve.device)
        go_on(everyone, FlatWhitening(decode, curve, full=False), torch.full_like(everyone, max_iter))
        return curve, report
    easy = torch.nonzero(~hard).squeeze(1)
    if len(easy):
        whitening = FlatWhitening(decode, curve[easy], full=True)
        go_on(easy, whitening, torch.full_like(easy, min(max_iter, _FIRST_PATIENCE)))
    left = torch.nonzero(hard | (~report.converged & torch.isfinite(report.gain))).squeeze(1)
    left = left[report.iterations[left] < max_iter]
    while len(left):
        before = report.iterations[left]
        go_on(left, CurveWhitening(decode, curve[left]), (max_iter - before).clamp_max(_PATIENCE))
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
    decode: Decoder,
    start: Tensor,
    end: Tensor,
    initial: Tensor | None,
    segments: int,
    tol: float,
    max_iter: int,
    gradient: bool,
) -> Refined:
    """Solve all levels for some pairs, and extrapolate.

    Args:
        decode: flat decoder.
        start: latent points, shape (P, d).
        end: latent points, shape (P, d).
        initial: initial curves (P, M + 1, d), or None for straight lines.
        segments: N of the finest level.
        tol: relative energy excess to stop at.
        max_iter: steps of each level at most.
        gradient: whether to differentiate the length with respect to the ends.
    """
    ends = decode(torch.cat([start, end])).reshape(2, len(start), -1).transpose(0, 1)  # [P, 2, D]
    curve = straight_line(start, end, 2) if initial is None else initial
    iterations = torch.zeros(len(start), dtype=torch.long, device=start.device)
    ladder = levels(segments)
    weights = _WEIGHTS[min(len(ladder), 3)]
    lengths, gains, outermost = [], [], []
    converged = torch.ones(len(start), dtype=torch.bool, device=start.device)
    hard = ~converged
    for N in ladder:
        enters = N in ladder[-len(weights) :]
        goal = tol if enters else max(tol, _STARTING_TOL)
        curve, report = _solve_level(decode, resample(curve, N), ends, hard, goal, max_iter)
        hard = report.iterations >= _FIRST_PATIENCE
        iterations += report.iterations
        if enters:
            x = _decoded(decode, curve[:, 1:-1], ends)
            chords = x.diff(dim=1)
            lengths.append(report.value.sqrt())
            gains.append(report.gain)
            outermost.append(N * torch.stack([-chords[:, 0], chords[:, -1]], 1))  # [P, 2, D], away from the curve
            converged &= report.converged
    # Between two identical ends there is no curve, only the rounding of two passes through the decoder.
    same = (start == end).all(1)
    zero = same | (lengths[-1] == 0)
    curve = torch.where(same[:, None, None], start[:, None], curve)
    scale = lengths[-1].masked_fill(zero, 1.0)
    length = sum(w * L for w, L in zip(weights, lengths, strict=True)).masked_fill(zero, 0.0)
    # The error of the extrapolation that uses one level less; of the finest level's own, were there only two.
    lower = sum(w * L for w, L in zip(_WEIGHTS[2], lengths[-2:], strict=True)) if len(weights) > 2 else lengths[-1]
    excess = torch.stack(gains).amax(0)
    limit, order = _limit(x, excess)
    # Extrapolation is worth the less, the further the curves are from converging at second order.
    discretisation = (2.0 / order) ** 2 * torch.maximum((length - lower).abs(), (length - limit).abs()) / scale
    # A relative excess ε of the energy is ε/2 of the length.
    optimisation = _SAFETY * sum(abs(w) * gain for w, gain in zip(weights, gains, strict=True)) / 2.0
    speed = segments * chords.norm(dim=2)
    return Refined(
        points=curve,
        length=length,
        energy=length.square(),
        excess=excess.masked_fill(zero, 0.0),
        error=(discretisation + optimisation).masked_fill(zero, 0.0),
        order=order.masked_fill(zero, 2.0),
        speed_variation=(speed.std(1, correction=0) / scale).masked_fill(zero, 0.0),
        converged=converged | zero,
        iterations=iterations,
        gradient=_end_gradient(decode, start, end, outermost, lengths, weights, zero) if gradient else None,
    )


def _limit(x: Tensor, excess: Tensor) -> tuple[Tensor, Tensor]:
    r"""Length of decoded curves as their own chords suggest, and its order of convergence, (P, N + 1, D) -> 2 × (P,).

    The same curve is measured by every chord, by every second and by every fourth, from wherever these may begin: a
    kink lengthens some of them and not others. Of the two increments of the averages the second is q times the first,
    :math:`q = 2^{-p}`, with p = 2 where the decoder is smooth along the curve, but p = 1 where it has kinks that the
    segments do not follow; what is missing is :math:`q / (1 - q)` times the second, the larger of its two. An increment
    within rounding, or within the relative energy excess of the curve, says nothing of q, which is then that of p = 2.
    """
    quarter, half, whole = (
        torch.stack([_energy_length(x, stride, first) for first in range(stride)]) for stride in (4, 2, 1)
    )
    whole = whole[0]
    noise = (16.0 * torch.finfo(x.dtype).eps + excess) * whole
    first, second = (half.mean(0) - quarter.mean(0)).clamp_min(0.0), (whole - half.mean(0)).clamp_min(0.0)
    rate = torch.where(second > noise, second / first.maximum(second), 0.25).clamp(0.25, _SLOWEST_RATE)
    return whole + (whole - half.amin(0)).clamp_min(0.0) * rate / (1.0 - rate), -torch.log2(rate)


def _energy_length(x: Tensor, stride: int, first: int) -> Tensor:
    """Square root of the energy of decoded curves (P, N + 1, D) by every so-many-th point and the ends."""
    N = x.shape[1] - 1
    nodes = torch.tensor(sorted({0, *range(first, N, stride), N}), device=x.device)
    chords = x[:, nodes].diff(dim=1).square().sum(2)
    return (chords * (N / nodes.diff())).sum(1).sqrt()


def _end_gradient(
    decode: Decoder,
    start: Tensor,
    end: Tensor,
    outermost: list[Tensor],
    lengths: list[Tensor],
    weights: tuple[float, ...],
    zero: Tensor,
) -> Tensor:
    r"""Gradient of the extrapolated length with respect to both ends, (P, 2, d).

    The inner points are stationary, so that only the outermost chords c depend on the ends (envelope theorem):
    :math:`\partial L_N / \partial b = J(b)^\top N c / L_N`.
    """
    covector = sum(w * c / L[:, None, None] for w, c, L in zip(weights, outermost, lengths, strict=True))
    covector = covector.masked_fill(zero[:, None, None], 0.0)
    z = torch.stack([start, end], 1).requires_grad_()  # [P, 2, d]
    with torch.enable_grad():
        x = decode(z.reshape(-1, z.shape[2])).reshape(*z.shape[:2], -1)
        (gradient,) = torch.autograd.grad((x * covector).sum(), z)
    return gradient
