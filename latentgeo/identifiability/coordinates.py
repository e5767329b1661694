r"""Indeterminacy transformations: changes of latent coordinates that leave the distribution of the data alone.

If A is a diffeomorphism of latent space, the model with decoder :math:`f \circ A^{-1}` and the prior pushed forward by
A describes the same data. Reference: Xi and Bloem-Reddy, "Indeterminacy in Generative Models", AISTATS 2023.

======================== ================================ ============== =======================================
transformation           formula                          prior N(0, I)  made by
======================== ================================ ============== =======================================
:class:`LinearTransform` :math:`M z + b`                  rotations only ``random_rotation``, ``random_affine``
:class:`RadialTwist`     :math:`R(\omega \|z\|^2)\, z`    preserved      its constructor
:class:`CoordinateWarp`  :math:`\Phi^{-1}(h(\Phi(z_i)))`  changed        its constructor
:class:`NeuralFlow`      coupling layers                  changed        ``random_flow``
======================== ================================ ============== =======================================

All are exact both ways, come with their log-determinants, and can be differentiated twice in forward mode in both
directions, as the geometry of :math:`f \circ A^{-1}` asks.
``torch.distributions.transforms.ComposeTransform`` chains them, first one first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution, constraints
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform, _InverseTransform

from latentgeo.extras import require
from latentgeo.geometry.decoder import Decoder, Ensemble


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
        return x @ self.matrix.mT.to(x.device) + self.shift.to(x.device)

    def _inverse(self, y: Tensor) -> Tensor:
        self._check(y, len(self.matrix), self.matrix.dtype)
        return (y - self.shift.to(y.device)) @ self._matrix_inverse.mT.to(y.device)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of abs(det M), the same at every point: shape (*batch,)."""
        return torch.linalg.slogdet(self.matrix).logabsdet.to(x.device).expand(x.shape[:-1])


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


def reparametrise(model: Decoder | object, transform: Transform) -> Decoder | ReparametrisedModel:
    r"""A decoder, or a whole model, in the transformed latents.

    .. math:: f \mapsto f \circ A^{-1}, \qquad (f_k,\; p,\; q) \mapsto (f_k \circ A^{-1},\; A_\# p,\; A_\# q),
        \qquad\text{so that } (f \circ A^{-1})(A(z)) = f(z)

    Args:
        model: f, a callable (B, d) -> (B, *event); or a variational autoencoder, which has ``posterior``, ``decoders``,
            ``noise`` and ``encode``, such as :class:`latentgeo.paper.VAE`, or one already transformed by A₀, which is
            then transformed by A ∘ A₀.
        transform: A, a bijective transformation of (B, d), in the dtype of the model's parameters.

    Returns:
        The decoder :math:`f \circ A^{-1}`, or the :class:`ReparametrisedModel`, which shares the networks of the one
        given.

    Raises:
        TypeError: the decoder is not callable, or the transformation is not a ``torch.distributions`` transform.
        ValueError: the transformation has no inverse.

    Example:
        >>> f = lambda z: z.sin()
        >>> z, A = torch.ones(1, 2), RadialTwist()
        >>> torch.allclose(reparametrise(f, A)(A(z)), f(z))
        True
    """
    whole = _is_autoencoder(model)
    if not whole and not callable(model):
        raise TypeError(f"decoder: expected a callable (B, d) -> (B, *event), got {type(model).__name__}")
    _check_transform(transform)
    if not transform.bijective:
        raise ValueError(f"transform: expected a bijective transformation, got {type(transform).__name__}")
    if isinstance(model, ReparametrisedModel):
        return ReparametrisedModel(model.model, ComposeTransform([model.transform, transform]))
    return ReparametrisedModel(model, transform) if whole else ReparametrisedDecoder(model, transform)


def _is_autoencoder(model: object) -> bool:
    """Whether it has what :class:`ReparametrisedModel` and :func:`elbo` ask for."""
    return isinstance(model, ReparametrisedModel) or all(
        hasattr(model, name) for name in ("posterior", "decoders", "noise", "encode")
    )


class NeuralFlow(_LatentMap):
    r"""A normalising flow of the package zuko as a change of latent coordinates.

    .. math:: A = A_L \circ \cdots \circ A_1

    The flow is copied, put in evaluation mode and frozen: a fixed diffeomorphism, and no part of any training.
    :func:`random_flow` draws one. It is as smooth and as exact as its layers: zuko's own affine layers have jumps in
    the second derivative, and its splines as well.

    Source: Rozet et al., "Zuko: Normalizing flows in PyTorch", 2022, https://github.com/probabilists/zuko.

    Args:
        flow: a ``zuko.flows.Flow`` without context, from data space (d,) to the base distribution's.

    Raises:
        ImportError: zuko is not installed.
        TypeError: not a flow of zuko.

    Example:
        >>> A = random_flow(2, seed=0)
        >>> type(A).__name__, A(torch.zeros(5, 2, dtype=torch.float64)).shape
        ('NeuralFlow', torch.Size([5, 2]))
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        flows = _zuko_flows()
        if not isinstance(flow, flows.Flow):
            raise TypeError(f"flow: expected a zuko.flows.Flow, got {type(flow).__name__}")
        self.flow = copy.deepcopy(flow).eval().requires_grad_(False)
        distribution = self.flow()
        self._layers, (self._dimension,) = distribution.transform, distribution.event_shape
        like = next(self.flow.parameters(), torch.empty(0))
        self._dtype, self._device = like.dtype, like.device

    def _layers_for(self, z: Tensor) -> Transform:
        """The layers where the points are."""
        self._check(z, self._dimension, self._dtype)
        if z.device != self._device:
            self._layers, self._device = self.flow.to(z.device)().transform, z.device
        return self._layers

    def _call(self, x: Tensor) -> Tensor:
        return self._layers_for(x)(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._layers_for(y).inv(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the layers' log-determinants: shape (*batch,)."""
        return self._layers.log_abs_det_jacobian(x, y)


class _SmoothAffine(Transform):
    r"""Affine map of the other coordinates in a coupling layer, infinitely often differentiable in its parameters.

    .. math:: x \mapsto x\, e^{\tanh(c s)} + c t

    zuko's own log-slope is :math:`s / (1 + |s / \log 10^{-3}|)`, whose second derivative jumps at s = 0.
    """

    domain = codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, t: Tensor, s: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.shift, self.log_slope = scale * t, (scale * s).tanh()

    def _call(self, x: Tensor) -> Tensor:
        return x * self.log_slope.exp() + self.shift

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.shift) * (-self.log_slope).exp()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.log_slope.expand(x.shape)


def _zuko_flows():
    require("a neural flow", "flows", "zuko")
    from zuko import flows  # here, since it is needed by few

    return flows


def random_flow(
    d: int,
    *,
    seed: int = 0,
    transforms: int = 3,
    hidden: Sequence[int] = (32,),
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> NeuralFlow:
    r"""Random smooth neural flow: affine coupling layers, a general non-linear diffeomorphism.

    Layer l leaves half of the coordinates, :math:`x_a`, and moves the others; the halves take turns:

    .. math:: x_b \mapsto x_b \odot e^{\tanh(c\, s_l(x_a))} + c\, t_l(x_a)

    with fully connected networks s and t of random weights and tanh in between. It is infinitely often
    differentiable, the inverse undoes one layer after the other and is exact, and the Jacobian of a layer has the
    log-determinant :math:`\sum \tanh(c\, s_l(x_a))`.

    Source: Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", ICLR 2017.

    Args:
        d: the number of latent dimensions, at least two.
        seed: seed of the weights; PyTorch's global generator is left as it was.
        transforms: the number of layers; from two on, every coordinate is moved.
        hidden: widths of the hidden layers.
        scale: c, the strength. At 1, ratios of distances between prior draws before and after vary by 10 to 40 %; as c
            tends to 0, so does the difference from the identity.
        dtype: of the weights.

    Returns:
        A, with its exact inverse.

    Raises:
        ImportError: zuko is not installed.
        ValueError: d is below two (use :class:`~latentgeo.identifiability.coordinates.CoordinateWarp` in one
            dimension), or a size or the scale is not positive.

    Example:
        >>> A = random_flow(3, seed=1)
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> torch.allclose(A.inv(A(z)), z, rtol=0, atol=1e-12)
        True
    """
    if d < 2:
        raise ValueError(f"d: expected at least 2 dimensions to couple, got {d}; CoordinateWarp warps a single one")
    if transforms < 1 or not hidden or min(hidden) < 1:
        raise ValueError(f"expected positive sizes, got transforms={transforms} and hidden={tuple(hidden)}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale: expected a positive finite strength, got {scale!r}")
    flows, default = _zuko_flows(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # or the same seed would draw others
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            flow = flows.RealNVP(
                features=d,
                transforms=transforms,
                hidden_features=tuple(hidden),
                activation=nn.Tanh,
                univariate=partial(_SmoothAffine, scale=scale),
            )
    finally:
        torch.set_default_dtype(default)
    return NeuralFlow(flow.to(dtype))


class ReparametrisedModel(nn.Module):
    r"""A variational autoencoder in the latent coordinates z' = A(z); made by :func:`reparametrise`.

    .. math:: f'_k = f_k \circ A^{-1}, \qquad p'(z') = \big(A_\# N(0, I)\big)(z')
        = \frac{N(A^{-1}(z'); 0, I)}{|\det J_A(A^{-1}(z'))|}, \qquad q'(z' \mid x) = A_\# q(z \mid x)

    It gives every datum the same density and the same ELBO as the model, and different codes: data do not separate
    the two. It shares the model's networks and has its ``decoders``, ``decode``, ``noise`` and ``encode``.

    Args:
        model: the model in the original coordinates.
        transform: A, a bijective transformation of (B, d), in the dtype of the model's parameters.

    Reference:
        Xi and Bloem-Reddy, "Indeterminacy in Generative Models", AISTATS 2023.
    """

    def __init__(self, model: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.model, self.transform = model, transform

    @property
    def noise(self) -> float:
        """Standard deviation τ of the likelihood, in data units."""
        return self.model.noise

    @property
    def decoders(self) -> nn.ModuleList:
        """The K decoders f_k ∘ A⁻¹, modules (B, d) -> (B, *event)."""
        return nn.ModuleList(reparametrise(decoder, self.transform) for decoder in self.model.decoders)

    @property
    def decode(self) -> Ensemble:
        """All decoders as one decoder whose pull-back metric is the expected metric."""
        members = self.model.decode
        return Ensemble([reparametrise(members[k], self.transform) for k in range(len(members))])

    @property
    def code_likelihood(self) -> Callable[[Tensor], Callable[[Tensor, Tensor], Tensor]] | None:
        """The model's, of codes in these coordinates; None where it has none of its own."""
        of = getattr(self.model, "code_likelihood", None)
        if of is None:
            return None

        def moved(x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            log_likelihood = of(x)
            return lambda z, rows: log_likelihood(self.transform.inv(z), rows)

        return moved

    def posterior_sampler(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What turns standard normal draws (n, d) into draws A(μ(x) + σ(x) ε) from the posterior."""
        draw = self.model.posterior_sampler(x)
        return lambda noise: self.transform(draw(noise))

    @torch.no_grad()
    def encode(self, x: Tensor, batch_size: int = 2048) -> Tensor:
        """Codes A(μ(x)) of images, in batches and without gradients: (n, *event) -> (n, d).

        A(μ(x)) is the code whose reconstruction is that of μ(x) in the model. It is the mean of the pushed-forward
        posterior only if A is affine: in general E A(z) ≠ A(E z).
        """
        return self.transform(self.model.encode(x, batch_size))


def elbo_terms(model: nn.Module, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
        TypeError: the model is neither such an autoencoder nor a transformed one.
        ValueError: the noise does not fit the images' latents.

    Example:
        >>> from latentgeo.paper.models.vae import build_vae
        >>> vae = build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=4, seed=0)
        >>> [term.shape for term in elbo_terms(vae, torch.rand(3, 1, 8, 8), torch.zeros(3, 2))]
        [torch.Size([3]), torch.Size([3]), torch.Size([3])]
    """
    if not _is_autoencoder(model):
        raise TypeError(
            f"model: expected an autoencoder with posterior, decoders, noise and encode, got {type(model).__name__}"
        )
    vae, transforms = (model.model, [model.transform]) if isinstance(model, ReparametrisedModel) else (model, [])
    mean, log_variance = vae.posterior(x)
    gaussian = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    if noise.shape != mean.shape or noise.dtype != mean.dtype:
        raise ValueError(
            f"noise: expected one draw for each latent, shape {tuple(mean.shape)} and dtype {mean.dtype}, "
            f"got {tuple(noise.shape)} and {noise.dtype}"
        )
    z = mean + gaussian.stddev * noise
    for transform in transforms:
        z = transform(z)
    log_densities = [Normal(decoder(z), model.noise).log_prob(x).flatten(1).sum(1) for decoder in model.decoders]
    zeros = z.new_zeros(z.shape[-1])
    standard = Independent(Normal(zeros, zeros + 1.0), 1)
    log_prior, log_posterior = (TransformedDistribution(of, transforms).log_prob(z) for of in (standard, gaussian))
    return torch.stack(log_densities).mean(0), log_prior, log_posterior


def elbo(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
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
        >>> from latentgeo.paper.models.vae import build_vae
        >>> vae = build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=4, seed=0)
        >>> elbo(vae, torch.rand(3, 1, 8, 8), torch.zeros(3, 2)).shape
        torch.Size([3])
    """
    log_likelihood, log_prior, log_posterior = elbo_terms(model, x, noise)
    return log_likelihood + log_prior - log_posterior
