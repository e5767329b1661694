"""The plane of latent space that is shown: two of d coordinates, or the first two principal axes of the codes."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Plane:
    r"""A plane :math:`\{\bar z + s_1 e_1 + s_2 e_2\}` through the mean of the codes.

    Attributes:
        origin: where s = 0, shape (d,).
        basis: the orthonormal axes :math:`e_1, e_2`, shape (2, d).
        names: what the axes are called, in TeX without dollars where there is a subscript.
        share: share of the codes' variance that lies in the plane.
        shown: the numbers of the axes, see :func:`axis_names`.
    """

    origin: Tensor
    basis: Tensor
    names: tuple[str, str]
    share: float
    shown: tuple[int, int]

    def project(self, z: Tensor) -> Tensor:
        """Orthogonal projection into the plane's coordinates: (*batch, d) -> (*batch, 2)."""
        return (z - self.origin) @ self.basis.mT

    def lift(self, s: Tensor) -> Tensor:
        """Points of the plane in latent space: (*batch, 2) -> (*batch, d)."""
        return self.origin + s @ self.basis


def axis_names(n: int, d: int) -> list[str]:
    """What n codes in d dimensions may be seen along: the coordinates from 0, and from d the principal axes.

    Principal axes are offered where there are more dimensions than are shown.

    Example:
        >>> axis_names(9, 2), axis_names(9, 3)[2:]
        (['z_1', 'z_2'], ['z_3', 'principal axis 1', 'principal axis 2', 'principal axis 3'])
    """
    principal = min(n - 1, d) if d > 2 else 0
    return [f"z_{k + 1}" for k in range(d)] + [f"principal axis {k + 1}" for k in range(principal)]


def latent_plane(codes: Tensor, axes: Sequence[int] | str | None = None) -> Plane:
    """The plane that shows codes.

    Args:
        codes: latent points, shape (n, d), d at least 2.
        axes: two coordinates, or ``"pca"`` for the first two principal axes; by default the coordinates where there
            are two, else the principal axes.

    Returns:
        The plane, see :func:`plane_of`.

    Raises:
        TypeError, ValueError: there are fewer than two latent dimensions, or the axes are not two of them.

    Example:
        >>> codes = torch.tensor([[0.0, 5.0, 1.0], [4.0, 5.0, 2.0]])
        >>> plane = latent_plane(codes, axes=(0, 2))
        >>> plane.project(codes), plane.names, plane.lift(torch.zeros(2))
        (tensor([[0., 1.],
                [4., 2.]]), ('z_1', 'z_3'), tensor([0., 5., 0.]))
    """
    n, d = codes.shape
    if d < 2:
        raise ValueError(f"data: expected codes of at least two latent dimensions to show, got d = {d}")
    if axes is None:
        axes = (0, 1) if d == 2 else "pca"
    if isinstance(axes, str):
        if axes != "pca":
            raise ValueError(f"axes: expected two coordinates such as (0, 1), or 'pca', got {axes!r}")
        if n < 3:
            raise ValueError(f"data: expected at least 3 points for principal axes, got {n}")
        return plane_of(codes, (d, d + 1))
    pair = tuple(axes)
    if len(pair) != 2 or not all(isinstance(k, numbers.Integral) and 0 <= k < d for k in pair) or len({*pair}) < 2:
        raise ValueError(f"axes: expected two different coordinates from 0 to {d - 1}, or 'pca', got {axes!r}")
    return plane_of(codes, pair)


def plane_of(codes: Tensor, shown: tuple[int, int]) -> Plane:
    """The plane of two axes by their numbers, see :func:`axis_names`: two coordinates, or two principal axes.

    Coordinates are shown as they are; principal axes are centred at the mean of the codes, each with its largest entry
    positive.
    """
    d, mean = codes.shape[1], codes.mean(0)
    if min(shown) >= d:
        basis = torch.linalg.svd(codes - mean, full_matrices=False).Vh[[k - d for k in shown]]
        largest = basis.abs().argmax(1, keepdim=True)
        basis, origin = basis * basis.gather(1, largest).sign(), mean
    else:
        basis = torch.eye(d, dtype=codes.dtype, device=codes.device)[list(shown)]
        # Only across the plane is it moved to the mean, so that its coordinates are the codes' own.
        origin = mean - mean @ basis.mT @ basis
    names = tuple(f"z_{k + 1}" if k < d else f"principal axis {k - d + 1}" for k in shown)
    total, inside = (codes - mean).square().sum(), ((codes - mean) @ basis.mT).square().sum()
    return Plane(origin, basis, names, float(inside / total) if total > 0 else 1.0, shown)
