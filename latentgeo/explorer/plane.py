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
        principal: whether the axes are principal axes rather than coordinates.
    """

    origin: Tensor
    basis: Tensor
    names: tuple[str, str]
    share: float
    principal: bool

    def project(self, z: Tensor) -> Tensor:
        """Orthogonal projection into the plane's coordinates: (*batch, d) -> (*batch, 2)."""
        return (z - self.origin) @ self.basis.mT

    def lift(self, s: Tensor) -> Tensor:
        """Points of the plane in latent space: (*batch, 2) -> (*batch, d)."""
        return self.origin + s @ self.basis


def latent_plane(codes: Tensor, axes: Sequence[int] | str | None = None) -> Plane:
    """The plane that shows codes.

    Args:
        codes: latent points, shape (n, d), d at least 2.
        axes: two coordinates, or ``"pca"`` for the first two principal axes; by default the coordinates where there
            are two, else the principal axes.

    Returns:
        The plane. Coordinates are shown as they are; principal axes are centred at the mean of the codes, each with
        its largest entry positive.

    Raises:
        TypeError, ValueError: there are fewer than two latent dimensions, or the axes are not two of them.

    Example:
        >>> codes = torch.tensor([[0.0, 5.0, 1.0], [4.0, 5.0, 2.0]])
        >>> plane = latent_plane(codes, axes=(0, 2))
        >>> plane.project(codes), plane.names, plane.lift(torch.zeros(2))
        (tensor([[0., 1.],
                [4., 2.]]), ('z_1', 'z_3'), tensor([0., 5., 0.]))
    """
    d = codes.shape[1]
    if d < 2:
        raise ValueError(f"data: expected codes of at least two latent dimensions to show, got d = {d}")
    if axes is None:
        axes = (0, 1) if d == 2 else "pca"
    mean = codes.mean(0)
    total = (codes - mean).square().sum()
    if isinstance(axes, str):
        if axes != "pca":
            raise ValueError(f"axes: expected two coordinates such as (0, 1), or 'pca', got {axes!r}")
        if len(codes) < 3:
            raise ValueError(f"data: expected at least 3 points for principal axes, got {len(codes)}")
        basis = torch.linalg.svd(codes - mean, full_matrices=False).Vh[:2]
        largest = basis.abs().argmax(1, keepdim=True)
        basis = basis * basis.gather(1, largest).sign()
        origin, names = mean, ("principal axis 1", "principal axis 2")
    else:
        pair = tuple(axes)
        if len(pair) != 2 or not all(isinstance(k, numbers.Integral) and 0 <= k < d for k in pair) or len({*pair}) < 2:
            raise ValueError(f"axes: expected two different coordinates from 0 to {d - 1}, or 'pca', got {axes!r}")
        basis = torch.eye(d, dtype=codes.dtype, device=codes.device)[list(pair)]
        # Only across the plane is it moved to the mean, so that its coordinates are the codes' own.
        origin = mean - mean @ basis.mT @ basis
        names = (f"z_{pair[0] + 1}", f"z_{pair[1] + 1}")
    inside = ((codes - mean) @ basis.mT).square().sum()
    share = float(inside / total) if total > 0 else 1.0
    return Plane(origin, basis, names, share, isinstance(axes, str))
