"""Autoencoders of images whose latent space is a stack of small images, such as Stable Diffusion's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentgeo.adapters.model import LatentModel
from latentgeo.geometry.decoder import Chunked, transforming


class _FlatDecoder(nn.Module):
    """Flat latent images (B, d) -> images (B, C, H, W)."""

    def __init__(self, autoencoder: nn.Module, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.autoencoder, self.latent_shape = autoencoder, latent_shape

    def forward(self, z: Tensor) -> Tensor:
        d = self.latent_shape[0] * self.latent_shape[1] * self.latent_shape[2]
        if z.ndim != 2 or z.shape[1] != d:
            raise ValueError(
                f"z: expected flat latent images (B, {d}) for latent images of shape {self.latent_shape}, got "
                f"{tuple(z.shape)}; flatten with z.flatten(1), or give image_size for images of another size"
            )
        # PyTorch's fused kernels of attention have no forward-mode derivative.
        with sdpa_kernel(SDPBackend.MATH) if transforming() else contextlib.nullcontext():
            return self.autoencoder.decode(z.unflatten(1, self.latent_shape)).sample


def from_autoencoder_kl(
    autoencoder: nn.Module, image_size: int | tuple[int, int] | None = None, *, rows: int = 1, name: str | None = None
) -> LatentModel:
    r"""See a ``diffusers.AutoencoderKL`` from its latent space, a few images at a time.

    A code is the mode of the posterior as a flat latent image, not multiplied by the ``scaling_factor`` that belongs to
    the diffusion model; distances are in the units of the decoded images, which such models have between -1 and 1.
    The pull-back metric itself has d² entries and is out of reach; :func:`latentgeo.geodesic`,
    :func:`latentgeo.distance` and :func:`latentgeo.distance_matrix` do not form it.

    Args:
        autoencoder: a ``diffusers.AutoencoderKL`` in eval mode, from a checkpoint or a configuration; it is not copied,
            and nothing is written to it.
        image_size: pixels H = W, or (H, W); the ``sample_size`` of its configuration by default. Four latent channels
            and three halvings give d = 4 × 32 × 32 = 4096 for images of 256 × 256.
        rows: images that go through encoder or decoder at a time, see :class:`latentgeo.Chunked`.
        name: what tables and figures call it.

    Returns:
        The model: ``encode`` takes images (B, C, H, W) to codes (B, d), ``decoder`` takes codes to images.

    Raises:
        TypeError: the object has no such configuration, ``encode`` or ``decode``.
        ValueError: it is in training mode or decodes in tiles, the sizes do not fit, or rows is below one.

    References:
        Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022.

    Example:
        >>> import diffusers, torch
        >>> model = from_autoencoder_kl(diffusers.AutoencoderKL(block_out_channels=(32,)).eval(), image_size=8)
        >>> model.decoder(torch.zeros(1, 4 * 8 * 8)).shape
        torch.Size([1, 3, 8, 8])
    """
    config = getattr(autoencoder, "config", None)
    for owner, attribute in ((config, "latent_channels"), (config, "block_out_channels"), (autoencoder, "decode")):
        if not hasattr(owner, attribute):
            raise TypeError(
                f"autoencoder: expected a diffusers.AutoencoderKL, got {type(autoencoder).__name__} without "
                f"{attribute}; write LatentModel(encode=lambda x: …, decoder=Chunked(lambda z: …, rows)) for others"
            )
    if autoencoder.training:
        raise ValueError("autoencoder: expected a model in eval mode, got one in training mode; call .eval() on it")
    if getattr(autoencoder, "use_tiling", False):
        raise ValueError(
            "autoencoder: expected one that decodes images whole, got one that decodes in tiles, whose images have "
            "seams; call .disable_tiling() and keep rows small instead"
        )
    size = config.sample_size if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    factor = 2 ** (len(config.block_out_channels) - 1)
    if height < 1 or width < 1 or height % factor or width % factor:
        raise ValueError(
            f"image_size: expected multiples of {factor}, by which this model makes images smaller, got {size!r}"
        )

    def encode(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2:] != (height, width):
            raise ValueError(
                f"images: expected shape (B, C, {height}, {width}), got {tuple(x.shape)}; resize them, or give "
                "image_size"
            )
        return autoencoder.encode(x).latent_dist.mode().flatten(1)

    def posterior_sampler(x: Tensor) -> Callable[[Tensor], Tensor]:
        posterior = autoencoder.encode(x).latent_dist
        mean, deviation = posterior.mean.flatten(1), posterior.std.flatten(1)
        return lambda noise: mean + deviation * noise

    latent_shape = (config.latent_channels, height // factor, width // factor)
    return LatentModel(
        Chunked(encode, rows),
        Chunked(_FlatDecoder(autoencoder, latent_shape), rows),
        name or type(autoencoder).__name__,
        posterior_sampler,
    )
