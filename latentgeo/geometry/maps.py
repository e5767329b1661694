r"""Maps between latent space and its tangent spaces: exponential, logarithm, parallel transport, Fréchet mean.

Directions v at a latent point z are latent vectors (*batch, d), measured by :func:`latentgeo.metric.norm`. All four
maps are natural under isometries, hence identified: in other latent coordinates they give the transformed points and
the directions transformed by the Jacobian of the change of coordinates.
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_points
from latentgeo.geometry.geodesic.certificate import OF_DIRECTIONS, warn_of_failures
from latentgeo.geometry.geodesic.solve import Initial, Options, door, finest_tol, solve
from latentgeo.geometry.metric import directions_at, jacobian, norm, pullback_metric
from latentgeo.warn import warn

_LOG_SLACK = 0.03  # error of the logarithms that a Fréchet mean's step is made of, relative to the last step
_PROGRESS = 0.9  # share of the least gradient yet, that an iteration has to come below
_STALLS = 6  # iterations without progress, after which nothing more is to be had
_KEPT = 0.01  # relative gradient, with which a mean that stalled is better than none
_MAX_DRIFT = 0.01  # relative change of a geodesic's speed that is put down to the integration alone


def acceleration(f: Decoder, z: Tensor, v: Tensor) -> Tensor:
    r"""Second derivative of a geodesic through z with velocity v: -(JᵀJ)⁻¹ Jᵀ D²f(v, v), shape (P, d)."""
    _, second = f.second_derivative(z, v, v)
    J = f.jacobian(torch.where(torch.isfinite(z), z, 0.0))
    # A row that has left the decoder's domain is kept from the linear algebra of the others, and stays NaN.
    inside = torch.isfinite(z).all(1) & torch.isfinite(second).all(1) & torch.isfinite(J).flatten(1).all(1)
    a = torch.full_like(z, torch.nan)
    a[inside] = -torch.linalg.lstsq(J[inside], second[inside].unsqueeze(-1)).solution.squeeze(-1)
    return a


@takes_arrays("z", "v")
def exp_map(decoder: DecoderLike, z: Tensor, v: Tensor, *, steps: int = 50) -> Tensor:
    r"""Exponential map: where the geodesic that starts at z with velocity v arrives after unit time.

    .. math:: \ddot\gamma = -(J^\top J)^{-1} J^\top D^2 f(\dot\gamma, \dot\gamma),
        \qquad \gamma(0) = z, \quad \dot\gamma(0) = v, \qquad \exp_z(v) = \gamma(1)

    The acceleration in data space is normal to the surface; its right-hand side is a second directional derivative of
    the decoder, without Christoffel symbols. Integrated by the classical
    Runge-Kutta scheme, whose error falls with the fourth power of the number of steps.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), twice differentiable.
        z: latent points, shape (P, d).
        v: velocities, broadcastable to the shape of z; the geodesic's length is ``norm(decoder, z, v)``.
        steps: of the integration.

    Returns:
        Latent points, shape (P, d). A geodesic that leaves the domain of the decoder gives NaN. A warning counts those
        whose speed :math:`\|\dot\gamma\|` did not stay constant, as it does on a geodesic: there are too few steps,
        or the decoder has kinks (ReLU), where no second derivative exists to follow.

    Raises:
        TypeError, ValueError: shapes or types do not fit, or steps is below one.

    References:
        do Carmo, "Riemannian Geometry", 1992, chapter 3.

    Example:
        On a flat surface geodesics are straight:

        >>> import torch
        >>> exp_map(lambda z: 2.0 * z, torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([[1.0000, 3.0000]])
    """
    check_points("z", z, ndim=2)
    v = directions_at(z, "v", v)
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps!r}")
    f = as_decoder(decoder, z)
    z, v, h = z.detach(), v.detach(), 1.0 / steps
    origin, start, lost = z, v, torch.zeros(len(z), dtype=torch.bool, device=z.device)
    with torch.no_grad():
        for _ in range(steps):
            # Rows that are lost rest where they started, for the decoder's sake, until the end.
            lost |= ~(torch.isfinite(z) & torch.isfinite(v)).all(1)
            z, v = torch.where(lost[:, None], origin, z), v.masked_fill(lost[:, None], 0.0)
            a1 = acceleration(f, z, v)
            z2, v2 = z + 0.5 * h * v, v + 0.5 * h * a1
            a2 = acceleration(f, z2, v2)
            z3, v3 = z + 0.5 * h * v2, v + 0.5 * h * a2
            a3 = acceleration(f, z3, v3)
            z4, v4 = z + h * v3, v + h * a3
            a4 = acceleration(f, z4, v4)
            z = z + h / 6.0 * (v + 2.0 * v2 + 2.0 * v3 + v4)
            v = v + h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4)
        lost |= ~(torch.isfinite(z) & torch.isfinite(v)).all(1)
        last, v = torch.where(lost[:, None], origin, z), v.masked_fill(lost[:, None], 0.0)
        begun, ended = norm(f, origin, start), norm(f, last, v)
    drift = ((ended - begun).abs() / begun.clamp_min(torch.finfo(z.dtype).tiny)).masked_fill(lost, 0.0)
    if (drift > _MAX_DRIFT).any():
        warn(
            f"the speed of {int((drift > _MAX_DRIFT).sum())} of {len(z)} geodesics changed by up to {drift.max():.1%}, "
            "where it should be constant: raise steps; a decoder with kinks (ReLU) has no exponential map",
        )
    return z.masked_fill(lost[:, None], torch.nan)


@takes_arrays("z", "target", "initial", "data")
def log_map(
    decoder: DecoderLike,
    z: Tensor,
    target: Tensor,
    *,
    shooting: int = 0,
    initial: Initial = None,
    **options: Unpack[Options],
) -> Tensor:
    r"""Logarithm: the initial velocity of the geodesic from z that arrives at the target after unit time.

    .. math:: \log_z(y) = -\tfrac12 \nabla_z\, d(z, y)^2 = -d(z, y)\, G(z)^{-1} \frac{\partial}{\partial z} d(z, y),
        \qquad \exp_z(\log_z(y)) = y, \quad \|\log_z(y)\|_z = d(z, y)

    The derivative comes from the envelope theorem, extrapolated like the length; ``shooting`` sharpens the result
    with the exponential map by Broyden's method. Where the metric loses rank, the shortest vector is returned.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (P, d).
        target: latent points, shape (P, d).
        shooting: rounds of correction at most, each of which costs an exponential map; about 8 reach float64's limit.
        initial: curves to start from, as for :func:`latentgeo.geodesic`.
        **options: as for :func:`latentgeo.geodesic`; directions are off by the square root of ``tol``, which is
            therefore 1e-16 here by default (1e-6 in float32).

    Returns:
        Velocities, shape (P, d), in latent units per unit time.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geodesic`.

    Example:
        >>> import torch
        >>> log_map(lambda z: 2.0 * z, torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([[1.0000, 3.0000]])
    """
    f = door(decoder, z, target, names=("z", "target"))
    z, target = z.detach(), target.detach()
    options = {"tol": finest_tol(z), "max_iter": 1000} | options
    found = solve(f, z, target, options, initial=initial, gradient=True)
    warn_of_failures(found, OF_DIRECTIONS)
    slope = found.gradient[:, 0].unsqueeze(-1)
    G = pullback_metric(f, z)
    G = G.where(torch.isfinite(G).flatten(1).all(1)[:, None, None], 0.0)  # there the length is NaN
    v = -(torch.linalg.pinv(G, hermitian=True) @ slope).squeeze(-1)
    v = v * found.length.unsqueeze(1)
    if shooting < 1:
        return v
    # Broyden's method for exp_z(v) = target; the derivative of exp at 0 is the identity.
    inverse = torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), -1, -1).clone()
    sound = torch.isfinite(v).all(1, keepdim=True)
    miss = exp_map(f, z, v.where(sound, 0.0)) - target
    floor = 16.0 * torch.finfo(z.dtype).eps * (1.0 + target.norm(dim=1))
    for _ in range(shooting):
        open_ = sound.squeeze(1) & (miss.norm(dim=1) > floor)
        if not open_.any():
            break
        step = -(inverse @ miss.unsqueeze(-1)).squeeze(-1) * open_.unsqueeze(1)
        new_miss = exp_map(f, z, torch.where(sound, v + step, 0.0)) - target
        moved = (inverse @ (new_miss - miss).unsqueeze(-1)).squeeze(-1)
        scale = (step * moved).sum(1)
        usable = open_ & torch.isfinite(scale) & (scale.abs() > 0)
        update = ((step - moved) / scale.unsqueeze(1)).unsqueeze(-1) @ (step.unsqueeze(1) @ inverse)
        inverse = torch.where(usable[:, None, None], inverse + update, inverse)
        better = usable & (new_miss.norm(dim=1) < 2.0 * miss.norm(dim=1))
        v = torch.where(better.unsqueeze(1), v + step, v)
        miss = torch.where(better.unsqueeze(1), new_miss, miss)
    return v


@takes_arrays("curve", "v")
def parallel_transport(decoder: DecoderLike, curve: Tensor, v: Tensor) -> Tensor:
    r"""Parallel transport of directions along discrete curves.

    Between neighbouring points the tangent frame :math:`Q_i` of data space (from :math:`J_i = Q_i R_i`) turns by the
    polar factor of :math:`Q_{i+1}^\top Q_i`, the rotation nearest to projection. Lengths and angles are kept exactly;
    plain projection would lose length at every step.

    .. math:: c_0 = R_0 v, \qquad c_{i+1} = \operatorname{polar}(Q_{i+1}^\top Q_i)\, c_i, \qquad v_N = R_N^{-1} c_N

    The error falls with the square of the number of segments, and vanishes where the frames turn in one plane.

    Args:
        decoder: f, a callable (B, d) -> (B, *event) of full rank along the curves.
        curve: curves, shape (P, N + 1, d), such as ``Geodesic.points``.
        v: directions at their first points, broadcastable to (P, d).

    Returns:
        Directions at their last points, shape (P, d); NaN where a curve leaves the domain of the decoder.

    Raises:
        TypeError, ValueError: shapes or types do not fit, or the decoder maps to fewer than d dimensions.

    Example:
        >>> import torch
        >>> curve = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
        >>> parallel_transport(lambda z: 3.0 * z, curve, torch.tensor([[0.0, 1.0]]))
        tensor([[0., 1.]])
    """
    check_points("curve", curve, ndim=3)
    v = directions_at(curve[:, 0], "v", v)
    J = jacobian(decoder, curve)  # [P, N + 1, D, d]
    if J.shape[-2] < J.shape[-1]:
        raise ValueError(f"decoder: expected at least {J.shape[-1]} data dimensions, got {J.shape[-2]}")
    lost = ~torch.isfinite(J).flatten(1).all(1)  # which linear algebra would not take
    J = torch.where(lost[:, None, None, None], torch.eye(*J.shape[-2:], dtype=J.dtype, device=J.device), J)
    Q, R = torch.linalg.qr(J)
    U, _, Vh = torch.linalg.svd(Q[:, 1:].mT @ Q[:, :-1])
    turns = U @ Vh  # [P, N, d, d]
    c = R[:, 0] @ v.detach().unsqueeze(-1)
    for i in range(turns.shape[1]):
        c = turns[:, i] @ c
    moved = torch.linalg.solve_triangular(R[:, -1], c, upper=True).squeeze(-1)
    return moved.masked_fill(lost[:, None], torch.nan)


@takes_arrays("z", "weights", "data")
def frechet_mean(
    decoder: DecoderLike,
    z: Tensor,
    weights: Tensor | None = None,
    *,
    tol: float | None = None,
    max_iter: int = 50,
    **options: Unpack[Options],
) -> Tensor:
    r"""Fréchet (Karcher) mean: the point of least mean squared geodesic distance to given points.

    .. math:: \bar z = \arg\min_m \sum_i w_i\, d(m, z_i)^2, \qquad
        m \leftarrow \exp_m\Big( \sum_i w_i \log_m z_i \Big)

    The iteration starts at the Euclidean mean, and finds the mean that is unique where the points lie close enough
    together for their geodesics to be.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (n, d).
        weights: at least zero, shape (n,); scaled to sum to one, and equal by default.
        tol: norm of the mean logarithm, relative to the root mean squared distance, at which to stop; 1e-6 by default,
            1e-3 in float32. A mean that is kept to 1 % only, or better, comes with a warning that says to what.
        max_iter: iterations at most.
        **options: as for :func:`log_map`.

    Returns:
        The mean, shape (d,).

    Raises:
        TypeError, ValueError: shapes or types do not fit, there are no points, or a weight is negative.
        RuntimeError: the iteration did not converge; the message says how far it was.

    References:
        Karcher, "Riemannian center of mass and mollifier smoothing", 1977.

    Example:
        >>> import torch
        >>> frechet_mean(lambda z: 2.0 * z, torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
        tensor([1., 2.])
    """
    check_points("z", z, ndim=2)
    if len(z) == 0:
        raise ValueError("z: expected at least one point, got none")
    w = torch.ones(len(z), dtype=z.dtype, device=z.device) if weights is None else weights
    if w.shape != (len(z),) or not (w >= 0).all() or not w.sum() > 0:
        raise ValueError(
            f"weights: expected {len(z)} numbers of at least zero, not all zero, got shape {tuple(w.shape)}"
        )
    w = (w / w.sum()).to(z)
    z, f = z.detach(), as_decoder(decoder, z)
    m, finest = w @ z, finest_tol(z)
    tol = (1e-6 if z.dtype == torch.float64 else 1e-3) if tol is None else tol
    best, least, known, share, stalled, residual = m, math.inf, math.inf, 1.0, 0, 1.0
    step_of_best = torch.zeros_like(m)
    for _ in range(max_iter):
        # Logarithms, off by the root of their tolerance, need only be better than the step that they are for.
        accuracy = max(finest, (_LOG_SLACK * min(residual, 1.0)) ** 2)
        logs = log_map(f, m.expand_as(z), z, tol=accuracy, **options)
        step = w @ logs
        squared = torch.einsum("i,ij,jk,ik->", w, logs, pullback_metric(f, m), logs)
        residual = (norm(f, m, step) / squared.clamp_min(torch.finfo(z.dtype).tiny).sqrt()).item()
        finest_yet = accuracy <= max(finest, tol**2)
        if squared == 0 or (residual <= tol and finest_yet):
            return m
        if accuracy < 0.5 * known:  # what was found with worse logarithms says little
            least, known = math.inf, accuracy
        if not residual < _PROGRESS * least:
            # The whole step leads too far, or rounding is all that is left.
            share, stalled = 0.5 * share, stalled + 1
        if residual < least:
            best, least, step_of_best = m, residual, step
        if stalled >= _STALLS:
            break
        # Where the iteration ends does not depend on how exactly a step is taken.
        steps = max(4, math.ceil(20 * min(least, 1.0)))
        m = exp_map(f, best.unsqueeze(0), share * step_of_best.unsqueeze(0), steps=steps).squeeze(0)
        if not torch.isfinite(m).all():
            m, share, stalled = best, 0.5 * share, stalled + 1
    if least <= _KEPT:
        warn(
            f"the Fréchet mean is kept to {least:.1e} of the spread, not to tol {tol:.1e}: "
            + ("single precision, or " if z.dtype == torch.float32 else "")
            + "the geodesics' own tolerance allows no more; raise tol",
        )
        return best
    raise RuntimeError(
        f"the Fréchet mean did not converge in {max_iter} iterations: its gradient is {least:.1e} of the spread, "
        f"tol {tol:.1e}; raise max_iter, or take points that lie closer together, whose mean is unique"
    )
