r"""Indeterminacy transformations: changes of latent coordinates that leave the distribution of the data alone.

If A is a diffeomorphism of latent space, the model with decoder :math:`f \circ A^{-1}` and the prior pushed forward by
A describes the same data. Reference: Xi and Bloem-Reddy, "Indeterminacy in Generative Models", AISTATS 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from latentgeo.geometry.decoder import Decoder


class LinearTransform(Transform):
    r"""Invertible affine map.

    .. math:: A(z) = M z + b

    An orthogonal M with b = 0 preserves the prior N(0, I) and Euclidean distances; any other M changes the latter.

    Args:
        matrix: M, shape (d, d), invertible.
        shift: b, shape (d,); zero by default.

    Raises:
        ValueError: the matrix is not square or not invertible.

    Example:
        >>> A = LinearTransform(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> A(torch.tensor([1.0, 0.0]))
        tensor([0., 1.])
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, matrix: Tensor, shift: Tensor | None = None) -> None:
        super().__init__()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix: expected shape (d, d), got {tuple(matrix.shape)}")
        if torch.linalg.matrix_rank(matrix) < len(matrix):
            raise ValueError("matrix: expected an invertible matrix, got a singular one")
        self.matrix = matrix
        self.shift = matrix.new_zeros(len(matrix)) if shift is None else shift

    def _call(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT + self.shift

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.linalg.solve(self.matrix, (y - self.shift).unsqueeze(-1)).squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of abs(det M), the same at every point: shape (*batch,)."""
        return torch.linalg.slogdet(self.matrix).logabsdet.expand(x.shape[:-1])


class RadialTwist(Transform):
    r"""Rotation by an angle that grows with the squared radius.

    .. math:: A(z) = R\big(\omega \|z\|^2\big)\, z

    where R(θ) turns the plane of each successive pair of coordinates by θ (a last odd coordinate stays). It preserves
    the radius and volume, hence the prior N(0, I) exactly, and is nowhere near linear: neighbours at different radii
    part. Euclidean distances are not preserved.

    Args:
        rate: ω, in radians per squared latent unit.

    Example:
        >>> A = RadialTwist(rate=1.5)
        >>> z = torch.randn(5, 4, dtype=torch.float64)
        >>> torch.allclose(A.inv(A(z)), z), torch.allclose(A(z).norm(dim=-1), z.norm(dim=-1))
        (True, True)
    """

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate

    def _turn(self, z: Tensor, sign: float) -> Tensor:
        if z.shape[-1] < 2:
            raise ValueError(f"RadialTwist: expected points (*batch, d) with d ≥ 2, got {tuple(z.shape)}")
        theta = sign * self.rate * z.square().sum(-1, keepdim=True)
        even = z.shape[-1] // 2 * 2
        first, second = z[..., 0:even:2], z[..., 1:even:2]
        turned = torch.stack(
            [theta.cos() * first - theta.sin() * second, theta.sin() * first + theta.cos() * second], dim=-1
        )
        return torch.cat([turned.flatten(-2), z[..., even:]], dim=-1)

    def _call(self, x: Tensor) -> Tensor:
        return self._turn(x, 1.0)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._turn(y, -1.0)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero: the transformation preserves volume; shape (*batch,)."""
        return torch.zeros(x.shape[:-1], dtype=x.dtype, device=x.device)


def reparametrise(decoder: Decoder, transform: Transform) -> Decoder:
    r"""Decoder of the transformed latents.

    .. math:: f_A = f \circ A^{-1}, \qquad\text{so that } f_A(A(z)) = f(z)

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        transform: A, a bijective transformation of (B, d).

    Returns:
        The decoder :math:`f \circ A^{-1}`.

    Raises:
        TypeError: the decoder is not callable, or the transformation is not a ``torch.distributions`` transform.
        ValueError: the transformation has no inverse.

    Example:
        >>> f = lambda z: z.sin()
        >>> z, A = torch.ones(1, 2), RadialTwist()
        >>> torch.allclose(reparametrise(f, A)(A(z)), f(z))
        True
    """
    if not callable(decoder):
        raise TypeError(f"decoder: expected a callable (B, d) -> (B, *event), got {type(decoder).__name__}")
    if not isinstance(transform, Transform):
        raise TypeError(
            f"transform: expected a torch.distributions.transforms.Transform, got {type(transform).__name__}"
        )
    if not transform.bijective:
        raise ValueError(f"transform: expected a bijective transformation, got {type(transform).__name__}")

    return lambda z: decoder(transform.inv(z))
