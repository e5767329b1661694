"""Immersions with closed forms: what geodesics are checked against."""

from __future__ import annotations

import math

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


def winding(t: Tensor) -> Tensor:
    r"""Unit circle, once around for each :math:`2\pi` of its angle: smooth and of full rank, not injective on more.

    .. math:: f(t) = (\cos t,\; \sin t)

    Args:
        t: latent points (angle in radians), shape (*batch, 1).

    Returns:
        Points of the circle, shape (*batch, 2).

    Example:
        >>> winding(torch.tensor([0.0]))
        tensor([1., 0.])
    """
    return torch.cat([t.cos(), t.sin()], -1)


def fold(z: Tensor) -> Tensor:
    r"""Half a curved strip, covered twice: not injective, and without full rank along the crease :math:`z_1 = 0`.

    .. math:: f(z) = (z_1^2,\; z_2,\; \sin z_2)

    Args:
        z: latent points, shape (*batch, 2).

    Returns:
        Points of the strip, shape (*batch, 3).

    Example:
        >>> fold(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor([[1., 0., 0.],
                [1., 0., 0.]])
    """
    return torch.stack([z[..., 0].square(), z[..., 1], z[..., 1].sin()], -1)


def cusp(t: Tensor) -> Tensor:
    r"""Semicubical parabola: smooth and injective, but without a tangent at :math:`t = 0`, where J = 0.

    .. math:: f(t) = (t^2,\; t^3)

    Args:
        t: latent points, shape (*batch, 1).

    Returns:
        Points of the curve, shape (*batch, 2).

    Example:
        >>> cusp(torch.tensor([-2.0]))
        tensor([ 4., -8.])
    """
    return torch.cat([t.square(), t**3], -1)


def cusp_distance(a: Tensor, b: Tensor) -> Tensor:
    r"""Length of :func:`cusp` between a and b, :math:`|s(a) - s(b)|`: (*batch, 1) -> (*batch,).

    .. math:: s(t) = \operatorname{sign}(t)\, \frac{(4 + 9 t^2)^{3/2} - 8}{27}

    Example:
        >>> cusp_distance(torch.tensor([0.0]), torch.tensor([2.0]))
        tensor(9.0734)
    """

    def arc(t: Tensor) -> Tensor:
        return t.sign() * ((4.0 + 9.0 * t.square()) ** 1.5 - 8.0) / 27.0

    return (arc(a) - arc(b)).abs().squeeze(-1)


def pyramid(z: Tensor) -> Tensor:
    r"""Pyramid of four planes, as a ReLU network draws it: injective and of full rank, not smooth.

    .. math:: f(z) = \big(z_1,\; z_2,\; |z_1| + |z_2|\big),
        \qquad |x| = \operatorname{relu}(x) + \operatorname{relu}(-x)

    Each plane is flat. At the apex the four angles, of 60° each, leave :math:`2\pi/3` of a full turn: all the
    curvature there is (Descartes).

    Args:
        z: latent points, shape (*batch, 2).

    Returns:
        Points of the surface, shape (*batch, 3).

    Example:
        >>> pyramid(torch.tensor([1.0, -2.0]))
        tensor([ 1., -2.,  3.])
    """
    return torch.cat([z, (torch.relu(z) + torch.relu(-z)).sum(-1, keepdim=True)], -1)


def rounded_pyramid(z: Tensor, radius: float = 0.1) -> Tensor:
    r"""Smooth surface within :math:`2\varepsilon` of :func:`pyramid`.

    .. math:: f(z) = \Big(z_1,\; z_2,\; \sqrt{z_1^2 + \varepsilon^2} + \sqrt{z_2^2 + \varepsilon^2}\Big)

    Args:
        z: latent points, shape (*batch, 2).
        radius: ε, positive.

    Returns:
        Points of the surface, shape (*batch, 3).

    Raises:
        ValueError: the radius is not positive.

    Example:
        >>> rounded_pyramid(torch.zeros(2), radius=0.5)
        tensor([0., 0., 1.])
    """
    if not radius > 0.0:
        raise ValueError(f"radius: expected a positive number, got {radius!r}; for zero take pyramid")
    return torch.cat([z, (z.square() + radius**2).sqrt().sum(-1, keepdim=True)], -1)


def rounded_pyramid_curvature(half_width: float, radius: float = 0.1) -> float:
    r"""Total Gaussian curvature of :func:`rounded_pyramid` over the square :math:`|z_i| \le w`, in radians.

    .. math:: \int K\,dA = 4 \arctan \frac{p^2}{\sqrt{1 + 2 p^2}}, \qquad p = \frac{w}{\sqrt{w^2 + \varepsilon^2}}

    the solid angle of the normals, which tends to the pyramid's :math:`2\pi/3` as :math:`\varepsilon \to 0`.

    Args:
        half_width: w, positive.
        radius: ε, not negative; for zero the value is the pyramid's.

    Raises:
        ValueError: the width is not positive or the radius is negative.

    Example:
        >>> round(rounded_pyramid_curvature(1.0, 0.0), 4)
        2.0944
    """
    if not (half_width > 0.0 and radius >= 0.0):
        raise ValueError(
            f"half_width and radius: expected a positive and a non-negative number, got {half_width!r} and {radius!r}"
        )
    p = half_width / math.hypot(half_width, radius)
    return 4.0 * math.atan(p**2 / math.sqrt(1.0 + 2.0 * p**2))


def figure_eight(t: Tensor, other: bool = False) -> Tensor:
    r"""Figure-eight: an injective immersion of the open interval :math:`(-\pi, \pi)` that is not an embedding.

    .. math:: f(t) = (\sin 2t,\; \pm\sin t)

    Both signs have the same image and the same density for a symmetric prior, but they pass the crossing on different
    strands. Each meets its crossing once, in the middle; its two ends come back to it without arriving.

    Args:
        t: latent points, shape (*batch, 1), in :math:`(-\pi, \pi)`.
        other: the minus sign, :math:`f(t - \pi)` for t > 0 and :math:`f(t + \pi)` for t < 0.

    Returns:
        Points of the curve, shape (*batch, 2).

    Example:
        >>> figure_eight(torch.tensor([[0.5], [0.5 - math.pi]]), other=True)
        tensor([[ 0.8415, -0.4794],
                [ 0.8415,  0.4794]])
    """
    return torch.cat([(2.0 * t).sin(), -t.sin() if other else t.sin()], -1)
