r"""From a first curve to a geodesic: coarse to fine by L-BFGS, and what that leaves, by Gauss-Newton steps.

Coarse curves serve to start the finest, whose nodes are the solution. A curve that is given starts at the finest at
once: coarser nodes might jump across what it follows. Pairs that do not converge soon, or whose straight line runs
wild in data space, are solved by :mod:`latentgeo.geometry.geodesic.newton`, in a way that does not depend on latent
coordinates, and those that remain, by L-BFGS again from where they are. In many dimensions, where that takes more
than hundreds of steps, L-BFGS has them all. Curves that bend too much for their nodes are solved once more, by the
energy of the splines through these.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from latentgeo.geometry.curve import resample
from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.certificate import MAX_ERROR, certified, error_of, length_of, normal_slope, parts
from latentgeo.geometry.geodesic.energy import curve_energy, end_covectors, energy_and_gradient
from latentgeo.geometry.geodesic.lbfgs import Minimum, minimise
from latentgeo.geometry.geodesic.newton import along_chord, between, gauss_newton
from latentgeo.geometry.geodesic.preconditioner import (
    FULL_METRIC_DIM,
    CurvePreconditioner,
    FlatPreconditioner,
    MetricFactor,
    interpolated,
    mean_metric,
    products,
)
from latentgeo.geometry.geodesic.result import Geodesic, improved, unsolved

Metrics = tuple[Tensor, Tensor]  # at a few points of curves, as `interpolated` takes them
_MEMORY = 10  # secant pairs of the solver
_PATIENCE = 15  # steps for every decimal digit that is asked for, after which L-BFGS gives up
_FEW_STEPS = 5  # the same where Gauss-Newton steps cost little
_STARTING_TOL = 3e-3  # relative excess of curves that only serve to start the next level
_ROUGH = 1e-4  # relative error of a measurement that asks for a finer one
_LOOKS = 8  # chords that a straight line is looked at by
_EXACT = 1e-8  # tolerance below which cost does not count
_KINKED = 1.5  # order of convergence of chords, below which a decoder counts as kinked
_SMOOTH = 1.95  # order of convergence of chords, below which a curve is rough
_UNSURE = 10.0  # times the tolerance, that a length may be off by before it is measured another way
_DIAGONAL = 2.0  # times, that estimates may fall shorter where only the diagonal of a metric is known
_SOFT = 1e-6  # of a metric's eigenvalues, relative to their mean, below which directions do not count
_RANK = 64.0  # times the rounding of a Jacobian, below which its columns do not tell a direction
_ASKEW = 3e-3  # that the norm of a derivative may be off by before the end is looked at more closely
_CLOSER = 4  # times at most
_PARTS = 4  # of a curve, of which the first or the last is solved by as many nodes
_LOST = 0.1  # off by more, the direction of a geodesic is not resolved by its segments
_FINER = 0.1  # of the tolerance, that curves are solved to: past saddles, along which L-BFGS creeps
_COARSE = 1e-3  # relative error of a curve that is rough for its nodes
_CREEPING = 50  # steps, as much work as to solve a curve closer
_ROUND = 25  # steps, after which they are whitened anew
_KNOWN_AT = 3  # points of each curve, that Jacobians are held at together
_FEW = 4  # dimensions, up to which Jacobians at all nodes cost little
_MANY = 12  # dimensions, above which they cost more than hundreds of steps of L-BFGS; unless cost does not count
_RAISED = 1e-2  # of a metric's eigenvalues, relative to their mean, that all of them are raised by there
_WILD = 2.0  # times the chord, that the straight line's image may be long to be a first curve


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
    max_iter: int,
    points: int | None = None,
) -> tuple[Tensor, Minimum]:
    """Minimise the energy of curves (P, N + 1, d), or of so many points of their splines, in whitened coordinates."""
    P, N, d = curve.shape[0], curve.shape[1] - 1, curve.shape[2]
    M = points or N

    def interior(y: Tensor, rows: Tensor) -> Tensor:
        return curve[rows, 1:-1] + preconditioner.step(y.reshape(-1, N - 1, d), rows)

    def value_and_gradient(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        z = interior(y, rows).requires_grad_()
        with torch.enable_grad():
            inner = z if M == N else resample(torch.cat([curve[rows, :1], z, curve[rows, -1:]], 1), M)[:, 1:-1]
            x = f(inner.flatten(0, 1))
            value, slope = energy_and_gradient(f, x.detach().unflatten(0, (-1, M - 1)), ends[rows])
            (gradient,) = torch.autograd.grad(x, z, slope.flatten(0, 1))
        return value, preconditioner.gradient(gradient, rows).flatten(1)

    start = curve.new_zeros(P, (N - 1) * d)
    floor = 4.0 * (M * f.rounding(ends)).square()  # rounding turns every chord by an angle of its own
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
    found, ends, J = _refined(f, curve, segments, tol, max_iter)
    if not gradient:
        return found
    slopes, astray = _end_slopes(f, found, ends, J)
    # Nodes may be too far apart to tell how a curve sets out; those of its first and last parts are not.
    part = max(1, segments // _PARTS)
    for end in (0, 1):
        near, rows, off = found, torch.arange(len(curve), device=curve.device), astray[:, end]
        points = found.points.flip(1) if end else found.points
        for _ in range(_CLOSER):
            rough = off.isnan() & ((near.order < _SMOOTH) | (near.error > _ROUGH))
            unsure = near.converged & (rough | (off > _ASKEW))
            if not unsure.any():
                break
            rows = rows[unsure]
            near, *its = _refined(f, points[unsure, : part + 1], segments, tol, max_iter)
            points, better = near.points, near.converged
            closer, off = (of[:, 0] for of in _end_slopes(f, near, *its))
            slopes[rows[better], end], astray[rows[better], end] = closer[better], off[better]
    return dataclasses.replace(found, gradient=slopes, converged=found.converged & ~(astray > _LOST).any(1))


def _refined(
    f: Decoder, curve: Tensor, segments: int, tol: float, max_iter: int
) -> tuple[Geodesic, Tensor, Tensor | None]:
    """Geodesics, their decoded ends, (P, 2, D), and the Jacobians there where they are known, (P, 2, D, d)."""
    # One point may be an end of many pairs.
    points, which = curve[:, [0, -1]].flatten(0, 1).unique(dim=0, return_inverse=True)
    which = which.unflatten(0, (-1, 2))
    if curve.shape[2] > FULL_METRIC_DIM:
        ends = f(points)[which]
        nodes, report = _without_jacobians(f, curve, ends, segments, tol, max_iter)
        return _result(f, nodes, ends, None, report, tol), ends, None
    x, J = f.linearised(points)
    ends, J = x[which], J[which]
    return _by_turns(f, curve, ends, J, segments, tol, max_iter), ends, J


def _end_slopes(f: Decoder, found: Geodesic, ends: Tensor, J: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""Derivatives of lengths by both ends, (P, 2, d), and how far they were from the norm one, (P, 2), or NaN.

    Where the metric is known and has full rank they are scaled to :math:`g^\top G^{-1} g = 1`, the eikonal equation,
    which chords between nodes meet only as well as these are close.
    """
    x = _decoded(f, found.points[:, 1:-1], ends)
    covector = end_covectors(f, x) / found.length[:, None, None]
    covector = covector.masked_fill((found.length == 0)[:, None, None], 0.0)
    slopes = f.vjp(found.points[:, [0, -1]].flatten(0, 1), covector.flatten(0, 1)).unflatten(0, (-1, 2))
    size = torch.full_like(slopes[..., :1], torch.nan, dtype=torch.float64)
    if J is not None and J.shape[2] >= J.shape[3]:
        # G = J^T J = R^T R, and R keeps small singular values that drown in their squares.
        R = torch.linalg.qr(J.double(), mode="r").R
        depth = R.diagonal(dim1=2, dim2=3).abs()
        # Where the rank drops, as at a pole, a geodesic may leave in a direction that no derivative knows of.
        least = _RANK * torch.finfo(J.dtype).eps * R.norm(dim=2).amax(2, keepdim=True)
        full = (depth > least).all(2, keepdim=True)
        R = R.where(full[..., None], torch.eye(J.shape[3], dtype=R.dtype, device=R.device))
        g = torch.linalg.solve_triangular(R.mT, slopes.double()[..., None], upper=False)
        size = g.norm(dim=2).where(full & (slopes != 0).any(2, keepdim=True), torch.nan)
    return slopes / size.nan_to_num(1.0).to(slopes), (size.squeeze(2) - 1.0).abs()


def _without_jacobians(
    f: Decoder, curve: Tensor, ends: Tensor, segments: int, tol: float, max_iter: int
) -> tuple[Tensor, Minimum]:
    """Curves in many dimensions, by L-BFGS in coordinates whitened by the diagonal of their mean metric."""
    metric = MetricFactor(mean_metric(f, resample(curve, 6)[:, 1::2]), curve.dtype)
    done = torch.zeros(len(curve), dtype=torch.long, device=curve.device)
    for N in levels(segments) if curve.shape[1] == 2 else [segments]:
        goal = tol if segments == N else max(tol, _STARTING_TOL)
        curve, report = _minimise_energy(f, resample(curve, N), ends, FlatPreconditioner(metric, N), goal, max_iter)
        done += report.iterations
    # Estimates of what is left are not known to hold.
    return curve, dataclasses.replace(report, gain=report.gain.clamp_min(tol), iterations=done)


def _first_attempt(
    f: Decoder, curve: Tensor, ends: Tensor, J: Tensor, segments: int, tol: float, max_iter: int
) -> Geodesic:
    """Curves by L-BFGS: coarse ones in coordinates whitened by a mean metric, the finest by that along the curve.

    Where a coarse level does not end soon the pair is left to other methods, as far as there are any.

    Args:
        f: the decoder.
        curve: initial curves, see :func:`refine`.
        ends: decoded ends, shape (P, 2, D).
        J: Jacobians there, shape (P, 2, D, d).
        segments: N.
        tol: see :func:`refine`.
        max_iter: see :func:`refine`.
    """
    found = unsolved(resample(curve, segments), tol)
    rows, straight = torch.arange(len(curve), device=curve.device), curve.shape[1] == 2
    if straight:
        metric, at = MetricFactor((J.mT @ J).mean(1), curve.dtype), rows
        goal = max(tol, _STARTING_TOL)
        patience = _patience(goal, max_iter, _PATIENCE if _many(curve, tol) else _FEW_STEPS)
        for N in levels(segments)[:-1]:
            flat = FlatPreconditioner(metric.of(at), N)
            curve, report = _minimise_energy(f, resample(curve, N), ends[rows], flat, goal, patience)
            found.iterations[rows] += report.iterations
            going_on = report.converged | _many(curve, tol)
            at, rows, curve = (part[going_on] for part in (at, rows, curve))
    if len(rows):
        nodes, report, metrics = _finest(f, resample(curve, segments), ends[rows], J[rows], tol, max_iter)
        found = improved(found, rows, _result(f, nodes, ends[rows], metrics, report, tol))
    return found


def _finest(
    f: Decoder, curve: Tensor, ends: Tensor, J: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Minimum, Metrics]:
    """Curves by L-BFGS in coordinates whitened by the metric along them, as their ends and their middle have it.

    Args:
        f: the decoder.
        curve: where to start, shape (P, N + 1, d).
        ends: decoded ends, shape (P, 2, D).
        J: Jacobians there, shape (P, 2, D, d).
        tol: see :func:`refine`.
        max_iter: see :func:`refine`.

    Returns:
        The curves, how they ended, and products of Jacobians for :func:`interpolated`.
    """
    N = curve.shape[1] - 1
    metrics = products(torch.stack([J[:, 0], f.jacobian(curve[:, N // 2]), J[:, 1]], 1))
    goal, each = _FINER * tol, _FEW_STEPS if curve.shape[2] <= _FEW else _PATIENCE
    if not _many(curve, tol):
        whitened = CurvePreconditioner(*interpolated(*metrics, N), N, _SOFT)
    else:  # of which most have collapsed: what the curvature does there a metric at a few points does not tell
        whitened = FlatPreconditioner(MetricFactor(metrics[0].mean(1), curve.dtype, _RAISED), N)
    curve, found = _minimise_energy(f, curve, ends, whitened, goal, _patience(goal, max_iter, each))
    return curve, _with_decrement(found, tol), metrics


def _with_decrement(found: Minimum, tol: float) -> Minimum:
    """What a minimiser reports in whitened coordinates, where Newton's decrement is half the square of the gradient.

    It knows directions that no step has gone.
    """
    decrement = 0.5 * found.gradient.square().sum(1) / found.value.clamp_min(torch.finfo(found.value.dtype).tiny)
    gain = found.gain.maximum(decrement)
    return dataclasses.replace(found, gain=gain, converged=found.converged | (gain <= tol))


def _closer(
    f: Decoder, curve: Tensor, ends: Tensor, J: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Minimum, Metrics]:
    """What :func:`_finest` returns, by the energy of the splines through the nodes, whitened by the metric along them.

    Where nodes are too far apart for a curve that bends much, their own energy is less than that of any curve through
    them, and the less it is the more the curves wind.
    """
    N, curve = curve.shape[1] - 1, curve.clone()
    left, found = torch.arange(len(curve), device=curve.device), None
    for used in range(0, max_iter, _ROUND):
        if len(left) == 0:
            break
        along = CurvePreconditioner(*_metrics_along(f, curve[left, 1:-1]), N, _SOFT, curve.dtype)
        steps = min(_ROUND, max_iter - used)
        curve[left], new = _minimise_energy(f, curve[left], ends[left], along, tol, steps, 2 * N)
        going_on = ~new.converged & (new.iterations > 0)
        if found is None:
            found = new
        else:
            new.iterations += found.iterations[left]
            for field in dataclasses.fields(Minimum):
                getattr(found, field.name)[left] = getattr(new, field.name)
        left = left[going_on]
    metrics = products(torch.stack([J[:, 0], f.jacobian(curve[:, N // 2]), J[:, 1]], 1))
    return curve, _with_decrement(found, tol), metrics


def _metrics_along(f: Decoder, z: Tensor) -> Metrics:
    """Products of Jacobians at points of curves (P, M, d) for :class:`CurvePreconditioner`, in double precision."""
    parts = z.split(max(1, _KNOWN_AT * len(z) // z.shape[1]))  # or Jacobians would take more memory than the solver
    found = [products(f.jacobian(part.flatten(0, 1)).double().unflatten(0, part.shape[:2])) for part in parts]
    return tuple(torch.cat(of) for of in zip(*found, strict=True))


def _many(curve: Tensor, tol: float) -> bool:
    """Whether curves (P, N + 1, d) have so many dimensions that Jacobians at all nodes are too dear."""
    return curve.shape[2] > _MANY and tol >= _EXACT


def _patience(tol: float, max_iter: int, each: int) -> int:
    """Steps after which other methods are tried, so many for every decimal digit that is asked for."""
    return min(max_iter, math.ceil(each * max(1.0, -math.log10(tol))))


def _wide(tol: float) -> float:
    """Claimed errors above which curves are too rough for their nodes, and looked at more closely."""
    return max(_UNSURE * tol, _COARSE)


def _wild(f: Decoder, curve: Tensor, ends: Tensor) -> Tensor:
    """Which straight lines (P, 2, d) make such detours in data space that they are no place to start."""
    x = _decoded(f, resample(curve, _LOOKS)[:, 1:-1], ends)
    return f.step(x[:, :-1], x[:, 1:]).sum(1) > _WILD * f.chord(ends[:, 0], ends[:, 1])


def _order_of_nodes(f: Decoder, x: Tensor) -> Tensor:
    """Order of convergence of the chords of decoded nodes (P, N + 1, D), as far as every second and fourth tell it.

    Unlike that of chords between points of a spline, it depends on no coordinates.
    """
    whole = [x[:, ::each] for each in (1, 2, 4) if (x.shape[1] - 1) % each == 0]
    if len(whole) < 3:
        return x.new_full((len(x),), torch.nan)
    fine, coarse, coarsest = (f.step(of[:, :-1], of[:, 1:]).sum(1) for of in whole)
    return ((coarse - coarsest) / (fine - coarse)).log2()


def _by_turns(f: Decoder, curve: Tensor, ends: Tensor, J: Tensor, N: int, tol: float, max_iter: int) -> Geodesic:
    """Curves by one method after the other, each for the pairs that have not converged by those before.

    Args:
        f: the decoder.
        curve: initial curves, see :func:`refine`.
        ends: decoded ends, shape (P, 2, D).
        J: Jacobians there, shape (P, 2, D, d).
        N: segments.
        tol: see :func:`refine`.
        max_iter: see :func:`refine`.
    """
    straight, possible = curve.shape[1] == 2, torch.isfinite(ends).flatten(1).all(1)
    many = _many(curve, tol)
    wild = torch.zeros_like(possible) if many or not straight else _wild(f, curve, ends)

    def first_attempt(rows: Tensor) -> Geodesic:
        return _first_attempt(f, curve[rows], ends[rows], J[rows], N, tol, max_iter)

    def closer(rows: Tensor) -> Geodesic:
        nodes, report, metrics = _closer(f, found.points[rows], ends[rows], J[rows], tol, max_iter)
        return _result(f, nodes, ends[rows], metrics, report, tol)

    def newton(rows: Tensor) -> Geodesic:
        c = curve[rows]
        first = along_chord(f, c[:, 0], c[:, -1], ends[rows], N) if straight else resample(c, N)
        nodes, x, inner, report = gauss_newton(f, first, ends[rows], tol, max_iter)
        at_nodes = torch.cat([J[rows, :1], inner, J[rows, 1:]], 1)
        return _result(f, nodes, ends[rows], None, report, tol, (_joined(x, ends[rows]), at_nodes))

    def as_given(rows: Tensor) -> Geodesic:
        nodes, nothing = resample(curve[rows], N), torch.zeros_like(rows)
        left = ends.new_full((len(rows),), torch.inf)
        return _result(f, nodes, ends[rows], None, Minimum(nodes, left, nodes, left, nothing > 0, nothing), tol)

    def last_attempt(rows: Tensor) -> Geodesic:
        nodes, report, metrics = _finest(f, found.points[rows], ends[rows], J[rows], tol, max_iter)
        return _result(f, nodes, ends[rows], metrics, report, tol)

    def measured_anew(rows: Tensor) -> Geodesic:
        nothing, excess = torch.zeros_like(rows), found.excess[rows]
        report = Minimum(curve, excess, curve, excess, excess <= tol, nothing)
        nodes = found.points[rows]
        known = tuple(of.unflatten(0, nodes.shape[:2]) for of in f.linearised(nodes.flatten(0, 1)))
        return _result(f, nodes, ends[rows], None, report, tol, known)

    found = unsolved(resample(curve, N), tol)
    rows = torch.nonzero(~wild).squeeze(1)
    if len(rows):
        found = improved(found, rows, first_attempt(rows))
    # Splines in latent coordinates are poor where these turn quickly: more is missed than was asked for, or their
    # chords converge slowly, and the energy of the nodes, which knows no coordinates, is another. In many dimensions
    # carrying points along is dear, and with kinks it is of no use there.
    few = curve.shape[2] <= _FEW
    solved = possible & (found.excess <= tol)
    unsure = solved & (found.error > _UNSURE * tol) & (few | (tol < _EXACT))
    slow = torch.nonzero(unsure & ~(found.order > _KINKED)).squeeze(1)
    if len(slow) and not few:  # a kink, or a spline that winds between its nodes
        unsure[slow] = _order_of_nodes(f, _decoded(f, found.points[slow, 1:-1], ends[slow])) > _KINKED
    rough = torch.nonzero(solved & ~unsure & (found.order < _SMOOTH)).squeeze(1)
    if few and len(rough):
        energy = curve_energy(f, _decoded(f, found.points[rough, 1:-1], ends[rough]))
        unsure[rough] = (energy.sqrt() - found.length[rough]).abs() > found.error[rough] * found.length[rough]
    rows = torch.nonzero(unsure).squeeze(1)
    if len(rows):
        found = improved(found, rows, measured_anew(rows))
    if not few:
        unsure = (found.error > _wide(tol)) & ((found.iterations >= _CREEPING) | (found.error > MAX_ERROR))
        wanted = ~found.converged | unsure if many else (found.excess <= tol) & unsure
        rows = torch.nonzero(possible & wanted & torch.isfinite(found.upper)).squeeze(1)
        for part in rows.chunk(2) if len(rows) else ():  # twice the points take twice the memory
            found = improved(found, part, closer(part))
    unmeasured = possible & found.upper.isnan()
    methods = (newton, possible), (as_given, unmeasured), (first_attempt, possible & wild), (last_attempt, possible)
    for method, chosen in () if many else methods:
        rows = torch.nonzero(chosen & ~found.converged).squeeze(1)
        if len(rows):
            found = improved(found, rows, method(rows))
    return found


def _result(
    f: Decoder,
    nodes: Tensor,
    ends: Tensor,
    metrics: Metrics | None,
    report: Minimum,
    tol: float,
    linearised: tuple[Tensor, Tensor] | None = None,
) -> Geodesic:
    """Curves (P, N + 1, d) with their lengths and certificates.

    Args:
        f: the decoder.
        nodes: the curves.
        ends: decoded ends, shape (P, 2, D).
        metrics: along the curves, see :func:`_finest`, where they are known.
        report: of the minimiser of their energy.
        tol: that was asked for.
        linearised: decoded nodes and the Jacobians there, shapes (P, N + 1, D) and (P, N + 1, D, d), where points
            between them are to be found in data space, and not on a spline in latent space.
    """
    N = nodes.shape[1] - 1

    def measured(rows: Tensor, each: int) -> tuple[Tensor, ...]:
        """Some curves by so many chords for each segment, of which some ends have been decoded before."""
        if linearised is not None:
            return _length_between(f, *between(f, nodes[rows], *(of[rows] for of in linearised), each)[::2])
        return length_of(f, _filled(f, nodes[rows], points[rows], each * N))

    everyone = torch.arange(len(nodes), device=nodes.device)
    if linearised is not None:
        each = parts(N)
        points, J, whole = between(f, nodes, *linearised, each)
        x, J, found = points[:, :: each // 2], J[:, :: each // 2][:, 1:-1].double(), _length_between(f, points, whole)
        whitened = CurvePreconditioner(*products(J), 2 * N, _SOFT)
        value, slope = normal_slope(f, x)
        slope = J.mT @ f.tangent_gradient(x[:, 1:-1], slope).double()[..., None]
        remaining = _promised(value, slope.squeeze(-1), whitened, everyone)
    else:
        twice = resample(nodes, 2 * N)
        if metrics is None:
            metric = MetricFactor(mean_metric(f, twice[:, N // 2 :: N // 2][:, :3]), nodes.dtype)
            whitened = FlatPreconditioner(metric, 2 * N)
        else:
            whitened = CurvePreconditioner(*interpolated(*metrics, 2 * N), 2 * N, _SOFT)
        x, value, slope = _energy_slope(f, twice, ends)
        remaining = _promised(value, slope, whitened, everyone)
        points = _filled(f, nodes, x, parts(N) * N)
        found = length_of(f, points)
    if isinstance(whitened, CurvePreconditioner):
        remaining = remaining.masked_fill(~whitened.sound, torch.inf)
    if metrics is not None and nodes.shape[2] > _FEW:
        # Between a few points a metric may be another than interpolated, which makes estimates too large.
        allowed = error_of(remaining)
        dear = report.iterations >= 2 * nodes.shape[2]  # compared with Jacobians at all points
        unsure = torch.nonzero((allowed > _wide(tol)) & (dear | (allowed > MAX_ERROR))).squeeze(1)
        if len(unsure):
            along = CurvePreconditioner(*_metrics_along(f, twice[unsure, 1:-1]), 2 * N, _SOFT)
            remaining[unsure] = _promised(value[unsure], slope[unsure].double(), along, everyone[: len(unsure)])
            # Of what goes on between the points, as where a curve jumps, their derivative knows nothing.
            remaining[unsure] += (value[unsure].sqrt() / found[0][unsure] - 1.0).abs().nan_to_num(torch.inf)
            remaining[unsure] = remaining[unsure].masked_fill(~along.sound, torch.inf)
    # Finer, where it is the measurement that is unsure and not the curve.
    rough = torch.nonzero(found[1] > remaining.clamp_min(_ROUGH) * found[0]).squeeze(1)
    if len(rough):
        for old, new in zip(found, measured(rough, 2 * parts(N)), strict=True):
            old[rough] = new
    if metrics is None and linearised is None:
        remaining = _DIAGONAL * remaining.maximum(report.gain)
    # Between two identical ends there is no curve, only the rounding of two passes through the decoder.
    same = (nodes[:, 0] == nodes[:, -1]).all(1)
    return Geodesic(
        points=torch.where(same[:, None, None], nodes[:, :1], nodes),
        iterations=report.iterations,
        tol=tol,
        decoder_rows=0,
        **certified(f, x[:, ::2], found, remaining, report, same),
    )


def _filled(f: Decoder, nodes: Tensor, x: Tensor, chords: int) -> Tensor:
    """Decoded curves with the points between those of their splines that are known already.

    Args:
        f: the decoder.
        nodes: the curves, shape (P, N + 1, d).
        x: decoded points of their splines at equal times, shape (P, M + 1, D).
        chords: a multiple K of M.

    Returns:
        Decoded points, shape (P, K + 1, D).
    """
    M = x.shape[1] - 1
    if chords == M:
        return x
    inner = resample(nodes, chords)[:, :-1].unflatten(1, (M, chords // M))[:, :, 1:]
    decoded = f(inner.flatten(0, 2)).unflatten(0, inner.shape[:3])
    return torch.cat([torch.cat([x[:, :-1, None], decoded], 2).flatten(1, 2), x[:, -1:]], 1)


def _length_between(f: Decoder, points: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The lengths of decoded curves (P, M + 1, D), see :func:`length_of`; NaN for those that are not whole."""
    return length_of(f, points.masked_fill(~whole[:, None, None], torch.nan))


def _energy_slope(f: Decoder, curve: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decoded curves (P, M + 1, D), their energies (P,), and what of the slope is normal to them, (P, M - 1, d)."""
    found = []
    for rows in torch.arange(len(curve), device=curve.device).chunk(2):  # or it would take twice the solver's memory
        z = curve[rows, 1:-1].flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            decoded = f(z)
            x = _joined(decoded.detach().unflatten(0, (len(rows), -1)), ends[rows])
            value, slope = normal_slope(f, x)
            (g,) = torch.autograd.grad(decoded, z, slope.flatten(0, 1))
        found.append((x, value, g.unflatten(0, (len(rows), -1))))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))


def _promised(
    value: Tensor, gradient: Tensor, whitened: FlatPreconditioner | CurvePreconditioner, rows: Tensor
) -> Tensor:
    """Share of the energy of some curves that Newton's step promises, (A,), from its gradient (A, M - 1, d)."""
    y = whitened.gradient(gradient, rows)
    share = 0.5 * y.square().sum((1, 2)).to(value) / value.clamp_min(torch.finfo(value.dtype).tiny)
    return share.nan_to_num(torch.inf, torch.inf)
