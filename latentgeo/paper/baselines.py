r"""Other solvers for the same geodesics: what ours is measured against.

:func:`spline_adam` is the paper's own, re-implemented from its description: a curve is a straight line plus a cubic
spline that vanishes at both ends, with its energy at many time points lowered by Adam. :func:`lbfgs`, :func:`adam` and
:func:`gauss_newton` are what one would write in an afternoon: the energy of a discrete curve, an optimiser, and a
length extrapolated from two numbers of segments. :func:`georce` is a published solver of its own kind.
:func:`stochman_splines` runs the package stochman, and :func:`collocation` SciPy's solver of boundary value problems.
Nothing here shares code with :mod:`latentgeo.geometry.geodesic.solve`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor
from torch.func import jvp

from latentgeo.extras import require
from latentgeo.geometry.curve import chord_length, resample, richardson, straight_line
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_points
from latentgeo.geometry.maps import acceleration

_MEASURED_AT = 256  # time points of curves that others return as functions


@dataclasses.dataclass(frozen=True)
class BaselineCurves:
    """Curves found by another solver; they come without a certificate.

    Attributes:
        points: the curves at equidistant times, shape (P, M, d).
        steps: iterations, of all pairs together or of the pair that took most.
        stopped: whether the solver's own criterion ended it, rather than its largest number of steps, shape (P,).
        length: what the solver itself takes for the lengths, in data units, shape (P,); None for those of the curves.
    """

    points: Tensor
    steps: int
    stopped: Tensor
    length: Tensor | None = None


def _check_ends(start: Tensor, end: Tensor) -> None:
    check_points("start", start, ndim=2)
    check_points("end", end, ndim=2)
    if start.shape != end.shape:
        raise ValueError(f"expected start and end of the same shape, got {tuple(start.shape)} and {tuple(end.shape)}")


def _spline_basis(segments: int, points: int) -> np.ndarray:
    """Cubic splines on equal segments that vanish at both ends, at equidistant times: (M, segments + 1).

    The coordinates are those of an orthonormal basis of the null space of the spline's constraints on the
    coefficients of its pieces, polynomials in the time of the whole curve. They are badly scaled, which is part of the
    method: Adam takes a step of the same size along each.
    """

    def powers(t: np.ndarray | float, derivative: int = 0) -> np.ndarray:
        exponent = np.arange(4) - derivative
        factor = np.prod([np.arange(4) - j for j in range(derivative)], axis=0)
        return factor * np.power(np.asarray(t, dtype=float)[..., None], exponent.clip(min=0))

    constraints = np.zeros((2 + 3 * (segments - 1), segments, 4))
    constraints[0, 0], constraints[1, -1] = powers(0.0), powers(1.0)
    for knot in range(1, segments):
        for derivative in range(3):
            row = constraints[2 + 3 * (knot - 1) + derivative]
            row[knot - 1] = powers(knot / segments, derivative)
            row[knot] = -row[knot - 1]
    null_space = scipy.linalg.null_space(constraints.reshape(len(constraints), -1))
    times = np.linspace(0.0, 1.0, points)
    piece = np.minimum((times * segments).astype(int), segments - 1)
    coefficients = null_space.reshape(segments, 4, -1)[piece]  # [M, 4, segments + 1]
    return np.einsum("mj,mjk->mk", powers(times), coefficients)


def spline_adam(
    decoder: DecoderLike,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 10,
    points: int = 256,
    learning_rate: float = 0.01,
    max_steps: int = 4096,
    patience: int = 100,
    min_decrease: float = 1.0,
) -> BaselineCurves:
    r"""Geodesics as the paper computes them: cubic splines, Adam, and a stopping rule for the whole batch.

    .. math:: \gamma(t) = (1 - t)\, a + t\, b + B(t)\, \omega, \qquad
        E = (M - 1) \sum_{i=1}^{M-1} \|f(\gamma(t_{i+1})) - f(\gamma(t_i))\|^2

    All pairs stop together, after a number of steps in which their summed energy has not fallen by an absolute amount.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: pieces of the spline.
        points: M, time points at which the energy is measured.
        learning_rate: of Adam.
        max_steps: steps at most.
        patience: steps without a decrease before stopping.
        min_decrease: fall of the summed energy that counts as a decrease, in squared data units.

    Returns:
        The curves. They come without a certificate.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    References:
        Syrota et al., ICML 2025, experiments, and the released configuration; the coordinates of the spline follow
        stochman (Detlefsen et al., 2021), which that configuration builds on.

    Example:
        >>> import torch
        >>> from latentgeo.geometry.curve import chord_length
        >>> f = lambda z: 2.0 * z
        >>> curves = spline_adam(f, torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        >>> round(chord_length(f, curves.points).item(), 3), curves.steps  # the straight line is the geodesic
        (10.0, 101)
    """
    _check_ends(start, end)
    f = as_decoder(decoder, start)
    line = straight_line(start.detach(), end.detach(), points - 1)
    basis = torch.as_tensor(_spline_basis(segments, points), dtype=start.dtype, device=start.device)
    weights = torch.zeros(len(start), basis.shape[1], start.shape[1], dtype=start.dtype, device=start.device)
    weights.requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=learning_rate)
    best, since, step = torch.inf, 0, 0
    with torch.enable_grad():
        while step < max_steps and since < patience:
            x = f((line + basis @ weights).flatten(0, 1)).reshape(*line.shape[:2], -1)
            energy = (points - 1) * x.diff(dim=1).norm(dim=2).square().sum()
            (weights.grad,) = torch.autograd.grad(energy, [weights])
            optimiser.step()
            step += 1
            if energy.item() < best - min_decrease:
                best, since = energy.item(), 0
            else:
                since += 1
    return BaselineCurves(line + basis @ weights.detach(), step, torch.full((len(start),), since >= patience))


def _energy(f: Decoder, inner: Tensor, ends: Tensor) -> Tensor:
    """N times the sum of squared chords, of inner points (P, N - 1, d) and decoded ends (P, 2, D) -> (P,)."""
    x = f(inner.flatten(0, 1)).unflatten(0, inner.shape[:2])
    x = torch.cat([ends[:, :1], x, ends[:, 1:]], 1)
    return (x.shape[1] - 1) * x.diff(dim=1).square().sum((1, 2))


def _extrapolated(
    minimise: Callable[[Decoder, Tensor, Tensor], tuple[Tensor, int, Tensor]],
    decoder: DecoderLike,
    start: Tensor,
    end: Tensor,
    segments: int,
) -> BaselineCurves:
    r"""Curves of N segments from straight lines, of 2N from those, and the limit :math:`(4 L_{2N} - L_N) / 3`.

    Args:
        minimise: from the decoder, inner points (P, N - 1, d) and decoded ends (P, 2, D) to better inner points, steps,
            and whether its criterion was met (P,).
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: N.
    """
    _check_ends(start, end)
    f = as_decoder(decoder, start)
    points = straight_line(start.detach(), end.detach(), segments)
    with torch.no_grad():
        ends = torch.stack([f(start), f(end)], 1)
    lengths, steps, stopped = [], 0, torch.ones(len(start), dtype=torch.bool)
    for N in (segments, 2 * segments):
        points = resample(points, N)
        inner, taken, met = minimise(f, points[:, 1:-1], ends)
        points = torch.cat([points[:, :1], inner, points[:, -1:]], 1)
        lengths.append(chord_length(f, points))
        steps, stopped = steps + taken, stopped & met
    return BaselineCurves(points, steps, stopped, richardson(*lengths))


def lbfgs(
    decoder: DecoderLike, start: Tensor, end: Tensor, *, segments: int = 8, max_steps: int = 1000
) -> BaselineCurves:
    """Discrete geodesics by ``torch.optim.LBFGS`` with its line search, over the energy of the whole batch.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: N of the coarse curves; the fine ones have 2N.
        max_steps: steps at most, of each.

    Returns:
        The fine curves and extrapolated lengths.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    References:
        Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

    Example:
        >>> import torch
        >>> circle = lambda z: torch.cat([z.cos(), z.sin()], -1)
        >>> lbfgs(circle, torch.zeros(1, 1), torch.full((1, 1), 2.0)).length
        tensor([2.0000])
    """

    def minimise(f: Decoder, inner: Tensor, ends: Tensor) -> tuple[Tensor, int, Tensor]:
        inner = inner.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([inner], max_iter=max_steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            energy = _energy(f, inner, ends).sum()
            (inner.grad,) = torch.autograd.grad(energy, [inner])
            return energy

        with torch.enable_grad():
            optimiser.step(closure)
        taken = optimiser.state[inner]["n_iter"]
        return inner.detach(), taken, torch.full((len(inner),), taken < max_steps)

    return _extrapolated(minimise, decoder, start, end, segments)


def adam(
    decoder: DecoderLike,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 8,
    learning_rate: float = 0.01,
    max_steps: int = 1000,
    patience: int = 100,
    min_decrease: float = 1e-4,
) -> BaselineCurves:
    """Discrete geodesics by Adam, until the energy of the whole batch hardly falls any more.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: N of the coarse curves; the fine ones have 2N.
        learning_rate: of Adam.
        max_steps: steps at most, of each.
        patience: steps over which the energy is compared.
        min_decrease: share of the summed energy by which it must fall over that many steps to go on.

    Returns:
        The fine curves and extrapolated lengths.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    References:
        Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    def minimise(f: Decoder, inner: Tensor, ends: Tensor) -> tuple[Tensor, int, Tensor]:
        inner = inner.clone().requires_grad_()
        optimiser = torch.optim.Adam([inner], lr=learning_rate)
        before, met, step = torch.inf, False, 0
        with torch.enable_grad():
            while step < max_steps and not met:
                energy = _energy(f, inner, ends).sum()
                (inner.grad,) = torch.autograd.grad(energy, [inner])
                optimiser.step()
                if step % patience == 0:
                    met, before = energy.item() > before * (1.0 - min_decrease), energy.item()
                step += 1
        return inner.detach(), step, torch.full((len(inner),), met)

    return _extrapolated(minimise, decoder, start, end, segments)


def gauss_newton(
    decoder: DecoderLike,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 8,
    max_steps: int = 20,
    tol: float = 1e-5,
) -> BaselineCurves:
    r"""Discrete geodesics by damped Gauss-Newton steps, all pairs at once.

    The chords are :math:`r_i = f(z_{i+1}) - f(z_i)`, the energy :math:`N \sum_i \|r_i\|^2`. With the Jacobians J_i at
    the inner points its Gauss-Newton matrix has the blocks :math:`2 J_i^\top J_i` and :math:`-J_i^\top J_{i \pm 1}`.
    Where a step does not lower the energy of its pair the damping grows tenfold, elsewhere it falls as much.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: N of the coarse curves; the fine ones have 2N.
        max_steps: steps at most, of each.
        tol: share of its energy by which a pair's step must promise to lower it, to go on with that pair.

    Returns:
        The fine curves and extrapolated lengths.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    References:
        Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", 1963.

    Example:
        >>> import torch
        >>> circle = lambda z: torch.cat([z.cos(), z.sin()], -1)
        >>> gauss_newton(circle, torch.zeros(1, 1), torch.full((1, 1), 2.0)).length
        tensor([2.0000])
    """

    def minimise(f: Decoder, inner: Tensor, ends: Tensor) -> tuple[Tensor, int, Tensor]:
        P, n, d = inner.shape
        inner, met, step = inner.clone(), torch.zeros(P, dtype=torch.bool), 0
        damping = torch.full((P,), 1e-3, dtype=inner.dtype)
        with torch.no_grad():
            energy = _energy(f, inner, ends)
            while step < max_steps and not met.all():
                todo = torch.where(~met)[0]
                z, x = inner[todo], f(inner[todo].flatten(0, 1)).unflatten(0, (len(todo), n))
                J = f.jacobian(z.flatten(0, 1)).unflatten(0, (len(todo), n))  # [todo, n, D, d]
                r = torch.cat([ends[todo, :1], x, ends[todo, 1:]], 1).diff(dim=1)
                gradient = torch.einsum("pnDd,pnD->pnd", J, r[:, :-1] - r[:, 1:]).flatten(1)
                H = torch.zeros(len(todo), n, d, n, d, dtype=z.dtype)
                for i in range(n):
                    H[:, i, :, i] = 2.0 * J[:, i].mT @ J[:, i]
                    if i + 1 < n:
                        H[:, i, :, i + 1] = -J[:, i].mT @ J[:, i + 1]
                        H[:, i + 1, :, i] = H[:, i, :, i + 1].mT
                H = H.reshape(len(todo), n * d, n * d)
                scale = damping[todo] * H.diagonal(dim1=1, dim2=2).mean(1)
                move = -torch.linalg.solve(H + scale[:, None, None] * torch.eye(n * d, dtype=z.dtype), gradient)
                found = z + move.unflatten(1, (n, d))
                reached = _energy(f, found, ends[todo])
                lower = reached < energy[todo]
                promised = -(n + 1) * (gradient * move).sum(1)
                inner[todo] = torch.where(lower[:, None, None], found, z)
                met[todo] = promised <= tol * energy[todo]
                energy[todo] = torch.where(lower, reached, energy[todo])
                damping[todo] *= torch.where(lower, 0.1, 10.0)
                step += 1
        return inner, step, met

    return _extrapolated(minimise, decoder, start, end, segments)


def georce(
    decoder: DecoderLike,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 100,
    max_steps: int = 1000,
    tol: float = 1e-4,
    halvings: int = 20,
) -> BaselineCurves:
    r"""Geodesics as a control problem, GEORCE: the points of a curve are states, the steps between them controls.

    .. math:: \min_u \sum_{t=0}^{T-1} u_t^\top G(z_t)\, u_t \quad \text{with} \quad
        z_{t+1} = z_t + u_t,\; z_0 = a,\; z_T = b

    With the metric and :math:`g_t = \nabla_z\, u_t^\top G(z) u_t` frozen at the present curve, the optimal controls are
    those of multipliers that are added up from the end,

    .. math:: \hat u_t = -\tfrac12 G_t^{-1} \Big(\mu + \sum_{s>t} g_s\Big), \qquad
        \mu = -\Big(\sum_t G_t^{-1}\Big)^{-1} \Big(2 (b - a) + \sum_t G_t^{-1} \sum_{s>t} g_s\Big),

    and the new controls are :math:`\alpha \hat u + (1 - \alpha) u`, where α is halved from 1 until the energy falls.
    Every step needs the inverse of the metric along the curve.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), of full rank.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: T.
        max_steps: steps at most.
        tol: norm of the energy's gradient at which a pair has converged, in squared data units per latent unit.
        halvings: of α, at most; a pair of which no part of a step lowers the energy is left as it is.

    Returns:
        The curves.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    References:
        Rygaard and Hauberg, "GEORCE: a fast new control algorithm for computing geodesics", arXiv:2505.05961, 2025.

    Example:
        >>> import torch
        >>> parabola = lambda z: torch.cat([z, z.square()], -1)
        >>> a, b = torch.full((1, 1), -1.0).double(), torch.ones(1, 1).double()
        >>> georce(parabola, a, b).stopped
        tensor([True])
    """
    _check_ends(start, end)
    f = as_decoder(decoder, start)
    a, b = start.detach(), end.detach()

    def states(u: Tensor, of: Tensor) -> Tensor:
        """Where the controls of some pairs start: (P, T, d)."""
        return a[of, None] + torch.cat([torch.zeros_like(u[:, :1]), u[:, :-1].cumsum(1)], 1)

    def energies(z: Tensor, u: Tensor) -> Tensor:
        """Energies of states and controls, (P, T, d) -> (P, T)."""
        _, Ju = jvp(f, (z.flatten(0, 1),), (u.flatten(0, 1),))
        return Ju.square().sum(1).unflatten(0, z.shape[:2])

    controls = ((b - a) / segments)[:, None].repeat(1, segments, 1)
    running, stopped, step = torch.ones(len(a), dtype=torch.bool), torch.zeros(len(a), dtype=torch.bool), 0
    while step < max_steps and running.any():
        of = torch.where(running)[0]
        u, z = controls[of], states(controls[of], of).requires_grad_()
        with torch.enable_grad():
            energy = energies(z, u)
            (g,) = torch.autograd.grad(energy.sum(), z)  # its first, at the fixed end, is never used
        energy = energy.detach().sum(1)
        J = f.jacobian(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        G = J.mT @ J  # [P, T, d, d]
        Gu = (G @ u[..., None])[..., 0]
        met = (g[:, 1:] + 2.0 * (Gu[:, :-1] - Gu[:, 1:])).flatten(1).norm(dim=1) <= tol
        later = g.flip(1).cumsum(1).flip(1) - g
        inverse = torch.linalg.inv_ex(G).inverse
        total = 2.0 * (b - a)[of] + (inverse @ later[..., None])[..., 0].sum(1)
        mu = -torch.linalg.solve_ex(inverse.sum(1), total).result
        best = -0.5 * (inverse @ (mu[:, None] + later)[..., None])[..., 0]
        alpha, lower = torch.ones_like(energy), torch.zeros_like(met)
        with torch.no_grad():
            for _ in range(halvings):
                tried = torch.lerp(u, best, alpha[:, None, None])
                lower = energies(states(tried, of), tried).sum(1) < energy
                if (lower | met).all():
                    break
                alpha = torch.where(lower, alpha, 0.5 * alpha)
        controls[of] = torch.where((lower & ~met)[:, None, None], tried, u)
        stopped[of], running[of] = met, lower & ~met
        step += 1
    found = torch.cat([states(controls, torch.arange(len(a))), b[:, None]], 1)
    return BaselineCurves(found, step, stopped)


def stochman_splines(
    decoder: DecoderLike,
    start: Tensor,
    end: Tensor,
    *,
    nodes: int = 5,
    points: int = 20,
    max_steps: int = 150,
) -> BaselineCurves:
    """Geodesics by the package stochman: cubic splines whose energy Adam lowers. Its defaults are the defaults here.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        nodes: knots of the splines.
        points: time points at which the energy is measured while it is lowered.
        max_steps: steps at most.

    Returns:
        The curves.

    Raises:
        ImportError: stochman is not installed.
        TypeError, ValueError: shapes or types do not fit.

    References:
        Detlefsen et al., "StochMan", 2021.
    """
    _check_ends(start, end)
    require("stochman_splines", "benchmark", "stochman")
    from stochman.curves import CubicSpline
    from stochman.geodesic import geodesic_minimizing_energy
    from stochman.manifold import EmbeddedManifold

    f = as_decoder(decoder, start)
    steps = 0

    class Image(EmbeddedManifold):
        def embed(self, curve: Tensor, jacobian: bool = False) -> Tensor:
            nonlocal steps
            steps += 1
            return f(curve.flatten(0, -2)).unflatten(0, curve.shape[:-1])

    curve = CubicSpline(start.detach(), end.detach(), num_nodes=nodes)
    with torch.enable_grad():
        converged = geodesic_minimizing_energy(curve, Image(), max_iter=max_steps, eval_grid=points)
    with torch.no_grad():
        found = curve(torch.linspace(0.0, 1.0, _MEASURED_AT, dtype=start.dtype, device=start.device))
    found = found.reshape(len(start), _MEASURED_AT, -1)
    return BaselineCurves(found, steps, torch.full((len(start),), bool(converged)))


def collocation(
    decoder: DecoderLike,
    start: Tensor,
    end: Tensor,
    *,
    tol: float = 1e-3,
    nodes: int = 10,
    max_nodes: int = 1000,
) -> BaselineCurves:
    r"""Geodesics as a boundary value problem, by SciPy's collocation, one pair after the other.

    .. math:: \ddot\gamma = -(J^\top J)^{-1} J^\top D^2 f(\dot\gamma, \dot\gamma),
        \qquad \gamma(0) = a, \quad \gamma(1) = b

    Its Jacobian is taken by finite differences in 2 d directions at every node, which is for few dimensions only.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), twice differentiable.
        start: latent points a, shape (P, d), of type float64.
        end: latent points b, shape (P, d).
        tol: of the relative residual.
        nodes: equidistant nodes of the first mesh.
        max_nodes: of the meshes that it refines.

    Returns:
        The curves; where SciPy gave up, as it left them.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    References:
        Kierzenka and Shampine, "A BVP solver based on residual control and the Matlab PSE", 2001.
    """
    _check_ends(start, end)
    if start.dtype != torch.float64:
        raise TypeError(f"collocation: expected float64, as SciPy computes in it, got {start.dtype}")
    f = as_decoder(decoder, start)
    d = start.shape[1]
    times = np.linspace(0.0, 1.0, nodes)

    def derivative(_: np.ndarray, y: np.ndarray) -> np.ndarray:
        z, v = (torch.from_numpy(np.ascontiguousarray(part.T)) for part in (y[:d], y[d:]))
        with torch.no_grad():
            return np.concatenate([y[d:], acceleration(f, z, v).numpy().T])

    curves, steps, solved = [], 0, []
    for a, b in zip(start.numpy(), end.numpy(), strict=True):
        line = a[:, None] + times * (b - a)[:, None]
        found = scipy.integrate.solve_bvp(
            derivative,
            lambda first, last, a=a, b=b: np.concatenate([first[:d] - a, last[:d] - b]),
            times,
            np.concatenate([line, np.repeat((b - a)[:, None], nodes, 1)]),
            tol=tol,
            max_nodes=max_nodes,
        )
        steps = max(steps, found.niter)
        solved.append(found.success)
        curves.append(found.sol(np.linspace(0.0, 1.0, _MEASURED_AT))[:d].T)
    return BaselineCurves(torch.as_tensor(np.stack(curves)), steps, torch.tensor(solved))
