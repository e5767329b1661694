r"""Geodesic triangles on the surface of a decoder with two latent dimensions, and integrals over them.

Sides are lengths of geodesics, angles lie between their first velocities, and the area is the measure of what they
enclose. All three are identified: a change of latent coordinates moves the triangle, and changes none of them. So is
the total curvature, which the angles determine (Gauss and Bonnet):

.. math:: \int_T K\,dA = \alpha + \beta + \gamma - \pi = \text{turn of a direction carried once around } T

Sides and angles are there in any number of dimensions, what a triangle encloses in two only.

Reference: do Carmo, "Differential Geometry of Curves and Surfaces", 1976, sections 4-4 and 4-5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.curvature import second_fundamental_form
from latentgeo.geometry.curve import richardson
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_points
from latentgeo.geometry.geodesic.solve import Options, geodesic
from latentgeo.geometry.maps import parallel_transport
from latentgeo.geometry.metric import jacobian, pullback_metric, volume_element

_MAX_NEWTON = 30
_MAX_HALVINGS = 6
_FIRST_DEGREE = 16  # of the polynomials that discrete curves are first replaced by


@dataclasses.dataclass(frozen=True)
class GeodesicTriangle:
    r"""Three points joined by geodesics, from :func:`geodesic_triangle`.

    Attributes:
        corners: latent points a, b, c, shape (3, d).
        lengths: of the sides ab, bc and ca, shape (3,), in data units.
        angles: at the corners, shape (3,), in radians.
        speed_variation: largest relative change of the speed along a side, which a geodesic walks at constant speed:
            what the discretisation leaves.
        coefficients: of the sides as Chebyshev series in the time, shape (3, n + 1, d).
    """

    corners: Tensor
    lengths: Tensor
    angles: Tensor
    speed_variation: float
    coefficients: Tensor

    def __repr__(self) -> str:
        """Say what is measured of the triangle, not where its sides run."""
        lengths, angles = (", ".join(f"{x:.4g}" for x in values.tolist()) for values in (self.lengths, self.angles))
        d = self.corners.shape[1]
        return f"GeodesicTriangle(d = {d}, lengths {lengths}, angles {angles}, excess {self.excess:z.4g} rad)"

    @property
    def excess(self) -> float:
        """Sum of the angles less π, in radians."""
        return self.angles.sum().item() - math.pi

    def side(self, number: int, t: Tensor) -> Tensor:
        """Points of a side (0: ab, 1: bc, 2: ca) at times from 0 to 1: (n,) -> (n, d)."""
        return _chebyshev(t, self.coefficients.shape[1] - 1) @ self.coefficients[number]

    def boundary(self, segments: int = 64) -> Tensor:
        """The loop a, b, c, a with this many segments on each side, shape (3 * segments + 1, d)."""
        t = torch.linspace(0.0, 1.0, segments + 1, dtype=self.corners.dtype, device=self.corners.device)
        sides = [torch.cat([self.corners[k : k + 1], self.side(k, t[1:-1])]) for k in range(3)]
        return torch.cat([*sides, self.corners[:1]])


def _chebyshev(t: Tensor, degree: int) -> Tensor:
    """Chebyshev polynomials on [0, 1]: (n,) -> (n, degree + 1)."""
    x = 2.0 * t - 1.0
    terms = [torch.ones_like(x), x]
    for _ in range(degree - 1):
        terms.append(2.0 * x * terms[-1] - terms[-2])
    return torch.stack(terms, -1)


def _differentiation(degree: int) -> tuple[Tensor, Tensor]:
    """Chebyshev's points on [0, 1], and the matrix that differentiates polynomials there (Trefethen's ``cheb``)."""
    steps = torch.arange(degree + 1, dtype=torch.float64, device="cpu")
    t = 0.5 - 0.5 * torch.cos(torch.pi * steps / degree)
    c = torch.ones_like(t)
    c[[0, -1]] = 2.0
    c = c * (-1.0) ** steps
    # Differences by sines: exact where subtraction would lose digits at the ends.
    half = torch.pi * steps / (2 * degree)
    apart = torch.sin(half[:, None] + half) * torch.sin(half[:, None] - half) + torch.eye(
        degree + 1, device=t.device
    ).to(t)
    D = torch.outer(c, 1.0 / c) / apart
    D.fill_diagonal_(0.0)
    return t, D - torch.diag(D.sum(1))


def _side_nodes(f: Decoder, z: Tensor, D: Tensor) -> Tensor:
    r"""Solve Jᵀ d²x/dt² = 0 for the inner nodes of curves z of shape (P, n + 1, d), by Newton's method.

    The second derivative of x = f(z) is taken in data space, where other latent coordinates see the same curve: the
    discrete equation is covariant. The normal part of x'' is the one that the decoder's second derivative meets.
    """
    second = D @ D
    inner, (P, _, d) = slice(1, -1), z.shape
    n = len(D) - 2

    def residual(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """J and the acceleration at the inner nodes, and the norm of its tangential part for each side."""
        with torch.no_grad():
            x = f(z.reshape(-1, d)).reshape(P, n + 2, -1)
        J, bent = jacobian(f, z[:, inner]), (second @ x)[:, inner]
        return J, bent, (torch.linalg.qr(J).Q.mT @ bent.unsqueeze(-1)).flatten(1).norm(dim=1)

    scale = (z[:, -1] - z[:, 0]).norm(dim=1)
    J, bent, miss = residual(z)
    previous = torch.full_like(scale, math.inf)
    for _ in range(_MAX_NEWTON):
        slope = torch.einsum("pnDi,pnD->pni", J, bent)
        hessian = torch.einsum("pnDi,nm,pmDj->pnimj", J, second[inner, inner], J)
        turn = torch.einsum("pnDij,pnD->pnij", second_fundamental_form(f, z[:, inner]), bent)
        hessian.diagonal(dim1=1, dim2=3).add_(turn.permute(0, 2, 3, 1))
        if not torch.isfinite(hessian).all():
            break
        # One by one: PyTorch factorises a batch of large matrices wrongly on several threads (its issue 142815).
        systems = zip(hessian.reshape(P, n * d, n * d), slope.reshape(P, n * d), strict=True)
        step = torch.stack([torch.linalg.solve(A, b) for A, b in systems]).reshape(P, n, d)
        size = step.abs().amax((1, 2)) / scale
        if ((previous < 1e-6) & (size > 0.1 * previous)).all():  # the level of rounding errors
            return z
        # Far from the solution a whole step may lead away: it is halved until the acceleration gets more normal.
        length = torch.minimum(torch.ones_like(size), 0.3 / size.clamp_min(1e-30))
        for _ in range(_MAX_HALVINGS):
            trial = z.clone()
            trial[:, inner] -= length[:, None, None] * step
            J, bent, new_miss = residual(trial)
            worse = ~(new_miss <= miss) & (size > 1e-6)
            if not worse.any():
                break
            length = torch.where(worse, 0.5 * length, length)
        else:
            break
        z, miss, previous = trial, new_miss, size
    raise RuntimeError(
        f"no geodesic side was found: the last of {_MAX_NEWTON} Newton steps was {previous.max():.1e} of its length; "
        "take corners that lie closer together, or a smooth decoder (SiLU, tanh) if it is not twice differentiable"
    )


def _sides(f: Decoder, points: Tensor, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sides from discrete curves (3, N + 1, d): nodes (3, degree + 1, d), their times, and the derivative there.

    Polynomials of a low degree come first, as curves with corners have no second derivative to begin from.
    """
    ladder = [degree]
    while ladder[0] > _FIRST_DEGREE:
        ladder.insert(0, max(_FIRST_DEGREE, round(ladder[0] / 1.6)))
    N, coefficients = points.shape[1] - 1, None
    for n in ladder:
        t, D = (value.to(points) for value in _differentiation(n))
        if coefficients is None:
            before = (t * N).long().clamp(max=N - 1)
            part = (t * N - before)[:, None]
            z = (1.0 - part) * points[:, before] + part * points[:, before + 1]
        else:
            z = _chebyshev(t, coefficients.shape[1] - 1) @ coefficients
            z[:, 0], z[:, -1] = points[:, 0], points[:, -1]
        z = _side_nodes(f, z, D)
        coefficients = torch.linalg.solve(_chebyshev(t, n), z)
    return z, t, D


@takes_arrays("corners", "data", back=False)
def geodesic_triangle(
    decoder: DecoderLike, corners: Tensor, *, degree: int = 24, **options: Unpack[Options]
) -> GeodesicTriangle:
    r"""Geodesic triangle of three points: its sides, side lengths and angles.

    .. math:: J^\top \ddot x = 0, \quad x = f(\gamma(t)), \quad \gamma(0) = a, \; \gamma(1) = b,
        \qquad |ab| = \|\dot x(0)\|, \quad \alpha = \angle\big(\dot x_{ab}(0), -\dot x_{ca}(1)\big)

    The curves that :func:`latentgeo.geodesic` finds are sharpened by collocation: polynomials of degree n whose
    acceleration in data space is normal to the surface at Chebyshev's points. The error falls faster than any power
    of n if the decoder is smooth.

    Args:
        decoder: f, a callable (B, d) -> (B, \*event), twice differentiable.
        corners: latent points a, b, c, shape (3, d), all different, in float64.
        degree: n, at least 4.
        **options: as for :func:`latentgeo.geodesic`, for the curves to start from.

    Returns:
        The triangle. Its geodesics are those that the solver finds, the shortest where there are several if the
        initial curves lead there.

    Raises:
        TypeError, ValueError: shapes or types do not fit, or two corners are the same.
        RuntimeError: Newton's method did not converge on a side, so that there is no triangle.

    References:
        do Carmo, "Riemannian Geometry", 1992, chapter 3; Trefethen, "Spectral Methods in MATLAB", 2000, chapter 6.

    Example:
        An octant of the unit sphere has three right angles, and sides of a quarter of the equator:

        >>> from latentgeo.geometry.surfaces import sphere
        >>> octant = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> triangle = geodesic_triangle(sphere, octant)
        >>> [round(value, 8) for value in (triangle.angles / torch.pi).tolist()]
        [0.5, 0.5, 0.5]
        >>> [round(value, 8) for value in (triangle.lengths / torch.pi).tolist()]
        [0.5, 0.5, 0.5]
    """
    check_points("corners", corners, ndim=2)
    if len(corners) != 3:
        raise ValueError(f"corners: expected three points (3, d), got shape {tuple(corners.shape)}")
    if corners.dtype != torch.float64:
        raise TypeError(f"corners: expected float64, as collocation needs its digits, got {corners.dtype}")
    if degree < 4:
        raise ValueError(f"degree: expected at least 4, got {degree!r}")
    if any(torch.equal(corners[i], corners[j]) for i, j in ((0, 1), (1, 2), (2, 0))):
        raise ValueError(f"corners: expected three different points, got {corners.tolist()}")
    corners = corners.detach()
    f = as_decoder(decoder, corners)
    found = geodesic(f, corners, corners.roll(-1, 0), **({"segments": 32, "tol": 1e-6} | options))
    z, t, D = _sides(f, found.points, degree)
    with torch.no_grad():
        x = f(z.reshape(-1, z.shape[-1])).reshape(3, degree + 1, -1)
    velocity = D @ x  # [3, degree + 1, D], in data space
    speed = velocity.norm(dim=2)
    ahead, back = velocity[:, 0] / speed[:, :1], -velocity[:, -1].roll(1, 0) / speed[:, -1:].roll(1, 0)
    return GeodesicTriangle(
        corners=corners,
        lengths=speed[:, 0],
        angles=2.0 * torch.atan2((ahead - back).norm(dim=1), (ahead + back).norm(dim=1)),
        speed_variation=((speed.amax(1) - speed.amin(1)) / speed.amin(1)).max().item(),
        coefficients=torch.linalg.solve(_chebyshev(t, degree), z),
    )


def _check_surface(triangle: GeodesicTriangle) -> None:
    if triangle.corners.shape[1] != 2:
        raise ValueError(
            "triangle: expected one in two latent dimensions, where it encloses a region, got "
            f"{triangle.corners.shape[1]} dimensions"
        )


def triangle_integral(
    decoder: DecoderLike,
    triangle: GeodesicTriangle,
    density: Callable[[Tensor], Tensor] | None = None,
    *,
    nodes: int = 32,
) -> float:
    r"""Integral over what a triangle encloses; its area by default.

    .. math:: \int_T \rho\,dA = \pm \int_0^1\!\!\int_0^1 \rho(\phi)\, \sqrt{\det G(\phi)}\; \det D\phi \;dr\,ds,
        \qquad \phi(r, s) = (1 - s)\, ab(r) + s\, ac(r) + r\, \big(bc(s) - (1 - s)\, b - s\, c\big)

    by the Gauss-Legendre rule. With the sign of the determinant the result depends on the sides alone: where the
    square folds over, inside or outside the triangle, its sheets cancel.

    Args:
        decoder: f, a callable (B, 2) -> (B, *event).
        triangle: from :func:`geodesic_triangle`; that of another decoder will do, such as the identity's, whose sides
            are straight.
        density: ρ, a function of latent points (B, 2) -> (B,), such as the Gaussian curvature; one by default.
        nodes: of the rule along each axis. Compare two numbers of nodes to see what they are worth.

    Returns:
        The integral, in squared data units if ρ has none.

    Raises:
        ValueError: latent space does not have two dimensions.

    References:
        Coons, "Surfaces for computer-aided design of space forms", 1967 (the fill φ).

    Example:
        >>> import torch
        >>> from latentgeo.geometry.surfaces import sphere
        >>> octant = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> round(triangle_integral(sphere, geodesic_triangle(sphere, octant)) / torch.pi, 6)
        0.5
    """
    _check_surface(triangle)
    _, b, c = triangle.corners

    def fill(rs: Tensor) -> Tensor:
        r, s = rs[:, :1], rs[:, 1:]
        bulge = triangle.side(1, rs[:, 1]) - (1.0 - s) * b - s * c
        return (1.0 - s) * triangle.side(0, rs[:, 0]) + s * triangle.side(2, 1.0 - rs[:, 0]) + r * bulge

    x, w = (torch.from_numpy(values / 2.0).to(b) for values in np.polynomial.legendre.leggauss(nodes))
    rs = torch.cartesian_prod(x + 0.5, x + 0.5)
    z = fill(rs)
    values = torch.linalg.det(jacobian(fill, rs)) * torch.outer(w, w).flatten()
    sign = values.sum().sign()
    values = values * volume_element(decoder, z)
    if density is not None:
        values = values * density(z)
    return (sign * values.sum()).item()


def holonomy(decoder: DecoderLike, triangle: GeodesicTriangle, *, segments: int = 128) -> float:
    r"""Angle by which a direction has turned when it is carried in parallel around a triangle, back to where it began.

    .. math:: \angle\big(v,\, P_{ca} P_{bc} P_{ab}\, v\big) = \int_T K\,dA

    counted in the sense of the walk, between -π and π; extrapolated from two numbers of segments.

    Args:
        decoder: f, a callable (B, 2) -> (B, *event).
        triangle: from :func:`geodesic_triangle`.
        segments: of each side, an even number.

    Returns:
        The angle in radians. It is the same for every direction.

    Raises:
        ValueError: latent space does not have two dimensions, or the number of segments is odd or below 2.

    References:
        do Carmo, "Differential Geometry of Curves and Surfaces", 1976, section 4-4.

    Example:
        >>> import torch
        >>> from latentgeo.geometry.surfaces import sphere
        >>> octant = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> round(holonomy(sphere, geodesic_triangle(sphere, octant)) / torch.pi, 6)
        0.5
    """
    _check_surface(triangle)
    if segments < 2 or segments % 2:
        raise ValueError(f"segments: expected an even number of at least 2, got {segments!r}")
    loop = triangle.boundary(segments)
    v = (triangle.corners[1] - triangle.corners[0])[None]
    frame = torch.linalg.cholesky(pullback_metric(decoder, triangle.corners[0])).mT  # latent to orthonormal, det > 0
    turns = []
    for curve in (loop[::2], loop):
        here, there = frame @ v[0], frame @ parallel_transport(decoder, curve[None], v)[0]
        turns.append(torch.atan2(here[0] * there[1] - here[1] * there[0], here @ there))
    coarse, fine = turns
    nearest = coarse + 2.0 * torch.pi * torch.round((fine - coarse) / (2.0 * torch.pi))  # across the cut at ±π
    x, y = loop[:-1].T
    sense = (x * y.roll(-1) - y * x.roll(-1)).sum().sign()  # of the walk, by the shoelace formula
    turn = richardson(nearest, fine) * sense
    return math.remainder(turn.item(), 2.0 * math.pi)
