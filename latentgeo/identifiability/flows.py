"""Neural indeterminacy transformations: normalising flows of the package zuko as changes of latent coordinates.

The general non-linear case of :mod:`latentgeo.identifiability.transforms`. zuko is imported where it is first needed,
and nothing else in this package asks for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from latentgeo.identifiability.transforms import _LatentMap


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
        self._dtype = next((p.dtype for p in self.flow.parameters()), torch.get_default_dtype())

    def _call(self, x: Tensor) -> Tensor:
        self._check(x, self._dimension, self._dtype)
        return self._layers(x)

    def _inverse(self, y: Tensor) -> Tensor:
        self._check(y, self._dimension, self._dtype)
        return self._layers.inv(y)

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
    try:
        from zuko import flows  # here, since it is needed by few
    except ImportError as error:
        raise ImportError("neural flows need the package zuko: pip install zuko") from error
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
        ValueError: d is below two (use :class:`~latentgeo.identifiability.transforms.CoordinateWarp` in one
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
    flows = _zuko_flows()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = flows.RealNVP(
            features=d,
            transforms=transforms,
            hidden_features=tuple(hidden),
            activation=nn.Tanh,
            univariate=partial(_SmoothAffine, scale=scale),
        )
    return NeuralFlow(flow.to(dtype))
