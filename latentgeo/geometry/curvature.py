r"""Curvature of the pull-back metric, from second derivatives of the decoder.

The decoder's image is a surface in flat data space, so that Gauss' equation gives its curvature from the second
fundamental form alone, without Christoffel symbols or derivatives of the metric:

.. math:: R_{ijkl} = \langle \mathrm{II}_{ik}, \mathrm{II}_{jl} \rangle - \langle \mathrm{II}_{il}, \mathrm{II}_{jk}
    \rangle, \qquad K(u, v) = \frac{R_{ijkl}\, u^i v^j u^k v^l}{\|u\|^2 \|v\|^2 - \langle u, v \rangle^2}

**Signs.** The unit sphere has :math:`K = +1`, with :math:`R_{ijkl} = G_{ik} G_{jl} - G_{il} G_{jk}`, and the Ricci
tensor contracts the first index with the third, :math:`\mathrm{Ric}_{jl} = G^{ik} R_{ijkl}`. In other letters,
:math:`R_{ijkl} = \langle e_i, R(e_k, e_l)\, e_j \rangle` with
:math:`R(X, Y) = \nabla_X \nabla_Y - \nabla_Y \nabla_X - \nabla_{[X, Y]}`.

**What is identified.** Sectional and scalar curvature are functions on the surface: they do not depend on the latent
coordinates. The Riemann and Ricci tensors are identified as tensors, their entries are not. The second fundamental
form also depends on how the surface lies in data space, the curvature only on the distances within it.

**Where there is no curvature.** Where the metric has no inverse, because J loses rank (to the precision of the dtype,
as in :func:`torch.linalg.matrix_rank`) or the decoder is not finite, every function here returns NaN at that point.
Near such a point rounding errors grow with up to the fourth power of the condition number of J.

**Piecewise linear decoders.** The second derivative of a decoder with kinks (ReLU) vanishes at almost every point, so
its curvature comes out as zero. That zero means nothing: all curvature sits on the kinks, where no derivative sees
it. A RuntimeWarning says so when the second derivative is exactly zero at all points while J differs between them;
points in one linear piece, or a single point, may be of a linear decoder. Use a smooth decoder (tanh, GELU).

Reference: do Carmo, "Riemannian Geometry", 1992, chapters 4 and 6; the signs are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.decoder import Decoder, DecoderLike, as_decoder, check_points
from latentgeo.geometry.metric import directions_at
from latentgeo.warn import warn

_MAX_BYTES = 64 * 2**20  # of the largest tensor of a chunk, of which there are a few at a time
_MAX_ROWS = 2**16  # rows that the decoder is given at once, so that wide hidden layers do not fill the memory


def _points_at_once(values: int, rows: int, like: Tensor) -> int:
    """Size of a chunk: at least one point, each of which takes this many values and rows of the decoder."""
    return max(1, min(_MAX_BYTES // (values * like.element_size()), _MAX_ROWS // rows))


def _frames(J: Tensor, *others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Orthonormal frames of the tangent spaces, J = Q R, and which points have one: J of full rank, all finite.

    Args:
        J: shape (B, D, d).
        others: further values (B, ...) that are to be finite.

    Returns:
        Q of shape (B, D, d), R of shape (B, d, d) and a mask of shape (B,). Without a frame R is the identity; where
        D < d no point has one.
    """
    D, d = J.shape[1:]
    sound = torch.stack([x.flatten(1).isfinite().all(1) for x in (J, *others)]).all(0)
    if d > D:
        eye = torch.eye(d, dtype=J.dtype, device=J.device)
        return torch.zeros_like(J), eye.expand(len(J), d, d), torch.zeros_like(sound)
    Q, R = torch.linalg.qr(J.masked_fill(~sound[:, None, None], 0.0))
    stretches = torch.linalg.svdvals(R)  # those of J, as Q has orthonormal columns
    sound = sound & (stretches[:, -1] > D * torch.finfo(J.dtype).eps * stretches[:, 0])
    return Q, torch.where(sound[:, None, None], R, torch.eye(d, dtype=J.dtype, device=J.device)), sound


def _warn_if_piecewise_linear(f: Decoder, z: Tensor) -> None:
    """Warn where second derivatives are zero at all points z of shape (B, d), but first derivatives are not constant.

    One generic direction is looked at: a plane may well be flat in a surface that is not.
    """
    direction = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device).cos()
    parts = [f.second_derivative(points, direction, direction) for points in z.split(_MAX_ROWS)]
    first, second = (torch.cat(part) for part in zip(*parts, strict=True))
    first = first[first.isfinite().all(1)]
    if len(first) == 0 or (second != 0).any():
        return
    rounding = math.sqrt(torch.finfo(z.dtype).eps) * first.abs().max()
    if ((first - first[0]).abs() > rounding).any():
        warn(
            "the decoder's second derivative is exactly zero at all points while its Jacobian differs between them: "
            "it is piecewise linear (ReLU), and a curvature of zero means nothing; use a smooth decoder (tanh, GELU)",
        )


def _by_chunks(decoder: DecoderLike, z: Tensor, reduce: Callable[[Tensor, Tensor], Tensor], order: int = 2) -> Tensor:
    """What ``reduce`` makes of the second fundamental form and R: (n, D, d, d) and (n, d, d) -> (n, ...).

    Args:
        decoder: f.
        z: latent points, shape (*batch, d).
        reduce: given some of the points at a time. At points without curvature the first argument is NaN.
        order: number of latent axes of its output.

    Returns:
        The outputs of all points, shape (*batch, ...).
    """
    check_points("z", z)
    f = as_decoder(decoder, z)
    d = z.shape[-1]
    rows = z.detach().reshape(-1, d).contiguous()  # an expanded tensor cannot be differentiated at
    i, j = torch.triu_indices(d, d, device=z.device)
    basis = torch.eye(d, dtype=z.dtype, device=z.device)
    mirrored = torch.empty(d, d, dtype=torch.long, device=z.device)  # of each entry (i, j), where its pair is
    mirrored[i, j] = mirrored[j, i] = torch.arange(len(i), device=z.device)
    outputs, vanished = [], True
    with torch.no_grad():
        D = f(rows[:1]).shape[1]
        for points in rows.split(_points_at_once(max(D * d**2, d**order), d**2, rows)):
            # The symmetric half of the pairs at once.
            along = (basis[k, None].expand(-1, *points.shape) for k in (i, j))
            first, second = f.second_derivatives(points, *along)
            J, second = first[mirrored.diagonal()].permute(1, 2, 0), second.permute(1, 2, 0)  # [n, D, d(d + 1)/2]
            del first
            vanished = vanished and not (second != 0).any()
            Q, R, sound = _frames(J, second)
            normal = (second - Q @ (Q.mT @ second)).masked_fill(~sound[:, None, None], torch.nan)
            outputs.append(reduce(normal[:, :, mirrored], R))
        if vanished:
            _warn_if_piecewise_linear(f, rows)
    output = torch.cat(outputs)
    return output.reshape(z.shape[:-1] + output.shape[1:])


def _in_frame(second: Tensor, R: Tensor) -> Tensor:
    """Second fundamental form in the orthonormal frame Q in place of the latent basis: (n, D, d, d) -> the same."""
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    inverse = torch.linalg.solve_triangular(R, eye.expand_as(R), upper=True).unsqueeze(1)
    return inverse.mT @ second @ inverse


@takes_arrays("z")
def second_fundamental_form(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Second fundamental form: the part of the second derivative that is normal to the decoder's image.

    .. math:: \mathrm{II}(e_i, e_j) = \big(I - J (J^\top J)^{-1} J^\top\big)\, \partial_i \partial_j f

    It is the acceleration in data space of the geodesic through z in a latent direction, and zero for a flat decoder
    that is also straight. The projection uses the orthonormal factor of J = QR, which keeps the condition number of J
    rather than squaring it.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), twice differentiable.
        z: latent points, shape (*batch, d).

    Returns:
        II, shape (*batch, D, d, d), with the event flattened to D and symmetric in the last two axes, in data units
        per squared latent unit. NaN where J loses rank or the decoder is not finite.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.

    Warns:
        RuntimeWarning: the decoder is piecewise linear (ReLU), which makes this zero without a meaning.

    References:
        do Carmo, "Riemannian Geometry", 1992, chapter 6.

    Example:
        At its south pole the unit sphere bends upwards, towards its centre:

        >>> import torch
        >>> from latentgeo.geometry.surfaces import sphere
        >>> second_fundamental_form(sphere, torch.zeros(2))[2]
        tensor([[4., 0.],
                [0., 4.]])
    """
    return _by_chunks(decoder, z, lambda second, R: second)


@takes_arrays("z")
def riemann(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Riemann curvature tensor, with all indices lowered, by Gauss' equation.

    .. math:: R_{ijkl} = \langle \mathrm{II}_{ik}, \mathrm{II}_{jl} \rangle
        - \langle \mathrm{II}_{il}, \mathrm{II}_{jk} \rangle

    The sign is such that :math:`R(u, v, u, v) > 0` on the sphere, where :math:`R_{ijkl} = G_{ik} G_{jl} - G_{il}
    G_{jk}`; see the module's docstring. Its symmetries
    :math:`R_{ijkl} = -R_{jikl} = -R_{ijlk} = R_{klij}` and :math:`R_{ijkl} + R_{iklj} + R_{iljk} = 0` hold up to
    rounding.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), twice differentiable.
        z: latent points, shape (*batch, d); in large d prefer :func:`sectional_curvature`.

    Returns:
        R, shape (*batch, d, d, d, d), in squared data units per fourth power of latent units. NaN where J loses rank
        or the decoder is not finite.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.

    Warns:
        RuntimeWarning: the decoder is piecewise linear (ReLU), which makes this zero without a meaning.

    References:
        do Carmo, "Riemannian Geometry", 1992, chapter 6, proposition 3.1.

    Example:
        >>> import torch
        >>> from latentgeo.geometry.surfaces import sphere
        >>> riemann(sphere, torch.zeros(2))[0, 1]  # R(u, v, ·, ·)
        tensor([[  0.,  16.],
                [-16.,   0.]])
    """

    def reduce(second: Tensor, R: Tensor) -> Tensor:
        n, _, d, _ = second.shape
        gram = second.flatten(2).mT @ second.flatten(2)  # [n, ab, ce], the inner product of II_ab and II_ce
        gram = gram.reshape(n, d, d, d, d)
        return gram.permute(0, 1, 3, 2, 4) - gram.permute(0, 1, 3, 4, 2)

    return _by_chunks(decoder, z, reduce, order=4)


@takes_arrays("z")
def ricci_curvature(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Ricci tensor, with both indices lowered: the trace of :func:`riemann`.

    .. math:: \mathrm{Ric}_{jl} = \sum_{ik} G^{ik} R_{ijkl}

    For a direction u of unit length, Ric(u, u) is the sum of the sectional curvatures of u with d - 1 orthonormal
    directions across it. The trace is taken in an orthonormal frame, without forming R.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), twice differentiable.
        z: latent points, shape (*batch, d).

    Returns:
        Ric, shape (*batch, d, d), symmetric, per squared latent unit. NaN where J loses rank or the decoder is not
        finite. On the unit sphere it is (d - 1) G, and for d = 1 zero.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.

    Warns:
        RuntimeWarning: the decoder is piecewise linear (ReLU), which makes this zero without a meaning.

    References:
        do Carmo, "Riemannian Geometry", 1992, chapter 4, without his factor 1 / (d - 1).

    Example:
        >>> import torch
        >>> from latentgeo.geometry.surfaces import sphere
        >>> ricci_curvature(sphere, torch.zeros(2))
        tensor([[4., 0.],
                [0., 4.]])
    """

    def reduce(second: Tensor, R: Tensor) -> Tensor:
        B = _in_frame(second, R)
        mean = B.diagonal(dim1=-2, dim2=-1).sum(-1)  # [n, D], d times the mean curvature vector
        ricci = (mean[:, :, None, None] * B - B @ B).sum(1)
        return R.mT @ ricci @ R

    return _by_chunks(decoder, z, reduce)


def _scalar(second: Tensor, R: Tensor) -> Tensor:
    B = _in_frame(second, R)
    return B.diagonal(dim1=-2, dim2=-1).sum(-1).square().sum(-1) - B.square().sum((1, 2, 3))


@takes_arrays("z")
def scalar_curvature(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Scalar curvature: twice the sum of the sectional curvatures of the planes of an orthonormal basis.

    .. math:: \mathrm{Sc} = \sum_{jl} G^{jl}\, \mathrm{Ric}_{jl}
        = \Big\| \sum_a \mathrm{II}(q_a, q_a) \Big\|^2 - \sum_{ab} \| \mathrm{II}(q_a, q_b) \|^2

    with :math:`q_a` an orthonormal basis. Positive curvature makes small balls smaller than in flat space.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), twice differentiable.
        z: latent points, shape (*batch, d).

    Returns:
        Shape (*batch,), per squared data unit. NaN where J loses rank or the decoder is not finite. It is d (d - 1) on
        the unit sphere, and zero for d = 1.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.

    Warns:
        RuntimeWarning: the decoder is piecewise linear (ReLU), which makes this zero without a meaning.

    References:
        do Carmo, "Riemannian Geometry", 1992, chapter 4, without his factor 1 / (d (d - 1)).

    Example:
        >>> import torch
        >>> from latentgeo.geometry.surfaces import sphere
        >>> scalar_curvature(sphere, torch.zeros(3))
        tensor(6.)
    """
    return _by_chunks(decoder, z, _scalar)


@takes_arrays("z")
def gaussian_curvature(decoder: DecoderLike, z: Tensor) -> Tensor:
    r"""Gaussian curvature of a surface: the sectional curvature of its one plane, half its scalar curvature.

    .. math:: K = \frac{R_{1212}}{\det G}

    The angles of a geodesic triangle T sum to :math:`\pi + \int_T K\,dA` (Gauss and Bonnet).

    Args:
        decoder: f, a callable (B, 2) -> (B, *event), twice differentiable.
        z: latent points, shape (*batch, 2).

    Returns:
        K, shape (*batch,), per squared data unit. NaN where J loses rank or the decoder is not finite.

    Raises:
        TypeError, ValueError: see :func:`latentgeo.geometry.decoder.as_decoder`.
        ValueError: latent space does not have two dimensions.

    Warns:
        RuntimeWarning: the decoder is piecewise linear (ReLU), which makes this zero without a meaning.

    References:
        do Carmo, "Differential Geometry of Curves and Surfaces", 1976, section 3-3.

    Example:
        >>> import torch
        >>> from latentgeo.geometry.surfaces import torus
        >>> gaussian_curvature(torus, torch.tensor([[0.0, 0.0], [0.0, torch.pi]]))  # outside, inside
        tensor([ 0.3333, -1.0000])
    """
    check_points("z", z)
    if z.shape[-1] != 2:
        raise ValueError(
            f"z: expected points (*batch, 2) of a surface, got {tuple(z.shape)}; in other dimensions use "
            "sectional_curvature for a plane, or scalar_curvature"
        )
    return _by_chunks(decoder, z, lambda second, R: 0.5 * _scalar(second, R))


@takes_arrays("z", "u", "v")
def sectional_curvature(decoder: DecoderLike, z: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""Sectional curvature of the plane of two directions: the Gaussian curvature of the geodesic surface along it.

    .. math:: K(u, v) = \frac{\langle \mathrm{II}(u, u), \mathrm{II}(v, v) \rangle - \|\mathrm{II}(u, v)\|^2}
        {\|u\|^2 \|v\|^2 - \langle u, v \rangle^2}

    Needs J and three second directional derivatives, those of an orthonormal basis of the plane, so that d may be
    large.

    Args:
        decoder: f, a callable (B, d) -> (B, *event), twice differentiable.
        z: latent points, shape (*batch, d).
        u: directions, broadcastable to the shape of z.
        v: directions, broadcastable to the shape of z, not parallel to u. Only the plane matters.

    Returns:
        K, shape (*batch,), per squared data unit. NaN where J loses rank or the decoder is not finite.

    Raises:
        TypeError, ValueError: shapes or types do not fit.
        ValueError: u and v are parallel, or one is zero, so that they span no plane.

    Warns:
        RuntimeWarning: the decoder is piecewise linear (ReLU), which makes this zero without a meaning.

    References:
        do Carmo, "Riemannian Geometry", 1992, chapter 6, theorem 2.5.

    Example:
        >>> import torch
        >>> from latentgeo.geometry.surfaces import sphere
        >>> u, v = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 3.0])
        >>> sectional_curvature(sphere, torch.zeros(3), u, v)
        tensor(1.)
    """
    check_points("z", z)
    f = as_decoder(decoder, z)
    d = z.shape[-1]
    u, v = directions_at(z, "u", u), directions_at(z, "v", v)
    rows, u, v = (x.detach().reshape(-1, d).contiguous() for x in (z, u, v))
    # Whether they are parallel is asked of the latent vectors, whatever the metric does to them. Zero gives NaN.
    a, b = (x / x.abs().amax(1, keepdim=True) for x in (u, v))
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    across = b - (a * b).sum(1, keepdim=True) * a
    parallel = ~(across.norm(dim=1) > 64 * torch.finfo(z.dtype).eps)
    if parallel.any():
        raise ValueError(
            f"u and v: expected directions that span a plane, got {int(parallel.sum())} of {len(rows)} pairs that are "
            "parallel or zero; a plane of zero area has no curvature"
        )
    outputs, vanished = [], True
    with torch.no_grad():
        D = f(rows[:1]).shape[1]
        size = _points_at_once(max(D, d) * d, d, rows)
        for points, x, y in zip(rows.split(size), a.split(size), b.split(size), strict=True):
            J = f.jacobian(points)
            Q, R, sound = _frames(J)
            # An orthonormal basis of the plane, by Gram and Schmidt's method under the metric.
            Rx, Ry = ((R @ t.unsqueeze(-1)).squeeze(-1) for t in (x, y))
            length = Rx.norm(dim=1, keepdim=True)
            x, Rx = x / length, Rx / length
            along = (Rx * Ry).sum(1, keepdim=True)
            y = (y - along * x) / (Ry - along * Rx).norm(dim=1, keepdim=True)
            pairs = torch.stack([x, x, y]), torch.stack([x, y, y])
            _, second = f.second_derivatives(points, *pairs)
            vanished = vanished and not (second != 0).any()
            second = second.permute(1, 2, 0)  # [n, D, 3]
            xx, xy, yy = (second - Q @ (Q.mT @ second)).unbind(-1)
            outputs.append(((xx * yy).sum(1) - xy.square().sum(1)).masked_fill(~sound, torch.nan))
        if vanished:
            _warn_if_piecewise_linear(f, rows)
    return torch.cat(outputs).reshape(z.shape[:-1])
