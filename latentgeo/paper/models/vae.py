"""The paper's variational autoencoder: one encoder, K decoders, Gaussian likelihood of known variance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from latentgeo.adapters.model import as_images
from latentgeo.geometry.decoder import Ensemble
from latentgeo.paper.models.injective import InjectiveDecoder
from latentgeo.paper.models.networks import (
    ACTIVATIONS,
    ConvDecoder,
    ConvEncoder,
    CountEncoder,
    MLPDecoder,
    MLPEncoder,
    ProportionDecoder,
)

ARCHITECTURES = {
    "conv": (ConvEncoder, ConvDecoder),
    "mlp": (MLPEncoder, MLPDecoder),
    "flow": (MLPEncoder, InjectiveDecoder),
    "counts": (CountEncoder, ProportionDecoder),
}


class VAE(nn.Module):
    r"""Variational autoencoder with one encoder and an ensemble of K decoders.

    Prior :math:`p(z) = N(0, I_d)`, approximate posterior :math:`q(z \mid x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))`,
    likelihood :math:`p_k(x \mid z) = N(f_k(z), \tau^2 I_D)`, in the paper with :math:`\tau = 1`. Every batch is dealt
    out in K equal shares; decoder k learns from share k alone while the encoder learns from all of them:

    .. math:: -\mathrm{ELBO}(x) = \tfrac{1}{2 \tau^2} \|x - f_k(z)\|^2
        + \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big), \qquad z \sim q(z \mid x),

    in nats, up to the constant :math:`\tfrac{D}{2} \log 2\pi\tau^2`.

    Source: the paper's experiments and its released configuration.

    Args:
        encoder: module (B, *event) -> (B, 2 d), mean and log-variance side by side.
        decoders: the K decoders, modules (B, d) -> (B, *event).
        noise: τ, the standard deviation of the likelihood, in data units.
    """

    def __init__(self, encoder: nn.Module, decoders: list[nn.Module], noise: float = 1.0) -> None:
        super().__init__()
        if not noise > 0:
            raise ValueError(f"noise: expected a positive standard deviation, got {noise!r}")
        self.noise = noise
        self.encoder = encoder
        self.decoders = nn.ModuleList(decoders)

    @property
    def decode(self) -> Ensemble:
        """All decoders as one decoder whose pull-back metric is the expected metric."""
        return Ensemble(list(self.decoders))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of q(z | x): mean and log-variance, each of shape (B, d), from images (B, *event)."""
        mean, log_variance = self.encoder(as_images(x)).chunk(2, dim=1)
        return mean, log_variance

    @torch.no_grad()
    def posterior_sampler(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What turns standard normal draws (n, d) into draws from q(z | x) for images (n, *event)."""
        parts = [torch.stack(self.posterior(part)) for part in x.split(2048)]
        mean, log_variance = torch.cat(parts, 1)
        return lambda noise: mean + (0.5 * log_variance).exp() * noise

    @torch.no_grad()
    def encode(self, x: Tensor, batch_size: int = 2048) -> Tensor:
        """Posterior means of images, in batches and without gradients: (n, *event) -> (n, d)."""
        return torch.cat([self.posterior(part)[0] for part in x.split(batch_size)])

    def loss_terms(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Both terms of -ELBO for each image, decoder k reconstructing the k-th share of the batch.

        Args:
            x: images, shape (B, *event), in [0, 1] or as bytes.
            generator: source of the reparametrisation noise.

        Returns:
            The scaled squared error ½‖x - f_k(z)‖²/τ² and the KL divergence, each of shape (B,), in nats.

        Raises:
            ValueError: B is smaller than K, so that a decoder would go without data.
        """
        if len(x) < len(self.decoders):
            raise ValueError(
                f"expected a batch of at least one image for each of the {len(self.decoders)} decoders, got {len(x)}"
            )
        x = as_images(x)
        mean, log_variance = self.posterior(x)
        epsilon = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        z = mean + epsilon * (0.5 * log_variance).exp()
        shares = zip(self.decoders, z.tensor_split(len(self.decoders)), strict=True)
        reconstruction = torch.cat([decoder(share) for decoder, share in shares])
        squared_error = self.reconstruction_loss(x, reconstruction)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
        return squared_error, divergence

    def reconstruction_loss(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """The scaled squared error ½‖x - x̂‖²/τ² of each image, shape (B,)."""
        return 0.5 * ((x - reconstruction) / self.noise).square().flatten(1).sum(1)

    def prepare(self, x: Tensor) -> None:
        """Take what is needed from the training data, (n, *event), before training starts; here nothing."""

    @torch.no_grad()
    def evaluate(self, x: Tensor, seed: int = 0, batch_size: int = 2000) -> float:
        """Return the mean -ELBO of images in nats (lower is better), with fixed noise so that epochs compare."""
        generator = torch.Generator(device=x.device).manual_seed(seed)
        parts = list(x.split(batch_size))
        if len(parts) > 1 and len(parts[-1]) < len(self.decoders):
            parts[-2:] = [torch.cat(parts[-2:])]  # a rest that is too small to deal out
        total = sum(sum(term.sum().item() for term in self.loss_terms(part, generator)) for part in parts)
        return total / len(x)


def build_vae(
    architecture: str,
    event_shape: tuple[int, ...],
    latent_dim: int,
    decoders: int,
    *,
    seed: int,
    noise: float = 1.0,
    activation: str = "elu",
) -> VAE:
    """Make a VAE with freshly drawn weights.

    Args:
        architecture: ``"conv"`` (the paper's networks), ``"mlp"`` (fully connected, fast on a CPU), ``"flow"`` (the
            same encoder, decoders injective by construction, :class:`latentgeo.paper.InjectiveDecoder`) or ``"counts"``
            (for counts, :class:`latentgeo.paper.models.counts.CountVAE`).
        event_shape: of an image (channels, height, width), or (genes,).
        latent_dim: the number of latent dimensions d.
        decoders: the number of decoders K.
        seed: seed of the initial weights; PyTorch's global generator is left as it was.
        noise: τ, the standard deviation of the likelihood, in data units.
        activation: ``"elu"`` (the paper's, once continuously differentiable), or smooth: ``"silu"``, ``"softplus"`` or
            ``"tanh"``.

    Returns:
        The model, in training mode, untrained; with its ``seed``.

    Raises:
        ImportError: ``"flow"`` without the package zuko.
        ValueError: the architecture or the activation is unknown, or a size is not positive.

    Example:
        >>> model = build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=4, seed=0)
        >>> model.decode(torch.zeros(3, 2)).shape
        torch.Size([3, 4, 1, 8, 8])
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"expected an architecture among {', '.join(ARCHITECTURES)}, got {architecture!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"expected an activation among {', '.join(ACTIVATIONS)}, got {activation!r}")
    if min(latent_dim, decoders, math.prod(event_shape)) < 1:
        raise ValueError(
            f"expected positive sizes, got latent_dim={latent_dim}, decoders={decoders}, event_shape={event_shape}"
        )
    make_encoder, make_decoder = ARCHITECTURES[architecture]
    make_model = VAE
    if architecture == "counts":
        from latentgeo.paper.models.counts import CountVAE as make_model  # here, as it builds on this module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = make_encoder(event_shape, latent_dim, activation=activation)
        made = [make_decoder(event_shape, latent_dim, activation=activation) for _ in range(decoders)]
        model = make_model(encoder, made, noise)
    model.seed = seed
    return model
