"""Encoders and decoders: the paper's convolutional networks and an MLP decoder that trains fast on a CPU.

Activations are the paper's ELU, which makes a decoder continuously differentiable, one of those that make it smooth
(``"silu"``, ``"softplus"``, ``"tanh"``), or ReLU, whose kinks the theorem excludes. A decoder maps latent points `z` of
shape (B, d) to images of shape (B, channels, height, width); an encoder maps images to the mean and the log-variance
of q(z | x), side by side in one tensor of shape (B, 2 d).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


@dataclasses.dataclass(frozen=True)
class ConvLayers:
    """Layers of a convolutional encoder and decoder; the defaults are the paper's for Fashion-MNIST.

    Attributes:
        encoder: output channels of the encoder's convolutions, one entry per halving of the resolution.
        width: channels of the 2×2 feature map that the decoder begins with.
        hidden: output channels of all the decoder's convolutions but the last, which gives the image's own.
        first_kernel: side of the first of the decoder's kernels; an even one is padded below and on the right.
        last_upsampled: whether the image is upsampled before the last convolution, as before all others but the first.
        last_activation: whether the activation comes after the last convolution too.
    """

    encoder: tuple[int, ...] = (16, 32, 64, 128, 256)
    width: int = 256
    hidden: tuple[int, ...] = (128, 64, 32, 16)
    first_kernel: int = 3
    last_upsampled: bool = True
    last_activation: bool = True


_CONV_LAYERS = {
    (3, 32, 32): ConvLayers((16, 32, 64, 128, 512), 256, (64, 32, 16, 8), first_kernel=2, last_activation=False),
    (3, 64, 64): ConvLayers(
        (32, 64, 128, 256, 512), 512, (256, 128, 64, 32, 16, 8), last_upsampled=False, last_activation=False
    ),
}


def conv_layers(event_shape: tuple[int, int, int]) -> ConvLayers:
    """The paper's layers for images of a shape.

    Source: the paper's released code for CIFAR-10 (3×32×32), CelebA (3×64×64) and Fashion-MNIST (all others).

    Args:
        event_shape: image shape (channels, height, width).

    Example:
        >>> conv_layers((3, 32, 32)).encoder
        (16, 32, 64, 128, 512)
    """
    return _CONV_LAYERS.get(tuple(event_shape), ConvLayers())


class ConvEncoder(nn.Sequential):
    """Stride-2 3×3 convolutions (see :func:`conv_layers`), then one linear map to mean and log-variance.

    Args:
        event_shape: image shape (channels, height, width).
        latent_dim: the number of latent dimensions d.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(self, event_shape: tuple[int, int, int], latent_dim: int, activation: str = "elu") -> None:
        layers: list[nn.Module] = []
        incoming, height, width = event_shape
        for outgoing in conv_layers(event_shape).encoder:
            layers += [nn.Conv2d(incoming, outgoing, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
            incoming, height, width = outgoing, math.ceil(height / 2), math.ceil(width / 2)
        layers += [nn.Flatten(), nn.Linear(incoming * height * width, 2 * latent_dim)]
        super().__init__(*layers)


class ConvDecoder(nn.Module):
    """Linear map to a 2×2 feature map, then convolutions with nearest-neighbour upsampling between them.

    Its layers are those of :func:`conv_layers`. On Fashion-MNIST the 32×32 result is brought to 28×28 by nearest
    neighbour.

    Args:
        event_shape: image shape (channels, height, width); at most two pixels a side, doubled by each upsampling.
        latent_dim: the number of latent dimensions d.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(self, event_shape: tuple[int, int, int], latent_dim: int, activation: str = "elu") -> None:
        super().__init__()
        chosen = conv_layers(event_shape)
        self.linear = nn.Linear(latent_dim, chosen.width * 4)
        channels = (chosen.width, *chosen.hidden, event_shape[0])
        last = len(channels) - 2
        largest = 2 ** (1 + last - (not chosen.last_upsampled))
        if max(event_shape[1:]) > largest:
            raise ValueError(
                f"event_shape: expected at most {largest} pixels a side with {len(chosen.hidden)} hidden layers, "
                f"got {event_shape}"
            )
        made: list[nn.Module] = [ACTIVATIONS[activation](), nn.Unflatten(1, (chosen.width, 2, 2))]
        for stage, (incoming, outgoing) in enumerate(itertools.pairwise(channels)):
            if stage == 0:
                made += _same_convolution(incoming, outgoing, chosen.first_kernel)
            elif stage == last and not chosen.last_upsampled:
                made += _same_convolution(incoming, outgoing, 3)
            else:
                made.append(UpsampledConv2d(incoming, outgoing, 3, padding=1))
            if stage < last or chosen.last_activation:
                made.append(ACTIVATIONS[activation]())
        if event_shape[1:] != (largest, largest):
            made.append(nn.Upsample(size=event_shape[1:]))  # to the image's own size
        self.layers = nn.Sequential(*made)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latent points: (B, d) -> (B, channels, height, width)."""
        return self.layers(self.linear(z))


def _same_convolution(incoming: int, outgoing: int, kernel: int) -> list[nn.Module]:
    """A convolution that keeps the size of the image; an even kernel's odd pixel of padding is below and right."""
    if kernel % 2:
        return [nn.Conv2d(incoming, outgoing, kernel, padding=kernel // 2)]
    before, after = (kernel - 1) // 2, kernel // 2
    return [nn.ZeroPad2d((before, after, before, after)), nn.Conv2d(incoming, outgoing, kernel)]


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


def mlp_widths(event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Widths of the hidden layers of fully connected networks: for images, or half of that for rows of a table.

    Example:
        >>> mlp_widths((1, 28, 28)), mlp_widths((765,))
        ((256, 256), (128, 128))
    """
    return (256, 256) if len(event_shape) > 1 else (128, 128)


def _hidden(widths: Sequence[int], activation: str) -> list[nn.Module]:
    """Linear maps from each of these widths to the next, each followed by the activation."""
    layers: list[nn.Module] = []
    for incoming, outgoing in itertools.pairwise(widths):
        layers += [nn.Linear(incoming, outgoing), ACTIVATIONS[activation]()]
    return layers


class MLPEncoder(nn.Sequential):
    """Fully connected encoder, with hidden layers of :func:`mlp_widths`.

    Args:
        event_shape: of an image (channels, height, width), or (genes,).
        latent_dim: the number of latent dimensions d.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(self, event_shape: tuple[int, ...], latent_dim: int, activation: str = "elu") -> None:
        widths = (math.prod(event_shape), *mlp_widths(event_shape))
        super().__init__(nn.Flatten(), *_hidden(widths, activation), nn.Linear(widths[-1], 2 * latent_dim))


class MLPDecoder(nn.Sequential):
    """Fully connected decoder with a linear output, and hidden layers of :func:`mlp_widths`.

    Args:
        event_shape: of an image (channels, height, width), or (genes,).
        latent_dim: the number of latent dimensions d.
        activation: name among ``ACTIVATIONS``.
    """

    def __init__(self, event_shape: tuple[int, ...], latent_dim: int, activation: str = "elu") -> None:
        widths, D = (latent_dim, *mlp_widths(event_shape)), math.prod(event_shape)
        super().__init__(*_hidden(widths, activation), nn.Linear(widths[-1], D), nn.Unflatten(1, event_shape))
        self.event_shape = tuple(event_shape)


class CountEncoder(MLPEncoder):
    r"""Fully connected encoder of :math:`\log(1 + x)`, for counts x of shape (B, \*event)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean and log-variance from counts: (B, *event) -> (B, 2 d)."""
        return super().forward(x.log1p())


class ProportionDecoder(MLPDecoder):
    r"""Fully connected decoder that ends in a log-softmax: log-proportions :math:`\log \rho(z)` of the genes."""

    def forward(self, z: Tensor) -> Tensor:
        """Decode latent points: (B, d) -> (B, *event), whose exponentials sum to one."""
        logits = super().forward(z)
        return logits.flatten(1).log_softmax(1).view_as(logits)
