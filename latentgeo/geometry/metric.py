r"""The pull-back metric of a decoder, and what it measures at a point.

A decoder :math:`f: \mathbb{R}^d \to \mathbb{R}^D` with Jacobian :math:`J(z)` gives latent space the Riemannian metric
:math:`G(z) = J(z)^\top J(z)`: the inner product of two latent directions is that of the changes they make in data
space. A decoder that returns distributions gives it the Fisher-Rao metric, :mod:`latentgeo.geometry.likelihood`: its J
is then :math:`\sqrt{I(\theta)}\, J_\theta`.

Reference: Arvanitidis, Hansen and Hauberg, "Latent Space Oddity", ICLR 2018.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_points


def directions_at(z: Tensor, name: str, v: Tensor) -> Tensor:
    """Directions v, called ``name``, in the shape (*batch, d) of the points z; refused where they do not fit."""
    check_points(name, v)
    if v.shape[-1] == z.shape[-1] and v.dtype == z.dtype:
        with contextlib.suppress(RuntimeError):
            return v.broadcast_to(z.shape)
    raise ValueError(
        f"{name}: expected directions of a shape that broadcasts to that of the points, {tuple(z.shape)}, and of their "
        f"dtype {z.dtype}, got {tuple(v.shape)} of dtype {v.dtype}"
    )


@takes_arrays("z")
def jacobian(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Jacobian of the decoder, by forward-mode differentiation where there is such.

    .. math:: J(z)_{ij} = \partial f_i / \partial z_j

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (*batch, d).

    Returns:
        J, shape (*batch, D, d), with the event flattened to D; NaN in the rows where f is not finite.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.

    Example:
        >>> import torch
        >>> jacobian(lambda z: z.square(), torch.tensor([1.0, 3.0]))
        tensor([[2., 0.],
                [0., 6.]])
    """
    check_points("z", z)
    J = as_decoder(decoder, z).jacobian(z.reshape(-1, z.shape[-1]))
    return J.reshape(*z.shape[:-1], *J.shape[1:])


@takes_arrays("z")
def pullback_metric(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Pull-back metric tensor.

    .. math:: G(z) = J(z)^\top J(z)

    It transforms as a tensor under a change of latent coordinates, so it is identified *as a tensor*, while its
    entries and its determinant at a coordinate are not.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (*batch, d).

    Returns:
        G, shape (*batch, d, d), symmetric positive semi-definite, in squared data units per squared latent unit.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.

    Example:
        >>> import torch
        >>> pullback_metric(lambda z: torch.cat([z, 2.0 * z], -1), torch.zeros(2))
        tensor([[5., 0.],
                [0., 5.]])
    """
    J = jacobian(decoder, z)
    return J.mT @ J


def _push_forward(f: Decoder, z: Tensor, v: Tensor) -> Tensor:
    """Apply J to v: (*batch, d) -> (*batch, D)."""
    d = z.shape[-1]
    Jv = f.jvp(z.detach().reshape(-1, d), v.detach().reshape(-1, d))
    return Jv.reshape(*z.shape[:-1], Jv.shape[1])


@takes_arrays("z", "u", "v")
def inner(decoder: DecoderLike, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""Inner product of two directions under the pull-back metric, without forming the Jacobian.

    .. math:: \langle u, v \rangle_z = u^\top G(z)\, v = (J u)^\top (J v)

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (*batch, d).
        u: directions, broadcastable to the shape of z.
        v: directions, broadcastable to the shape of z.

    Returns:
        Inner products, shape (*batch,), in squared data units.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    Example:
        >>> import torch
        >>> inner(lambda z: 2.0 * z, torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
        tensor(4.)
    """
    check_points("z", z)
    u, v, f = directions_at(z, "u", u), directions_at(z, "v", v), as_decoder(decoder, z)
    return (_push_forward(f, z, u) * _push_forward(f, z, v)).sum(-1)


@takes_arrays("z", "v")
def norm(decoder: DecoderLike, z: Tensor, v: Tensor) -> Tensor:
    r"""Length of a direction under the pull-back metric.

    .. math:: \|v\|_z = \sqrt{v^\top G(z)\, v} = \|J v\|

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (*batch, d).
        v: directions, broadcastable to the shape of z.

    Returns:
        Norms, shape (*batch,), in data units.

    Raises:
        TypeError, ValueError: shapes or types do not fit.

    Example:
        >>> import torch
        >>> norm(lambda z: 2.0 * z, torch.zeros(2), torch.tensor([3.0, 4.0]))
        tensor(10.)
    """
    check_points("z", z)
    return _push_forward(as_decoder(decoder, z), z, directions_at(z, "v", v)).norm(dim=-1)


@takes_arrays("z", "u", "v")
def angle(decoder: DecoderLike, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""Angle between two directions under the pull-back metric.

    .. math:: \angle_z(u, v) = \arccos \frac{\langle u, v \rangle_z}{\|u\|_z \|v\|_z}

    computed as :math:`2\,\mathrm{atan2}(\|a - b\|, \|a + b\|)` of the unit vectors a ∝ Ju and b ∝ Jv, which stays
    accurate near 0 and π.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (*batch, d).
        u: directions, broadcastable to the shape of z.
        v: directions, broadcastable to the shape of z.

    Returns:
        Angles in radians, shape (*batch,), between 0 and π.

    Raises:
        TypeError, ValueError: shapes or types do not fit.
        ValueError: a direction has length zero under the metric, so no angle exists.

    Example:
        >>> import torch
        >>> angle(lambda z: z, torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(1.5708)
    """
    check_points("z", z)
    u, v, f = directions_at(z, "u", u), directions_at(z, "v", v), as_decoder(decoder, z)
    a, b = _push_forward(f, z, u), _push_forward(f, z, v)
    lengths = torch.stack([a.norm(dim=-1), b.norm(dim=-1)])
    if not (lengths > 0).all():
        raise ValueError(
            "angle: expected directions of positive length under the metric, got one of length zero; "
            "the direction is zero, or the Jacobian loses rank there"
        )
    a, b = a / lengths[0].unsqueeze(-1), b / lengths[1].unsqueeze(-1)
    return 2.0 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


@takes_arrays("z")
def volume_element(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Volume element (magnification factor).

    .. math:: \sqrt{\det G(z)} = \prod_i \sigma_i(J(z))

    Not identified at a coordinate; as a density it changes by the Jacobian determinant of the change of coordinates,
    so that the volume of a region is identified.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: latent points, shape (*batch, d).

    Returns:
        Shape (*batch,), in data units to the power d per latent unit to the power d; zero where J loses rank,
        NaN where f is not finite.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.

    Example:
        >>> import torch
        >>> volume_element(lambda z: torch.cat([2.0 * z, torch.zeros_like(z)], -1), torch.zeros(3))
        tensor(8.)
    """
    J = jacobian(decoder, z)
    if J.shape[-2] < J.shape[-1]:
        return torch.zeros(z.shape[:-1], dtype=z.dtype, device=z.device)
    broken = ~torch.isfinite(J).flatten(-2).all(-1)
    # From J itself: forming G first would square the condition number.
    return torch.linalg.svdvals(J.masked_fill(broken[..., None, None], 0.0)).prod(-1).masked_fill(broken, torch.nan)


@takes_arrays("region")
def volume(
    decoder: DecoderLike,
    region: Tensor | tuple[int, Callable[[Tensor], Tensor]],
    *,
    nodes: int = 24,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Volume of a region of latent space, by Gauss-Legendre quadrature.

    .. math:: \mathrm{vol}(R) = \int_R \sqrt{\det G(z)}\,dz

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        region: a box, as a tensor (2, d) of lower and upper corners, or ``(d, chart)`` with a map of the unit cube
            onto the region, (B, d) -> (B, d), differentiable and one-to-one inside.
        nodes: quadrature points along each axis.
        dtype: of the computation; that of the box, or float64.

    Returns:
        The volume, a scalar, in data units to the power d.

    Raises:
        ValueError: a corner is not below its opposite, or d is so large that nodes ** d exceeds ten million points.

    Example:
        >>> import torch
        >>> round(volume(lambda z: 3.0 * z, torch.tensor([[0.0, 0.0], [1.0, 2.0]])).item(), 4)
        18.0
    """
    if isinstance(region, Tensor):
        check_points("region", region)
        if region.ndim != 2 or len(region) != 2 or not (region[0] < region[1]).all():
            raise ValueError(
                "region: expected a tensor (2, d), lower corner below upper corner, "
                f"got shape {tuple(region.shape)}: {region.tolist()}"
            )
        lower, extent = region[0], region[1] - region[0]
        d, dtype, device = region.shape[1], dtype or region.dtype, region.device

        def chart(t: Tensor) -> Tensor:
            return lower + t * extent

    elif not (isinstance(region, tuple) and len(region) == 2 and isinstance(region[0], int) and callable(region[1])):
        raise TypeError(
            "region: expected a tensor (2, d) of lower and upper corners, or (d, chart) with a map of the unit cube, "
            f"got {type(region).__name__}"
        )
    else:
        d, chart = region
        dtype, device = dtype or torch.float64, None
    if nodes**d > 10_000_000:
        raise ValueError(
            f"volume: {nodes} nodes along each of {d} axes are {nodes**d:.1e} points; "
            "lower nodes, or integrate volume_element over samples instead"
        )
    abscissae, weights = (
        torch.as_tensor(values / 2, dtype=dtype, device=device) for values in np.polynomial.legendre.leggauss(nodes)
    )
    t = torch.cartesian_prod(*[abscissae + 0.5] * d).reshape(-1, d)
    w = torch.cartesian_prod(*[weights] * d).reshape(-1, d).prod(-1)
    total, f = torch.zeros((), dtype=dtype, device=device), as_decoder(lambda s: decoder(chart(s)), t)
    for points, weight in zip(t.split(4096), w.split(4096), strict=True):
        total += volume_element(f, points) @ weight
    return total
