"""Training towards a Euclidean latent space: a penalty that vanishes where the pull-back metric is constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import jvp

from latentgeo.geometry.decoder import Decoder, as_decoder, check_points
from latentgeo.paper.models.vae import VAE

_BEYOND = 0.2  # how far past either end of a segment between two codes the penalty reaches, as a share of its length


def isometry_penalty(decoder: Decoder, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Scale-free distance of the pull-back metric from a constant multiple of the identity.

    The squared coefficient of variation of the squared stretch of a random direction,

    .. math:: P = \frac{\mathrm{Var}_{z, u} \|J(z) u\|^2}{\big(\mathrm{E}_{z, u} \|J(z) u\|^2\big)^2},
        \qquad u \text{ uniform on the unit sphere}, \qquad \|J u\|^2 = u^\top G u,

    estimated from one direction for each point, by one forward-mode derivative. Averaged over directions,

    .. math:: P = \frac{d}{d + 2}\, \frac{\mathrm{E}_z \big[2 \operatorname{tr} G^2 + (\operatorname{tr} G)^2\big]}
        {(\mathrm{E}_z \operatorname{tr} G)^2} - 1 \;\geq\; 0,

    with equality if and only if :math:`G(z) = c\, I` at all points, with the same c. Then the decoder is an isometry
    up to the factor :math:`\sqrt c`, and the estimate is zero for every draw of directions; otherwise almost surely
    positive. Multiplying the decoder by a constant changes nothing. The estimate is a ratio of means over the batch,
    hence consistent, with a bias of the order of 1/B.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), smooth; gradients with respect to its parameters pass through.
        z: latent points, shape (B, d), at least two.
        generator: source of the directions.

    Returns:
        P, a scalar without unit, differentiable in z and in the decoder's parameters.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.
        ValueError: there are fewer than two points, or the decoder is constant.

    References:
        Gropp, Atzmon and Lipman, "Isometric autoencoders", 2020 (random directions, the scale fixed at one); Lee,
        Yoon, Son and Park, "Regularized autoencoders for isometric representation learning", ICLR 2022 (free scale).

    Example:
        >>> z = torch.randn(50, 3, dtype=torch.float64)
        >>> isometry_penalty(lambda z: 7.0 * z, z).item() < 1e-28  # G = 49 I
        True
        >>> isometry_penalty(lambda z: z * torch.tensor([1.0, 1.0, 3.0]), z).item() > 0.1
        True
    """
    check_points("z", z, ndim=2)
    if len(z) < 2:
        raise ValueError(f"z: expected at least two latent points, whose stretches are compared, got {len(z)}")
    normal = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
    directions = normal / normal.norm(dim=1, keepdim=True)
    _, pushed = jvp(as_decoder(decoder, z), (z,), (directions,))  # J u, [B, D]
    stretch = pushed.square().sum(1)
    if (stretch == 0).all():
        raise ValueError("decoder: expected an output that depends on z, got a Jacobian of zero at all points")
    relative = stretch / stretch.mean() - 1.0
    return relative.square().mean()


class IsometricVAE(VAE):
    r"""A VAE whose loss has an isometry penalty, so that Euclidean distances of codes come close to geodesic ones.

    .. math:: -\mathrm{ELBO}(x) + \lambda\, P(F), \qquad
        z = \alpha z_1 + (1 - \alpha) z_2, \quad \alpha \sim U(-0.2,\, 1.2),

    with the penalty P of :func:`isometry_penalty` on the expected metric of the ensemble F, at points between (and a
    little beyond) pairs of posterior means of the batch: geodesics run between codes, not only through them. With
    λ = 0 it is the plain VAE, draw by draw.

    The penalty is part of ``loss_terms``, in its second term, and so of ``evaluate``: training keeps the epoch of the
    best penalised loss. ``VAE.loss_terms(model, x, generator)`` has the plain terms.

    Source of the points between codes: Lee, Yoon, Son and Park, ICLR 2022.

    Args:
        encoder: module (B, *event) -> (B, 2 d), see :class:`~latentgeo.paper.models.vae.VAE`.
        decoders: the K decoders, modules (B, d) -> (B, *event), continuously differentiable (ELU will do, not ReLU).
        noise: τ, the standard deviation of the likelihood, in data units.
        weight: λ, in nats per image.

    Raises:
        ValueError: the weight is negative or not finite.

    Example:
        >>> from latentgeo.paper.models.vae import build_vae
        >>> model = IsometricVAE.from_vae(build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=1, seed=0), weight=5.0)
        >>> model.weight, model.decode(torch.zeros(3, 2)).shape
        (5.0, torch.Size([3, 1, 1, 8, 8]))
    """

    def __init__(self, encoder: nn.Module, decoders: list[nn.Module], noise: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(encoder, decoders, noise)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight: expected a finite number of at least 0, got {weight!r}")
        self.weight = weight

    @classmethod
    def from_vae(cls, model: VAE, weight: float) -> IsometricVAE:
        """Make one of the networks of a VAE, which are shared, not copied."""
        return cls(model.encoder, list(model.decoders), model.noise, weight)

    def loss_terms(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Squared error and KL divergence plus penalty for each image, each of shape (B,), in nats.

        Args:
            x: images, shape (B, *event).
            generator: source of the reparametrisation noise, of the pairs and of the directions.

        Raises:
            ValueError: see :meth:`VAE.loss_terms`.
        """
        squared_error, divergence = super().loss_terms(x, generator)
        if self.weight == 0:
            return squared_error, divergence
        mean, _ = self.posterior(x)
        mean = mean.expand(max(len(x), 2), -1)  # a single image, which may be left over, counts twice
        partner = torch.randperm(len(mean), generator=generator, device=x.device)
        share = torch.rand(len(mean), 1, generator=generator, dtype=mean.dtype, device=x.device)
        share = (1.0 + 2.0 * _BEYOND) * share - _BEYOND
        between = share * mean + (1.0 - share) * mean[partner]
        return squared_error, divergence + self.weight * isometry_penalty(self.decode, between, generator)
