"""Further surfaces with closed forms, and distances on the package's own: what the tests measure against."""

from __future__ import annotations

import torch
from torch import Tensor


def cylinder_distance(a: Tensor, b: Tensor) -> Tensor:
    """Length of the helix that goes the straight way from a to b in the chart: (*batch, 2) -> (*batch,).

    Example:
        >>> cylinder_distance(torch.zeros(2), torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
    return (a - b).norm(dim=-1)


def swiss_roll_distance(a: Tensor, b: Tensor) -> Tensor:
    r"""Geodesic distance on the swiss roll, flat in arc length s and height: (*batch, 2) -> (*batch,).

    .. math:: s(t) = \tfrac12 \big( t \sqrt{1 + t^2} + \operatorname{asinh} t \big)

    Example:
        >>> swiss_roll_distance(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]))
        tensor(2.)
    """

    def arc(t: Tensor) -> Tensor:
        return 0.5 * (t * (1.0 + t.square()).sqrt() + t.asinh())

    return torch.hypot(arc(a[..., 0]) - arc(b[..., 0]), a[..., 1] - b[..., 1])


def paraboloid(z: Tensor) -> Tensor:
    r"""Paraboloid of revolution over the plane; meridians are geodesics.

    .. math:: f(z) = (z_1,\; z_2,\; \|z\|^2)

    Args:
        z: latent points, shape (*batch, 2).

    Returns:
        Points of the surface, shape (*batch, 3).

    Example:
        >>> paraboloid(torch.tensor([1.0, 2.0]))
        tensor([1., 2., 5.])
    """
    return torch.cat([z, z.square().sum(-1, keepdim=True)], -1)


def paraboloid_arc(radius: Tensor) -> Tensor:
    r"""Length of a meridian of the paraboloid from the vertex to a signed radius: shape as given.

    .. math:: s(\rho) = \tfrac12 \rho \sqrt{1 + 4\rho^2} + \tfrac14 \operatorname{asinh} 2\rho

    Example:
        >>> paraboloid_arc(torch.tensor(0.0))
        tensor(0.)
    """
    return 0.5 * radius * (1.0 + 4.0 * radius.square()).sqrt() + 0.25 * (2.0 * radius).asinh()


def pseudosphere_distance(a: Tensor, b: Tensor) -> Tensor:
    r"""Hyperbolic distance in the upper half plane: (*batch, 2) -> (*batch,).

    .. math:: d = 2 \operatorname{asinh} \frac{\|a - b\|}{2 \sqrt{a_2 b_2}}

    Example:
        >>> pseudosphere_distance(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 4.0]))  # log 2
        tensor(0.6931)
    """
    return 2.0 * ((a - b).norm(dim=-1) / (2.0 * (a[..., 1] * b[..., 1]).sqrt())).asinh()


def spheroid(z: Tensor, equatorial: float = 6378137.0, flattening: float = 1 / 298.257223563) -> Tensor:
    r"""Ellipsoid of revolution; by default the Earth's (WGS 84), in metres.

    .. math:: f(z) = (N \cos z_2 \cos z_1,\; N \cos z_2 \sin z_1,\; (1 - e^2) N \sin z_2),
        \qquad N = a / \sqrt{1 - e^2 \sin^2 z_2}, \quad e^2 = f (2 - f)

    Args:
        z: longitude and geographic latitude in radians, shape (*batch, 2).
        equatorial: a, the equatorial radius.
        flattening: f.

    Returns:
        Points of the surface, shape (*batch, 3), in the unit of a.

    Example:
        >>> spheroid(torch.zeros(2), equatorial=1.0)
        tensor([1., 0., 0.])
    """
    e2 = flattening * (2.0 - flattening)
    longitude, latitude = z[..., 0], z[..., 1]
    normal = equatorial / (1.0 - e2 * latitude.sin().square()).sqrt()
    around = normal * latitude.cos()
    return torch.stack([around * longitude.cos(), around * longitude.sin(), (1.0 - e2) * normal * latitude.sin()], -1)


def branched(z: Tensor) -> Tensor:
    r"""Complex square, twice around the origin, and a little of a third dimension: rank drops at one point alone.

    .. math:: f(z) = (z_1^2 - z_2^2,\; 2 z_1 z_2,\; z_1^2 / 10)

    Args:
        z: latent points, shape (*batch, 2).

    Returns:
        Points of the surface, shape (*batch, 3).

    Example:
        >>> branched(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
        tensor([[-1., 0., 0.],
                [-1., -0., 0.]])
    """
    first, second = z[..., 0], z[..., 1]
    return torch.stack([first.square() - second.square(), 2.0 * first * second, 0.1 * first.square()], -1)


def hill(z: Tensor) -> Tensor:
    r"""Hill of revolution, round which it is shorter than over its top, though that is a geodesic too.

    .. math:: f(z) = (z_1,\; z_2,\; 3\, e^{-\|z\|^2})

    Example:
        >>> hill(torch.zeros(2))
        tensor([0., 0., 3.])
    """
    return torch.cat([z, 3.0 * (-z.square().sum(-1, keepdim=True)).exp()], -1)


def ring(n: int) -> Tensor:
    """Points at even distances on the unit circle, (n, 2), which the hill lifts to a circle about its top.

    Example:
        >>> ring(4).round(decimals=3)[1]
        tensor([0., 1.], dtype=torch.float64)
    """
    angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], 1)
