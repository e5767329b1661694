r"""The energy that a geodesic has least of, for decoders of data and for decoders that return distributions.

.. math:: E_N = N \sum_{i=0}^{N-1} s(x_i, x_{i+1}), \qquad
    s(a, b) = \|b - a\|^2 \quad\text{or}\quad \mathrm{KL}(a \| b) + \mathrm{KL}(b \| a)

with the decoded points x: squared chords in data space, or divergences of successive distributions, as
:meth:`latentgeo.geometry.decoder.Decoder.squared` gives them. Both tend to the energy
:math:`\int_0^1 \dot z^\top G\, \dot z\, dt` of the decoder's metric, and :math:`\sqrt{E_N}` to the length of a
geodesic, as :math:`N^{-2}`.

Reference: Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (the energy by divergences).
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentgeo.geometry.decoder import Decoder


def curve_energy(f: Decoder, x: Tensor) -> Tensor:
    """Energy :math:`E_N` of decoded curves: (P, N + 1, D) -> (P,)."""
    return (x.shape[1] - 1) * f.squared(x[:, :-1], x[:, 1:]).sum((1, 2))


def end_covectors(f: Decoder, x: Tensor) -> Tensor:
    r"""Derivative of :math:`E_N / 2` by the first and last decoded point: (P, N + 1, D) -> (P, 2, D).

    Only the outermost steps depend on them; the inner points of a geodesic are stationary.
    """
    ends = x[:, [0, -1]].detach().requires_grad_()
    with torch.enable_grad():
        outermost = f.squared(ends[:, 0], x[:, 1]).sum() + f.squared(x[:, -2], ends[:, 1]).sum()
        (gradient,) = torch.autograd.grad(outermost, ends)
    return 0.5 * (x.shape[1] - 1) * gradient
