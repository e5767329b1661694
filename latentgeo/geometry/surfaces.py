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
