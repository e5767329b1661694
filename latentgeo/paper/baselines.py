r"""Other solvers for the same geodesics: what ours is measured against.

:func:`spline_adam` is the paper's own, re-implemented from its description: a curve is a straight line plus a cubic
spline that vanishes at both ends, with its energy at many time points lowered by Adam. :func:`stochman_splines` runs
the package stochman, and :func:`collocation` SciPy's solver of boundary value problems. Nothing here shares code with
:mod:`latentgeo.geometry.geodesic.solve`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor

from latentgeo.geometry.curve import straight_line
from latentgeo.geometry.decoder import Decoder, as_decoder, check_points
from latentgeo.geometry.maps import acceleration


@dataclasses.dataclass(frozen=True)
class BaselineCurves:
    """Curves found by another solver; they come without a certificate.

    Attributes:
        points: the curves at equidistant times, shape (P, M, d).
        steps: iterations, of all pairs together or of the pair that took most.
        stopped: whether the solver's own criterion ended it for all pairs, rather than its largest number of steps.
    """

    points: Tensor
    steps: int
    stopped: bool


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
    decoder: Decoder,
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
    return BaselineCurves(line + basis @ weights.detach(), step, since >= patience)


def stochman_splines(
    decoder: Decoder,
    start: Tensor,
    end: Tensor,
    *,
    nodes: int = 5,
    points: int = 20,
    max_steps: int = 150,
    measured_at: int = 256,
) -> BaselineCurves:
    """Geodesics by the package stochman: cubic splines whose energy Adam lowers. Its defaults are the defaults here.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        nodes: knots of the splines.
        points: time points at which the energy is measured while it is lowered.
        max_steps: steps at most.
        measured_at: M, time points of the curves that are returned.

    Returns:
        The curves.

    Raises:
        ImportError: stochman is not installed.
        TypeError, ValueError: shapes or types do not fit.

    References:
        Detlefsen et al., "StochMan", 2021.
    """
    _check_ends(start, end)
    try:
        from stochman.curves import CubicSpline
        from stochman.geodesic import geodesic_minimizing_energy
        from stochman.manifold import EmbeddedManifold
    except ImportError as error:
        raise ImportError("stochman_splines needs the package stochman: pip install 'latentgeo[benchmark]'") from error
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
        found = curve(torch.linspace(0.0, 1.0, measured_at, dtype=start.dtype, device=start.device))
    found = found.reshape(len(start), measured_at, -1)
    return BaselineCurves(found, steps, bool(converged))


def collocation(
    decoder: Decoder,
    start: Tensor,
    end: Tensor,
    *,
    tol: float = 1e-3,
    nodes: int = 10,
    max_nodes: int = 1000,
    measured_at: int = 256,
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
        measured_at: M, time points of the curves that are returned.

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

    curves, steps, solved = [], 0, True
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
        steps, solved = max(steps, found.niter), solved and found.success
        curves.append(found.sol(np.linspace(0.0, 1.0, measured_at))[:d].T)
    return BaselineCurves(torch.as_tensor(np.stack(curves)), steps, solved)
