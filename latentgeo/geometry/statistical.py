r"""Fisher-Rao geometry of decoders that return a ``torch.distributions.Distribution``.

The metric, in closed form, is :func:`fisher_metric`. Curves are measured by Kullback-Leibler divergences of successive
points, :func:`statistical_energy`, and geodesics minimise that, :func:`minimise_statistical_energy`. Likelihoods with
an isometric embedding, the families' Fisher information and what the metric is, are in
:mod:`latentgeo.geometry.fisher`.

Reference: Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (the energy by KL divergences).
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch import distributions as dist

from latentgeo.geometry.curve import resample, richardson, straight_line
from latentgeo.geometry.decoder import Decoder, check_points, flat_decoder
from latentgeo.geometry.fisher import _Family, _family, _flat
from latentgeo.geometry.geodesic import Geodesic, _checked_ends, _checked_initial
from latentgeo.geometry.metric import jacobian
from latentgeo.geometry.solver import minimise
from latentgeo.geometry.whitening import CurveWhitening, FlatWhitening, Whitening

StatisticalDecoder = Callable[[Tensor], dist.Distribution]
_PATIENCE = 30  # steps before curves are whitened by the metric at every node, and between two such whitenings
# By which estimates fall short for hyperbolic distances up to 5; for longer ones, at the default tol, by twice that.
_SAFETY = 4.0
_MAX_SPEED_VARIATION = 0.2  # a curve whose speed varies more is not resolved by its segments


def _unwrapped(p: object, rows: int) -> dist.Distribution:
    if not isinstance(p, dist.Distribution):
        raise TypeError(
            f"decoder: expected it to return a torch.distributions.Distribution, got {type(p).__name__}; "
            "wrap its output, e.g. torch.distributions.Normal(mean, (0.5 * log_variance).exp())"
        )
    while isinstance(p, dist.Independent):
        p = p.base_dist
    if p.batch_shape[:1] != (rows,):
        raise ValueError(
            f"decoder: expected distributions of batch shape (B, *event) with B = {rows} rows, got "
            f"{tuple(p.batch_shape)}; return one row for each latent point"
        )
    return p


class _Parameters(nn.Module):
    """Parameters θ of the decoder's distributions as an ordinary decoder (B, d) -> (B, M)."""

    def __init__(self, decoder: StatisticalDecoder, family: _Family) -> None:
        super().__init__()
        self._decoder, self._family = decoder, family
        owner = getattr(decoder, "__self__", None)
        if isinstance(owner, nn.Module):
            self._owner = owner

    def forward(self, z: Tensor) -> Tensor:
        return _flat(self._family.parameters(_unwrapped(self._decoder(z), len(z))))


def _probe(decoder: StatisticalDecoder, z: Tensor) -> tuple[_Family | None, Decoder]:
    """The family that a decoder returns at latent points (B, d), and θ as a flat decoder, all checked."""
    if not callable(decoder):
        raise TypeError(f"decoder: expected a callable from (B, d) to distributions, got {type(decoder).__name__}")
    with torch.enable_grad():
        rows = z.detach().clone().requires_grad_()
        p = _unwrapped(decoder(rows), len(rows))
        if isinstance(p, dist.NegativeBinomial) and p.total_count.requires_grad:
            (slope,) = torch.autograd.grad(p.total_count.sum(), rows, allow_unused=True)
            if slope is not None and slope.any():
                raise ValueError(
                    "decoder: expected a negative binomial whose total_count does not depend on z, for its Fisher "
                    "information has no closed form in total_count; use one dispersion for each coordinate"
                )
    family = _family(p)
    return family, None if family is None else flat_decoder(_Parameters(decoder, family), z)


def _known_family(decoder: StatisticalDecoder, z: Tensor) -> tuple[_Family, Decoder]:
    family, parameters = _probe(decoder, z)
    if family is None:
        raise TypeError(
            "decoder: expected it to return Normal, Poisson, Bernoulli, NegativeBinomial, Categorical, "
            f"OneHotCategorical or Multinomial, got {type(_unwrapped(decoder(z.detach()), len(z))).__name__}, whose "
            "Fisher metric is not known here; statistical_energy takes any distribution with a KL divergence"
        )
    return family, parameters


def _isometric(family: _Family, parameters: Decoder) -> Decoder:
    """Map whose Jacobian at z, there alone, is √I J: what the solver's whitening squares to a metric."""

    def decode(z: Tensor) -> Tensor:
        theta = parameters(z)
        return family.information(theta).detach().sqrt() * theta

    return decode


def fisher_metric(decoder: StatisticalDecoder, z: Tensor) -> Tensor:
    r"""Fisher-Rao metric of a decoder that returns distributions, in closed form.

    .. math:: G(z) = J_\theta^\top I(\theta)\, J_\theta
        = \sum_j \frac{J_{\mu_j}^\top J_{\mu_j}}{\sigma_j^2} + 2\, J_{\log \sigma_j}^\top J_{\log \sigma_j}
        \quad\text{(Gaussian)},

    and with the rate λ, logits l, probabilities p of n trials, and the logits η of torch's negative binomial (mean
    :math:`r e^\eta`): :math:`\lambda J_{\log\lambda}^\top J_{\log\lambda}`, :math:`p (1 - p) J_l^\top J_l`,
    :math:`n p J_{\log p}^\top J_{\log p}` and :math:`r\,\mathrm{sigmoid}(\eta)\, J_\eta^\top J_\eta`, summed over the
    coordinates or classes.

    Args:
        decoder: a callable from (B, d) to a distribution of batch shape (B, *event), ``Independent`` or not: Normal,
            Poisson, Bernoulli, NegativeBinomial (its total_count constant in z), Categorical, OneHotCategorical or
            Multinomial.
        z: latent points, shape (*batch, d).

    Returns:
        G, shape (*batch, d, d), symmetric positive semi-definite, per squared latent unit.

    Raises:
        TypeError: the decoder returns no distribution, or one of another family.
        ValueError: its rows are not those of z, or total_count depends on z.

    Example:
        A Gaussian with mean z and standard deviation 1/2:

        >>> import torch
        >>> fisher_metric(lambda z: torch.distributions.Normal(z, 0.5), torch.zeros(2))
        tensor([[4., 0.],
                [0., 4.]])
    """
    check_points("z", z)
    rows = z.detach().reshape(-1, z.shape[-1])
    family, parameters = _known_family(decoder, rows[:1])
    J = jacobian(_isometric(family, parameters), rows)
    return (J.mT @ J).reshape(*z.shape, z.shape[-1])


def statistical_energy(decoder: StatisticalDecoder, points: Tensor) -> Tensor:
    r"""Energy of a discrete curve over unit time, measured by Kullback-Leibler divergences.

    .. math:: E_N = N \sum_{i=0}^{N-1} \mathrm{KL}(p_i \| p_{i+1}) + \mathrm{KL}(p_{i+1} \| p_i)
        \;\longrightarrow\; \int_0^1 \dot z^\top G(z)\, \dot z\, dt,

    as a divergence is half the squared Fisher-Rao length of a short step. The chord energy of
    :mod:`latentgeo.geometry.curve` is its case for a Gaussian of unit variance.

    Args:
        decoder: a callable from (B, d) to a distribution of batch shape (B, *event). Families of
            :func:`fisher_metric` are measured without cancellation; any other with a KL divergence in
            ``torch.distributions`` is decoded twice.
        points: curves, shape (*batch, N + 1, d); differentiable in them.

    Returns:
        Energies, shape (*batch,), dimensionless (squared standard deviations of the data).

    Raises:
        TypeError: the decoder returns no distribution, or one without a KL divergence.
        ValueError: the curve has fewer than two points, or rows do not fit.

    Example:
        Gaussian means 3 apart with σ = 2, in two steps of 3/4 σ:

        >>> import torch
        >>> statistical_energy(lambda z: torch.distributions.Normal(z, 2.0), torch.tensor([[0.0], [1.5], [3.0]]))
        tensor(2.2500)
    """
    check_points("points", points)
    if points.ndim < 2 or points.shape[-2] < 2:
        raise ValueError(f"points: expected a curve (*batch, N + 1, d) with N ≥ 1, got {tuple(points.shape)}")
    d, N = points.shape[-1], points.shape[-2] - 1
    family, parameters = _probe(decoder, points.reshape(-1, d)[:1])
    with torch.set_grad_enabled(torch.is_grad_enabled() and points.requires_grad):
        if family is not None:
            theta = parameters(points.reshape(-1, d)).unflatten(0, points.shape[:-1])
            return N * family.divergence(theta[..., :-1, :], theta[..., 1:, :]).sum(-1)
        before, after = points[..., :-1, :].reshape(-1, d), points[..., 1:, :].reshape(-1, d)
        p, q = (_unwrapped(decoder(z), len(z)) for z in (before, after))
        try:
            divergence = dist.kl_divergence(p, q) + dist.kl_divergence(q, p)
        except NotImplementedError:
            raise TypeError(
                f"decoder: expected distributions with a KL divergence, got {type(p).__name__}; "
                "register one with torch.distributions.kl.register_kl"
            ) from None
        return N * _flat(divergence).sum(1).reshape(*points.shape[:-2], N).sum(-1)


@dataclasses.dataclass
class _Level:
    """Curves of one number of segments, solved."""

    points: Tensor  # [P, N + 1, d]
    length: Tensor
    gain: Tensor
    converged: Tensor
    iterations: Tensor


def _solve_level(
    family: _Family, parameters: Decoder, curve: Tensor, ends: Tensor, tol: float, max_iter: int
) -> _Level:
    """Minimise the statistical energy of curves (P, N + 1, d) whose ends have parameters (P, 2, M)."""
    P, N, d = curve.shape[0], curve.shape[1] - 1, curve.shape[2]
    curve, isometric = curve.clone(), _isometric(family, parameters)
    level = _Level(
        points=curve,
        length=curve.new_zeros(P),
        gain=curve.new_zeros(P),
        converged=torch.zeros(P, dtype=torch.bool, device=curve.device),
        iterations=torch.zeros(P, dtype=torch.long, device=curve.device),
    )

    def improve(rows: Tensor, whitening: Whitening) -> None:
        base = curve[rows]

        def energy(y: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
            z = base[local, 1:-1] + whitening.step(y.reshape(-1, N - 1, d), local)
            with torch.enable_grad():
                z.requires_grad_()
                inner = parameters(z.reshape(-1, d)).reshape(*z.shape[:2], -1)
                theta = torch.cat([ends[rows][local, :1], inner, ends[rows][local, 1:]], 1)
                value = N * family.divergence(theta[:, :-1], theta[:, 1:]).sum(1)
                (gradient,) = torch.autograd.grad(value.sum(), z)
            return value.detach(), whitening.gradient(gradient, local).flatten(1)

        budget = (max_iter - level.iterations[rows]).clamp_max(_PATIENCE)
        found = minimise(energy, base.new_zeros(len(rows), (N - 1) * d), tol=tol, max_iter=budget)
        everyone = torch.arange(len(rows), device=curve.device)
        curve[rows, 1:-1] = base[:, 1:-1] + whitening.step(found.x.reshape(-1, N - 1, d), everyone)
        level.length[rows], level.gain[rows] = found.value.sqrt(), found.gain
        level.converged[rows] = found.converged
        level.iterations[rows] += found.iterations

    rows = torch.arange(P, device=curve.device)
    improve(rows, FlatWhitening(isometric, curve, full=True))
    before = torch.zeros_like(level.iterations)
    while True:
        moved = (level.iterations > before) & (level.iterations < max_iter)
        rows = torch.nonzero(~level.converged & torch.isfinite(level.gain) & moved).squeeze(1)
        if len(rows) == 0:
            return level
        before = level.iterations.clone()
        improve(rows, CurveWhitening(isometric, curve[rows]))


def minimise_statistical_energy(
    decoder: StatisticalDecoder,
    start: Tensor,
    end: Tensor,
    *,
    segments: int = 16,
    tol: float = 1e-4,
    max_iter: int = 200,
    initial: Tensor | None = None,
) -> Geodesic:
    r"""Fisher-Rao geodesics of a decoder that returns distributions.

    .. math:: \min_{z(0) = a,\; z(1) = b}\; N \sum_i \mathrm{KL}(p_i \| p_{i+1}) + \mathrm{KL}(p_{i+1} \| p_i),
        \qquad L_N = \sqrt{E_N}

    solved with N/4, N/2 and N segments, from coarse to fine, by L-BFGS in coordinates that whiten the energy with the
    Fisher metric; :math:`L_N` converges as :math:`N^{-2}`, and the length is extrapolated from all three. This is for
    likelihoods without an isometric embedding, such as Gaussians whose variance is learned: a product of hyperbolic
    planes. Where :func:`~latentgeo.geometry.fisher.fisher_rao` applies,
    :func:`~latentgeo.geometry.geodesic.geodesic` of it gives the same curves with one map less.

    Args:
        decoder: a callable from (B, d) to a distribution of batch shape (B, *event), see :func:`fisher_metric`.
        start: latent points a, shape (P, d).
        end: latent points b, shape (P, d).
        segments: N, a multiple of 4, at least 8.
        tol: relative energy excess at which a pair has converged. In float32 ask for no less than about 1e-6.
        max_iter: steps of the solver at most, at each number of segments.
        initial: initial curves (P, M + 1, d) with the given ends, or None for straight lines.

    Returns:
        The curves with their lengths (dimensionless: standard deviations of the data) and certificates, as for
        :func:`~latentgeo.geometry.geodesic.geodesic`. All pairs are solved at once. Failure is data: ``converged`` is
        False, and a warning counts such pairs.

    Raises:
        TypeError, ValueError: shapes, types, options or the family of distributions do not fit.

    References:
        Arvanitidis et al., "Pulling back information geometry", AISTATS 2022.

    Example:
        Gaussians in the half plane of means and standard deviations; from σ = 1 to σ = e it is √2:

        >>> import torch
        >>> f = lambda z: torch.distributions.Normal(z[:, :1], z[:, 1:].exp())
        >>> a, b = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()
        >>> round(minimise_statistical_energy(f, a, b).length.item(), 4)
        1.4142
    """
    _checked_ends(start, end)
    if not isinstance(segments, numbers.Integral) or segments < 8 or segments % 4:
        raise ValueError(f"segments: expected a multiple of 4, at least 8, got {segments!r}")
    if not (tol > 0 and math.isfinite(tol)) or max_iter < 1:
        raise ValueError(f"tol and max_iter: expected a positive number and at least 1, got {tol!r} and {max_iter!r}")
    (initial,) = _checked_initial(None if initial is None else [initial], start, end)
    P = len(start)
    with torch.inference_mode(False), torch.no_grad():
        start, end = start.detach().clone(), end.detach().clone()
        if P == 0:
            none, flags = start.new_zeros(0), torch.zeros(0, dtype=torch.bool, device=start.device)
            points = start.new_zeros(0, segments + 1, start.shape[1])
            return Geodesic(points, none, none, none, none, none, flags, flags.long(), decoder_rows=0)
        family, decode = _known_family(decoder, start[:1])
        rows = 0

        def parameters(z: Tensor) -> Tensor:
            nonlocal rows
            rows += len(z)
            return decode(z)

        ends = parameters(torch.cat([start, end])).reshape(2, P, -1).transpose(0, 1)  # [P, 2, M]
        curve = straight_line(start, end, 2) if initial is None else initial.detach().clone()
        levels: list[_Level] = []
        for N in (segments // 4, segments // 2, segments):
            curve = resample(curve, N)
            curve[:, 0], curve[:, -1] = start, end
            levels.append(_solve_level(family, parameters, curve, ends, tol, max_iter))
            curve = levels[-1].points
        theta = parameters(curve.reshape(-1, curve.shape[2])).reshape(*curve.shape[:2], -1)
        speed = segments * family.divergence(theta[:, :-1], theta[:, 1:]).clamp_min(0.0).sqrt()
        result = _assembled(curve, levels, speed, (start == end).all(1), rows)
    failed = int((~result.converged).sum())
    if failed:
        warnings.warn(
            f"{failed} of {P} Fisher-Rao geodesics did not converge (worst excess {result.excess.max():.1e}); raise "
            "max_iter or segments; .converged says which",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


def _assembled(points: Tensor, levels: list[_Level], speed: Tensor, same: Tensor, rows: int) -> Geodesic:
    """Extrapolate the levels' lengths, and say how far to trust them."""
    quarter, half, whole = (level.length for level in levels)
    zero = same | (whole == 0)
    scale = whole.masked_fill(zero, 1.0)
    fine = richardson(half, whole)
    length = (16.0 * fine - richardson(quarter, half)) / 15.0
    excess = torch.stack([level.gain for level in levels]).amax(0)
    noise = (16.0 * torch.finfo(whole.dtype).eps + excess) * scale
    first, second = (half - quarter).abs(), (whole - half).abs()
    order = torch.where(second > noise, torch.log2(first / second.clamp_min(noise)), 2.0).clamp(0.4, 2.0)
    # Extrapolation is worth the less, the further the lengths are from converging at second order.
    error = _SAFETY * ((2.0 / order).square() * (length - fine).abs() / scale + 2.0 * excess)
    varies = speed.std(1, correction=0) / scale > _MAX_SPEED_VARIATION
    solved = torch.stack([level.converged for level in levels]).all(0) & torch.isfinite(length) & ~varies
    length = length.masked_fill(zero, 0.0)
    return Geodesic(
        points=points,
        length=length,
        energy=length.square(),
        excess=excess.masked_fill(zero, 0.0),
        error=error.masked_fill(zero, 0.0),
        order=order.masked_fill(zero, 2.0),
        converged=solved | zero,
        iterations=sum(level.iterations for level in levels),
        decoder_rows=rows,
    )
