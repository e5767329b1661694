"""Immersions with closed forms: what geodesics are checked against."""

from __future__ import annotations

import torch
from torch import Tensor


def sphere(z: Tensor) -> Tensor:
    r"""Unit sphere S^d in stereographic coordinates.

    .. math:: f(z) = \frac{(2z,\; \|z\|^2 - 1)}{1 + \|z\|^2}

    Args:
        z: latent points, shape (*batch, d).

    Returns:
        Points of the sphere, shape (*batch, d + 1).

    Example:
        >>> sphere(torch.zeros(2))
        tensor([ 0.,  0., -1.])
    """
    squared = z.square().sum(-1, keepdim=True)
    return torch.cat([2.0 * z, squared - 1.0], -1) / (1.0 + squared)


def sphere_distance(a: Tensor, b: Tensor) -> Tensor:
    """Great-circle distance in radians between points in stereographic coordinates: (*batch, d) -> (*batch,).

    Example:
        >>> sphere_distance(torch.zeros(2), torch.tensor([1.0, 0.0]))  # pole to equator
        tensor(1.5708)
    """
    x, y = sphere(a), sphere(b)
    return 2.0 * torch.atan2((x - y).norm(dim=-1), (x + y).norm(dim=-1))


def cylinder(z: Tensor) -> Tensor:
    r"""Unit cylinder: curved in space, flat in itself.

    .. math:: f(z) = (\cos z_1,\; \sin z_1,\; z_2)

    Args:
        z: latent points (angle in radians, height), shape (*batch, 2).

    Returns:
        Points of the cylinder, shape (*batch, 3).

    Example:
        >>> cylinder(torch.zeros(2))
        tensor([1., 0., 0.])
    """
    return torch.stack([z[..., 0].cos(), z[..., 0].sin(), z[..., 1]], -1)


def cylinder_distance(a: Tensor, b: Tensor) -> Tensor:
    """Length of the helix that goes the straight way from a to b in the chart: (*batch, 2) -> (*batch,).

    Example:
        >>> cylinder_distance(torch.zeros(2), torch.tensor([3.0, 4.0]))
        tensor(5.)
    """
    return (a - b).norm(dim=-1)


def swiss_roll(z: Tensor) -> Tensor:
    r"""Plane rolled up along an Archimedean spiral of unit slope, in polar angle and height: flat, far from Euclidean.

    .. math:: f(z) = (z_1 \cos z_1,\; z_1 \sin z_1,\; z_2)

    Args:
        z: latent points (angle in radians, height), shape (*batch, 2).

    Returns:
        Points of the surface, shape (*batch, 3).

    Example:
        >>> swiss_roll(torch.zeros(2))
        tensor([0., 0., 0.])
    """
    return torch.stack([z[..., 0] * z[..., 0].cos(), z[..., 0] * z[..., 0].sin(), z[..., 1]], -1)


def swiss_roll_distance(a: Tensor, b: Tensor) -> Tensor:
    r"""Geodesic distance on :func:`swiss_roll`, flat in arc length s and height: (*batch, 2) -> (*batch,).

    .. math:: s(t) = \tfrac12 \big( t \sqrt{1 + t^2} + \operatorname{asinh} t \big)

    Example:
        >>> swiss_roll_distance(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]))
        tensor(2.)
    """

    def arc(t: Tensor) -> Tensor:
        return 0.5 * (t * (1.0 + t.square()).sqrt() + t.asinh())

    return torch.hypot(arc(a[..., 0]) - arc(b[..., 0]), a[..., 1] - b[..., 1])


def torus(z: Tensor, major: float = 2.0, minor: float = 1.0) -> Tensor:
    r"""Torus of revolution.

    .. math:: f(z) = \big((R + r \cos z_2) \cos z_1,\; (R + r \cos z_2) \sin z_1,\; r \sin z_2\big)

    The meridians (constant :math:`z_1`) are geodesics, and so are the outer and the inner equator
    (:math:`z_2 = 0, \pi`), the outer one being shortest up to its conjugate point at
    :math:`z_1 = \pi \sqrt{r / (R + r)}`.

    Args:
        z: latent points (longitude, latitude) in radians, shape (*batch, 2).
        major: R, radius of the circle of centres.
        minor: r, radius of the tube.

    Returns:
        Points of the torus, shape (*batch, 3).

    Example:
        >>> torus(torch.zeros(2))
        tensor([3., 0., 0.])
    """
    radius = major + minor * z[..., 1].cos()
    return torch.stack([radius * z[..., 0].cos(), radius * z[..., 0].sin(), minor * z[..., 1].sin()], -1)


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
    r"""Length of a meridian of :func:`paraboloid` from the vertex to a signed radius: shape as given.

    .. math:: s(\rho) = \tfrac12 \rho \sqrt{1 + 4\rho^2} + \tfrac14 \operatorname{asinh} 2\rho

    Example:
        >>> paraboloid_arc(torch.tensor(0.0))
        tensor(0.)
    """
    return 0.5 * radius * (1.0 + 4.0 * radius.square()).sqrt() + 0.25 * (2.0 * radius).asinh()


def pseudosphere(z: Tensor) -> Tensor:
    r"""Tractrix of revolution, Gaussian curvature -1, over the upper half plane :math:`z_2 > 1`.

    .. math:: f(z) = \big(z_2^{-1} \cos z_1,\; z_2^{-1} \sin z_1,\;
        \operatorname{arcosh} z_2 - \sqrt{1 - z_2^{-2}}\big), \qquad G = z_2^{-2} I

    Args:
        z: latent points, shape (*batch, 2), the second coordinate above 1.

    Returns:
        Points of the surface, shape (*batch, 3).

    Example:
        >>> pseudosphere(torch.tensor([0.0, 2.0]))[0]
        tensor(0.5000)
    """
    x, y = z[..., 0], z[..., 1]
    return torch.stack([x.cos() / y, x.sin() / y, y.acosh() - (1.0 - y.square().reciprocal()).sqrt()], -1)


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
