r"""The energy that a geodesic has least of, for decoders of data and for decoders that return distributions.

.. math:: E_N = N \sum_{i=0}^{N-1} s(x_i, x_{i+1}), \qquad
    s(a, b) = \|b - a\|^2 \quad\text{or}\quad \mathrm{KL}(a \| b) + \mathrm{KL}(b \| a)

with the decoded points x: squared chords in data space, or divergences of successive distributions. Both tend to the
energy :math:`\int_0^1 \dot z^\top G\, \dot z\, dt` of the decoder's metric, and :math:`\sqrt{E_N}` to the length of
a geodesic, as :math:`N^{-2}`.

Reference: Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (the energy by divergences).
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder
from latentgeo.geometry.likelihood import StatisticalDecoder

_ENTRIES = 2**24  # numbers held at a time


class Chords:
    """Squared chords between decoded data.

    Args:
        decoder: f, at whose values (*batch, D) the energy is taken.

    Attributes:
        safety: by which the optimiser's estimates of what it may still gain fall short, on the hardest decoders
            measured.
    """

    safety = 4.0

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def squared(self, a: Tensor, b: Tensor) -> Tensor:
        """What single coordinates add to s(a, b): (*batch, D) each -> (*batch, D')."""
        return (b - a).square()

    def step(self, a: Tensor, b: Tensor) -> Tensor:
        """Length √s of short steps: (*batch, D) each -> (*batch,)."""
        return (b - a).norm(dim=-1)

    def chord(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance in the space that the image lies in, a lower bound of the geodesic one: like :meth:`step`."""
        return (b - a).norm(dim=-1)

    def chords(self, x: Tensor, y: Tensor) -> Tensor:
        """Chords from each of some points to each of others: (R, D) and (n, D) -> (R, n)."""
        # About the mean the fast formula |a|² - 2 a·b + |b|² loses nothing that matters.
        centre = y.mean(0)
        return torch.cdist(x - centre, y - centre)

    def total(self, x: Tensor) -> Tensor:
        """Energy E of decoded curves: (P, N + 1, D) -> (P,)."""
        return (x.shape[1] - 1) * self.squared(x[:, :-1], x[:, 1:]).sum((1, 2))


class Divergences(Chords):
    """Symmetric Kullback-Leibler divergences between decoded distributions, given by their parameters θ."""

    decoder: StatisticalDecoder
    safety = 14.0

    def squared(self, a: Tensor, b: Tensor) -> Tensor:
        """See :meth:`Chords.squared`."""
        return self.decoder.family.divergence(a, b)

    def step(self, a: Tensor, b: Tensor) -> Tensor:
        """See :meth:`Chords.step`."""
        return self.squared(a, b).sum(-1).clamp_min(0.0).sqrt()

    def chord(self, a: Tensor, b: Tensor) -> Tensor:
        """Fisher-Rao distance in the space of all parameters: see :meth:`Chords.chord`."""
        return self.decoder.family.squared_distance(a, b).sum(-1).sqrt()

    def chords(self, x: Tensor, y: Tensor) -> Tensor:
        """See :meth:`Chords.chords`."""
        parts = x.split(max(1, _ENTRIES // y.numel()))
        return torch.cat([self.chord(part.unsqueeze(1), y) for part in parts])


def energy_of(decoder: DecoderLike, like: Tensor) -> Chords:
    """The energy of a decoder's curves; for the arguments see :func:`~latentgeo.geometry.decoder.as_decoder`."""
    made = as_decoder(decoder, like)
    return Divergences(made) if isinstance(made, StatisticalDecoder) else Chords(made)


def end_covectors(energy: Chords, x: Tensor) -> Tensor:
    r"""Derivative of :math:`E_N / 2` by the first and last decoded point: (P, N + 1, D) -> (P, 2, D).

    Only the outermost steps depend on them; the inner points of a geodesic are stationary.
    """
    ends = x[:, [0, -1]].detach().requires_grad_()
    with torch.enable_grad():
        outermost = energy.squared(ends[:, 0], x[:, 1]).sum() + energy.squared(x[:, -2], ends[:, 1]).sum()
        (gradient,) = torch.autograd.grad(outermost, ends)
    return 0.5 * (x.shape[1] - 1) * gradient
