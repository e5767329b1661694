r"""The same model in other latent coordinates: encoder, decoders and prior transformed together.

If A is a diffeomorphism of latent space, the decoders :math:`f_k \circ A^{-1}`, the prior :math:`A_\# N(0, I)` and the
posterior :math:`A_\# q(z \mid x)` give every datum the same density and the same ELBO, and different codes. No amount
of data tells the two models apart. Reference: Xi and Bloem-Reddy, "Indeterminacy in Generative Models", AISTATS 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import ComposeTransform, Transform

from latentgeo.geometry.ensemble import Ensemble
from latentgeo.identifiability.transforms import reparametrise
from latentgeo.models.vae import VAE


class ReparametrisedVAE(nn.Module):
    r"""A variational autoencoder in the latent coordinates z' = A(z).

    .. math:: f'_k = f_k \circ A^{-1}, \qquad p'(z') = \big(A_\# N(0, I)\big)(z')
        = \frac{N(A^{-1}(z'); 0, I)}{|\det J_A(A^{-1}(z'))|}, \qquad q'(z' \mid x) = A_\# q(z \mid x)

    The model shares the VAE's networks. It has the VAE's ``decoders``, ``ensemble``, ``noise`` and ``encode``, so that
    distances and experiments take one for the other.

    Args:
        vae: the model in the original coordinates.
        transform: A, a bijective transformation of (B, d), in the dtype of the model's parameters.

    Raises:
        TypeError: not a VAE, or not a ``torch.distributions`` transform.
        ValueError: the transformation has no inverse.

    Example:
        >>> from latentgeo.identifiability.transforms import RadialTwist
        >>> from latentgeo.models.vae import build_vae
        >>> vae, A = build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=4, seed=0), RadialTwist()
        >>> model, x = ReparametrisedVAE(vae, A), torch.rand(3, 1, 8, 8)
        >>> torch.allclose(model.encode(x), A(vae.encode(x)))
        True
        >>> torch.allclose(model.ensemble(model.encode(x)), vae.ensemble(vae.encode(x)), atol=1e-6)
        True
    """

    def __init__(self, vae: VAE, transform: Transform) -> None:
        super().__init__()
        if not isinstance(vae, VAE):
            raise TypeError(f"vae: expected a VAE, got {type(vae).__name__}; transform what is one already transformed")
        for decoder in vae.decoders:
            reparametrise(decoder, transform)  # refuses what is no change of coordinates
        self.vae = vae
        self.transform = transform

    @property
    def noise(self) -> float:
        """Standard deviation τ of the likelihood, in data units: that of the VAE."""
        return self.vae.noise

    @property
    def decoders(self) -> nn.ModuleList:
        """The K decoders f_k ∘ A⁻¹, modules (B, d) -> (B, *event)."""
        return nn.ModuleList(reparametrise(decoder, self.transform) for decoder in self.vae.decoders)

    @property
    def ensemble(self) -> Ensemble:
        """All decoders as one decoder whose pull-back metric is the expected metric."""
        return Ensemble(list(self.decoders))

    def prior_distribution(self, like: Tensor) -> TransformedDistribution:
        """Prior A_# N(0, I) over latents of the dimension, dtype and device of the given ones, shape (B, d)."""
        return TransformedDistribution(_standard_normal(like), self.transform)

    def posterior_distribution(self, x: Tensor) -> TransformedDistribution:
        """Posterior A_# q(z | x) of images (B, *event), a batch of B distributions over R^d."""
        return TransformedDistribution(_gaussian_posterior(self.vae, x), self.transform)

    @torch.no_grad()
    def encode(self, x: Tensor, batch_size: int = 2048) -> Tensor:
        """Codes A(μ(x)) of images, in batches and without gradients: (n, *event) -> (n, d).

        A(μ(x)) is the code whose reconstruction is that of μ(x) in the VAE. It is the mean of the pushed-forward
        posterior only if A is affine: in general E A(z) ≠ A(E z).
        """
        return self.transform(self.vae.encode(x, batch_size))


def reparametrise_model(model: VAE | ReparametrisedVAE, transform: Transform) -> ReparametrisedVAE:
    r"""Whole model in transformed latents.

    .. math:: (f_k,\; p,\; q) \;\mapsto\; (f_k \circ A^{-1},\; A_\# p,\; A_\# q)

    Args:
        model: a VAE, or a model that is already transformed, by A₀ say; it is then transformed by A ∘ A₀.
        transform: A, a bijective transformation of (B, d), in the dtype of the model's parameters.

    Returns:
        The transformed model, which shares the networks of the one given.

    Raises:
        TypeError, ValueError: see :class:`ReparametrisedVAE`.

    Example:
        >>> from latentgeo.identifiability.transforms import CoordinateWarp
        >>> from latentgeo.models.vae import build_vae
        >>> vae = build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=4, seed=0).double()
        >>> model = reparametrise_model(vae, CoordinateWarp())
        >>> x, noise = torch.rand(3, 1, 8, 8).double(), torch.randn(3, 2).double()
        >>> torch.allclose(elbo(model, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
        True
        >>> torch.allclose(model.encode(x), vae.encode(x), atol=0.1)
        False
    """
    if isinstance(model, ReparametrisedVAE):
        reparametrise(model.decoders[0], transform)
        return ReparametrisedVAE(model.vae, ComposeTransform([model.transform, transform]))
    return ReparametrisedVAE(model, transform)


def elbo_terms(model: VAE | ReparametrisedVAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Three terms of the single-sample ELBO of each datum, from the model's own densities.

    .. math:: \frac{1}{K} \sum_k \log N\big(x;\, f_k(z), \tau^2 I_D\big), \qquad \log p(z), \qquad \log q(z \mid x),
        \qquad z = \mu(x) + \sigma(x)\, \varepsilon

    A transformed model takes its own latents :math:`z' = A(\mu(x) + \sigma(x)\, \varepsilon)`, decoders, prior and
    posterior throughout. The last two terms then hold the log-determinant of A, which cancels in their difference.

    Args:
        model: a VAE or a transformed one.
        x: images, shape (B, *event).
        noise: standard normal draws ε, shape (B, d).

    Returns:
        Log-likelihood, mean over decoders, log-prior and log-posterior, each of shape (B,), in nats.

    Raises:
        TypeError: the model is neither a VAE nor a transformed one.
        ValueError: the noise does not fit the images' latents.

    Example:
        >>> from latentgeo.models.vae import build_vae
        >>> vae = build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=4, seed=0)
        >>> [term.shape for term in elbo_terms(vae, torch.rand(3, 1, 8, 8), torch.zeros(3, 2))]
        [torch.Size([3]), torch.Size([3]), torch.Size([3])]
    """
    if isinstance(model, ReparametrisedVAE):
        posterior = model.posterior_distribution(x)
        gaussian, transforms = posterior.base_dist, posterior.transforms
    elif isinstance(model, VAE):
        posterior = gaussian = _gaussian_posterior(model, x)
        transforms = []
    else:
        raise TypeError(f"model: expected a VAE or a ReparametrisedVAE, got {type(model).__name__}")
    if noise.shape != gaussian.mean.shape or noise.dtype != gaussian.mean.dtype:
        raise ValueError(
            f"noise: expected one draw for each latent, shape {tuple(gaussian.mean.shape)} and dtype "
            f"{gaussian.mean.dtype}, got {tuple(noise.shape)} and {noise.dtype}"
        )
    z = gaussian.mean + gaussian.stddev * noise
    for transform in transforms:
        z = transform(z)
    prior = model.prior_distribution(z) if isinstance(model, ReparametrisedVAE) else _standard_normal(z)
    return _log_likelihood(model, x, z), prior.log_prob(z), posterior.log_prob(z)


def elbo(model: VAE | ReparametrisedVAE, x: Tensor, noise: Tensor) -> Tensor:
    r"""Single-sample ELBO of each datum.

    .. math:: \frac{1}{K} \sum_k \log p_k(x \mid z) + \log p(z) - \log q(z \mid x),
        \qquad z = \mu(x) + \sigma(x)\, \varepsilon

    With the same ε it is the same number before and after a change of latent coordinates. Other than in
    :meth:`VAE.loss_terms`, every decoder reconstructs every image, so that a value belongs to its image alone; the KL
    divergence is estimated from the one draw; and constants are kept.

    Args:
        model: a VAE or a transformed one.
        x: images, shape (B, *event).
        noise: standard normal draws ε, shape (B, d).

    Returns:
        The ELBO, shape (B,), in nats (higher is better).

    Raises:
        TypeError, ValueError: see :func:`elbo_terms`.

    Example:
        >>> from latentgeo.models.vae import build_vae
        >>> vae = build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=4, seed=0)
        >>> elbo(vae, torch.rand(3, 1, 8, 8), torch.zeros(3, 2)).shape
        torch.Size([3])
    """
    log_likelihood, log_prior, log_posterior = elbo_terms(model, x, noise)
    return log_likelihood + log_prior - log_posterior


def _gaussian_posterior(vae: VAE, x: Tensor) -> Distribution:
    mean, log_variance = vae.posterior(x)
    return Independent(Normal(mean, (0.5 * log_variance).exp()), 1)


def _standard_normal(like: Tensor) -> Distribution:
    zeros = like.new_zeros(like.shape[-1])
    return Independent(Normal(zeros, zeros + 1.0), 1)


def _log_likelihood(model: VAE | ReparametrisedVAE, x: Tensor, z: Tensor) -> Tensor:
    """Mean over decoders of log N(x; f_k(z), τ²I): shape (B,), in nats."""
    log_densities = [Normal(decoder(z), model.noise).log_prob(x).flatten(1).sum(1) for decoder in model.decoders]
    return torch.stack(log_densities).mean(0)
