r"""The energy that a geodesic has least of, for decoders of data and for decoders that return distributions.

.. math:: E_k = \frac{N}{k} \sum_{i=0}^{N/k-1} s(x_{ki}, x_{k(i+1)}), \qquad
    s(a, b) = \|b - a\|^2 \quad\text{or}\quad \mathrm{KL}(a \| b) + \mathrm{KL}(b \| a)

with the decoded points x: squared chords in data space, or divergences of distributions, from every k-th point to the
next, as :meth:`latentgeo.geometry.decoder.Decoder.squared` gives them. All tend to the energy
:math:`\int_0^1 \dot z^\top G\, \dot z\, dt` of the decoder's metric, with errors in even powers of k/N, of which
Romberg's combination cancels the first two, where 4 divides N, or the first:

.. math:: E = \tfrac{1}{45} (64 E_1 - 20 E_2 + E_4) \quad\text{or}\quad E = \tfrac13 (4 E_1 - E_2)

With chords the latter is the energy of quadratic finite elements in data space. Being functions of decoded points
alone, all of them are the same in other latent coordinates.

References: Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (the energy by divergences); Romberg,
"Vereinfachte numerische Integration", 1955.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from latentgeo.geometry.decoder import Decoder


@functools.lru_cache(maxsize=64)
def stiffness(N: int) -> Tensor:
    r"""The matrix K of the energy :math:`x^\top K x` of curves of N segments in one flat dimension, (N + 1, N + 1)."""
    K = torch.zeros(N + 1, N + 1, dtype=torch.float64, device="cpu")
    for k, weight in _romberg(N):
        steps = torch.eye(N + 1, dtype=torch.float64, device="cpu")[::k].diff(dim=0)
        K += weight * N / k * steps.mT @ steps
    return K


def _romberg(N: int) -> list[tuple[int, float]]:
    """Strides k and weights of the energies by every k-th point of curves of N segments."""
    if N % 4 == 0:
        return [(1, 64 / 45), (2, -20 / 45), (4, 1 / 45)]
    return [(1, 4 / 3), (2, -1 / 3)] if N % 2 == 0 else [(1, 1.0)]


def curve_energy(f: Decoder, x: Tensor) -> Tensor:
    """Energy E of decoded curves: (P, N + 1, D) -> (P,)."""
    N, energy = x.shape[1] - 1, 0.0
    for k, weight in _romberg(N):
        nodes = x[:, ::k]
        energy = energy + weight * N / k * f.squared(nodes[:, :-1], nodes[:, 1:]).sum((1, 2))
    return energy


def energy_and_gradient(f: Decoder, inner: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Energy E of decoded curves, and its derivative by their inner points.

    Where the image lies in a flat space, that of the straight line between the ends is its squared length, and what
    a curve's deviation adds to it is a quadratic form.

    Args:
        f: the decoder.
        inner: decoded points, shape (P, N - 1, D).
        ends: decoded ends, shape (P, 2, D).

    Returns:
        Energies and derivatives, shapes (P,) and (P, N - 1, D).
    """
    if f.flat:
        N = inner.shape[1] + 1
        t = torch.arange(1, N, dtype=inner.dtype, device=inner.device)[None, :, None] / N
        deviation = torch.lerp(ends[:, :1], ends[:, 1:], t).neg_().add_(inner)
        slope = (2.0 * stiffness(N)[1:-1, 1:-1]).to(inner) @ deviation
        return (ends[:, 1] - ends[:, 0]).square().sum(1) + 0.5 * torch.linalg.vecdot(deviation, slope).sum(1), slope
    inner = inner.detach().requires_grad_()
    with torch.enable_grad():
        energy = curve_energy(f, torch.cat([ends[:, :1], inner, ends[:, 1:]], 1))
        (gradient,) = torch.autograd.grad(energy.sum(), inner)
    return energy.detach(), gradient


def end_covectors(f: Decoder, x: Tensor) -> Tensor:
    r"""Derivative of :math:`E / 2` by the first and last decoded point: (P, N + 1, D) -> (P, 2, D).

    The inner points of a geodesic are stationary.
    """
    ends = x[:, [0, -1]].detach().requires_grad_()
    with torch.enable_grad():
        energy = curve_energy(f, torch.cat([ends[:, :1], x[:, 1:-1], ends[:, 1:]], 1))
        (gradient,) = torch.autograd.grad(0.5 * energy.sum(), ends)
    return gradient
