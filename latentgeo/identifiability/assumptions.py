r"""Do the assumptions of the identifiability theorem hold for this decoder, where its codes are?

Distances between points of the image are identified where the decoder is smooth, injective and of full rank, with noise
that is separable from the signal. None of it is guaranteed by training, and all of it can be looked at: the Jacobian's
singular values, its change over short intervals, and pairs of codes far apart whose images nearly meet. What is found
is found where it was looked for: a verdict "holds" says that a search among the codes failed to find a counter-example,
not a proof.

Reference: Syrota et al., "Identifying Metric Structures of Deep Latent Variable Models", ICML 2025 (the assumptions).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from latentgeo.geometry.arrays import takes_arrays
from latentgeo.geometry.curve import steps, straight_line
from latentgeo.geometry.decoder import Decoder, Ensemble, as_decoder, check_points
from latentgeo.geometry.differentiation import tangent
from latentgeo.geometry.geodesic.lbfgs import minimise
from latentgeo.geometry.geodesic.solve import solve

# The quantity of each assumption; where it should be large, below what it is doubtful and below what it fails.
_QUANTITIES = {
    "smooth": ("order at which differences of the Jacobian vanish", 0.8, 0.5),  # 1 if Lipschitz, 0 where it jumps
    "full rank": ("smallest singular value relative to the largest", 1e-3, 1e-5),
    "effective rank": ("latent dimensions that the decoder ignores", 0.0, 0.0),
    "posterior": ("directions in which codes hardly vary", 0.0, 0.0),
    "injective": ("chord in data space relative to the geodesic", 5e-2, 1e-2),
    "noise dimension": ("data dimensions beyond the latent ones", 1.0, 1.0),
}
_COLLAPSED = 1e-3  # mean squared singular value, relative to the largest, of a dimension that the decoder ignores
_UNUSED = 1e-6  # the same, of one that it does not see at all
_VARIANCE = 1e-2  # variance of codes, relative to the prior's, of a dimension whose posterior is the prior
_NEAR = 0.1  # length, relative to the median pair's, below which two points are neighbours rather than a collision
_REACH = 2.0  # distance that a search may go from its code, in units of that to the nearest neighbour
_STEPS = 50  # of each search
_CHORDS = (8, 64)  # of a straight line, to compare many and to measure one
_CHECKED = 8  # pairs whose geodesics are solved
_ROWS = 64  # latent points, or lines, that are decoded at a time
_ENTRIES = 2**25  # of the Jacobians held at a time
# Where a terminal is too narrow pandas leaves out the columns in the middle: there the long texts are.
_COLUMNS = ["assumption", "verdict", "quantity", "detail", "value", "threshold"]


def _row(
    assumption: str, value: float, detail: str, verdict: str | None = None, threshold: float | None = None
) -> dict[str, object]:
    """One assumption, and what speaks for or against it: without a verdict, a value that should be large; NaN fails."""
    quantity, doubtful, fails = _QUANTITIES[assumption]
    if verdict is None:
        verdict = "holds" if value >= doubtful else "doubtful" if value >= fails else "fails"
    threshold = doubtful if threshold is None else threshold
    return dict(zip(_COLUMNS, (assumption, verdict, quantity, detail, float(value), threshold), strict=True))


class _Neighbourhood:
    """Balls around codes, cut to the codes' bounding box: where the searches look.

    Args:
        codes: latent points, shape (n, d), all different.
    """

    def __init__(self, codes: Tensor) -> None:
        self._codes, self._lower, self._upper = codes, codes.amin(0), codes.amax(0)
        distances = torch.cdist(codes, codes, compute_mode="donot_use_mm_for_euclid_dist")
        self._radius = _REACH * distances.fill_diagonal_(torch.inf).amin(1)

    def __call__(self, y: Tensor, index: Tensor) -> Tensor:
        """Latent points of free coordinates y, zero at the code: (A, d), (A,) -> (A, d)."""
        step = self._radius[index, None] * y / (1.0 + y.square().sum(1, keepdim=True)).sqrt()
        return torch.clamp(self._codes[index] + step, self._lower, self._upper)


@takes_arrays("z")
def check_assumptions(
    decoder: Decoder,
    z: Tensor,
    *,
    pairs: int = 32,
    points: int = 256,
    prior_variance: float | None = None,
    noise_known: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Look for counter-examples to the assumptions under which distances are identified.

    ================ =========================================================== ================= ================
    assumption       quantity                                                    doubtful          fails
    ================ =========================================================== ================= ================
    smooth           order p of :math:`\|J(z + h v) v - J(z) v\| \sim h^p`,      < 0.8             < 0.5
                     bisecting towards the largest change
    full rank        least :math:`\sigma_d(J)` over the largest                  < 1e-3            < 1e-5
                     :math:`\sigma_1(J)`
    effective rank   latent dimensions with :math:`E[\sigma_i^2]` below 1e-3     any               any below 1e-6
                     of the largest
    posterior        directions in which codes vary by less than 1e-2 of                           any
                     ``prior_variance`` (only if that is given)
    injective        least :math:`\|f(a) - f(b)\| / d(a, b)` of points far       < 0.05            < 0.01
                     apart, d the geodesic distance
    noise dimension  D - d, data dimensions that hold noise alone                                  < 1, or < 0 if
                                                                                                   the noise is known
    ================ =========================================================== ================= ================

    Ranks and ratios are not only measured at the codes: from the worst codes and pairs a search goes on, up to twice
    the distance to the nearest neighbour and within the bounding box of z. The ratio is identified, and 1 for close
    points; where it tends to 0 between distant ones the decoder is not injective, or, like a figure-eight, injective
    yet not an embedding. Far apart means along the surface: codes that differ in a direction that the decoder ignores
    are at distance zero: that is for the ranks. Singular values are those of the given latent coordinates: rescaled
    ones change them, so thresholds are low.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        z: codes, shape (n, d), of data or of the prior, at least three different ones.
        pairs: pairs and codes from which searches start.
        points: codes looked at, drawn from z if it has more.
        prior_variance: variance of the prior along each latent direction, if z are codes of data and a posterior that
            has collapsed onto the prior is to be found; 1 for the usual N(0, I).
        noise_known: whether the likelihood's variance was fixed rather than learned; then d = D is allowed.
        seed: of the draws.

    Returns:
        One row for each assumption, with columns ``assumption``, ``verdict`` ("holds", "doubtful" or "fails"),
        ``quantity``, ``detail`` (a sentence with the place and further numbers), ``value`` of the quantity, and
        ``threshold`` (on the side of "holds"). Where the decoder is not finite the verdict is "fails", the value NaN
        and the detail says so.

    Raises:
        TypeError, ValueError: shapes, types or options do not fit, see
            :func:`latentgeo.geometry.decoder.as_decoder`.

    Example:
        A fold, whose sheets have the same image and whose rank drops along the crease:

        >>> import torch
        >>> z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> fold = lambda z: torch.stack([z[:, 0] ** 2, z[:, 1], z[:, 1] ** 2], -1)
        >>> table = check_assumptions(fold, z).set_index("assumption")
        >>> table.verdict[["smooth", "full rank", "injective"]].tolist()
        ['holds', 'fails', 'fails']
    """
    check_points("z", z, ndim=2)
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"z: expected float32 or float64, got {z.dtype}; half precision is too coarse")
    for name, value, least in (("pairs", pairs, 1), ("points", points, 3)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    if prior_variance is not None and not (prior_variance > 0 and math.isfinite(prior_variance)):
        raise ValueError(f"prior_variance: expected a positive finite number, got {prior_variance!r}")
    with torch.inference_mode(False), torch.no_grad():
        codes = z.detach().clone()
        f = as_decoder(decoder, codes)
        random = torch.Generator().manual_seed(seed)
        chosen = codes.unique(dim=0)
        if len(chosen) < 3:
            raise ValueError(f"z: expected at least three different codes, got {len(chosen)}")
        if len(chosen) > points:
            chosen = chosen[torch.randperm(len(chosen), generator=random, device="cpu")[:points].to(chosen.device)]
        x = torch.cat([f(part) for part in chosen.split(_ROWS)])
        members = len(f.source) if isinstance(f.source, Ensemble) else 1
        singular, metric = _spectrum(f, chosen)
        broken = ~(torch.isfinite(singular).all(1) & torch.isfinite(x).all(1))
        if broken.any():
            where = f"at {int(broken.sum())} of {len(chosen)} codes, first at z = {_written(chosen[broken][0])}"
            detail = f"the decoder or its Jacobian is NaN or infinite {where}"
            rows = [_row(name, math.nan, detail) for name in ("smooth", "full rank", "effective rank", "injective")]
        else:
            around = _Neighbourhood(chosen)
            rows = [
                _smooth(f, chosen, pairs, random),
                _full_rank(f, chosen, singular, metric, around, pairs),
                _effective_rank(singular),
                _injective(f, chosen, x, metric, around, pairs, random),
            ]
        if prior_variance is not None:
            rows.insert(3, _posterior(codes, prior_variance))
        rows.append(_noise_dimension(z.shape[1], x.shape[1] // members, noise_known))
    return pd.DataFrame(rows)


def _spectrum(f: Decoder, z: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of J, shape (n, d), descending, zero where D < d; and G, shape (n, d, d)."""
    singular, metric = [], []
    size = max(1, min(_ROWS, _ENTRIES // (z.shape[1] * f(z[:1]).shape[1])))
    for part in z.split(size):
        J = f.jacobian(part)
        finite = torch.isfinite(J).flatten(1).all(1)
        values = torch.linalg.svdvals(J.where(finite[:, None, None], 0.0))
        values = torch.nn.functional.pad(values, (0, max(z.shape[1] - J.shape[1], 0)))
        singular.append(values.where(finite[:, None], torch.nan))
        metric.append(J.mT @ J)
    return torch.cat(singular), torch.cat(metric)


def _written(z: Tensor) -> str:
    values = [f"{value:.3g}" for value in z[:6].tolist()]
    return f"({', '.join(values)}{', …' if len(z) > 6 else ''})"


def _smooth(f: Decoder, z: Tensor, pairs: int, random: torch.Generator) -> dict[str, object]:
    r"""Bisect segments between codes towards the largest change of Jv.

    The change over an interval of a smooth decoder halves with the interval. Where J jumps, one half always holds the
    jump, and the change tends to its size.
    """
    halvings = 20 if z.dtype == torch.float64 else 10
    last = halvings // 2  # halvings from which the order is read
    ends = torch.stack([torch.randperm(len(z), generator=random, device="cpu")[:2] for _ in range(pairs)]).to(z.device)
    low, v = z[ends[:, 0]], z[ends[:, 1]] - z[ends[:, 0]]

    def along(t: Tensor) -> Tensor:
        return f.jvp(low + t[:, None] * v, v)

    left, width = torch.zeros_like(low[:, 0]), 1.0
    at_left, at_right = along(left), along(left + 1.0)
    largest = torch.maximum(at_left.norm(dim=1), at_right.norm(dim=1))
    changes = []
    for _ in range(halvings):
        width /= 2.0
        at_middle = along(left + width)
        largest = torch.maximum(largest, at_middle.norm(dim=1))
        first, second = (at_middle - at_left).norm(dim=1), (at_right - at_middle).norm(dim=1)
        right = second > first
        left = torch.where(right, left + width, left)
        at_left, at_right = at_left.where(~right[:, None], at_middle), at_right.where(right[:, None], at_middle)
        changes.append(torch.maximum(first, second))
    start, end = changes[-1 - last], changes[-1]
    noise = 1e3 * torch.finfo(z.dtype).eps * largest
    finite = torch.isfinite(start) & torch.isfinite(end)
    if not finite.all():
        where = _written((low + left[:, None] * v)[~finite][0])
        return _row("smooth", math.nan, f"the Jacobian is NaN or infinite between codes, near z = {where}")
    # A change that has sunk into rounding has vanished at first order at least.
    order = torch.where(end > noise, torch.log2(start / end.clamp_min(noise)) / last, 1.0).clamp(0.0, 1.0)
    worst = order.argmin()
    jump = (end / largest.clamp_min(torch.finfo(z.dtype).tiny))[worst].item()
    place = low[worst] + left[worst] * v[worst]
    # On a piece where the decoder is linear Jv does not change by a single bit.
    middle = torch.full_like(left, 0.37)
    unchanged = (along(middle) == along(middle + width)).all(1)
    value = order[worst].item()
    detail = f"median order {order.median():.2f} over {pairs} segments between codes"
    if value < _QUANTITIES["smooth"][1]:
        detail += (
            f"; near z = {_written(place)} the Jacobian still changes by {jump:.1e} of itself over 2^-{halvings} of one"
        )
    if unchanged.float().mean() > 0.5:
        linear = (torch.stack(changes) <= noise).all()
        detail += f"; second derivatives are exactly zero: the decoder is {'' if linear else 'piecewise '}linear"
    return _row("smooth", value, detail)


def _searched(value: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
    """Minimise a function of free coordinates and their rows, (A, k), (A,) -> (A,), from a start (P, k)."""

    def with_gradient(y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            found = value(y, rows)
            (gradient,) = torch.autograd.grad(found.sum(), y)
        return found.detach(), gradient

    return minimise(with_gradient, start, tol=1e-6, max_iter=_STEPS).x


def _full_rank(
    f: Decoder, z: Tensor, singular: Tensor, metric: Tensor, around: _Neighbourhood, starts: int
) -> dict[str, object]:
    r"""Search for the least singular value, from the worst codes.

    It is minimised with its singular vector, :math:`\min_{z, v} \|J(z) v\|^2 / \|v\|^2`, which takes one forward-mode
    pass for each step.
    """
    largest, d = singular[:, 0].max(), z.shape[1]
    if largest == 0:
        return _row("full rank", 0.0, "the decoder is constant: every singular value is zero")
    worst = singular[:, -1].argsort()[:starts]
    vectors = torch.linalg.eigh(metric[worst].double())[1][:, :, 0].to(z)

    def rayleigh(yv: Tensor, rows: Tensor) -> Tensor:
        y, v = yv[:, :d], vectors[rows] + yv[:, d:]
        Jv = tangent(f, f.way, around(y, worst[rows]), v) / largest
        return Jv.square().sum(1) / v.square().sum(1)

    found = _searched(rayleigh, z.new_zeros(len(worst), 2 * d))
    candidates = torch.cat([z[worst], around(found[:, :d], worst)])
    least = _spectrum(f, candidates)[0][:, -1]
    least = torch.where(torch.isfinite(least), least, torch.inf)
    value = (least.min() / largest).item()
    condition = singular[:, 0] / singular[:, -1]
    median, upper, worst_condition = (condition.quantile(q, interpolation="nearest").item() for q in (0.5, 0.9, 1.0))
    detail = (
        f"least near z = {_written(candidates[least.argmin()])}; at the codes the condition number is {median:.3g} "
        f"(median), {upper:.3g} (90 %), {worst_condition:.3g} (largest)"
    )
    return _row("full rank", value, detail)


def _effective_rank(singular: Tensor) -> dict[str, object]:
    """Count the dimensions that the decoder hardly uses anywhere."""
    power = singular.square().mean(0)
    d = len(power)
    if power[0] == 0:
        return _row("effective rank", d, "the decoder is constant: every singular value is zero", "fails")
    share = power / power[0]
    ignored, unused = int((share < _COLLAPSED).sum()), int((share < _UNUSED).sum())
    participation = (power.sum().square() / power.square().sum()).item()
    verdict = "holds" if ignored == 0 else "doubtful" if unused == 0 else "fails"
    detail = (
        f"of {d} mean squared singular values {ignored} lie below {_COLLAPSED:.0e} of the largest, {unused} below "
        f"{_UNUSED:.0e}; the smallest is {share[-1].item():.1e} of it; participation ratio {participation:.2f}"
    )
    return _row("effective rank", ignored, detail, verdict)


def _posterior(z: Tensor, prior_variance: float) -> dict[str, object]:
    """Count the directions in which codes do not follow the data, the posterior being the prior."""
    n, d = z.shape
    centred = (z - z.mean(0)).double()
    variance = torch.linalg.eigvalsh(centred.mT @ centred / (n - 1)) / prior_variance
    collapsed = int((variance < _VARIANCE).sum())
    detail = f"variance of codes relative to the prior's: {variance[0]:.2g} (least) to {variance[-1]:.2g} (largest)"
    if n <= d:
        detail += f"; {n} codes cannot vary in all {d} dimensions, give more"
    return _row("posterior", collapsed, detail, "holds" if collapsed == 0 else "fails")


def _straight(f: Decoder, a: Tensor, b: Tensor, chords: int) -> Tensor:
    """Length of the straight line's image by chords, (P, d) -> (P,)."""
    ends = zip(a.split(_ROWS), b.split(_ROWS), strict=True)
    return torch.cat([steps(f, straight_line(first, last, chords)).sum(1) for first, last in ends])


def _injective(
    f: Decoder,
    z: Tensor,
    x: Tensor,
    metric: Tensor,
    around: _Neighbourhood,
    pairs: int,
    random: torch.Generator,
) -> dict[str, object]:
    r"""Search for points far apart whose images nearly meet.

    From the pairs of codes with the least ratio of chord to straight pull-back length,
    :math:`\|f(a) - f(b)\|^2 / (a - b)^\top \bar G (a - b)` is minimised, the mean metric :math:`\bar G` standing in for
    the distance. Of what is found the geodesics are solved, and the least ratio of chord to geodesic counts.
    """
    n, d = z.shape
    mean = metric.mean(0)
    scale = mean.diagonal().mean()
    if scale == 0:
        return _row("injective", 0.0, "the decoder is constant: all codes have the same image")
    mean = mean + 1e-6 * scale * torch.eye(d, dtype=z.dtype, device=z.device)
    w = z @ torch.linalg.cholesky(mean.double()).to(z)
    proxy = torch.cdist(w, w, compute_mode="donot_use_mm_for_euclid_dist")
    chord = torch.stack([f.chord(image, x) for image in x])
    near = proxy <= _NEAR * proxy[~torch.eye(n, dtype=torch.bool, device=z.device)].median()
    ratio = (chord / proxy).masked_fill(near, torch.inf)

    # The best partner of each code, each pair once.
    best, partner = ratio.min(1)
    each = torch.arange(n, device=z.device)[torch.isfinite(best)]
    ends = torch.stack([each, partner[each]], 1).sort(1).values.unique(dim=0)
    drawn = torch.stack([torch.randperm(n, generator=random, device="cpu")[:2] for _ in range(64)]).to(z.device)
    floor = _NEAR * _straight(f, z[drawn[:, 0]], z[drawn[:, 1]], _CHORDS[0]).median()

    def measured(a: Tensor, b: Tensor) -> Tensor:
        length = _straight(f, a, b, _CHORDS[0])
        quotient = f.chord(f(a), f(b)) / length
        return quotient.where((length >= floor) & torch.isfinite(quotient), torch.inf)

    worth = measured(z[ends[:, 0]], z[ends[:, 1]])
    ends = ends[worth.argsort()[:pairs]]

    def closeness(y: Tensor, rows: Tensor) -> Tensor:
        a, b = around(y[:, :d], ends[rows, 0]), around(y[:, d:], ends[rows, 1])
        apart = ((a - b) @ mean * (a - b)).sum(1)
        return f.squared(f(a), f(b)).sum(1) / apart

    found = _searched(closeness, z.new_zeros(len(ends), 2 * d))
    a = torch.cat([z[ends[:, 0]], around(found[:, :d], ends[:, 0]), z[drawn[:, 0]]])
    b = torch.cat([z[ends[:, 1]], around(found[:, d:], ends[:, 1]), z[drawn[:, 1]]])
    worth = measured(a, b)
    kept = worth.argsort()[:_CHECKED]
    kept = kept[torch.isfinite(worth[kept])]
    if len(kept) == 0:
        return _row("injective", math.nan, "the images of codes do not differ, or are not finite between codes")
    a, b = a[kept], b[kept]
    solved = solve(f, a, b, {"tol": 1e-3, "max_iter": 30})
    # Any curve is at least as long as a geodesic; the straight line is one that needs no solver. A curve that jumps
    # may be extrapolated to less than its chord, which no curve is shorter than.
    straight, chord = _straight(f, a, b, _CHORDS[1]), f.chord(f(a), f(b))
    possible = solved.length.where(solved.length >= chord, torch.nan)
    length = solved.length.where(solved.converged, torch.fmin(possible, straight))
    least = (chord / length).argmin()
    value = (chord[least] / length[least]).item()
    kind = "geodesic" if solved.converged[least] else "at most, as no geodesic converged"
    detail = (
        f"images of a = {_written(a[least])} and b = {_written(b[least])} are {chord[least].item():.3g} apart, the "
        f"points {length[least].item():.3g} ({kind}); least of {len(ends)} searches"
    )
    return _row("injective", value, detail)


def _noise_dimension(d: int, D: int, noise_known: bool) -> dict[str, object]:
    """Compare the dimensions of latent and data space."""
    needed = 0 if noise_known else 1
    spare = D - d
    detail = f"d = {d} latent and D = {D} data dimensions"
    if spare < 0:
        detail += "; no decoder into fewer dimensions is injective and of full rank"
    elif spare < needed:
        detail += (
            "; noise of unknown variance fills the same dimensions as the signal and cannot be distinguished from it"
        )
    return _row("noise dimension", spare, detail, "holds" if spare >= needed else "fails", float(needed))
