r"""A decoder that is injective by construction: an invertible map of data space after padding with zeros.

zuko is imported where it is first needed; nothing else of the models asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform

from latentgeo.extras import require
from latentgeo.paper.models.networks import ACTIVATIONS


class InjectiveDecoder(nn.Module):
    r"""An embedding of latent space: zeros appended, a rotation of data space, and coupling steps.

    .. math:: f(z) = T\big(Q\,(z, 0)\big), \qquad T = T_L \circ \cdots \circ T_1,

    with Q orthogonal, and steps :math:`T_l` of RealNVP that leave every other pixel, :math:`x_a`, and move the rest:

    .. math:: x_b \mapsto x_b \odot e^{\tanh s_l(x_a)} + t_l(x_a).

    Each factor is a diffeomorphism of :math:`\mathbb{R}^D`, as smooth as the activation, with its inverse in closed
    form. So whatever the weights, f is smooth, injective and of full rank, and a homeomorphism onto its image, which
    is closed: an embedding. The rotation mixes latent coordinates into all pixels; among zeros the first steps would
    have next to nothing to condition on. Only the first d columns of Q matter to f, and only they are parameters.

    Deviations from the source, where T is a longer spline flow: it is trained there in two phases, by reconstruction
    error and then by the likelihood of a second flow on latent space; here it is the decoder of a :class:`VAE`, trained
    by the ELBO, and the density on latent space is the prior.

    Sources: Brehmer and Cranmer, "Flows for simultaneous manifold learning and density estimation", NeurIPS 2020
    (decoder); Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", ICLR 2017 (steps).

    Args:
        event_shape: image shape (channels, height, width), D ≥ 2 pixels in all.
        latent_dim: the number of latent dimensions d, at most D.
        steps: the number of coupling steps L; from two on, every pixel is moved.
        hidden: widths of the hidden layers of each step's network.
        activation: name among ``ACTIVATIONS``; with ``"elu"`` f is only once continuously differentiable.

    Raises:
        ImportError: zuko is not installed.
        ValueError: there are more latent than data dimensions, or a size is too small.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> f = InjectiveDecoder((1, 8, 8), latent_dim=2).double()
        >>> z = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
        >>> code, residual = f.inverse(f(z))
        >>> torch.allclose(code, z, rtol=0, atol=1e-12), bool(residual < 1e-12)
        (True, True)
    """

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        latent_dim: int,
        steps: int = 6,
        hidden: Sequence[int] = (128,),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        D = math.prod(event_shape)
        if not 1 <= latent_dim <= D or D < 2:
            raise ValueError(
                f"expected 1 ≤ d ≤ D and D ≥ 2, as more latent than data dimensions cannot be embedded; got "
                f"latent_dim={latent_dim} and event_shape={tuple(event_shape)}"
            )
        if steps < 1 or not hidden or min(hidden) < 1:
            raise ValueError(f"expected positive sizes, got steps={steps} and hidden={tuple(hidden)}")
        self.event_shape = tuple(event_shape)
        self.columns = nn.Parameter(torch.randn(D, latent_dim))
        self.flow = _coupling_steps(D, steps, hidden, ACTIVATIONS[activation])

    @property
    def frame(self) -> Tensor:
        """The first d columns of Q, shape (D, d): the parameters, orthonormalised."""
        return torch.linalg.qr(self.columns).Q

    def forward(self, z: Tensor) -> Tensor:
        """Decode latent points: (B, d) -> (B, channels, height, width)."""
        return self.flow()(z @ self.frame.mT).unflatten(1, self.event_shape)

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Code of an image of f, and for any image how far it is from being one.

        .. math:: (z, r) = Q^\top T^{-1}(x), \qquad r = 0 \iff x = f(z).

        Args:
            x: images, shape (B, *event).

        Returns:
            The codes z, shape (B, d), and :math:`\|r\|`, the part of :math:`T^{-1}(x)` outside of the padded
            subspace, shape (B,), in data units.

        Raises:
            ValueError: the images have another shape.
        """
        if x.shape[1:] != self.event_shape:
            shape = ", ".join(map(str, self.event_shape))
            raise ValueError(f"x: expected images of shape (B, {shape}), got {tuple(x.shape)}")
        u, frame = self.flow().inv(x.flatten(1)), self.frame
        z = u @ frame
        return z, (u - z @ frame.mT).norm(dim=1)


def _coupling_steps(D: int, steps: int, hidden: Sequence[int], activation: type[nn.Module]) -> nn.Module:
    """T as a lazy transform of zuko, which, called, gives the transform; odd and even pixels take turns."""
    require("an injective decoder", "flows", "zuko")
    from zuko.flows.coupling import GeneralCouplingTransform  # here, since it is needed by few
    from zuko.lazy import LazyComposedTransform

    return LazyComposedTransform(
        *[
            GeneralCouplingTransform(
                D,
                mask=torch.arange(D) % 2 == step % 2,
                univariate=_smooth_affine,
                hidden_features=tuple(hidden),
                activation=activation,
            )
            for step in range(steps)
        ]
    )


def _smooth_affine(shift: Tensor, log_scale: Tensor) -> AffineTransform:
    """Affine map with a slope between 1/e and e; zuko's own slope has jumps in its second derivative."""
    return AffineTransform(shift, log_scale.tanh().exp())
