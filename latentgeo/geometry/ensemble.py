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
