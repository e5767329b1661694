"""Ensembles of decoders as one decoder: the expected pull-back metric, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    r"""K decoders as the single decoder whose pull-back metric is their expected metric.

    .. math:: F(z) = (f_1(z), \ldots, f_K(z)) / \sqrt{K},
        \qquad J_F^\top J_F = \frac{1}{K} \sum_{k=1}^{K} J_k^\top J_k.

    Chords measure the same way: :math:`\|F(b) - F(a)\|^2 = \frac{1}{K} \sum_k \|f_k(b) - f_k(a)\|^2`, the *same*
    decoder at both ends. A curve's discrete energy therefore converges as the curve is refined, the metric is
    Riemannian, and the identifiability theorem covers it.

    Args:
        decoders: the K decoders, each mapping (B, d) -> (B, *event) with the same event shape. Modules among them
            are registered as submodules.

    Raises:
        ValueError: no decoder was given.
        TypeError: an entry is not callable.

    Example:
        >>> import torch
        >>> F = Ensemble([lambda z: 1.0 * z, lambda z: 3.0 * z])
        >>> F(torch.ones(2, 5)).shape
        torch.Size([2, 2, 5])
        >>> (F(torch.ones(1, 1)) - F(torch.zeros(1, 1))).square().sum()  # the mean of 1 and 9
        tensor(5.0000)
    """

    def __init__(self, decoders: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        decoders = list(decoders)
        if not decoders:
            raise ValueError("Ensemble expects at least one decoder, got none")
        for k, decoder in enumerate(decoders):
            if not callable(decoder):
                raise TypeError(
                    f"Ensemble expects callables (B, d) -> (B, *event), but entry {k} is a {type(decoder).__name__}"
                )
        self._callables = decoders
        self.modules_of_decoders = nn.ModuleList(f for f in decoders if isinstance(f, nn.Module))

    def __len__(self) -> int:
        """Return the number of decoders K."""
        return len(self._callables)

    def __getitem__(self, k: int) -> Callable[[Tensor], Tensor]:
        """Return decoder k alone (without the factor 1/√K)."""
        return self._callables[k]

    def forward(self, z: Tensor) -> Tensor:
        """Decode with every member: (B, d) -> (B, K, *event), scaled by 1/√K."""
        return torch.stack([decoder(z) for decoder in self._callables], dim=1) / len(self) ** 0.5


class IndependentDraws:
    r"""The energy of curves whose time points are each decoded by a member of the ensemble drawn anew.

    With the mean :math:`\mu = \tfrac1K \sum_k f_k` and the disagreement :math:`v(z) = \tfrac1K \sum_k \|f_k(z) -
    \mu(z)\|^2`, a chord between independent draws has the expectation

    .. math:: \mathbb{E}\, \|f_k(b) - f_l(a)\|^2 = \|\mu(b) - \mu(a)\|^2 + v(a) + v(b), \qquad k, l \text{ independent},

    in which :math:`v(a) + v(b)` does not become small with the chord. So the energy of N chords grows as N² and their
    length as N: this is no discretisation of any Riemannian metric, and its value means nothing without N. It is here
    to audit distances that were computed in this way, in closed form instead of by sampling.

    Source: the ensemble mode of the paper's released code, which draws a decoder for each time point.

    Args:
        decoders: at least two decoders (B, d) -> (B, *event), or an :class:`Ensemble`.

    Raises:
        ValueError: there are fewer than two decoders: nothing is drawn then.

    Example:
        >>> import torch
        >>> draws = IndependentDraws([lambda z: z + 1.0, lambda z: z - 1.0])
        >>> line = torch.linspace(0, 1, 5).reshape(1, 5, 1)
        >>> [term.round(decimals=4).tolist() for term in draws.terms(line)]  # chords of 1/4; v is 1 everywhere
        [[[0.0625, 0.0625, 0.0625, 0.0625]], [[2.0, 2.0, 2.0, 2.0]]]
    """

    def __init__(self, decoders: Ensemble | Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.ensemble = decoders if isinstance(decoders, Ensemble) else Ensemble(decoders)
        if len(self.ensemble) < 2:
            raise ValueError(f"IndependentDraws expects at least two decoders, got {len(self.ensemble)}")

    def _decode(self, points: Tensor) -> Tensor:
        """Images of curves under every decoder: (P, N + 1, d) -> (P, N + 1, K, D)."""
        if points.ndim != 3 or points.shape[1] < 2:
            raise ValueError(f"points: expected curves of shape (P, N + 1, d) with N ≥ 1, got {tuple(points.shape)}")
        images = self.ensemble(points.flatten(0, 1)) * len(self.ensemble) ** 0.5
        return images.flatten(2).unflatten(0, points.shape[:2])

    def terms(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts of the expected squared chords.

        Args:
            points: curves, shape (P, N + 1, d).

        Returns:
            Squared chords of the mean decoder and the disagreements v(a) + v(b), each of shape (P, N), in squared data
            units.
        """
        images = self._decode(points)
        mean = images.mean(2)
        disagreement = (images - mean.unsqueeze(2)).square().sum((2, 3)) / len(self.ensemble)
        return mean.diff(dim=1).square().sum(2), disagreement[:, 1:] + disagreement[:, :-1]

    def energy(self, points: Tensor) -> Tensor:
        """Expected energy N Σ E‖f_k(b) - f_l(a)‖² of curves (P, N + 1, d): (P,), in squared data units."""
        chords, disagreement = self.terms(points)
        return chords.shape[1] * (chords + disagreement).sum(1)

    def length(self, points: Tensor) -> Tensor:
        """Expected length Σ E‖f_k(b) - f_l(a)‖ of curves, the mean over all K² pairs of decoders.

        Args:
            points: curves, shape (P, N + 1, d).

        Returns:
            Shape (P,), in data units.
        """
        images = self._decode(points)
        return (
            torch.cdist(images[:, 1:], images[:, :-1], compute_mode="donot_use_mm_for_euclid_dist").mean((2, 3)).sum(1)
        )
