"""Encoders and decoders: the paper's convolutional networks and an MLP decoder that trains fast on a CPU.

Activations are the paper's ELU, which makes a decoder continuously differentiable, or one of those that make it smooth
(``"silu"``, ``"softplus"``, ``"tanh"``). A decoder maps latent points `z` of shape
(B, d) to images of shape (B, channels, height, width); an encoder maps images to the mean and the log-variance of
q(z | x), side by side in one tensor of shape (B, 2 d).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


class ConvEncoder(nn.Sequential):
    """Stride-2 3×3 convolutions with ELU, then one linear map to mean and log-variance.

    Source: the Fashion-MNIST encoder of the paper's released configuration (channels 16-32-64-128-256).

    Args:
        event_shape: image shape (channels, height, width).
        latent_dim: the number of latent dimensions d.
        channels: output channels of the convolutions, one entry per halving of the resolution.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        latent_dim: int,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        activation: str = "elu",
    ) -> None:
        layers: list[nn.Module] = []
        incoming, height, width = event_shape
        for outgoing in channels:
            layers += [nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
            incoming, height, width = outgoing, math.ceil(height / 2), math.ceil(width / 2)
        layers += [nn.Flatten(), nn.Linear(incoming * height * width, 2 * latent_dim)]
        super().__init__(*layers)


class ConvDecoder(nn.Module):
    """Linear map to a 2×2 feature map, then 3×3 convolutions with ELU and nearest-neighbour upsampling between them.

    Source: the Fashion-MNIST decoder of the paper's released configuration: 2×2×256, channels 128-64-32-16-1, ELU
    after every convolution including the last, and the 32×32 result brought to 28×28 by nearest neighbour.

    Args:
        event_shape: image shape (channels, height, width); at most 2^(1 + len(hidden)) pixels a side.
        latent_dim: the number of latent dimensions d.
        width: channels of the 2×2 feature map.
        hidden: output channels of all convolutions but the last, which gives the image's own.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        latent_dim: int,
        width: int = 256,
        hidden: Sequence[int] = (128, 64, 32, 16),
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_dim, width * 4)
        largest = 2 ** (1 + len(hidden))
        if max(event_shape[1:]) > largest:
            raise ValueError(
                f"event_shape: expected at most {largest} pixels a side with {len(hidden)} hidden layers, "
                f"got {event_shape}"
            )
        channels = (width, *hidden, event_shape[0])
        layers: list[nn.Module] = [ACTIVATIONS[activation](), nn.Unflatten(1, (width, 2, 2))]
        for stage, (incoming, outgoing) in enumerate(itertools.pairwise(channels)):
            convolution = nn.Conv2d if stage == 0 else UpsampledConv2d
            layers += [convolution(incoming, outgoing, 3, padding=1), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Upsample(size=event_shape[1:]))  # to the image's own size

    def forward(self, z: Tensor) -> Tensor:
        """Decode latent points: (B, d) -> (B, channels, height, width)."""
        return self.layers(self.linear(z))


class UpsampledConv2d(nn.Conv2d):
    r"""Nearest-neighbour upsampling by two, followed by a 3×3 convolution, as one transposed convolution.

    Of the nine weights that meet an upsampled pixel's neighbourhood, several meet copies of the same pixel; added up
    beforehand they are a 4×4 kernel K of stride two,

    .. math:: K_{mn} = \sum_{a - k + 2 = m} \sum_{b - l + 2 = n} w_{kl}, \qquad a, b \in \{0, 1\},

    with four ninths of the multiplications. The result is the same up to rounding, borders included.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Upsample and convolve: (B, channels, h, w) -> (B, out_channels, 2 h, 2 w)."""
        sums = self.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])  # [m, k]
        kernel = torch.einsum("mk,nl,oikl->iomn", sums, sums, self.weight)
        return nn.functional.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class MLPEncoder(nn.Sequential):
    """Fully connected encoder.

    Args:
        event_shape: image shape (channels, height, width).
        latent_dim: the number of latent dimensions d.
        hidden: widths of the hidden layers.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        latent_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "elu",
    ) -> None:
        widths = (math.prod(event_shape), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for incoming, outgoing in itertools.pairwise(widths):
            layers += [nn.Linear(incoming, outgoing), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(widths[-1], 2 * latent_dim))


class MLPDecoder(nn.Sequential):
    """Fully connected decoder with a linear output.

    Args:
        event_shape: image shape (channels, height, width).
        latent_dim: the number of latent dimensions d.
        hidden: widths of the hidden layers.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        latent_dim: int,
        hidden: Sequence[int] = (256, 256),
        activation: str = "elu",
    ) -> None:
        widths = (latent_dim, *hidden)
        layers: list[nn.Module] = []
        for incoming, outgoing in itertools.pairwise(widths):
            layers += [nn.Linear(incoming, outgoing), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(widths[-1], math.prod(event_shape)), nn.Unflatten(1, event_shape))
