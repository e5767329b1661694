r"""Ends and paths: where trainings disagree about a geodesic, why, and what helps.

With the chord c between its ends, a geodesic distance is :math:`\log d = \log c + \log (d / c)`. Models agree on the
stretch :math:`d / c` as far as their decoders bend alike between the ends, where there may be no data. Here are
geodesics as curves of images beside the data, decoders that are held in check between data, and two clusters of a
known surface that are joined by few data or by none.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor, nn

from latentgeo.adapters.model import as_images, latent_model
from latentgeo.agreement.pairs import draw_pairs, measure_pairs, pair_distances
from latentgeo.agreement.reliability import (
    cubes,
    cv_over_models,
    moments,
    resampled,
    split_into_ends_and_path,
    with_interval,
    with_log_interval,
)
from latentgeo.agreement.report import agreement
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.geodesic.solve import geodesic
from latentgeo.geometry.surfaces import cylinder
from latentgeo.paper.data import Dataset, load_dataset
from latentgeo.paper.jobs import Job, run_jobs, single_thread
from latentgeo.paper.known_factors import Setting, rendered, true_geodesics
from latentgeo.paper.models.isometry import IsometricVAE
from latentgeo.paper.models.training import TrainingConfig, train
from latentgeo.paper.models.vae import VAE, build_vae
from latentgeo.paper.paths import runs_dir
from latentgeo.paper.profiles import LATENT_DIM, RunConfig
from latentgeo.paper.profiles import NOISE as DATA_NOISE
from latentgeo.paper.study import Study, Sweep, checked_seeds

APART, WIDTH, NOISE = 1.2, 0.2, 0.05  # clusters at angles ±1.2, their standard deviation, and that of the noise
_AROUND = 500  # further test data that stand for the support of the data
_VALIDATION, _HELD_OUT, _BATCH = 500, 1000, 64
_VALIDATION_SEED, _TEST_SEED = 1_000_001, 1_000_002


class Followed(NamedTuple):
    """Geodesics of a model between data, as curves of images.

    Attributes:
        images: of the mean decoder at equal steps of time, ends included, shape (P, T, D), in data units.
        gap: distance of each image to the nearest datum, shape (P, T), in data units.
        length: geodesic distances d, shape (P,), in data units.
        converged: whether both ends and the geodesic were found, shape (P,).
    """

    images: Tensor
    gap: Tensor
    length: Tensor
    converged: Tensor


def follow(model: object, start: Tensor, end: Tensor, data: Tensor, times: int = 9) -> Followed:
    r"""Follow geodesics between the points nearest to data, and see how far their images are from other data.

    Args:
        model: a trained VAE, whose ``decode`` is an :class:`latentgeo.Ensemble`; the geodesics are those of the
            expected metric.
        start: data, shape (P, \*event).
        end: data, shape (P, \*event).
        data: those that count as data along the way, shape (n, \*event).
        times: T: 3, 5, 9 or 17.

    Raises:
        ValueError: the 16 segments of a geodesic have no points at such times.
    """
    if times not in (3, 5, 9, 17):
        raise ValueError(f"times: expected 3, 5, 9 or 17 points of the 16 segments of a geodesic, got {times!r}")
    seen = latent_model(model)
    found = seen.points(torch.cat([as_images(start), as_images(end)]))
    a, b = found.codes.chunk(2)
    curves = geodesic(seen.decoder, a, b, segments=16)
    points = curves.points[:, :: (curves.points.shape[1] - 1) // (times - 1)]
    rows = as_images(data).flatten(1)
    with torch.no_grad():
        decoded = seen.decoder(points.flatten(0, 1))  # [B, K, *event], scaled by 1/√K
        images = decoded.mean(1).flatten(1) * decoded.shape[1] ** 0.5
        gap = torch.cat([torch.cdist(part, rows).amin(1) for part in images.split(1024)])
    converged = curves.converged & found.converged.view(2, -1).all(0)
    return Followed(images.unflatten(0, points.shape[:2]), gap.view(points.shape[:2]), curves.length, converged)


def _parts(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Logarithms of the chord (``ends``) and of the stretch (``path``), shape (S, P) each."""
    values, _ = cubes(table, ["geodesic", "ambient_chord"])
    d, c = values["geodesic"], values["ambient_chord"]
    return {"ends": np.log(c), "path": np.log(d / c)}


def summarise(
    table: pd.DataFrame,
    truth: np.ndarray | None = None,
    base: pd.DataFrame | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    r"""How far models agree on ends and on paths, in absolute terms, and how true their geodesics are.

    Args:
        table: as for :func:`latentgeo.coefficient_of_variation`, with geodesics and chords.
        truth: true distances of the pairs, shape (P,), where they are known.
        base: a table of other models of the same seeds and pairs, to compare the paths with.
        resamples: of the models.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        ``ends`` and ``path``, the root mean square over pairs of the standard deviation over models of
        :math:`\log c` and :math:`\log (d/c)`; ``cv``, the mean coefficient of variation of the geodesic; ``stretch``,
        the mean of d/c; with ``base``, ``path_ratio``, the path of these over the path of those, and ``path_p``, the
        two-sided p that they are as steady; with the truth, ``error``, the mean of :math:`\log(d / d^*)`, and ``r``,
        the correlation with it, by Fisher's artanh. All but p with ``_low`` and ``_high``, models resampled.
    """
    parts = _parts(table)
    S, values = len(parts["path"]), cubes(table)[0]["geodesic"]
    weights = resampled(S, resamples, np.random.default_rng(seed))

    def rms(logs: np.ndarray) -> tuple[float, np.ndarray]:
        return np.sqrt(moments(logs, None)[1].mean()), np.sqrt(moments(logs, weights)[1].mean(1))

    row = {}
    for name, logs in parts.items():
        row |= with_log_interval(name, *rms(logs), level, S)
    row |= with_log_interval("cv", cv_over_models(values).mean(), cv_over_models(values, weights).mean(1), level, S)
    means = {"stretch": np.exp(parts["path"]).mean(1)}
    if base is not None:
        (one, of_one), (other, of_other) = rms(parts["path"]), rms(_parts(base)["path"])
        with np.errstate(divide="ignore", invalid="ignore"):
            row |= with_log_interval("path_ratio", one / other, of_one / of_other, level, S, spreads=2)
        # The same Student's t that the interval is of.
        reach = np.log(row["path_ratio_high"] / row["path_ratio"]) / scipy.stats.t.ppf((1 + level) / 2, S - 1)
        row["path_p"] = 2 * scipy.stats.t.sf(abs(np.log(one / other)) / reach, S - 1) if reach > 0 else np.nan
    if truth is not None:
        means["error"] = np.log(values / truth).mean(1)
        z = np.arctanh(np.array([np.corrcoef(of, truth)[0, 1] for of in values]).clip(-1 + 1e-12, 1 - 1e-12))
        of = with_interval("r", z.mean(), weights @ z / S, level, S)
        row |= {name: float(np.tanh(value)) for name, value in of.items()}
    for name, by_model in means.items():
        row |= with_interval(name, by_model.mean(), weights @ by_model / S, level, S)
    return row


class Profile(NamedTuple):
    """Where along a path models disagree.

    Attributes:
        profile: one row for each time (``t``, from 0 to 1): ``gap``, the root mean square distance to the nearest
            datum, over that at the ends; ``ends``, ``path`` and ``whole``, the disagreement of the images over models,
            as a share of the chord, see :func:`where`.
        pairs: one row for each pair: ``gap``, the largest mean gap along the path over that at its ends; ``chord``;
            ``path``, the standard deviation over models of log d/c.
        relation: how the last goes with the first, see :func:`where`.
    """

    profile: pd.DataFrame
    pairs: pd.DataFrame
    relation: dict[str, float]


def where(followed: Sequence[Followed], *, resamples: int = 500, level: float = 0.95, seed: int = 0) -> Profile:
    r"""Where along a path models disagree, and whether it is where there are no data.

    The image at time t differs from the point of the chord by an excursion, which vanishes at both ends:

    .. math:: \gamma_s(t) = (1 - t)\, \gamma_s(0) + t\, \gamma_s(1) + e_s(t).

    ``ends`` is the root mean square, over models and pairs, of how far the first two terms are from their mean over
    models, relative to the mean chord; ``path`` that of the excursion; ``whole`` that of their sum.

    Args:
        followed: of each model, at least three, the same pairs; those that some model has not found are left out.
        resamples: of the models, and draws of the null.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        The profile, the pairs, and the relation: ``rho``, the rank correlation over pairs of gap and path;
        ``partial``, that of what is left of their ranks after those of the chord, as longer paths lead farther from
        data and bend more; both with ``_low`` and ``_high``, models resampled; ``null``, the 95 % point of
        :math:`|\cdot|` of the partial one when the paths are those of other pairs; ``p``, the share of such draws
        that reach it; ``models`` and ``pairs``.
    """
    kept = torch.stack([of.converged for of in followed]).all(0)
    images = torch.stack([of.images[kept] for of in followed]).double()  # [S, P, T, D]
    gap = torch.stack([of.gap[kept] for of in followed]).double().numpy()
    length = torch.stack([of.length[kept] for of in followed]).double().numpy()
    S, P, T, _ = images.shape
    t = torch.linspace(0, 1, T, dtype=images.dtype)[:, None]
    straight = (1 - t) * images[:, :, :1] + t * images[:, :, -1:]
    chord = (images[:, :, -1] - images[:, :, 0]).norm(dim=-1).numpy()
    rows = {"t": t[:, 0].numpy(), "gap": np.sqrt((gap**2).mean((0, 1)))}
    rows["gap"] = rows["gap"] / np.sqrt((gap[:, :, [0, -1]] ** 2).mean())
    for name, of in {"ends": straight, "path": images - straight, "whole": images}.items():
        variance = of.var(0).sum(-1).numpy() / chord.mean(0)[:, None] ** 2  # [P, T]
        rows[name] = np.sqrt(variance.mean(0))

    logs, random = np.log(length / chord), np.random.default_rng(seed)
    weights = resampled(S, resamples, random)

    def summary(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gaps and chords of resamples, shape (B, P) each."""
        mean = np.einsum("bs,spt->bpt", counts / S, gap)
        return mean.max(2) / mean[:, :, [0, -1]].mean(2), counts @ chord / S

    def relations(gaps: np.ndarray, chords: np.ndarray, paths: np.ndarray) -> np.ndarray:
        """Rank correlation and partial one, shape (2,)."""
        with np.errstate(invalid="ignore"):  # what is the same for all pairs goes with nothing
            between = np.nan_to_num(np.corrcoef([scipy.stats.rankdata(of) for of in (gaps, paths, chords)]))
        rho, of_gap, of_path = between[0, 1], between[0, 2], between[1, 2]
        left = (1 - of_gap**2) * (1 - of_path**2)
        return np.array([rho, (rho - of_gap * of_path) / np.sqrt(left) if left > 0 else np.nan])

    gaps, chords = (of[0] for of in summary(np.ones((1, S))))
    paths = np.sqrt(moments(logs, None)[1])
    found = relations(gaps, chords, paths)
    drawn = [relations(*of) for of in zip(*summary(weights), np.sqrt(moments(logs, weights)[1]), strict=True)]
    relation = {}
    for name, value, draws in zip(("rho", "partial"), found, np.transpose(drawn), strict=True):
        relation |= with_interval(name, value, draws, level, S)
    null = np.abs([relations(gaps, chords, random.permutation(paths))[1] for _ in range(resamples)])
    relation |= {"null": float(np.quantile(null, level))}
    relation |= {"p": float((1 + (null >= abs(found[1])).sum()) / (resamples + 1)), "models": S, "pairs": P}
    pairs = pd.DataFrame({"gap": gaps, "chord": chords, "path": paths})
    return Profile(pd.DataFrame(rows), pairs, relation)


class NearData(nn.Module):
    r"""K decoders as one, whose geodesics keep to where the K agree.

    .. math:: F_w = \Big(\bar f,\; \sqrt{w / K}\, (f_1 - \bar f),\; \ldots,\; \sqrt{w / K}\, (f_K - \bar f)\Big),
        \qquad G_w = \bar J^\top \bar J + \frac wK \sum_k (J_k - \bar J)^\top (J_k - \bar J).

    w = 1 is the expected metric, w = 0 the metric of the mean decoder; a larger w makes dear what the decoders have not
    learned alike.

    Args:
        decoders: the K decoders, (B, d) -> (B, \*event).
        weight: w, at least 0.

    Raises:
        ValueError: the weight is negative or not finite, or there is no decoder.

    Example:
        >>> F = NearData([lambda z: 1.0 * z, lambda z: 3.0 * z], weight=4.0)
        >>> (F(torch.ones(1, 1)) - F(torch.zeros(1, 1))).square().sum()  # the square of the mean, 4 times the variance
        tensor(8.)
    """

    def __init__(self, decoders: Sequence[Callable[[Tensor], Tensor]], weight: float) -> None:
        super().__init__()
        if not (decoders and 0 <= weight < math.inf):
            raise ValueError(
                f"expected at least one decoder and a finite weight of at least 0, got {len(decoders)} and {weight!r}"
            )
        self._callables = list(decoders)
        self.modules_of_decoders = nn.ModuleList(f for f in decoders if isinstance(f, nn.Module))
        self.weight = weight

    def forward(self, z: Tensor) -> Tensor:
        """Decode latent points: (B, d) -> (B, K + 1, *event)."""
        decoded = torch.stack([decoder(z) for decoder in self._callables], 1)
        mean = decoded.mean(1, keepdim=True)
        return torch.cat([mean, (self.weight / decoded.shape[1]) ** 0.5 * (decoded - mean)], 1)


class NoisyVAE(VAE):
    r"""A VAE whose posterior is never narrower than η, so that its decoders learn from codes farther from the data's.

    .. math:: q(z \mid x) = N\big(\mu(x),\, \mathrm{diag}(\sigma^2(x) + \eta^2)\big)

    With η = 0 it is the plain VAE, draw by draw.

    Args:
        encoder: see :class:`~latentgeo.paper.models.vae.VAE`.
        decoders: the K decoders.
        noise: τ, in data units.
        latent_noise: η, in latent units.

    Raises:
        ValueError: η is negative or not finite.
    """

    def __init__(
        self, encoder: nn.Module, decoders: list[nn.Module], noise: float = 1.0, latent_noise: float = 0.0
    ) -> None:
        super().__init__(encoder, decoders, noise)
        if not 0 <= latent_noise < math.inf:
            raise ValueError(f"latent_noise: expected a finite number of at least 0, got {latent_noise!r}")
        self.latent_noise = latent_noise

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each of shape (B, d), from images (B, *event)."""
        mean, log_variance = super().posterior(x)
        if self.latent_noise == 0:
            return mean, log_variance
        return mean, (log_variance.exp() + self.latent_noise**2).log()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How decoders are held in check between data.

    Attributes:
        decoders: K.
        isometry: λ of :class:`~latentgeo.paper.models.isometry.IsometricVAE`, in nats per image.
        latent_noise: η of :class:`NoisyVAE`.
        variances: w of :class:`NearData`, whose geodesics are all measured under the same models.
    """

    decoders: int = 1
    isometry: float = 0.0
    latent_noise: float = 0.0
    variances: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse what would be left out without a word."""
        if self.isometry and self.latent_noise:
            raise ValueError("expected an isometry penalty or latent noise, got both")

    def model(self, event_shape: tuple[int, ...], latent_dim: int, noise: float, seed: int) -> VAE:
        """A fully connected model, untrained."""
        made = build_vae("mlp", event_shape, latent_dim, self.decoders, seed=seed, noise=noise, activation="silu")
        if self.isometry:
            return IsometricVAE.from_vae(made, self.isometry)
        return NoisyVAE(made.encoder, list(made.decoders), noise, self.latent_noise) if self.latent_noise else made


BASE = "one decoder"
_FEW_RECIPES = {
    BASE: Recipe(),
    "4 decoders": Recipe(4, variances=(1.0, 10.0)),
    "isometry, λ = 1": Recipe(isometry=1.0),
    "latent noise 0.2": Recipe(latent_noise=0.2),
}
RECIPES = {
    "quick": _FEW_RECIPES,
    "evidence": {
        BASE: Recipe(),
        "2 decoders": Recipe(2),
        "4 decoders": Recipe(4, variances=(1.0, 0.0, 10.0, 100.0)),
        "8 decoders": Recipe(8),
        **{f"isometry, λ = {of:g}": Recipe(isometry=of) for of in (0.1, 1.0, 10.0)},
        **{f"latent noise {of:g}": Recipe(latent_noise=of) for of in (0.1, 0.2, 0.4)},
    },
}
RECIPES["paper"] = RECIPES["evidence"]


class Trial(NamedTuple):
    r"""Data that recipes are tried on.

    Attributes:
        data: whose test data are the starts of the pairs and then their ends.
        held_out: other data, for the ELBO, shape (m, \*event).
        truth: true distances of the pairs, shape (P,); None where nobody knows them.
        latent_dim: d of the models.
        noise: τ of the models.
    """

    data: Dataset
    held_out: Tensor
    truth: np.ndarray | None
    latent_dim: int
    noise: float


@functools.lru_cache(maxsize=8)
def trial(name: str, pairs: int) -> Trial:
    """Data to try recipes on: ``"position"`` (300 images of a blob), ``"bridge"`` (1 % of 2,000), or ``"digits"``.

    Raises:
        ValueError: there is no such trial.
    """
    if name == "position":
        setting = Setting("position", 0.2, 2, images=300)
        data = rendered(setting, pairs)
        other = rendered(dataclasses.replace(setting, images=_HELD_OUT + setting.images), pairs)
        truth = true_geodesics(setting.renderer, setting.width, pairs)[0].numpy()
        return Trial(data, other.train[-_HELD_OUT:], truth, setting.latent_dim, setting.noise)
    if name == "bridge":
        data, truth = bridge(2000, 0.01, 0, pairs), bridge_distances(pairs)[:pairs]
        return Trial(data, bridge(_HELD_OUT, 0.01, 1, pairs).train, truth, 2, NOISE)
    if name == "digits":
        data = load_dataset("digits")
        ends = torch.from_numpy(np.concatenate(draw_pairs(len(data.test), pairs)))
        chosen = dataclasses.replace(data, test=data.test[ends], test_labels=data.test_labels[ends])
        return Trial(chosen, data.test, None, LATENT_DIM["digits"], DATA_NOISE["digits"])
    raise ValueError(f"expected a trial among position, bridge, digits, got {name!r}")


def what_helps(
    names: Sequence[str],
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    pairs: int,
    *,
    steps: int = 1000,
    workers: int | None = None,
) -> pd.DataFrame:
    """Train every recipe on every trial, and measure its pairs between nearest points.

    Args:
        names: of the trials, see :func:`trial`.
        recipes: by name.
        seeds: of the models, the same for every recipe; the data are the same for all of them.
        pairs: P.
        steps: of the optimiser, the same for every recipe.
        workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

    Returns:
        One row for each trial, recipe, seed, pair and method: ``trial``, ``recipe``, ``seed``, ``pair``, ``method``,
        ``value``, ``converged``, ``error`` and ``loss``, -ELBO of data that are held out, in nats, without its constant
        and without penalties. Weights w other than 1 are named after the recipe.

    Raises:
        JobsFailedError: a model failed.
    """
    jobs = [
        Job(f"{name}, {recipe}, seed {seed}", _tried, (name, recipe, of, seed, pairs, steps))
        for name in names
        for recipe, of in recipes.items()
        for seed in seeds
    ]
    return pd.concat(run_jobs(jobs, workers=workers, label="models").values(), ignore_index=True)


def _tried(name: str, label: str, recipe: Recipe, seed: int, pairs: int, steps: int) -> pd.DataFrame:
    """Rows of one model of :func:`what_helps`."""
    data, held_out, _, latent_dim, noise = trial(name, pairs)
    # Few data are repeated, so that an epoch, after which the loss is taken, has some dozen steps.
    images = data.train.repeat(max(1, 40 * _BATCH // len(data.train)), *[1] * (data.train.ndim - 1))
    epochs = max(1, round(steps / (len(images) // _BATCH)))
    config = TrainingConfig(epochs, _BATCH, 1e-2, warmup_steps=50, half_life=steps // 4, patience=epochs)
    with single_thread():
        model = train(
            recipe.model(data.event_shape, latent_dim, noise, seed), images, data.validation, config, seed=seed
        )
        with torch.no_grad():
            terms = VAE.loss_terms(model, held_out, torch.Generator().manual_seed(0))
        codes = latent_model(model).points(data.test)
        found = codes.converged.view(2, -1).all(0).numpy()
        parts = []
        for weight in recipe.variances:
            a, b = codes.codes.chunk(2)
            f = as_decoder(model.decode if weight == 1 else NearData(list(model.decoders), weight), a)
            table, _ = measure_pairs(f, a, b)
            table["converged"] &= found[table["pair"]]
            parts.append(table.assign(recipe=label if weight == 1 else f"{label}, variance × {weight:g}"))
    return pd.concat(parts).assign(trial=name, seed=seed, loss=sum(terms).mean().item())


def _factors(n: int, share: float, *seed: int) -> Tensor:
    """Angles and heights of two clusters and of a bridge of a share of the data, shape (n, 2), in double precision."""
    random = np.random.default_rng(seed)
    cluster = np.where(np.arange(n) % 2, APART, -APART) + WIDTH * random.standard_normal(n)
    angle = np.where(np.arange(n) < round(share * n), random.uniform(-APART, APART, n), cluster)
    return torch.from_numpy(np.stack([angle, WIDTH * random.standard_normal(n)], 1))


def _ends(pairs: int) -> Tensor:
    """Factors of the pairs' ends, shape (2 P, 2): all starts are in one cluster, and all ends in the other."""
    clusters = _factors(2 * pairs, 0.0, _TEST_SEED)
    return torch.cat([clusters[::2], clusters[1::2]])


def bridge(n: int, share: float, seed: int, pairs: int) -> Dataset:
    r"""Two clusters on a unit cylinder, and a share ε of the data on the way between them.

    .. math:: x = f(u) + 0.05\, \epsilon, \qquad f(u) = (\cos u_1,\, \sin u_1,\, u_2)

    with :math:`u_1 \sim N(\pm 1.2,\, 0.2^2)` in the clusters, uniform between their centres on the bridge, and
    :math:`u_2 \sim N(0, 0.2^2)`. The cylinder is flat, so that distances on it are those of the factors; the chord
    through its inside is shorter by a quarter.

    Args:
        n: training data.
        share: ε, of the data that are on the bridge.
        seed: of the draws, which are independent for each seed.
        pairs: P; the test data are noise-free, first P in one cluster, then P in the other.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> bridge(100, 0.1, seed=0, pairs=3)
        Dataset('bridge', train=100, validation=500, test=6, event_shape=(3,))
    """
    if n < 2 or not 0 <= share <= 1 or seed < 0 or pairs < 2:
        raise ValueError(
            f"expected n and pairs of at least 2, a share from 0 to 1 and a seed of at least 0, got {n!r}, {pairs!r}, "
            f"{share!r} and {seed!r}"
        )
    parts = []
    for size, own in ((n, seed), (_VALIDATION, _VALIDATION_SEED)):
        clean = cylinder(_factors(size, share, own, size, 0))
        noise = torch.from_numpy(np.random.default_rng((own, size, 1)).standard_normal(clean.shape))
        parts.append((clean + NOISE * noise).float())
    parts.append(cylinder(_ends(pairs)).float())
    labelled = itertools.chain.from_iterable((x, torch.zeros(len(x), dtype=torch.int64)) for x in parts)
    return Dataset(
        "bridge",
        *labelled,
        class_names=("bridge",),
        source="latentgeo.paper.ends_and_paths",
        licence="MIT",
        # What determines the data; their bytes may differ in the last digit between machines.
        sha256={"bridge": f"schema 1, n={n}, share={share!r}, seed={seed}, pairs={pairs}"},
    )


def bridge_distances(pairs: int) -> np.ndarray:
    """True distances of the pairs of :class:`Bridge`, shape (2 P,): across the bridge, and then within a cluster."""
    u, (start, end) = _ends(pairs), _bridge_pairs(pairs)
    return (u[start] - u[end]).norm(dim=1).numpy()


def _bridge_pairs(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the starts and ends, of P pairs across and P pairs of neighbours in the list of one cluster."""
    P = np.arange(pairs)
    return np.concatenate([P, P]), np.concatenate([P + pairs, np.roll(P, 1)])


@dataclasses.dataclass(frozen=True)
class Bridge(Sweep):
    """Models of two clusters whose bridge has ever more data, each model of a sample of its own.

    Attributes:
        shares: ε.
        sizes: n.
        seeds: the number of models S of each, or their seeds, which set initial weights, training and sample.
        pairs: P across the bridge, and as many within a cluster.
        steps: of the optimiser, rounded to whole epochs; the same for all.
        profile: whose settings these are; None for settings of one's own.
        store: folder of the run store.
    """

    numbers = ("share", "n", "seed")
    shares: Sequence[float]
    sizes: Sequence[int]
    seeds: int | Sequence[int]
    pairs: int = 20
    steps: int = 1000
    profile: str | None = None
    store: Path | str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if not self.shares or not all(0 <= share <= 1 for share in self.shares):
            raise ValueError(f"shares: expected some from 0 to 1, got {self.shares!r}")
        if not self.sizes or min(self.sizes) < _BATCH:
            raise ValueError(f"sizes: expected some of at least a batch of {_BATCH}, got {self.sizes!r}")
        fill = {"seeds": checked_seeds(self.seeds, least=3), "store": Path(self.store or runs_dir())}
        fill |= {"shares": tuple(map(float, self.shares)), "sizes": tuple(map(int, self.sizes))}
        for name, value in fill.items():
            object.__setattr__(self, name, value)

    def models(self) -> list[tuple[float, int, int]]:
        """Share, size and seed of each model."""
        return [(share, n, seed) for n in self.sizes for share in self.shares for seed in self.seeds]

    def config(self, share: float, n: int, seed: int) -> RunConfig:
        """Configuration of one model."""
        epochs = max(1, round(self.steps / (n // _BATCH)))
        training = TrainingConfig(epochs, _BATCH, 1e-2, 50, half_life=self.steps // 4, patience=epochs)
        return RunConfig("bridge", "mlp", 2, 1, NOISE, "silu", seed, training)

    def data(self, share: float, n: int, seed: int) -> Dataset:
        """The sample of one model."""
        return bridge(n, share, seed, self.pairs)

    def run(self, *, workers: int | None = None) -> pd.DataFrame:
        """Train and measure what is not in the store yet, and gather everything.

        Args:
            workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

        Returns:
            One row for each share, size, model, pair and method, see
            :func:`latentgeo.agreement.pairs.pair_distances`; ``across`` says which pairs lead from one cluster to the
            other.

        Raises:
            JobsFailedError: a model failed; the others are finished and stored.
        """
        ends = _bridge_pairs(self.pairs)
        table = self.measure("distances", pair_distances, ends, points="nearest", workers=workers)
        return table.assign(across=table["pair"] < self.pairs)


def exponents(
    table: pd.DataFrame, truth: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    r"""How the variance of ends and of paths over models, and the error of geodesics, fall with the data on the bridge.

    .. math:: v(\varepsilon, n) = a\, \varepsilon^{-b}\, n^{-c}

    by least squares in logarithms over the shares above zero, where v is the mean over pairs of
    :math:`\operatorname{Var}_s \log c` (``ends``), of :math:`\operatorname{Var}_s \log (d/c)` (``path``), or of the
    square of :math:`\operatorname{mean}_s \log (d / d^*)` (``error``). Were it only the number of data on the bridge
    that counts, b and c would be the same.

    Args:
        table: from :meth:`Bridge.run`, of some of the pairs.
        truth: true distances of these pairs, shape (P,).
        resamples: of the models.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        Index ``part``: ``share`` (b) and, where there are several sizes, ``n`` (c), each with ``_low`` and ``_high``,
        models resampled, the same seeds in all cells.

    Raises:
        ValueError: there are fewer than two shares above zero.
    """
    cells = dict(iter(table[table["share"] > 0].groupby(["share", "n"])))
    design = np.log(np.array(list(cells)))
    used = [column for column in (0, 1) if np.ptp(design[:, column]) > 0] if cells else []
    if 0 not in used:
        raise ValueError("table: expected at least two shares above zero")
    logs = [_parts(of) | {"error": np.log(cubes(of)[0]["geodesic"] / truth)} for of in cells.values()]
    S = len(logs[0]["path"])
    weights = resampled(S, resamples, np.random.default_rng(seed))
    every = np.concatenate([np.ones((1, S)), weights])
    solver = np.linalg.pinv(np.column_stack([np.ones(len(cells)), design[:, used]]))[1:]
    rows = {}
    for part in ("ends", "path", "error"):
        if part == "error":
            v = np.stack([((every @ of[part] / S) ** 2).mean(1) for of in logs])
        else:
            spread = [(moments(of[part], None)[1], moments(of[part], weights)[1]) for of in logs]
            v = np.stack([np.append(own.mean(), drawn.mean(1)) for own, drawn in spread])
        with np.errstate(divide="ignore", invalid="ignore"):
            found = -solver @ np.log(v)
        rows[part] = {}
        for column, values in zip(used, found, strict=True):
            rows[part] |= with_interval(("share", "n")[column], values[0], values[1:], level, S)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def folds(study: Study) -> dict[str, float]:
    """What is seen of folds between clusters: how far the models of a study agree, and which pairs not to rely on.

    Args:
        study: the models, trained if they are not yet. Further test data stand for the data's support.

    Returns:
        ``d``; ``cv`` and ``cv_chord``, mean coefficients of variation; ``ends`` and ``path``, see :func:`summarise`;
        ``share``, that of the path in the variance of log geodesic, with ``_low`` and ``_high`` as all of these; and
        the shares of the pairs that :func:`latentgeo.agreement` does not rely on (``flagged``), and of those with an
        end that has other points as near (``tied``), outside the data's support (``outside``), and that vary by more
        than 10 % (``varying``), in some model; ``rho``, the rank correlation over pairs of the farthest that a geodesic
        gets from data with its coefficient of variation.
    """
    test = study.data().test
    start, end = draw_pairs(len(test), study.pairs)
    others = np.setdiff1d(np.arange(len(test)), [start, end])[:_AROUND]
    P, x = study.pairs, test[np.concatenate([start, end, others])]
    models = {str(seed): study.trained(seed) for seed in study.seeds}
    with single_thread():
        found = agreement(models, x, pairs=(np.arange(P), np.arange(P) + P), check=False)
    table = found.distances.rename(columns={"model": "seed"})
    row, split, reason = summarise(table), split_into_ends_and_path(table), found.pairs["reason"]
    row |= {f"share{of}": split[f"path{of}"] for of in ("", "_low", "_high")}
    row |= {f"cv_chord{of}": found.methods.loc["ambient_chord", f"mean_cv{of}"] for of in ("", "_low", "_high")}
    told = {"tied": "other points as near", "outside": "out of the data's support", "varying": "varies more"}
    row |= {name: reason.str.contains(words).mean() for name, words in told.items()}
    of = found.pairs[["gap", "cv_geodesic"]].astype(float).replace(np.inf, np.nan).dropna()
    row |= {"flagged": (~found.pairs["reliable"]).mean(), "rho": scipy.stats.spearmanr(of).statistic}
    return {"d": study.latent_dim} | row
