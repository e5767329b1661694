r"""Indeterminacy transformations: changes of latent coordinates that leave the distribution of the data alone.

If A is a diffeomorphism of latent space, the model with decoder :math:`f \circ A^{-1}` and the prior pushed forward by
A describes the same data. Reference: Xi and Bloem-Reddy, "Indeterminacy in Generative Models", AISTATS 2023.

======================== ================================ ============== =======================================
transformation           formula                          prior N(0, I)  made by
======================== ================================ ============== =======================================
:class:`LinearTransform` :math:`M z + b`                  rotations only ``random_rotation``, ``random_affine``
:class:`RadialTwist`     :math:`R(\omega \|z\|^2)\, z`    preserved      its constructor
:class:`CoordinateWarp`  :math:`\Phi^{-1}(h(\Phi(z_i)))`  changed        its constructor
``flows.NeuralFlow``     coupling layers                  changed        ``flows.random_flow``
======================== ================================ ============== =======================================

The last is in :mod:`latentgeo.identifiability.flows`, the others here. All are exact both ways, come with their
log-determinants, and can be differentiated twice in forward mode in both directions, as the geometry of
:math:`f \circ A^{-1}` asks. ``torch.distributions.transforms.ComposeTransform`` chains them, first one first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform, _InverseTransform

from latentgeo.geometry.decoder import Decoder


class _LatentMap(Transform):
    """A diffeomorphism of latent space; subclasses say what it does with the prior."""

    domain = codomain = constraints.real_vector
    bijective = True

    @property
    def preserves_prior(self) -> bool:
        """Whether the prior N(0, I) is left invariant."""
        return False

    def _check(self, z: Tensor, d: int, dtype: torch.dtype) -> None:
        name = type(self).__name__
        if z.shape[-1:] != (d,):
            raise ValueError(f"{name}: expected points (*batch, {d}), got {tuple(z.shape)}")
        if z.dtype != dtype:
            raise TypeError(
                f"{name}: expected points of dtype {dtype} like its parameters, got {z.dtype}; "
                "convert the points, or make the transformation in their dtype"
            )


class LinearTransform(_LatentMap):
    r"""Invertible affine map.

    .. math:: A(z) = M z + b

    An orthogonal M with b = 0 preserves the prior N(0, I) and Euclidean distances; any other M changes the latter.

    Args:
        matrix: M, shape (d, d), invertible.
        shift: b, shape (d,); zero by default.

    Raises:
        ValueError: the matrix is not square or not invertible, or the shift does not fit it.

    Example:
        >>> A = LinearTransform(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> A(torch.tensor([1.0, 0.0]))
        tensor([0., 1.])
    """

    def __init__(self, matrix: Tensor, shift: Tensor | None = None) -> None:
        super().__init__()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"matrix: expected shape (d, d), got {tuple(matrix.shape)}")
        if torch.linalg.matrix_rank(matrix) < len(matrix):
            raise ValueError("matrix: expected an invertible matrix, got a singular one")
        if shift is not None and (shift.shape != matrix.shape[:1] or shift.dtype != matrix.dtype):
            raise ValueError(
                f"shift: expected shape ({len(matrix)},) and dtype {matrix.dtype} like the matrix, "
                f"got {tuple(shift.shape)} and {shift.dtype}"
            )
        self.matrix = matrix
        # Not solved for anew at every call: PyTorch's forward mode gets that wrong under vmap with a shared matrix.
        self._matrix_inverse = torch.linalg.inv(matrix)
        self.shift = matrix.new_zeros(len(matrix)) if shift is None else shift

    @property
    def preserves_prior(self) -> bool:
        """Whether the prior N(0, I) is left invariant: M is orthogonal up to rounding, and b = 0."""
        M = self.matrix
        identity = torch.eye(len(M), dtype=M.dtype, device=M.device)
        rounding = 100 * len(M) * torch.finfo(M.dtype).eps
        return bool((M @ M.mT - identity).abs().max() < rounding) and not bool(self.shift.any())

    def _call(self, x: Tensor) -> Tensor:
        self._check(x, len(self.matrix), self.matrix.dtype)
        return x @ self.matrix.mT + self.shift

    def _inverse(self, y: Tensor) -> Tensor:
        self._check(y, len(self.matrix), self.matrix.dtype)
        return (y - self.shift) @ self._matrix_inverse.mT

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of abs(det M), the same at every point: shape (*batch,)."""
        return torch.linalg.slogdet(self.matrix).logabsdet.expand(x.shape[:-1])


class RadialTwist(_LatentMap):
    r"""Rotation by an angle that grows with the squared radius.

    .. math:: A(z) = R\big(\omega \|z\|^2\big)\, z

    where R(θ) turns the plane of each successive pair of coordinates by θ (a last odd coordinate stays). It preserves
    the radius and volume, hence the prior N(0, I) exactly, but not Euclidean distances, and is nowhere near linear.

    Args:
        rate: ω, in radians per squared latent unit.

    Example:
        >>> A = RadialTwist(rate=1.5)
        >>> z = torch.randn(5, 4, dtype=torch.float64)
        >>> torch.allclose(A.inv(A(z)), z), torch.allclose(A(z).norm(dim=-1), z.norm(dim=-1))
        (True, True)
    """

    def __init__(self, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate

    @property
    def preserves_prior(self) -> bool:
        """True: radius and volume are preserved, and with them N(0, I)."""
        return True

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


class CoordinateWarp(_LatentMap):
    r"""Smooth monotone warp of every coordinate, through the Gaussian distribution function.

    .. math:: A(z)_i = \Phi^{-1}\big(h_i(\Phi(z_i))\big), \qquad
        h_i(u) = \frac{e^{b_i} u^{a_i}}{e^{b_i} u^{a_i} + (1 - u)^{a_i}},
        \qquad\text{that is}\qquad \ell(A(z)_i) = a_i\, \ell(z_i) + b_i,

    with the logit :math:`\ell(z) = \log \Phi(z) - \log \Phi(-z)`, whose derivative is
    :math:`\varphi(z) / (\Phi(z) \Phi(-z))`. Hence :math:`A'(z)_i = a_i\, \ell'(z_i) / \ell'(A(z)_i)`, and the inverse
    is the same map with 1/a and -b/a, in closed form. The slope tends to √a in both tails; for b = 0 it is a at zero.

    No monotone map of a single coordinate but the identity preserves N(0, 1), so the prior changes: after the warp
    :math:`\ell(z_i)` has the logistic distribution of location b and scale a, and the prior the density
    :math:`\prod_i \mathrm{Logistic}(\ell(z_i);\, b_i, a_i)\, \ell'(z_i)`, that of N(0, I) for a = 1, b = 0 alone.

    Everything is computed from logarithms of tail probabilities and is exact to rounding far into the tails. The range
    ends where Φ(-\|z\|) underflows, at \|z\| or \|A(z)\| of about 37 in float64 and 13 in float32.

    Args:
        power: a, positive: a number, or one for each coordinate, shape (d,).
        shift: b: a number, or one for each coordinate, shape (d,).

    Raises:
        ValueError: a power is not positive, a value is not finite, or the shapes do not fit.

    Example:
        >>> A = CoordinateWarp(power=2.0, shift=1.0)
        >>> z = torch.linspace(-6.0, 6.0, 9, dtype=torch.float64).unsqueeze(1)
        >>> bool((A.inv(A(z)) - z).abs().max() < 1e-13), bool((A(z).diff(dim=0) > 0).all())
        (True, True)
    """

    def __init__(self, power: float | Tensor = 2.0, shift: float | Tensor = 0.5) -> None:
        super().__init__()
        a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (power, shift))
        for name, value in (("power", a), ("shift", b)):
            if value.ndim > 1 or not value.isfinite().all():
                raise ValueError(f"{name}: expected a finite number, or finite numbers (d,), got {value.tolist()}")
        if not (a > 0).all():
            raise ValueError(f"power: expected positive numbers, so that the warp is increasing, got {a.tolist()}")
        if a.ndim == b.ndim == 1 and len(a) != len(b):
            raise ValueError(f"power and shift: expected the same number of coordinates, got {len(a)} and {len(b)}")
        self.power, self.shift = a, b

    @property
    def preserves_prior(self) -> bool:
        """Whether the prior N(0, I) is left invariant: for the identity alone, a = 1 and b = 0."""
        return bool((self.power == 1).all()) and not bool(self.shift.any())

    def _parameters_like(self, z: Tensor) -> tuple[Tensor, Tensor]:
        for value in (self.power, self.shift):
            if value.ndim == 1:
                self._check(z, len(value), z.dtype)
        return self.power.to(z.device, z.dtype), self.shift.to(z.device, z.dtype)

    def _call(self, x: Tensor) -> Tensor:
        a, b = self._parameters_like(x)
        return _from_logit(a * _logit(x) + b)

    def _inverse(self, y: Tensor) -> Tensor:
        a, b = self._parameters_like(y)
        return _from_logit((_logit(y) - b) / a)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum over coordinates of log a + log ℓ'(x) - log ℓ'(y): shape (*batch,)."""
        a, _ = self._parameters_like(x)
        return (a.log() + _log_slope(x) - _log_slope(y)).sum(-1)


def _tails(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sign s and t = -|z| = s z, then log Φ(t) + t²/2 and log Φ(-t), smooth in z and exact however small Φ(t).

    ``torch.special.log_ndtr`` would do as well, but runs point by point under ``torch.func.vmap``.
    """
    sign = torch.where(z > 0, -1.0, 1.0).to(z.dtype)
    t = sign * z
    return sign, t, (0.5 * torch.special.erfcx(-t / math.sqrt(2.0))).log(), torch.log1p(-torch.special.ndtr(t))


def _logit(z: Tensor) -> Tensor:
    """Logit of Φ(z)."""
    sign, t, lower, upper = _tails(z)
    return sign * (lower - 0.5 * t.square() - upper)


def _log_slope(z: Tensor) -> Tensor:
    """Logarithm of the derivative of :func:`_logit`: log φ(z) - log Φ(z) - log Φ(-z)."""
    _, _, lower, upper = _tails(z)
    return -0.5 * math.log(2.0 * math.pi) - lower - upper


def _from_logit(s: Tensor) -> Tensor:
    """Inverse of :func:`_logit`: Φ⁻¹ in the lower tail, where probabilities keep their digits, reflected if s > 0."""
    sign = torch.where(s > 0, -1.0, 1.0).to(s.dtype)
    return sign * torch.special.ndtri(torch.sigmoid(sign * s))


def random_rotation(
    d: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> LinearTransform:
    r"""Rotation drawn uniformly (Haar measure) from SO(d).

    .. math:: A(z) = Q z, \qquad Q^\top Q = I, \quad \det Q = 1

    It preserves the prior N(0, I) and Euclidean distances. Drawn in float64: a seed gives the same in every dtype.
    Source: Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 2007.

    Args:
        d: the number of latent dimensions.
        generator: source of the draw.
        dtype: of the matrix.

    Returns:
        A: z -> Q z.

    Raises:
        ValueError: d is not positive.

    Example:
        >>> A = random_rotation(3, generator=torch.Generator().manual_seed(0))
        >>> A.preserves_prior, round(float(torch.linalg.det(A.matrix)), 12)
        (True, 1.0)
    """
    return LinearTransform(_rotation_matrix(d, generator).to(dtype))


def random_affine(
    d: int, *, condition: float = 10.0, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
) -> LinearTransform:
    r"""Affine map of random directions, a given condition number κ and determinant one.

    .. math:: A(z) = U \,\mathrm{diag}(\sigma)\, V^\top z + b, \qquad \sigma_i = \kappa^{1/2 - (i - 1)/(d - 1)},
        \quad b \sim N(0, I)

    with rotations U and V drawn uniformly. Volume is preserved, but not the prior nor Euclidean distances (unless
    κ = 1, when only the shift changes the prior).

    Args:
        d: the number of latent dimensions.
        condition: κ ≥ 1, the ratio of the largest to the smallest singular value.
        generator: source of the draws.
        dtype: of matrix and shift.

    Returns:
        A: z -> M z + b with det M = ±1.

    Raises:
        ValueError: d is not positive, or κ is below one, infinite, or other than one in one dimension.

    Example:
        >>> A = random_affine(4, condition=25.0, generator=torch.Generator().manual_seed(0))
        >>> round(float(torch.linalg.cond(A.matrix)), 9), A.preserves_prior
        (25.0, False)
    """
    if not 1 <= condition < math.inf:
        raise ValueError(f"condition: expected a finite condition number of at least 1, got {condition!r}")
    U, V = _rotation_matrix(d, generator), _rotation_matrix(d, generator)
    if d == 1 and condition != 1:
        raise ValueError(f"condition: expected 1 in one dimension, where no matrix has another, got {condition!r}")
    singular_values = condition ** torch.linspace(0.5, -0.5, d, dtype=U.dtype, device=U.device)
    b = torch.randn(d, generator=generator, dtype=U.dtype, device=U.device)
    return LinearTransform(((U * singular_values) @ V.mT).to(dtype), b.to(dtype))


def _rotation_matrix(d: int, generator: torch.Generator | None) -> Tensor:
    if d < 1:
        raise ValueError(f"d: expected a positive number of dimensions, got {d}")
    device = None if generator is None else generator.device
    Q, R = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64, device=device))
    Q = Q * R.diagonal().sign()  # uniform on O(d)
    Q[:, 0] *= torch.linalg.det(Q).sign()
    return Q


def preserves_prior(transform: Transform) -> bool:
    """Whether a transformation is known to leave the prior N(0, I) invariant.

    A composition does if all of its parts do, and an inverse if the transformation does. The answer is False where
    nothing is known: for transformations from elsewhere, and for compositions whose parts undo each other.

    Args:
        transform: A, of this package or of ``torch.distributions.transforms``.

    Returns:
        True where it is known to; False where it does not, or where that is not known.

    Raises:
        TypeError: not a ``torch.distributions`` transform.

    Example:
        >>> preserves_prior(ComposeTransform([RadialTwist(), random_rotation(2).inv]))
        True
        >>> preserves_prior(ComposeTransform([RadialTwist(), CoordinateWarp()]))
        False
    """
    _check_transform(transform)
    if isinstance(transform, ComposeTransform):
        return all(preserves_prior(part) for part in transform.parts)
    if isinstance(transform, _InverseTransform):
        return preserves_prior(transform.inv)
    if isinstance(transform, IndependentTransform):
        return preserves_prior(transform.base_transform)
    return bool(getattr(transform, "preserves_prior", False))


def _check_transform(transform: Transform) -> None:
    if not isinstance(transform, Transform):
        raise TypeError(
            f"transform: expected a torch.distributions.transforms.Transform, got {type(transform).__name__}"
        )


class ReparametrisedDecoder(nn.Module):
    """The map f ∘ A⁻¹ of :func:`reparametrise`; a module, so that f is still seen to be one if it is."""

    def __init__(self, decoder: Decoder, transform: Transform) -> None:
        super().__init__()
        self.decoder, self.transform = decoder, transform

    def forward(self, z: Tensor) -> Tensor:
        """Decode transformed latents: (B, d) -> (B, *event)."""
        return self.decoder(self.transform.inv(z))


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
    _check_transform(transform)
    if not transform.bijective:
        raise ValueError(f"transform: expected a bijective transformation, got {type(transform).__name__}")
    return ReparametrisedDecoder(decoder, transform)
