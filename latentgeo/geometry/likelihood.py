r"""The Fisher-Rao metric of likelihoods other than the Gaussian of unit variance, by isometric embeddings.

A decoder that gives the parameters :math:`\theta(z)` of a likelihood :math:`p(x \mid z)` pulls the Fisher information
back to latent space,

.. math:: G(z) = J_\theta(z)^\top\, I(\theta(z))\, J_\theta(z), \qquad
    I(\theta) = \mathbb{E}_{x \sim p_\theta} \big[ \nabla_\theta \log p\, \nabla_\theta \log p^\top \big],

and for the Gaussian of unit variance that is :math:`J^\top J`. It depends on the likelihood alone, not on the units of
the data nor on the parameters chosen for it, so it is identified wherever the pull-back metric is.

Where the parameters of one coordinate are a mean, Fisher-Rao is Euclidean after a change of variable φ, and
:math:`\varphi \circ f` is an ordinary decoder for everything in this package: :func:`fisher_rao`. For the others a
decoder returns a ``torch.distributions.Distribution``: :mod:`latentgeo.geometry.likelihood`.

References: Rao, "Information and the accuracy attainable in the estimation of statistical parameters", 1945;
Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (latent geometry by Fisher-Rao); Anscombe, "The
transformation of Poisson, binomial and negative-binomial data", 1948 (the same φ).
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
from latentgeo.geometry.decoder import Decoder, Ensemble, check_points, flat_decoder
from latentgeo.geometry.geodesic.lbfgs import minimise
from latentgeo.geometry.geodesic.preconditioner import CurveWhitening, FlatWhitening, Whitening
from latentgeo.geometry.geodesic.solve import Geodesic, _checked_ends, _checked_initial
from latentgeo.geometry.metric import jacobian

_SUM_TOLERANCE = 1e-3  # by which probabilities may miss a sum of one


def _gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    return x / sigma


def _bernoulli(x: Tensor, logits: bool) -> Tensor:
    if not logits:
        return 2.0 * torch.atan2(x.sqrt(), (1.0 - x).sqrt())
    # 2 arcsin √p = 2 arctan e^{l/2}; of the two tails each is computed where its exponential is small.
    low, high = torch.exp(0.5 * x.clamp_max(0.0)), torch.exp(-0.5 * x.clamp_min(0.0))
    return torch.where(x < 0, 2.0 * low.atan(), math.pi - 2.0 * high.atan())


def _poisson(x: Tensor, log: bool) -> Tensor:
    return 2.0 * (torch.exp(0.5 * x) if log else x.sqrt())


def _negative_binomial(x: Tensor, dispersion: Tensor, log: bool) -> Tensor:
    ratio = torch.exp(0.5 * (x - dispersion.log())) if log else (x / dispersion).sqrt()
    return 2.0 * dispersion.sqrt() * ratio.asinh()


def _categorical(x: Tensor, trials: Tensor, logits: bool) -> Tensor:
    return 2.0 * trials.sqrt() * (torch.exp(0.5 * x.log_softmax(-1)) if logits else x.sqrt())


_EMBEDDINGS: dict[str, tuple[Callable[..., Tensor], dict[str, float | bool | None]]] = {
    # name: (the map φ, its parameters and their defaults; None where there is none)
    "gaussian": (_gaussian, {"sigma": None}),
    "bernoulli": (_bernoulli, {"logits": False}),
    "poisson": (_poisson, {"log": False}),
    "negative_binomial": (_negative_binomial, {"dispersion": None, "log": False}),
    "categorical": (_categorical, {"trials": 1.0, "logits": False}),
}
_NEEDED = {
    "sigma": "the known standard deviation; for one learned with z see minimise_statistical_energy",
    "dispersion": "r of the variance μ + μ²/r, a number or one for each coordinate",
}


def _out_of_domain(likelihood: str, x: Tensor) -> str | None:
    """What is wrong with mean parameters, or None; also None where values cannot be looked at (under ``vmap``)."""
    try:
        if likelihood in ("poisson", "negative_binomial") and bool((x < 0).any()):
            return (
                f"expected means ≥ 0 for the {likelihood} likelihood, got {x.min():.3g}; end the decoder in exp or "
                "softplus, or let it return log-means and pass log=True"
            )
        if likelihood in ("bernoulli", "categorical") and bool(((x < 0) | (x > 1)).any()):
            return (
                f"expected probabilities between 0 and 1 for the {likelihood} likelihood, got values from "
                f"{x.min():.3g} to {x.max():.3g}; if the decoder returns logits pass logits=True"
            )
        if likelihood == "categorical" and bool(((x.sum(-1) - 1.0).abs() > _SUM_TOLERANCE).any()):
            return (
                "expected probabilities that sum to 1 over the last axis for the categorical likelihood, got sums "
                f"from {x.sum(-1).min():.3g} to {x.sum(-1).max():.3g}; if the decoder returns logits pass logits=True"
            )
    except RuntimeError:  # a value cannot be read inside a function transform
        return None
    return None


class _FisherRao(nn.Module):
    """φ ∘ f as a decoder; f's module is a submodule, so that it is checked and moved like any other."""

    def __init__(self, decoder: Decoder, likelihood: str, parameters: dict[str, Tensor | bool]) -> None:
        super().__init__()
        self._decoder, self.likelihood = decoder, likelihood
        owner = getattr(decoder, "__self__", None)
        if isinstance(owner, nn.Module):
            self._owner = owner
        self._options = {name: value for name, value in parameters.items() if isinstance(value, bool)}
        self._numbers = [name for name in parameters if name not in self._options]
        for name in self._numbers:
            self.register_buffer(name, parameters[name], persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Decode and map: (B, d) -> (B, *event)."""
        x = self._decoder(z)
        # Not within a solver's steps: a trial point outside the domain is one to step back from, not an error.
        if not any(self._options.values()) and not z.requires_grad:
            problem = _out_of_domain(self.likelihood, x)
            if problem is not None:
                raise ValueError(f"decoder: {problem}")
        parameters = {name: getattr(self, name).to(x) for name in self._numbers}
        return _EMBEDDINGS[self.likelihood][0](x, **parameters, **self._options)


def fisher_rao(decoder: Decoder, likelihood: str, **parameters: float | bool | Tensor) -> Decoder:
    r"""Decoder whose pull-back metric is the Fisher-Rao metric of the likelihood.

    With f the mean of the likelihood, the isometric embedding of one coordinate (of all classes at once for the
    categorical, a sphere of radius 2) is

    ================= ========================== ========================================== ===================
    likelihood        parameters                 φ                                          Fisher information
    ================= ========================== ========================================== ===================
    gaussian          ``sigma``                  :math:`\mu / \sigma`                       1/σ²
    bernoulli         ``logits=False``           :math:`2 \arcsin \sqrt p`                  1/(p (1 - p))
    poisson           ``log=False``              :math:`2 \sqrt \mu`                        1/μ
    negative_binomial ``dispersion``,            :math:`2 \sqrt r \operatorname{asinh}      1/(μ + μ²/r)
                      ``log=False``              \sqrt{\mu / r}`
    categorical       ``trials=1``,              :math:`2 \sqrt n \sqrt p`                  n/p on the simplex
                      ``logits=False``
    ================= ========================== ========================================== ===================

    Args:
        decoder: f, a callable (B, d) -> (B, *event) that returns the mean (for the categorical: probabilities of the
            classes along the last axis), or logits or log-means where ``logits`` or ``log`` says so. These are stable
            where probabilities saturate and means vanish; with means themselves φ has no derivative at 0, nor at
            probability 1. An :class:`~latentgeo.geometry.decoder.Ensemble` is mapped member by member.
        likelihood: one of the names above.
        **parameters: ``sigma``, a known standard deviation σ, and ``dispersion``, r of the variance μ + μ²/r, numbers
            or tensors that broadcast to the event; ``trials``, n of a multinomial; ``logits`` or ``log``, whether f
            returns these.

    Returns:
        The decoder φ ∘ f, (B, d) -> (B, *event). Its lengths are in standard deviations of the data: to first order,
        how many σ two likelihoods are apart.

    Raises:
        ValueError: the likelihood is unknown, a parameter is missing or not positive, or, once it decodes, the means
            lie outside their domain (where values cannot be read, under ``vmap``, and within a solver's steps, the
            result is NaN instead).
        TypeError: the decoder is not callable, or a parameter is not one of the likelihood's.

    Example:
        Counts with mean :math:`z^2`: φ is 2z, so that distances are Euclidean, whatever the mean:

        >>> import torch
        >>> f = fisher_rao(lambda z: z.square(), "poisson")
        >>> f(torch.tensor([[1.0], [3.0]])).squeeze()
        tensor([2., 6.])
    """
    if likelihood not in _EMBEDDINGS:
        raise ValueError(f"likelihood: expected one of {', '.join(_EMBEDDINGS)}, got {likelihood!r}")
    if not callable(decoder):
        raise TypeError(f"decoder: expected a callable (B, d) -> (B, *event), got {type(decoder).__name__}")
    checked = _checked_parameters(likelihood, parameters)
    if isinstance(decoder, Ensemble):  # scaled by 1/√K, its output is not a mean
        return Ensemble([_FisherRao(decoder[k], likelihood, checked) for k in range(len(decoder))])
    return _FisherRao(decoder, likelihood, checked)


def _checked_parameters(likelihood: str, given: dict[str, object]) -> dict[str, Tensor | bool]:
    defaults = _EMBEDDINGS[likelihood][1]
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise TypeError(f"{likelihood}: expected parameters among {', '.join(defaults)}, got {', '.join(unknown)}")
    checked: dict[str, Tensor | bool] = {}
    for name, default in defaults.items():
        value = given.get(name, default)
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: expected True or False, got {value!r}")
            checked[name] = value
            continue
        if value is None:
            raise ValueError(f"{likelihood}: expected {name}, {_NEEDED[name]}")
        if isinstance(value, bool) or not isinstance(value, numbers.Real | Tensor):
            raise TypeError(f"{name}: expected a number or a tensor, got {type(value).__name__}")
        value = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
        if not ((value > 0) & torch.isfinite(value)).all():
            raise ValueError(f"{name}: expected positive finite numbers, got {value.min():.3g} to {value.max():.3g}")
        checked[name] = value
    return checked


@dataclasses.dataclass(frozen=True)
class _Family:
    """A family of likelihoods in parameters θ in which the Fisher information is diagonal.

    Attributes:
        parameters: distributions of B rows -> θ, shape (B, *event).
        information: θ, shape (B, M) -> the diagonal of I(θ), shape (B, M).
        divergence: θ and θ', shape (*batch, M) each -> KL(p‖p') + KL(p'‖p), shape (*batch,).
    """

    parameters: Callable[[dist.Distribution], Tensor]
    information: Callable[[Tensor], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]


def _apart(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The larger and the smaller of two, so that differences of their exponentials neither cancel nor overflow."""
    return torch.maximum(a, b), torch.minimum(a, b)


def _flat(x: Tensor) -> Tensor:
    """(B, *event) -> (B, M), also of (B,)."""
    return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)


def _normal_parameters(p: dist.Normal) -> Tensor:
    return torch.cat([_flat(p.loc), _flat(p.scale.log())], 1)


def _normal_information(theta: Tensor) -> Tensor:
    log_sigma = theta.chunk(2, -1)[1]
    return torch.cat([torch.exp(-2.0 * log_sigma), torch.full_like(log_sigma, 2.0)], -1)


def _normal_divergence(a: Tensor, b: Tensor) -> Tensor:
    (mean_a, log_a), (mean_b, log_b) = a.chunk(2, -1), b.chunk(2, -1)
    precision = 0.5 * (torch.exp(-2.0 * log_a) + torch.exp(-2.0 * log_b))
    return (precision * (mean_a - mean_b).square() + 2.0 * (log_a - log_b).sinh().square()).sum(-1)


def _log_mean_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Divergence (e^a - e^b)(a - b), of Poisson rates or probabilities given by their logarithms."""
    high, low = _apart(a, b)
    return (torch.exp(high) * -torch.expm1(low - high) * (high - low)).sum(-1)


def _bernoulli_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Divergence (p - q)(a - b) of logits a and b."""
    high, low = _apart(a, b)
    return (high.sigmoid() * (-low).sigmoid() * -torch.expm1(low - high) * (high - low)).sum(-1)


def _negative_binomial_family(r: Tensor) -> _Family:
    r"""With logits η the mean is r e^η, the natural parameter log σ(η)."""

    def divergence(a: Tensor, b: Tensor) -> Tensor:
        high, low = _apart(a, b)
        natural = nn.functional.logsigmoid(high) - nn.functional.logsigmoid(low)
        return (r * torch.exp(high) * -torch.expm1(low - high) * natural).sum(-1)

    return _Family(lambda p: p.logits, lambda theta: r * theta.sigmoid(), divergence)


def _family(p: dist.Distribution) -> _Family | None:
    """The family of a distribution of B rows, or None where nothing closed is known of it."""
    match p:
        case dist.Normal():
            return _Family(_normal_parameters, _normal_information, _normal_divergence)
        case dist.Poisson():
            return _Family(lambda p: p.rate.log(), torch.exp, _log_mean_divergence)
        case dist.Bernoulli():
            return _Family(lambda p: p.logits, lambda t: t.sigmoid() * (-t).sigmoid(), _bernoulli_divergence)
        case dist.NegativeBinomial():
            return _negative_binomial_family(_flat(p.total_count.detach()[:1]))
        case dist.Categorical() | dist.OneHotCategorical():
            return _Family(lambda p: p.logits, torch.exp, _log_mean_divergence)
        case dist.Multinomial():
            n = float(p.total_count)
            return _Family(lambda p: p.logits, lambda t: n * t.exp(), lambda a, b: n * _log_mean_divergence(a, b))
    return None


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
    planes. Where :func:`~latentgeo.geometry.likelihood.fisher_rao` applies,
    :func:`~latentgeo.geometry.geodesic.solve.geodesic` of it gives the same curves with one map less.

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
        :func:`~latentgeo.geometry.geodesic.solve.geodesic`. All pairs are solved at once. Failure is data:
        ``converged`` is False, and a warning counts such pairs.

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
