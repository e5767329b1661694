r"""Points of a decoder's image that belong to data, and that do not depend on latent coordinates.

A distance between two data needs two points on the image. The posterior mean of an encoder is not one that is
identified: in other coordinates :math:`z' = A(z)`, in which the model is exactly as good, it is
:math:`\mathbb{E}[A(z) \mid x] \ne A(\mathbb{E}[z \mid x])`, another point. What depends on decoded points alone is:

- the maximum-likelihood code :math:`\operatorname{argmax}_z p(x \mid z)`, for a Gaussian likelihood of constant
  variance the point of the image nearest to the datum, :math:`\operatorname{argmin}_z \|x - f(z)\|`;
- the point of the image nearest to the posterior mean of the image, :math:`\mathbb{E}[f(z) \mid x]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn
from torch import distributions as dist

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.curve import resample
from latentgeo.geometry.decoder import Chunked, Decoder, DecoderLike, Ensemble, as_decoder, check_points
from latentgeo.geometry.geodesic.lbfgs import minimise
from latentgeo.geometry.geodesic.preconditioner import MetricFactor, mean_metric
from latentgeo.geometry.likelihood import FisherRaoDecoder, StatisticalDecoder
from latentgeo.identifiability.coordinates import ReparametrisedDecoder
from latentgeo.warn import warn

Misfit = Callable[[Tensor, Tensor], Tensor]  # latent points (A, d), and the numbers (A,) of their data -> (A,)
_ENTRIES = 2**25  # numbers of Jacobians held at a time
_STEPS = 50  # of the minimiser before the metric is looked at again
_ROUNDS = 10
_KINKED = 1e-3  # accuracy asked for on kinks, relative to the distance in data space that accuracy is relative to
_RADII = (3.0, 1.0, 0.3)  # of the balls that gradients are sampled in, in units of that accuracy
_SAMPLED = 20  # steps on kinks, for each radius
_SUM = 1e3  # weight of the condition that shares sum to one, in units of the largest entry
_STALLED = 1e-2  # of the misfit that the accuracy on kinks allows; what gains less in a round is stalled
_OTHERS = 256  # data at most among whose codes a second start is looked for
_TIED = 0.02  # of a squared distance by which another one is about as small
_MISSED = 1.2  # times that spread, by which an image misses data clearly
_SPREAD = 8  # data, from which their spread about their mean is known
_CHORDS = 16  # that a curve between two points is measured by
_SAME = 30.0  # times the accuracy asked for, at which two images are the same
_SAME_KINKS = 10.0  # the same on kinks


@dataclasses.dataclass(frozen=True)
class Projection:
    r"""Latent points of data; what :func:`project` returns.

    Attributes:
        codes: shape (n, d).
        residual: what the image leaves unexplained, shape (n,): the distance :math:`\|x - f(z)\|` in data units (root
            mean square over the decoders of an ensemble), or the negative log-likelihood in nats.
        converged: whether the image is found, to about the root of the dtype's rounding, relative to the residual at
            the start, or to a thousandth of that where the least misfit lies on kinks of the decoder (ReLU); shape
            (n,).
        unique: whether a second start led to the same image, False if there was none; shape (n,).
        apart: where it led to another image that is about as near, to 2 % of the squared distance, or about as likely,
            to one nat, the length of a curve between both, that of the straight latent line: they are no farther apart
            on the image, and infinite where it leaves the decoder's domain; 0 elsewhere; shape (n,).
    """

    codes: Tensor
    residual: Tensor
    converged: Tensor
    unique: Tensor
    apart: Tensor


@takes_arrays("x", "start", "others")
def project(decoder: DecoderLike, x: Tensor, start: Tensor, others: Tensor | None = None) -> Projection:
    r"""Codes of the points of the image nearest to data; of other likelihoods, the maximum-likelihood codes.

    .. math:: \hat z = \operatorname{argmin}_z \sum_{k=1}^{K} \|x - f_k(z)\|^2 \qquad\text{or}\qquad
        \hat z = \operatorname{argmax}_z \sum_{k=1}^{K} \log p_k(x \mid z)

    The objective depends on decoded points alone, so that :math:`f(\hat z)` is identified where it is unique: in other
    latent coordinates A it is the same point, :math:`\hat z' = A(\hat z)` wherever f is injective. Codes do not move
    along directions that the decoder ignores altogether, and may move far along those that it nearly ignores.

    It is found by L-BFGS in coordinates in which the metric at the start is the identity, and again from where that
    ended while it has not converged. A decoder with kinks often has its least misfit on one, where no gradient
    vanishes; there, the search goes on along the shortest vector in the hull of gradients sampled round about. A second
    search starts from the code of another datum; the better of both is returned.

    Args:
        decoder: a callable (B, d) -> (B, \*event), whose K members count alike if it is an
            :class:`latentgeo.Ensemble`; or one whose likelihood is known, because it returns distributions or is made
            by :func:`latentgeo.fisher_rao`.
        x: data, shape (n, \*event). For an ensemble also (n, K, \*event) in the scale of its output, a target for each
            decoder.
        start: where the search starts, such as codes from an encoder, shape (n, d).
        others: where the second one may start, codes of other data, shape (m, d); those of ``start`` by default.

    Returns:
        Codes, with what is known about them. What was not found raises no error and no warning: see ``converged`` and
        ``unique``.

    Raises:
        TypeError: x or start is not a tensor of floating-point numbers of the decoder's type (counts may be integers).
        ValueError: shapes do not fit, values are not finite, or data are outside the support of the likelihood.

    Warns:
        UserWarning: the image misses eight data or more by clearly more than their own mean would.

    Example:
        The points of a parabola nearest to (1, 1), which lies on it, and to (0, 2), of which there are two, at
        :math:`\pm\sqrt{3/2}`:

        >>> parabola = lambda z: torch.cat([z, z.square()], 1)
        >>> x, start = torch.tensor([[1.0, 1.0], [0.0, 2.0]]).double(), torch.tensor([[0.5], [-0.5]]).double()
        >>> found = project(parabola, x, start)
        >>> [values.tolist() for values in (found.codes.squeeze(1).abs().round(decimals=4), found.unique)]
        [[1.0, 1.2247], [True, False]]
        >>> found.residual.square().round(decimals=4).tolist()
        [0.0, 1.75]

    References:
        Burke, Lewis and Overton, "A robust gradient sampling algorithm for nonsmooth, nonconvex optimization", 2005.
    """
    check_points("start", start, ndim=2)
    f, start = as_decoder(decoder, start), start.detach()
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}; convert with torch.as_tensor(...)")
    if len(x) != len(start):
        raise ValueError(f"x and start: expected a row of each for each datum, got {len(x)} and {len(start)}")
    if not torch.isfinite(x).all():
        raise ValueError("x: expected finite values, got NaN or infinity; drop those rows first")
    if len(x) == 0:
        nothing = torch.ones(0, dtype=torch.bool, device=start.device)
        return Projection(start, start.new_zeros(0), nothing, nothing, start.new_zeros(0))
    others = start if others is None else others.detach()
    check_points("others", others, ndim=2)
    others = others[:: -(-len(others) // _OTHERS)]
    likelihoods = _likelihoods(f)
    if likelihoods is None and x.dtype != start.dtype:
        raise TypeError(f"x: expected the dtype of start, {start.dtype}, got {x.dtype}; convert with x.to(start)")
    with torch.inference_mode(False):
        x, start, others = x.detach().clone(), start.clone(), others.clone()
        if likelihoods is None:
            found = nearest(f, _as_image(f, x, start), start, others)
            _warn_of_misfit(x.flatten(1), found.residual)
            return found
        return most_likely(f, _log_likelihood(likelihoods, x, start), x[0].numel(), start, others)


def _warn_of_misfit(x: Tensor, residual: Tensor) -> None:
    """Say so where the image misses data (n, D) by clearly more than their own mean would."""
    if len(x) < _SPREAD:
        return
    spread, missed = (x - x.mean(0)).square().sum(1).mean().sqrt(), residual.square().mean().sqrt()
    if missed > _MISSED * spread:
        warn(
            f"the decoder's image misses the data by {missed:.3g} (root mean square), more than their own mean does, "
            f"{spread:.3g}. Does it return logits? Then write lambda z: torch.sigmoid(decode(z)). Or are the data "
            "scaled otherwise than in training?",
            UserWarning,
        )


def nearest(f: Decoder, target: Tensor, start: Tensor, others: Tensor) -> Projection:
    """Codes of the points of the image nearest to points (n, D) of the space that it lies in, see :func:`project`."""

    def search(part: Tensor) -> Projection:
        def misfit(z: Tensor, rows: Tensor) -> Tensor:
            return 0.5 * (f(z) - target[part[rows]]).square().sum(1)

        with torch.no_grad():
            apart = misfit(start[part], torch.arange(len(part), device=start.device))
        # A point is known to its rounding, and what is still to be gained is a square.
        rounding = 8.0 * torch.finfo(start.dtype).eps ** 0.5 * target[part].norm(dim=1)
        scale = (2.0 * apart).sqrt() + rounding
        offset = apart + rounding.square()

        def floor(value: Tensor, rows: Tensor) -> Tensor:
            size = target[part[rows]].square().mean(1).sqrt()  # coordinates are rounded independently of each other
            return 4.0 * torch.finfo(start.dtype).eps * (2.0 * value).sqrt() * size

        found = _search(f, misfit, start[part], others, scale, offset, lambda least: _TIED * least, floor)
        return dataclasses.replace(found, residual=(2.0 * found.residual).sqrt())

    return _in_parts(f, start, search)


def most_likely(f: Decoder, log_likelihood: Misfit, values: int, start: Tensor, others: Tensor) -> Projection:
    """Codes of greatest likelihood, see :func:`project`.

    Args:
        f: the decoder, whose metric says what a step is.
        log_likelihood: of data under latent points: points (A, d) and the numbers (A,) of their data -> (A,), in nats.
        values: that a datum consists of; one nat for each is what a likelihood varies by.
        start: where the search starts, shape (n, d).
        others: where a second one may start, shape (m, d).
    """

    def search(part: Tensor) -> Projection:
        with torch.no_grad():
            first = log_likelihood(start[part], part)

        def misfit(z: Tensor, rows: Tensor) -> Tensor:
            return first[rows] - log_likelihood(z, part[rows])

        # A discrete likelihood is at most one; a density may rise above that, by a few nats for each value.
        scale = torch.full_like(first, values**0.5)
        offset = 4.0 * values + first.abs()
        found = _search(f, misfit, start[part], others, scale, offset, torch.ones_like, lambda value, rows: 0.0 * value)
        return dataclasses.replace(found, residual=found.residual - first)

    return _in_parts(f, start, search)


def _in_parts(f: Decoder, start: Tensor, search: Callable[[Tensor], Projection]) -> Projection:
    """What a search finds for all data, as many at a time as their Jacobians leave room for."""
    with torch.no_grad():
        D = f(start[:1]).shape[1]
    everyone = torch.arange(len(start), device=start.device)
    parts = [search(part) for part in everyone.split(max(1, _ENTRIES // (D * (start.shape[1] + 2))))]
    return Projection(*(torch.cat([getattr(part, of.name) for part in parts]) for of in dataclasses.fields(Projection)))


def _search(
    f: Decoder,
    misfit: Misfit,
    start: Tensor,
    others: Tensor,
    scale: Tensor,
    offset: Tensor,
    slack: Callable[[Tensor], Tensor],
    floor: Misfit,
) -> Projection:
    """Codes of the least misfit from the start and from a second one, and that misfit as the residual.

    Of the others, ordered by how far their images are from the one first found, the second start is the one after the
    first quarter: another place where data are, and the same in any coordinates.

    Args:
        f: the decoder.
        misfit: what is minimised, half a squared distance of data or like it.
        start: shape (n, d).
        others: shape (m, d).
        scale: distance in data space that accuracy is relative to, shape (n,).
        offset: what makes the misfit positive, shape (n,).
        slack: by how much more than the least misfit another one is about as good.
        floor: what rounding may change misfits of data by, of the misfits (A,) and the numbers (A,) of the data.
    """
    found, value, converged, kinked = _minimised(f, misfit, start, offset, floor, scale)
    with torch.no_grad():
        order = f.chords(f(found), f(others)).nan_to_num(torch.inf).argsort(1)
    second = others[order[:, min(max(1, len(others) // 4), len(others) - 1)]]
    again, other_value, other_converged, other_kinked = _minimised(f, misfit, second, offset, floor, scale)
    accuracy = _SAME * torch.finfo(start.dtype).eps ** 0.5 * scale
    accuracy = torch.where(kinked | other_kinked, torch.maximum(accuracy, _SAME_KINKS * _KINKED * scale), accuracy)
    with torch.no_grad():
        same = (f.chord(f(found), f(again)) <= accuracy) & (len(others) > 1)
        better = other_converged & (other_value < value - torch.where(converged, accuracy.square(), 0.0))
        codes = found.where(~better[:, None], again)
        least = misfit(codes, torch.arange(len(codes), device=codes.device))
        tied = ~same & other_converged & (torch.maximum(value, other_value) - least <= slack(least))
        apart, tied = torch.zeros_like(least), torch.nonzero(tied).squeeze(1)
        if len(tied):
            lines = resample(torch.stack([found[tied], again[tied]], 1), _CHORDS)
            x = f(lines.flatten(0, 1)).unflatten(0, lines.shape[:2])
            apart[tied] = f.step(x[:, :-1], x[:, 1:]).sum(1).nan_to_num(torch.inf, torch.inf)
    return Projection(codes, least, converged | better, same & converged & other_converged, apart)


def _minimised(
    f: Decoder, misfit: Misfit, start: Tensor, offset: Tensor, floor: Misfit, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, misfit there, and whether they converged, and on kinks, by L-BFGS whitened again every few steps."""
    codes = start.clone()
    todo = torch.arange(len(start), device=start.device)
    with torch.no_grad():
        value, converged = misfit(codes, todo), torch.zeros_like(offset, dtype=torch.bool)
    kinked = torch.zeros_like(converged)
    for _ in range(_ROUNDS):
        factor = MetricFactor(mean_metric(f, codes[todo, None]), codes.dtype)

        def objective(
            y: Tensor, rows: Tensor, todo: Tensor = todo, factor: MetricFactor = factor
        ) -> tuple[Tensor, Tensor]:
            z = (codes[todo[rows]] + factor.step(y[:, None], rows)[:, 0]).requires_grad_()
            with torch.enable_grad():
                of = misfit(z, todo[rows])
                (gradient,) = torch.autograd.grad(of.sum(), z)
            return of.detach() + offset[todo[rows]], factor.gradient(gradient[:, None], rows)[:, 0]

        found = minimise(
            objective,
            torch.zeros_like(codes[todo]),
            tol=torch.finfo(codes.dtype).eps,
            max_iter=_STEPS,
            floor=floor(value[todo], todo).nan_to_num(0.0, 0.0, 0.0),
        )
        codes[todo] = codes[todo] + factor.step(found.x[:, None], torch.arange(len(todo), device=todo.device))[:, 0]
        gain = value[todo] - (found.value - offset[todo])
        value[todo], converged[todo] = found.value - offset[todo], found.converged
        unfinished = ~found.converged & torch.isfinite(found.value)
        stalled = unfinished & (gain <= _STALLED * 0.5 * (_KINKED * scale[todo]).square())
        kinked[todo[stalled]] = True
        _search_kinks(f, misfit, codes, value, converged, todo[stalled], scale)
        todo = todo[unfinished & ~stalled]
        if len(todo) == 0:
            break
    return codes, value, converged, kinked


def _search_kinks(
    f: Decoder, misfit: Misfit, codes: Tensor, value: Tensor, converged: Tensor, todo: Tensor, scale: Tensor
) -> None:
    """Go on from codes where L-BFGS has stalled, by gradient sampling; write codes, misfits and who has converged.

    In coordinates in which the metric is the identity the misfit bends like half a square, so that the shortest vector
    in the hull of gradients near by is about as long as the way that is left.
    """
    if len(todo) == 0:
        return
    d, count = codes.shape[1], torch.arange(len(todo), device=todo.device)
    factor = MetricFactor(mean_metric(f, codes[todo, None]), codes.dtype)
    draws = torch.Generator().manual_seed(0)
    y, accuracy = torch.zeros_like(codes[todo]), _KINKED * scale[todo]

    def at(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Misfits (A, M) and gradients (A, M, d) at points (A, M, d) of rows (A,)."""
        each = rows.repeat_interleave(y.shape[1])
        z = (codes[todo[each]] + factor.step(y.reshape(-1, 1, d), each)[:, 0]).requires_grad_()
        with torch.enable_grad():
            of = misfit(z, todo[each])
            (gradient,) = torch.autograd.grad(of.sum(), z)
        return of.detach().reshape(y.shape[:2]), factor.gradient(gradient[:, None], each)[:, 0].reshape(y.shape)

    steps = 0.5 ** torch.arange(9, dtype=codes.dtype, device=codes.device)
    for radius in _RADII:
        active, reached = count, torch.zeros_like(count, dtype=torch.bool)
        for _ in range(_SAMPLED):
            ball = torch.randn(d + 1, d, generator=draws, dtype=torch.float32, device="cpu")
            ball = nn.functional.normalize(ball.to(codes), dim=1)
            ball[0] = 0.0
            _, gradient = at(y[active, None] + radius * accuracy[active, None, None] * ball, active)
            downhill = -_shortest(gradient)
            length = downhill.norm(dim=1)
            left = length > accuracy[active]
            reached[active[~left]] = True
            active, downhill, length = active[left], downhill[left], length[left]
            if len(active) == 0:
                break
            trial = y[active, None] + steps[:, None] * downhill[:, None]
            of, _ = at(trial, active)
            enough = of <= value[todo[active], None] - 1e-4 * steps * length.square()[:, None]
            best = of.masked_fill(~enough, torch.inf).argmin(1)
            chosen = torch.arange(len(active), device=todo.device)
            moved = enough.any(1)
            y[active[moved]] = trial[chosen, best][moved]
            value[todo[active[moved]]] = of[chosen, best][moved]
            active = active if radius == _RADII[-1] else active[moved]  # other draws may show the way
    codes[todo] = codes[todo] + factor.step(y[:, None], count)[:, 0]
    converged[todo] = reached


def _shortest(gradients: Tensor) -> Tensor:
    """Shortest vector in the convex hull of gradients, (A, M, d) -> (A, d); of those that are not finite, none."""
    found = torch.zeros_like(gradients[:, 0])
    for row, points in enumerate(gradients.double().cpu().numpy()):
        size = np.abs(points).max()
        if np.isfinite(size) and size > 0:
            sums = np.vstack([points.T / size, np.full(len(points), _SUM)])
            weights, _ = scipy.optimize.nnls(sums, np.append(np.zeros(points.shape[1]), _SUM))
            found[row] = torch.from_numpy(weights / weights.sum() @ points).to(found)
    return found


def _as_image(f: Decoder, x: Tensor, start: Tensor) -> Tensor:
    """Data (n, *event) as points (n, D) of the space that the image lies in: of an ensemble, once for each member."""
    source = f.source
    while isinstance(source, Chunked | ReparametrisedDecoder):
        source = source.decoder
    members = len(source) if isinstance(source, Ensemble) else 1
    with torch.no_grad():
        D = f(start[:1]).shape[1]
    rows = x.flatten(1)
    if rows.shape[1] == D:
        return rows
    if rows.shape[1] * members != D:
        raise ValueError(
            f"x: expected data (n, *event) of {D // members} values each, as the decoder gives, got {tuple(x.shape)}"
        )
    return rows.repeat(1, members) / members**0.5


def _likelihoods(source: Decoder | DecoderLike) -> Callable[[Tensor], list[dist.Distribution]] | None:
    """What gives the distributions of data under latent points, one for each decoder; None where none is known."""
    if isinstance(source, StatisticalDecoder | FisherRaoDecoder):
        return lambda z: [source.distribution(z)]
    if isinstance(source, Decoder):
        return _likelihoods(source.source)
    if isinstance(source, Chunked):
        return _likelihoods(source.decoder)
    if isinstance(source, ReparametrisedDecoder):
        of = _likelihoods(source.decoder)
        return None if of is None else lambda z: of(source.transform.inv(z))
    if isinstance(source, Ensemble):
        members = [_likelihoods(source[k]) for k in range(len(source))]
        return None if None in members else lambda z: [p for member in members for p in member(z)]
    return None


def _log_likelihood(likelihoods: Callable[[Tensor], list[dist.Distribution]], x: Tensor, start: Tensor) -> Misfit:
    """Log-likelihood of data by latent points and the numbers of their data, the mean over decoders, checked once."""
    with torch.no_grad():
        for p in likelihoods(start[:1]):
            shape = (*p.batch_shape, *p.event_shape)[1:]
            if shape != x.shape[1:]:
                raise ValueError(
                    f"x: expected rows of shape {tuple(shape)}, as the likelihood's, got {tuple(x.shape[1:])}"
                )
            if not p.support.check(x).all():
                remedy = "are these normalised or scaled values?"
                if isinstance(p.base_dist if isinstance(p, dist.Independent) else p, dist.Bernoulli):
                    remedy = "binarise them (x > 0.5), or let decode return the mean, torch.sigmoid(logits)"
                raise ValueError(
                    f"x: expected data in the support of {type(p).__name__}, {p.support}, got values from "
                    f"{x.min():.3g} to {x.max():.3g}; {remedy}"
                )

    def log_likelihood(z: Tensor, rows: Tensor) -> Tensor:
        each = [p.log_prob(x[rows]).reshape(len(z), -1).sum(1) for p in likelihoods(z)]
        return torch.stack(each).mean(0)

    return log_likelihood
