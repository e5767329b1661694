r"""The Fisher-Rao metric of likelihoods other than the Gaussian of unit variance.

A decoder that gives the parameters :math:`\theta(z)` of a likelihood :math:`p(x \mid z)` pulls the Fisher information
back to latent space,

.. math:: G(z) = J_\theta(z)^\top\, I(\theta(z))\, J_\theta(z), \qquad
    I(\theta) = \mathbb{E}_{x \sim p_\theta} \big[ \nabla_\theta \log p\, \nabla_\theta \log p^\top \big],

and for the Gaussian of unit variance that is :math:`J^\top J`. It depends on the likelihood alone, not on the units of
the data nor on the parameters chosen for it, so it is identified wherever the pull-back metric is.

A decoder that returns a ``torch.distributions.Distribution`` is measured so by everything here that needs no second
derivative: metric, geodesics, distances, neighbours, logarithm. Where the parameters of one coordinate are a mean,
Fisher-Rao is also Euclidean after a change of variable φ, and :math:`\varphi \circ f` is an ordinary decoder, with an
exponential map and curvature: :func:`fisher_rao`.

References: Rao, "Information and the accuracy attainable in the estimation of statistical parameters", 1945;
Arvanitidis et al., "Pulling back information geometry", AISTATS 2022 (latent geometry by Fisher-Rao); Anscombe, "The
transformation of Poisson, binomial and negative-binomial data", 1948 (the same φ).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch import distributions as dist

from latentgeo.geometry.decoder import Decoder, DecoderLike, Ensemble, transforming
from latentgeo.geometry.door import check_tensor
from latentgeo.geometry.reach import owner_of

_ENTRIES = 2**24  # numbers held at a time
_NUDGE = 2.0**-8  # relative change of parameters that their rounding is scaled from
_SUM_TOLERANCE = 1e-3  # by which probabilities may miss a sum of one


def _bernoulli(x: Tensor, logits: bool) -> Tensor:
    if not logits:
        return 2.0 * torch.atan2(x.sqrt(), (1.0 - x).sqrt())
    # 2 arcsin √p = 2 arctan e^{l/2}; of the two tails each is computed where its exponential is small.
    low, high = torch.exp(0.5 * x.clamp_max(0.0)), torch.exp(-0.5 * x.clamp_min(0.0))
    return torch.where(x < 0, 2.0 * low.atan(), math.pi - 2.0 * high.atan())


class _OfMeans(torch.autograd.Function):
    """φ of negative binomials by μ and r; writing over temporary tensors spares most of what decoding counts takes."""

    @staticmethod
    def forward(ctx, mean: Tensor, r: Tensor) -> Tensor:
        ctx.save_for_backward(mean, r)
        q = mean / r
        x = (q + 1.0).sqrt_().add_(1.0)
        return torch.div(q, x, out=x).add_(q.sqrt_()).log1p_().mul_(2.0 * r.sqrt())

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:
        mean, r = ctx.saved_tensors
        tiny = torch.finfo(mean.dtype).tiny
        return upstream * torch.addcmul(mean, mean, mean / r).clamp_min_(tiny).rsqrt_(), None


def _of_means(mean: Tensor, r: Tensor) -> Tensor:
    r"""φ of negative binomials by their means μ ≥ 0 and dispersions r, which no derivative is taken by.

    .. math:: 2 \sqrt r \operatorname{arsinh} \sqrt q
        = 2 \sqrt r\, \log\Big(1 + \sqrt q + \frac{q}{1 + \sqrt{1 + q}}\Big), \qquad q = \mu / r

    cancels nothing; PyTorch's own function takes five times as long. The derivative,
    :math:`1 / \sqrt{\mu + \mu^2 / r}`, is as large as numbers allow where μ underflows.
    """
    if not transforming():
        return _OfMeans.apply(mean, r)
    q = mean / r
    root = q.where(q != 0.0, torch.finfo(q.dtype).tiny).sqrt()  # in steps that torch.func can differentiate
    return 2.0 * r.sqrt() * torch.log1p(root + q / (1.0 + (1.0 + q).sqrt()))


def _poisson(x: Tensor, log: bool) -> Tensor:
    return 2.0 * (torch.exp(0.5 * x) if log else x.sqrt())


def _negative_binomial(x: Tensor, dispersion: Tensor, log: bool) -> Tensor:
    return _of_means(x.exp() if log else x, dispersion)


def _categorical(x: Tensor, trials: Tensor, logits: bool) -> Tensor:
    return 2.0 * trials.sqrt() * (torch.exp(0.5 * x.log_softmax(-1)) if logits else x.sqrt())


_EMBEDDINGS: dict[str, tuple[Callable[..., Tensor], dict[str, float | bool | None]]] = {
    # name: (the map φ, its parameters and their defaults; None where there is none)
    "gaussian": (lambda x, sigma: x / sigma, {"sigma": None}),
    "bernoulli": (_bernoulli, {"logits": False}),
    "poisson": (_poisson, {"log": False}),
    "negative_binomial": (_negative_binomial, {"dispersion": None, "log": False}),
    "categorical": (_categorical, {"trials": 1.0, "logits": False}),
}
_NEEDED = {
    "sigma": "the known standard deviation; for a learned one let the decoder return a torch.distributions.Normal",
    "dispersion": "r of the variance μ + μ²/r, a number or one for each coordinate",
}


def _check_means(likelihood: str, x: Tensor) -> None:
    """Refuse mean parameters outside their domain."""
    if likelihood in ("poisson", "negative_binomial") and (x < 0).any():
        raise ValueError(
            f"decoder: expected means ≥ 0 for the {likelihood} likelihood, got {x.min():.3g}; end the decoder in exp "
            "or softplus, or let it return log-means and pass log=True"
        )
    if likelihood in ("bernoulli", "categorical") and ((x < 0) | (x > 1)).any():
        raise ValueError(
            f"decoder: expected probabilities between 0 and 1 for the {likelihood} likelihood, got values from "
            f"{x.min():.3g} to {x.max():.3g}; if the decoder returns logits pass logits=True"
        )
    sums = x.sum(-1)
    if likelihood == "categorical" and ((sums - 1.0).abs() > _SUM_TOLERANCE).any():
        raise ValueError(
            "decoder: expected probabilities that sum to 1 over the last axis for the categorical likelihood, got sums "
            f"from {sums.min():.3g} to {sums.max():.3g}; if the decoder returns logits pass logits=True"
        )


class FisherRaoDecoder(nn.Module):
    """φ ∘ f as a decoder, made by :func:`fisher_rao`; f's module is a submodule, checked and moved like any other."""

    def __init__(self, decoder: DecoderLike, likelihood: str | None, parameters: dict[str, Tensor | bool]) -> None:
        super().__init__()
        self._decoder, self._owner, self.likelihood = decoder, owner_of(decoder), likelihood
        self._checked = False
        self._options = {name: value for name, value in parameters.items() if isinstance(value, bool)}
        self._numbers = [name for name in parameters if name not in self._options]
        for name in self._numbers:
            self.register_buffer(name, parameters[name], persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Decode and map: (B, d) -> (B, *event)."""
        if self.likelihood is None:
            return self._embedded(z)
        x = self._decoder(z)
        check_tensor(x)
        # Not within a solver's steps: a trial point outside the domain is one to step back from, not an error. Nor
        # under a transform of torch.func, where values may not be read.
        if not (any(self._options.values()) or z.requires_grad or transforming()):
            _check_means(self.likelihood, x)
        return _EMBEDDINGS[self.likelihood][0](x, **self._values(x), **self._options)

    def _embedded(self, z: Tensor) -> Tensor:
        """The distributions that the decoder returns as points of a flat space: (B, d) -> (B, M)."""
        p = self.distribution(z)
        if not isinstance(p, dist.Distribution):
            raise TypeError(
                f"decoder: expected it to return a torch.distributions.Distribution, got {type(p).__name__}; name the "
                "likelihood that this is the mean of"
            )
        p = _unwrapped(p, len(z))
        if not self._checked and not transforming():
            _check_dispersion(self._decoder, p, z[:1])
            if isinstance(p, dist.Normal) and _depends_on_points(self._decoder, z[:1], lambda p: p.scale):
                raise ValueError(
                    "decoder: expected normal distributions whose scale does not depend on z, as others have no "
                    "isometric embedding; pass the decoder itself, without fisher_rao"
                )
            self._checked = True
        family = _family(p)
        return family.embedding(p)

    def distribution(self, z: Tensor) -> dist.Distribution:
        """The likelihood itself: (B, d) -> distributions of data (B, *event)."""
        if self.likelihood is None:
            with unvalidated():
                return self._decoder(z)
        return self.distribution_of(self._decoder(z))

    def distribution_of(self, x: Tensor) -> dist.Distribution:
        """The likelihood by its decoded means, or logits or log-means: (B, *event) -> distributions of data."""
        logits, log = (self._options.get(name, False) for name in ("logits", "log"))
        parameters = self._values(x)
        match self.likelihood:
            case "gaussian":
                return dist.Normal(x, parameters["sigma"], validate_args=False)
            case "poisson":
                return dist.Poisson(x.exp() if log else x, validate_args=False)
            case "negative_binomial":
                r = parameters["dispersion"]
                of_success = (x if log else x.log()) - r.log()
                return dist.NegativeBinomial(r, logits=of_success, validate_args=False)
        given = {"logits" if logits else "probs": x}
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(**given, validate_args=False)
        return dist.Multinomial(int(self.trials), **given, validate_args=False)

    def _values(self, x: Tensor) -> dict[str, Tensor]:
        return {name: getattr(self, name).to(x) for name in self._numbers}


def fisher_rao(decoder: DecoderLike, likelihood: str | None = None, **parameters: float | bool | Tensor) -> DecoderLike:
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

    A decoder that returns distributions needs no likelihood: their own is taken. Of the zero-inflated negative binomial
    it is that of the complete data (see this module), whose sphere gives each coordinate three numbers,

    .. math:: \varphi(\pi, \mu) = 2\, (\cos\alpha \cos\lambda,\; \cos\alpha \sin\lambda,\; \sin\alpha), \qquad
        \sin^2 \alpha = \pi, \quad \lambda = \sqrt r \operatorname{asinh} \sqrt{\mu / r}.

    Args:
        decoder: f, a callable (B, d) -> (B, *event) that returns the mean (for the categorical: probabilities of the
            classes along the last axis), or logits or log-means where ``logits`` or ``log`` says so. These are stable
            where probabilities saturate and means vanish; with means themselves φ has no derivative at 0, nor at
            probability 1. An :class:`~latentgeo.geometry.decoder.Ensemble` is mapped member by member. Without a
            likelihood it returns distributions, as for :class:`StatisticalDecoder`; a scale or dispersion must not
            depend on z.
        likelihood: one of the names above; None for that of the distributions which the decoder returns.
        **parameters: ``sigma``, a known standard deviation σ, and ``dispersion``, r of the variance μ + μ²/r, numbers
            or tensors that broadcast to the event; ``trials``, n of a multinomial; ``logits`` or ``log``, whether f
            returns these.

    Returns:
        The decoder φ ∘ f, (B, d) -> (B, *event), or (B, M) of distributions. Its lengths are in standard deviations of
        the data: to first order, how many σ two likelihoods are apart.

    Raises:
        ValueError: the likelihood is unknown, a parameter is missing or not positive, or, once it decodes, the means
            lie outside their domain (under the transforms of ``torch.func``, which may not read values, and within a
            solver's steps, the result is NaN instead).
        TypeError: the decoder is not callable, or a parameter is not one of the likelihood's.

    Example:
        Counts with mean :math:`z^2`: φ is 2z, so that distances are Euclidean, whatever the mean:

        >>> import torch
        >>> f = fisher_rao(lambda z: z.square(), "poisson")
        >>> f(torch.tensor([[1.0], [3.0]])).squeeze()
        tensor([2., 6.])
    """
    if likelihood is not None and likelihood not in _EMBEDDINGS:
        raise ValueError(f"likelihood: expected one of {', '.join(_EMBEDDINGS)}, got {likelihood!r}")
    if not callable(decoder):
        raise TypeError(f"decoder: expected a callable (B, d) -> (B, *event), got {type(decoder).__name__}")
    checked = _checked_parameters(likelihood, parameters)
    if isinstance(decoder, Ensemble):  # scaled by 1/√K, its output is not a mean
        return Ensemble([FisherRaoDecoder(decoder[k], likelihood, checked) for k in range(len(decoder))])
    return FisherRaoDecoder(decoder, likelihood, checked)


def _checked_parameters(likelihood: str | None, given: dict[str, object]) -> dict[str, Tensor | bool]:
    defaults = {} if likelihood is None else _EMBEDDINGS[likelihood][1]
    unknown = sorted(set(given) - set(defaults))
    if unknown and likelihood is None:
        raise TypeError(f"likelihood: expected one of {', '.join(_EMBEDDINGS)} beside {', '.join(unknown)}, got none")
    if unknown:
        raise TypeError(f"{likelihood}: expected parameters among {', '.join(defaults)}, got {', '.join(unknown)}")
    checked = defaults | given
    for name, value in checked.items():
        if isinstance(defaults[name], bool):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: expected True or False, got {value!r}")
        elif value is None:
            raise ValueError(f"{likelihood}: expected {name}, {_NEEDED[name]}")
        elif isinstance(value, bool) or not isinstance(value, numbers.Real | Tensor):
            raise TypeError(f"{name}: expected a number or a tensor, got {type(value).__name__}")
        else:
            x = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
            if not ((x > 0) & torch.isfinite(x)).all():
                raise ValueError(f"{name}: expected positive finite numbers, got {x.min():.3g} to {x.max():.3g}")
            checked[name] = x
    return checked


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of likelihoods in parameters θ in which the Fisher information is diagonal.

    Attributes:
        parameters: distributions of B rows -> θ, shape (B, *event).
        information: θ, shape (B, M) -> the diagonal of I(θ), shape (B, M).
        divergence: θ and θ', shape (*batch, M) each -> KL(p‖p') + KL(p'‖p) of single coordinates, (*batch, M').
        squared_distance: θ and θ' -> squared Fisher-Rao distance of single coordinates in the space of *all*
            parameters, (*batch, M'): no curve on the decoder's image is shorter.
        embedding: distributions of B rows -> an isometric image in a flat space, (B, M'); of normal distributions with
            one scale for all z.
    """

    parameters: Callable[[dist.Distribution], Tensor]
    information: Callable[[Tensor], Tensor]
    divergence: Callable[[Tensor, Tensor], Tensor]
    squared_distance: Callable[[Tensor, Tensor], Tensor]
    embedding: Callable[[dist.Distribution], Tensor]


def _apart(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The larger and the smaller of two, so that differences of their exponentials neither cancel nor overflow."""
    return torch.maximum(a, b), torch.minimum(a, b)


def _rows(x: Tensor) -> Tensor:
    """(B, *event) -> (B, M), also of (B,)."""
    return x.flatten(1) if x.ndim > 1 else x.unsqueeze(1)


def _normal_parameters(p: dist.Normal) -> Tensor:
    return torch.cat([_rows(p.loc), _rows(p.scale.log())], 1)


def _normal_information(theta: Tensor) -> Tensor:
    log_sigma = theta.chunk(2, -1)[1]
    return torch.cat([torch.exp(-2.0 * log_sigma), torch.full_like(log_sigma, 2.0)], -1)


def _normal_divergence(a: Tensor, b: Tensor) -> Tensor:
    (mean_a, log_a), (mean_b, log_b) = a.chunk(2, -1), b.chunk(2, -1)
    precision = 0.5 * (torch.exp(-2.0 * log_a) + torch.exp(-2.0 * log_b))
    return precision * (mean_a - mean_b).square() + 2.0 * (log_a - log_b).sinh().square()


def _normal_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Of the half plane of means and deviations, which is hyperbolic: d = 2√2 arsinh √(u/2), cosh(d/√2) = 1 + u."""
    (mean_a, log_a), (mean_b, log_b) = a.chunk(2, -1), b.chunk(2, -1)
    half_u = 0.125 * torch.exp(-log_a - log_b) * (mean_a - mean_b).square() + (0.5 * (log_a - log_b)).sinh().square()
    return 2.0 * _of_means(half_u, half_u.new_ones(())).square()


def _log_mean_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Divergence (e^a - e^b)(a - b), of Poisson rates or probabilities given by their logarithms."""
    high, low = _apart(a, b)
    return torch.exp(high) * -torch.expm1(low - high) * (high - low)


def _bernoulli_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Divergence (p - q)(a - b) of logits a and b."""
    high, low = _apart(a, b)
    return high.sigmoid() * (-low).sigmoid() * -torch.expm1(low - high) * (high - low)


def _family_of(
    phi: Callable[[Tensor], Tensor],
    parameters: Callable[[dist.Distribution], Tensor],
    information: Callable[[Tensor], Tensor],
    divergence: Callable[[Tensor, Tensor], Tensor],
    embedding: Callable[[dist.Distribution], Tensor] | None = None,
) -> Family:
    """A family whose coordinates a map φ makes Euclidean."""
    embedding = embedding or (lambda p: phi(_rows(parameters(p))))
    return Family(parameters, information, divergence, lambda a, b: (phi(b) - phi(a)).square(), embedding)


def _nb_divergence(r: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Divergence of negative binomials by their logits η."""

    def divergence(a: Tensor, b: Tensor) -> Tensor:
        high, low = _apart(a, b)
        natural = nn.functional.logsigmoid(high) - nn.functional.logsigmoid(low)
        return r * torch.exp(high) * -torch.expm1(low - high) * natural

    return divergence


def _log(x: Tensor) -> Tensor:
    """Logarithm of means, whose derivative is zero where they underflow."""
    return x.clamp_min(torch.finfo(x.dtype).tiny).log()


def _nb_logits(p: dist.Distribution) -> Tensor:
    """Logits η of a negative binomial with mean r e^η, given by these or by mean and dispersion."""
    return p.logits if isinstance(p, dist.NegativeBinomial) else _log(p.mu) - p.theta.log()


def _nb_phi(r: Tensor, eta: Tensor) -> Tensor:
    """φ of negative binomials by their logits η."""
    return _of_means(r * eta.exp(), r)


def _nb_embedding(r: Tensor, p: dist.Distribution) -> Tensor:
    """φ of negative binomials of B rows, (B, M), without a logarithm where their means are known."""
    return _nb_phi(r, _rows(p.logits)) if isinstance(p, dist.NegativeBinomial) else _of_means(_rows(p.mu), r)


def _dispersion(p: dist.Distribution) -> Tensor:
    return p.total_count if isinstance(p, dist.NegativeBinomial) else p.theta


def _negative_binomial_family(r: Tensor) -> Family:
    r"""With logits η the mean is r e^η, the natural parameter log σ(η)."""

    def information(theta: Tensor) -> Tensor:
        return r * theta.sigmoid()

    phi = functools.partial(_nb_phi, r)
    return _family_of(phi, _nb_logits, information, _nb_divergence(r), lambda p: _nb_embedding(r, p))


def _zero_inflated_family(r: Tensor) -> Family:
    r"""Of complete data, by logits l of extra zeros and logits η of the negative binomial: a sphere of radius 2."""
    log_sigmoid = nn.functional.logsigmoid
    symmetric = _nb_divergence(r)

    def information(theta: Tensor) -> Tensor:
        zero, eta = theta.chunk(2, -1)
        return torch.cat([zero.sigmoid() * (-zero).sigmoid(), (-zero).sigmoid() * r * eta.sigmoid()], -1)

    def divergence(a: Tensor, b: Tensor) -> Tensor:
        (zero_a, eta_a), (zero_b, eta_b) = a.chunk(2, -1), b.chunk(2, -1)
        share_a, share_b = (-zero_a).sigmoid(), (-zero_b).sigmoid()
        # With KL = KL(a|b) and LK = KL(b|a) of the counts, s KL + s' LK = (s + s')/2 (KL + LK) + (s - s')/2 (KL - LK),
        # of which the first term does not cancel and the second is small.
        natural = log_sigmoid(eta_b) - log_sigmoid(eta_a)
        partition = log_sigmoid(-eta_a) - log_sigmoid(-eta_b)
        skew = r * (2.0 * partition - (torch.exp(eta_a) + torch.exp(eta_b)) * natural)
        counts = 0.5 * (share_a + share_b) * symmetric(eta_a, eta_b) + 0.5 * (share_a - share_b) * skew
        return torch.cat([_bernoulli_divergence(zero_a, zero_b), counts], -1)

    def latitude(zero: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(0.5 * log_sigmoid(-zero)), torch.exp(0.5 * log_sigmoid(zero))  # cosine and sine

    def squared_distance(a: Tensor, b: Tensor) -> Tensor:
        """Along a great circle, or over the pole where the longitudes are half a turn apart or more."""
        (zero_a, eta_a), (zero_b, eta_b) = a.chunk(2, -1), b.chunk(2, -1)
        (cos_a, sin_a), (cos_b, sin_b) = latitude(zero_a), latitude(zero_b)
        turn = (0.5 * (_nb_phi(r, eta_b) - _nb_phi(r, eta_a))).abs().clamp_max(math.pi)
        half = torch.atan2(sin_b * cos_a - cos_b * sin_a, cos_b * cos_a + sin_b * sin_a) / 2.0
        haversine = half.sin().square() + cos_a * cos_b * (turn / 2.0).sin().square()
        return 16.0 * haversine.clamp(0.0, 1.0).sqrt().asin().square()

    def embedding(p: dist.Distribution) -> Tensor:
        (cos, sin), longitude = latitude(_rows(p.zi_logits)), 0.5 * _nb_embedding(r, p)
        return 2.0 * torch.cat([cos * longitude.cos(), cos * longitude.sin(), sin], -1)

    def parameters(p: dist.Distribution) -> Tensor:
        return torch.cat([_rows(p.zi_logits), _rows(_nb_logits(p))], 1)

    return Family(parameters, information, divergence, squared_distance, embedding)


def _categorical_family(n: float) -> Family:
    def phi(theta: Tensor) -> Tensor:
        return 2.0 * n**0.5 * torch.exp(0.5 * theta)  # on the sphere of radius 2√n, whose chords are measured

    return _family_of(phi, lambda p: p.logits, lambda t: n * t.exp(), lambda a, b: n * _log_mean_divergence(a, b))


def _has_mean_and_dispersion(p: dist.Distribution) -> bool:
    """Whether it is a negative binomial of mean ``mu`` and dispersion ``theta``, as scvi-tools has them."""
    return all(isinstance(getattr(p, of, None), Tensor) for of in ("mu", "theta"))


def _is_negative_binomial(p: dist.Distribution) -> bool:
    return isinstance(p, dist.NegativeBinomial) or _has_mean_and_dispersion(p)


def _family(p: dist.Distribution) -> Family:
    """The family of a distribution of B rows."""
    match p:
        case dist.Normal():
            return Family(
                _normal_parameters,
                _normal_information,
                _normal_divergence,
                _normal_squared_distance,
                lambda p: _rows(p.loc / p.scale),
            )
        case dist.Poisson():
            phi = functools.partial(_poisson, log=True)
            return _family_of(phi, lambda p: _log(p.rate), torch.exp, _log_mean_divergence)
        case dist.Bernoulli():
            phi = functools.partial(_bernoulli, logits=True)
            return _family_of(phi, lambda p: p.logits, lambda t: t.sigmoid() * (-t).sigmoid(), _bernoulli_divergence)
        case dist.Categorical() | dist.OneHotCategorical():
            return _categorical_family(1.0)
        case dist.Multinomial():
            return _categorical_family(float(p.total_count))
        case _ if _is_negative_binomial(p):
            r = _rows(_dispersion(p).detach()[:1])
            return _zero_inflated_family(r) if hasattr(p, "zi_logits") else _negative_binomial_family(r)
    raise TypeError(
        "decoder: expected it to return Normal, Poisson, Bernoulli, NegativeBinomial, Categorical, OneHotCategorical, "
        "Multinomial, or scvi-tools' NegativeBinomial or ZeroInflatedNegativeBinomial, got "
        f"{type(p).__name__}, whose Fisher metric is not known here"
    )


def _unwrapped(p: dist.Distribution, rows: int) -> dist.Distribution:
    while isinstance(p, dist.Independent):
        p = p.base_dist
    shape = p.mu.shape if _has_mean_and_dispersion(p) else p.batch_shape  # scvi-tools' have no batch shape
    if shape[:1] != (rows,):
        raise ValueError(
            f"decoder: expected distributions of batch shape (B, *event) with B = {rows} rows, got "
            f"{tuple(shape)}; return one row for each latent point"
        )
    return p


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """Distributions made here have parameters that need not be valid: a trial point far out is no error but NaN."""
    validates = dist.Distribution._validate_args
    dist.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        dist.Distribution.set_default_validate_args(validates)


def _depends_on_points(source: DecoderLike, z: Tensor, of: Callable[[dist.Distribution], Tensor]) -> bool:
    """Whether something of the distributions that a decoder returns changes with the latent points."""
    with torch.inference_mode(False), torch.enable_grad():
        rows = z.detach().clone().requires_grad_()
        part = of(_unwrapped(source(rows), len(rows)))
        if not part.requires_grad:
            return False
        (slope,) = torch.autograd.grad(part.sum(), rows, allow_unused=True)
    return slope is not None and bool(slope.any())


def _check_dispersion(source: DecoderLike, p: dist.Distribution, z: Tensor) -> None:
    if _is_negative_binomial(p) and _depends_on_points(source, z, _dispersion):
        raise ValueError(
            "decoder: expected a negative binomial whose total_count does not depend on z, for its Fisher "
            "information has no closed form in total_count; use one dispersion for each coordinate"
        )


class StatisticalDecoder(Decoder):
    r"""A decoder that returns distributions; its values are their parameters θ, its metric the Fisher-Rao metric.

    .. math:: G(z) = J_\theta^\top I(\theta)\, J_\theta
        = \sum_j \frac{J_{\mu_j}^\top J_{\mu_j}}{\sigma_j^2} + 2\, J_{\log \sigma_j}^\top J_{\log \sigma_j}
        \quad\text{(Gaussian)},

    and with the rate λ, logits l, probabilities p of n trials, and the logits η of torch's negative binomial (mean
    :math:`r e^\eta`): :math:`\lambda J_{\log\lambda}^\top J_{\log\lambda}`, :math:`p (1 - p) J_l^\top J_l`,
    :math:`n p J_{\log p}^\top J_{\log p}` and :math:`r\,\mathrm{sigmoid}(\eta)\, J_\eta^\top J_\eta`, summed
    over the coordinates or classes. With logits l of extra zeros beside these η it is the metric of the complete data
    (see this module), :math:`\pi (1 - \pi) J_l^\top J_l + (1 - \pi)\, r\,\mathrm{sigmoid}(\eta)\,
    J_\eta^\top J_\eta`.

    Args:
        source: a callable from (B, d) to a distribution of batch shape (B, *event), ``Independent`` or not: Normal,
            Poisson, Bernoulli, NegativeBinomial (its total_count constant in z), Categorical, OneHotCategorical or
            Multinomial; or scvi-tools' NegativeBinomial or ZeroInflatedNegativeBinomial, known by mean ``mu``,
            dispersion ``theta`` (constant in z) and ``zi_logits``.
        dtype: as for :class:`~latentgeo.geometry.decoder.Decoder`.
        z: a few latent points, shape (B, d), to see the family.

    Raises:
        TypeError: the distributions are of another family.
        ValueError: their rows are not those of z, or total_count depends on z.
    """

    flat = False

    def __init__(self, source: DecoderLike, dtype: torch.dtype | None, z: Tensor) -> None:
        super().__init__(source, dtype)
        p = _unwrapped(source(z), len(z))
        _check_dispersion(source, p, z)
        self.family = _family(p)

    def __call__(self, z: Tensor) -> Tensor:
        """Parameters θ: (B, d) -> (B, M)."""
        self.rows += len(z)
        return self._flat(self.distribution(z), z)

    def distribution(self, z: Tensor) -> dist.Distribution:
        """What the source returns. A trial point far out, whose parameters are not valid, is not an error but NaN."""
        with unvalidated():
            return self.output(z)

    def _flat(self, x: object, z: Tensor) -> Tensor:
        return super()._flat(_rows(self.family.parameters(_unwrapped(x, len(z)))), z)

    def isometric(self, z: Tensor) -> Tensor:
        """A map whose Jacobian at z, there alone, is √I J_θ: (B, d) -> (B, M)."""
        theta = self(z)
        return self.family.information(theta).detach().sqrt() * theta

    def squared(self, a: Tensor, b: Tensor) -> Tensor:
        """Symmetric divergence KL(a‖b) + KL(b‖a) of single coordinates, (*batch, M) each -> (*batch, M')."""
        return self.family.divergence(a, b)

    def linearised(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`~latentgeo.geometry.decoder.Decoder.linearised`."""
        return self(z), self.jacobian(z)

    def tangent(self, a: Tensor, v: Tensor) -> Tensor:
        """See :meth:`~latentgeo.geometry.decoder.Decoder.tangent`."""
        return self.family.information(a).sqrt() * v

    def from_tangent(self, a: Tensor, v: Tensor) -> Tensor:
        """See :meth:`~latentgeo.geometry.decoder.Decoder.from_tangent`."""
        return v / self.family.information(a).sqrt()

    def tangent_gradient(self, a: Tensor, g: Tensor) -> Tensor:
        """See :meth:`~latentgeo.geometry.decoder.Decoder.tangent_gradient`."""
        return g / self.family.information(a).sqrt()

    def rounding(self, x: Tensor) -> Tensor:
        """See :meth:`~latentgeo.geometry.decoder.Decoder.rounding`."""
        return torch.finfo(x.dtype).eps / _NUDGE * self.step(x, x * (1.0 + _NUDGE)).amax(1)

    def step(self, a: Tensor, b: Tensor) -> Tensor:
        """Length of short steps between distributions: (*batch, M) each -> (*batch,)."""
        return self.squared(a, b).sum(-1).clamp_min(0.0).sqrt()

    def chord(self, a: Tensor, b: Tensor) -> Tensor:
        """Fisher-Rao distance in the space of all parameters: (*batch, M) each -> (*batch,)."""
        return self.family.squared_distance(a, b).sum(-1).sqrt()

    def chords(self, x: Tensor, y: Tensor) -> Tensor:
        """Chords from each of some distributions to each of others: (R, M) and (n, M) -> (R, n)."""
        parts = x.split(max(1, _ENTRIES // y.numel()))
        return torch.cat([self.chord(part.unsqueeze(1), y) for part in parts])

    def second_derivatives(self, z: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """There is none in a flat space that would give the surface its metric."""
        raise TypeError(
            "decoder: expected one that returns data, got one that returns distributions, whose exponential map and "
            "curvature are not known here; where the likelihood has an isometric embedding pass fisher_rao(decoder)"
        )
