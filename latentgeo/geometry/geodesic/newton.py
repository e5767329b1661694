r"""Gauss-Newton steps of whole curves that depend on images alone, for pairs on which L-BFGS creeps.

In coordinates that turn quickly, a step that is straight in them is not the one that was meant, and the straight line
between two points no place to start. Here both are said in the space of the image: the step v of a node sends its
image to :math:`x + J v`, a first curve follows the chord of the ends, and latent points are carried along,

.. math:: \dot z = J(z)^+ (y - x), \qquad z(0) = z,

in steps as short as the coordinates ask for. Then other coordinates give the same curves.

Reference: Absil, Mahony and Sepulchre, "Optimization algorithms on matrix manifolds", 2008, chapter 4 (retractions).
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentgeo.geometry.curve import resample, slopes
from latentgeo.geometry.decoder import Decoder
from latentgeo.geometry.geodesic.energy import energy_and_gradient
from latentgeo.geometry.geodesic.lbfgs import Minimum
from latentgeo.geometry.geodesic.preconditioner import CurvePreconditioner, products, regularised

_ROUNDS = 40  # steps of a point on its way at most
_SHORTEST = 1e-3  # share of its way, that a step of a point that gets on is long
_MISSED = 0.7  # share of a step that may be missed along the surface
_AIMED = 0.35  # the share that steps are chosen for
_SHORTER, _LONGER = 0.3, 1.5  # times, that steps become shorter or longer at most
_SOFTEST = 1.5e-9  # what metrics' eigenvalues are raised by, relative to their mean, in double precision
_FARTHEST = 1.5  # times the way that was meant, that a decoded point may have gone
_NEAR = 0.3  # of a segment, within which a point is near another
_CLOSE = 1e-4  # of a segment, that a point on a spline may be missed by
_KNOWN = 8.0  # times the rounding, that a point can be missed by
_LOST = 0.1  # of a segment, beyond which it is not on the spline
_TORN = 4.0  # times its step in data space, that a latent step says it is, beyond which it may be a jump
_HALVINGS = 5
_DECREASE = 0.1  # of what a step promises, that it has to keep
_PATIENCE = 30  # steps of a curve at most
_SLOWEST = 0.9  # rate of decrease that a curve is at most credited with


def carried(
    f: Decoder, z: Tensor, x: Tensor, target: Tensor, J: Tensor | None = None, close: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent points (B, d) carried along while decoded ones go straight from x to the target, as far as they can.

    A step is taken at once where that hits its aim, and else by Heun's scheme of second order, shortened until it
    does.

    Args:
        f: the decoder.
        z: where they are, shape (B, d).
        x: decoded, shape (B, D).
        target: where decoded points should go, shape (B, D).
        J: Jacobians where they are, shape (B, D, d), if they are known.
        close: distance along the surface that the end of the way may be missed by, shape (B,).

    Returns:
        Where they end, decoded too, and the Jacobians there.
    """
    z, x, J = z.clone(), x.clone(), f.jacobian(z) if J is None else J.clone()
    decoded = x.clone()
    done, step = torch.zeros_like(z[:, 0]), torch.ones_like(z[:, 0])
    way = f.step(x, target)
    curved = torch.zeros_like(done, dtype=torch.bool)
    known = _KNOWN * f.rounding(x[:, None])  # within which no point can be told from another
    left = torch.nonzero(torch.isfinite(way) & (way > known)).squeeze(1)
    # The decoded point and the Jacobian at z, and what is still missed there of the way done.
    at_x, at_J, off = x[left], J[left], torch.zeros_like(x[left])
    for _ in range(_ROUNDS):
        if len(left) == 0:
            break
        h, at = step[left, None], z[left]
        ahead = f.tangent(x[left], h * (target[left] - x[left]))
        first = _along(at_J, ahead + off)
        there, meant = at + first, (at_J @ first[:, :, None]).squeeze(-1).norm(dim=1)
        bent = curved[left]
        if bent.any():
            k = torch.nonzero(bent).squeeze(1)
            there[k] = at[k] + 0.5 * (first[k] + _along(f.jacobian(there[k]), ahead[k] + off[k]))
        there = torch.where(torch.isfinite(there), there, at)
        reached = done[left] + step[left]
        value, new_J = f.linearised(there)
        new_off = f.tangent(value, torch.lerp(x[left], target[left], reached[:, None]) - value)
        correction = _along(new_J, new_off)
        missed = (new_J @ correction[:, :, None]).squeeze(-1).norm(dim=1).nan_to_num(torch.inf)
        hit = (missed <= _MISSED * step[left] * way[left]) & (f.step(at_x, value) <= _FARTHEST * meant)
        over = hit & (reached >= 1.0 - 1e-6)
        if close is not None:  # what is not near enough sets out again from where it is
            again = over & (missed > close[left].maximum(known[left]))
            k = left[again]
            x[k], way[k], done[k], curved[k] = value[again], missed[again], 0.0, False
            reached, new_off = reached.masked_fill(again, 0.0), new_off.masked_fill(again[:, None], 0.0)
            over &= ~again
        z[left] = torch.where(hit[:, None], there, at)
        done[left] = torch.where(hit, reached, done[left])
        at_J, at_x = torch.where(hit[:, None, None], new_J, at_J), torch.where(hit[:, None], value, at_x)
        off = torch.where(hit[:, None], new_off, off)
        # The first miss calls for the better scheme; after it steps are as long as should miss half of what they may.
        factor = (_AIMED * step[left] * way[left] / missed.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
        longer, shorter = factor.clamp(1.0, _LONGER), torch.where(bent, factor.clamp(_SHORTER, _MISSED), 1.0)
        new_step = step[left] * torch.where(hit, longer, shorter)
        if close is not None:
            new_step = new_step.masked_fill(again, 1.0)
        curved[left] |= ~hit
        step[left] = new_step.minimum(1.0 - done[left])
        go = ~over & (step[left] > _SHORTEST)
        decoded[left[~go]], J[left[~go]] = at_x[~go], at_J[~go]
        left, at_x, at_J, off = left[go], at_x[go], at_J[go], off[go]
    decoded[left], J[left] = at_x, at_J
    return z, decoded, J


def _floor(dtype: torch.dtype) -> float:
    """What eigenvalues of a metric are raised by where its Jacobian is known to this precision, relative to their mean.

    Directions that rounding cannot tell from none then get no step.
    """
    return max(0.1 * torch.finfo(dtype).eps, _SOFTEST)


def _along(J: Tensor, r: Tensor) -> Tensor:
    """The latent step that goes along r in data space, (B, D, d) and (B, D) -> (B, d).

    In double precision: in squares of single ones the smallest singular values would drown.
    """
    floor, J = _floor(J.dtype), J.double()
    L = torch.linalg.cholesky(regularised(J.mT @ J, floor))
    return torch.cholesky_solve(J.mT @ r[:, :, None].double(), L).squeeze(-1).to(r)


def along_chord(f: Decoder, start: Tensor, end: Tensor, ends: Tensor, N: int) -> Tensor:
    """First curves (P, N + 1, d): from either end half the way, towards the other in data space."""
    from_both = torch.cat([start, end])
    here, there = torch.cat([ends[:, 0], ends[:, 1]]), torch.cat([ends[:, 1], ends[:, 0]])
    z, x, J, nodes = from_both, here, None, [from_both]
    for i in range(1, N // 2 + 1):
        z, x, J = carried(f, z, x, torch.lerp(here, there, i / N), J)
        nodes.append(z)
    first, second = torch.stack(nodes, 1).split(len(start))
    return torch.cat([first, second.flip(1)[:, 1:]], 1)


def between(f: Decoder, curve: Tensor, x: Tensor, at_nodes: Tensor, parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the surface along the splines of decoded nodes, so many for each segment.

    Args:
        f: the decoder.
        curve: nodes, shape (P, N + 1, d).
        x: decoded, shape (P, N + 1, D).
        at_nodes: Jacobians there, shape (P, N + 1, D, d).
        parts: of each segment.

    Returns:
        Decoded, shape (P, parts N + 1, D), and the Jacobians there, (P, parts N + 1, D, d), NaN where no point of the
        surface was found; and for which pairs the latent curve is whole, (P,).
    """
    N = x.shape[1] - 1
    aim = resample(x, parts * N)
    inner = torch.tensor([i for i in range(parts * N) if i % parts], device=x.device)
    before, t = inner // parts, ((inner % parts) / parts)[:, None].to(x)
    # Cubics whose velocities at the nodes decode to those of the splines: near the aim, in any coordinates.
    aside = f.tangent(x.flatten(0, 1), slopes(x).flatten(0, 1))
    v = _along(at_nodes.flatten(0, 1), aside).unflatten(0, x.shape[:2])
    a, b, va, vb = curve[:, before], curve[:, before + 1], v[:, before], v[:, before + 1]
    guess = a + t * (va + t * (3.0 * (b - a) - 2.0 * va - vb + t * (va + vb - 2.0 * (b - a))))
    aims, guess = aim[:, inner].flatten(0, 1), guess.flatten(0, 1)
    decoded, J = f.linearised(guess)
    # Where one is not near, a node is the better place to come from.
    segment = f.step(x[:, before], x[:, before + 1]).flatten()
    near = f.step(decoded, aims) < _NEAR * segment
    guess, decoded = (
        torch.where(near[:, None], one, other.flatten(0, 1)) for one, other in ((guess, a), (decoded, x[:, before]))
    )
    J = torch.where(near[:, None, None], J, at_nodes[:, before].flatten(0, 1))
    found = carried(f, guess, decoded, aims, J, _CLOSE * segment)
    fine, points, J = (of.new_empty(len(x), parts * N + 1, *of.shape[2:]) for of in (curve, x, at_nodes))
    for of, nodes, others in zip((fine, points, J), (curve, x, at_nodes), found, strict=True):
        of[:, ::parts], of[:, inner] = nodes, others.unflatten(0, (len(x), -1))
    # A point that did not get there from its guess may from its neighbour.
    lost = f.step(found[1], aims) > _LOST * segment
    if lost.any():
        rows, at = lost.unflatten(0, (len(x), -1)).nonzero().unbind(1)
        from_ = fine[rows, inner[at] - 1]
        found = carried(f, from_, f(from_), aims[lost], None, _CLOSE * segment[lost])
        still = f.step(found[1], aims[lost]) > _LOST * segment[lost]
        for of, others in zip((fine, points, J), found, strict=True):
            others[still] = torch.nan
            of[rows, inner[at]] = others
    # Of two codes of one image each may be the end of a piece: then the latent curve jumps where its image does not.
    ahead = (J[:, :-1] @ fine.diff(dim=1)[..., None]).squeeze(-1)
    small = f.step(points[:, :-1], points[:, 1:])
    small = small + small.mean(1, keepdim=True)
    whole = torch.ones_like(small[:, 0], dtype=torch.bool)
    far = (ahead.norm(dim=2) > _TORN * small).nonzero()
    if len(far):
        rows, at = far.unbind(1)
        z = carried(f, fine[rows, at], points[rows, at], points[rows, at + 1], J[rows, at])[0]
        apart, gap = ((fine[rows, at + 1] - from_).norm(dim=1) for from_ in (z, fine[rows, at]))
        whole[rows[~(apart < 0.5 * gap)]] = False
    return points, J, whole


def gauss_newton(
    f: Decoder, curve: Tensor, ends: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor, Minimum]:
    r"""Minimise the energy of curves by Gauss-Newton steps, :math:`v = -(J^\top \nabla^2 E\, J)^{-1} J^\top \nabla E`.

    Args:
        f: the decoder.
        curve: initial curves, shape (P, N + 1, d).
        ends: decoded end points, shape (P, 2, D).
        tol: relative energy excess to stop at.
        max_iter: steps at most.

    Returns:
        The curves, their inner nodes decoded, shape (P, N - 1, D), and the Jacobians there, (P, N - 1, D, d); and a
        report as of :func:`latentgeo.geometry.geodesic.lbfgs.minimise`.
    """
    P, inner = len(curve), curve.shape[1] - 2
    curve, tiny = curve.clone(), torch.finfo(curve.dtype).tiny
    x, J = (values.unflatten(0, (P, inner)) for values in f.linearised(curve[:, 1:-1].flatten(0, 1)))
    value, slope = energy_and_gradient(f, x, ends)
    report = Minimum(
        x=curve,
        value=value,
        gradient=slope.flatten(1),
        gain=torch.full_like(value, torch.inf),
        converged=torch.zeros(P, dtype=torch.bool, device=curve.device),
        iterations=torch.zeros(P, dtype=torch.long, device=curve.device),
    )
    left, step, before = (
        torch.nonzero(torch.isfinite(value)).squeeze(1),
        torch.ones_like(value),
        torch.zeros_like(value),
    )
    while len(left):
        whitened = CurvePreconditioner(*products(J[left].double()), inner + 1, _floor(J.dtype))
        rows, pull = torch.arange(len(left), device=left.device), f.tangent_gradient(x[left], slope[left])
        y = whitened.gradient((J[left].mT @ pull[..., None]).squeeze(-1).double(), rows)
        promised = (0.5 * y.square().sum((1, 2))).to(value) / value[left].clamp_min(tiny)
        rate = (promised / before[left].clamp_min(tiny)).clamp(0.0, _SLOWEST)
        report.gain[left] = promised / torch.where(report.iterations[left] > 0, 1.0 - rate, 1.0)
        report.converged[left] = report.gain[left] <= tol
        before[left] = promised
        go = ~report.converged[left] & (report.iterations[left] < min(max_iter, _PATIENCE)) & torch.isfinite(promised)
        left, promised, v = left[go], promised[go], -whitened.step(y, rows)[go].to(J)
        Jv = (J[left] @ v[..., None]).squeeze(-1)
        z, image, trying = curve[left, 1:-1], x[left], torch.arange(len(left), device=left.device)
        for _ in range(_HALVINGS):
            if len(trying) == 0:
                break
            k, s = left[trying], step[left[trying], None, None]
            aim = image[trying] + s * f.from_tangent(image[trying], Jv[trying])
            parts = (values.flatten(0, 1) for values in (z[trying], image[trying], aim, J[k]))
            new, there, slopes_there = (part.unflatten(0, (len(k), inner)) for part in carried(f, *parts))
            energy, gradient = energy_and_gradient(f, there, ends[k])
            allowed = value[k] * (1.0 - _DECREASE * step[k] * promised[trying] + 4.0 * torch.finfo(value.dtype).eps)
            better = energy <= allowed
            a = k[better]
            curve[a, 1:-1], x[a], value[a], slope[a] = new[better], there[better], energy[better], gradient[better]
            J[a] = slopes_there[better]
            step[a] = (2.0 * step[a]).clamp_max(1.0)
            report.iterations[a] += 1
            step[k[~better]] *= 0.4
            trying = trying[~better]
        stuck = torch.zeros_like(report.converged)
        stuck[left[trying]] = True
        left = left[~stuck[left]]
    return curve, x, J, report
