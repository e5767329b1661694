r"""Images with known factors: renderers that are decoders themselves, so that the true distances are known.

.. math:: x = f(u) + \tau \epsilon, \qquad u \sim \mathrm{Uniform}(\text{a box}), \quad \epsilon \sim N(0, I_D)

The factors u are where a blob is, where it is and how large, the angle of a rod, or the angles of an arm at its
shoulder and its elbow; f draws them as sums of Gaussian blobs :math:`e^{-\|p - c\|^2 / 2 w^2}` on 16×16 pixels p of the
square from -1 to 1. Geodesics of f are the truth that the distances of trained models are held against. With pixels h
apart and away from the border,

.. math:: g = \frac{\pi}{2 h^2} \big(dc^2 + 4\, dw^2\big)

for a blob of centre c and width w, so that position is flat, and so are position and scale. A rod's angle runs around a
circle, which has no chart without a cut, and both angles of an arm around a torus.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse.csgraph
import torch
from sklearn.neighbors import kneighbors_graph
from torch import Tensor

from latentgeo.adapters.model import latent_model
from latentgeo.agreement.pairs import METHOD_NAMES, pair_distances
from latentgeo.agreement.reliability import compare_reliability, resampled, with_interval
from latentgeo.agreement.report import RELIED_ON, UNSTEADY, agreement
from latentgeo.geometry.curve import steps, straight_line
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.geodesic.solve import geodesic
from latentgeo.paper.data import Dataset
from latentgeo.paper.jobs import Job, run_jobs, single_thread
from latentgeo.paper.models.training import TrainingConfig
from latentgeo.paper.models.vae import VAE
from latentgeo.paper.paths import runs_dir
from latentgeo.paper.profiles import RunConfig
from latentgeo.paper.scaling import bias_and_spread
from latentgeo.paper.study import Sweep, checked_seeds

SIDE = 16  # pixels
WRONG = 0.1  # share of the truth by which a distance is off
NAMES = METHOD_NAMES | {
    "geodesic": "geodesic, nearest points",
    "geodesic_means": "geodesic, posterior means",
    "graph": "graph of the data",
}
_MODEL_FREE = ("graph", "data")
_LEAST_NOISE = 0.05  # τ of the models, whatever less the data have
_NEIGHBOURS = (4, 8, 16, 32)
_QUARTER, _FEW = 1.25, 0.05  # by how much a true path is seen too long, and in how many of them that is not chance
_LIFTS = 4
_VALIDATION, _BATCH, _STEPS = 500, 64, 1200


def blobs(centres: Tensor, widths: Tensor) -> Tensor:
    """Sums of k Gaussian blobs of brightness one: centres (B, k, 2), widths (B, 1) -> images (B, 1, 16, 16).

    Example:
        >>> blobs(torch.zeros(1, 1, 2).double(), torch.full((1, 1), 0.3).double()).max().round(decimals=3)
        tensor(0.9580, dtype=torch.float64)
    """
    middle = (torch.arange(SIDE, dtype=centres.dtype, device=centres.device) + 0.5) * 2.0 / SIDE - 1.0
    # A Gaussian of two coordinates is the product of two of one.
    across, down = (torch.exp(-((middle - centres[..., i, None]) / widths[..., None]).square() / 2) for i in (0, 1))
    return torch.einsum("bki,bkj->bji", across, down).unsqueeze(1)


def _direction(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _along(angle: Tensor, first: float, last: float) -> Tensor:
    """Four places on a ray: (B,) -> (B, 4, 2)."""
    return _direction(angle)[:, None] * torch.linspace(first, last, 4, dtype=angle.dtype, device=angle.device)[:, None]


def _position(u: Tensor, width: float) -> Tensor:
    return blobs(u[:, None], torch.full_like(u[:, :1], width))


def _position_and_scale(u: Tensor, width: float) -> Tensor:
    return blobs(u[:, None, :2], width * u[:, 2:])


def _rod(u: Tensor, width: float) -> Tensor:
    return blobs(_along(u[:, 0], 0.0, 0.7), torch.full_like(u[:, :1], width)) / 2


def _arm(u: Tensor, width: float) -> Tensor:
    upper = _along(u[:, 0], 0.0, 0.4)
    places = torch.cat([upper, upper[:, -1:] + _along(u.sum(1), 0.13, 0.4)], 1)
    return blobs(places, torch.full_like(u[:, :1], width)) / 2


@dataclasses.dataclass(frozen=True)
class Renderer:
    """A decoder from factors to images.

    Attributes:
        draw: factors (B, k) and the width of a blob -> images (B, 1, 16, 16).
        low: least factors.
        high: largest factors.
        periodic: whether the factors are angles that run all the way round.
    """

    draw: Callable[[Tensor, float], Tensor]
    low: tuple[float, ...]
    high: tuple[float, ...]
    periodic: bool = False

    def decoder(self, width: float) -> Callable[[Tensor], Tensor]:
        """The renderer at one width of its blobs: (B, k) -> (B, 1, 16, 16)."""
        return functools.partial(self.draw, width=width)

    def factors(self, n: int, *seed: int) -> Tensor:
        """Uniform draws, shape (n, k), in double precision."""
        return torch.from_numpy(np.random.default_rng(seed).uniform(self.low, self.high, (n, len(self.low))))


RENDERERS = {
    "position": Renderer(_position, (-0.7, -0.7), (0.7, 0.7)),
    "position_and_scale": Renderer(_position_and_scale, (-0.5, -0.5, 0.7), (0.5, 0.5, 1.4)),
    "rotation": Renderer(_rod, (-math.pi,), (math.pi,), periodic=True),
    "arm": Renderer(_arm, (-math.pi, -math.pi), (math.pi, math.pi), periodic=True),
    "bent_arm": Renderer(_arm, (-1.2, 0.4), (1.2, 2.4)),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is rendered, and the models of it.

    Attributes:
        renderer: one of ``RENDERERS``.
        width: of the blobs, where the square is 2 wide and pixels are 1/8 apart.
        latent_dim: of the models, d.
        noise: τ of the data, in units of the brightness.
        images: training images n.
    """

    renderer: str
    width: float
    latent_dim: int
    noise: float = 0.1
    images: int = 3000

    @property
    def has_chart(self) -> bool:
        """Whether the data are the image of a chart of as many dimensions as the models have."""
        renderer = RENDERERS[self.renderer]
        return not renderer.periodic and self.latent_dim == len(renderer.low)


_SETTINGS = {
    "position": Setting("position", 0.35, 2),
    "position, noise 0.02": Setting("position", 0.35, 2, noise=0.02),
    "position, noise 0.2": Setting("position", 0.35, 2, noise=0.2),
    "position, width 0.2": Setting("position", 0.2, 2),
    "position and scale": Setting("position_and_scale", 0.35, 3),
    "bent arm": Setting("bent_arm", 0.18, 2),
    "position, width 0.14": Setting("position", 0.14, 2),
    "position, width 0.1": Setting("position", 0.1, 2),
    "position and scale, d = 2": Setting("position_and_scale", 0.35, 2),
    "bent arm, d = 1": Setting("bent_arm", 0.18, 1),
    "rotation, d = 1": Setting("rotation", 0.25, 1),
    "rotation, d = 2": Setting("rotation", 0.25, 2),
    "arm, d = 3": Setting("arm", 0.18, 3),
    "position, d = 4": Setting("position", 0.35, 4),
    "position, n = 300": Setting("position", 0.35, 2, images=300),
    "position, n = 12,000": Setting("position", 0.35, 2, images=12_000),
    "position, width 0.25": Setting("position", 0.25, 2),
    "position, d = 1": Setting("position", 0.35, 1),
    "position, d = 3": Setting("position", 0.35, 3),
    "position and scale, noise 0.2": Setting("position_and_scale", 0.35, 3, noise=0.2),
    "position and scale, noise 0.2, d = 2": Setting("position_and_scale", 0.35, 2, noise=0.2),
    "rotation, d = 3": Setting("rotation", 0.25, 3),
    "arm, d = 1": Setting("arm", 0.18, 1),
    "arm, d = 2": Setting("arm", 0.18, 2),
}
_QUICK = ("position", "position, width 0.2", "position and scale", "bent arm")
_QUICK += ("position, width 0.1", "bent arm, d = 1", "rotation, d = 2", "arm, d = 3", "position, d = 4")
SETTINGS = {"quick": {name: _SETTINGS[name] for name in _QUICK}, "evidence": _SETTINGS, "paper": _SETTINGS}
# Seeds of the models and number of pairs; what is tested was settled on the models of quick, so evidence has others.
_SEEDS = {"quick": (range(3), 12), "evidence": (range(3, 9), 60), "paper": (range(3, 33), 100)}


@functools.lru_cache(maxsize=32)
def true_geodesics(renderer: str, width: float, pairs: int) -> tuple[Tensor, Tensor]:
    """Geodesics of a renderer between the factors of its test pairs, in double precision.

    Of angles that run all the way round, the second end has several lifts: those four to which straight lines are
    shortest are solved, and the shortest geodesic counts. The solver starts with as many segments as it ends with:
    where nodes are further apart than blobs are wide, it would lead them out of the picture, through an empty one.

    Args:
        renderer: one of ``RENDERERS``.
        width: of the blobs.
        pairs: the number of test pairs P.

    Returns:
        Their lengths, shape (P,), in data units, and their points, shape (P, 65, k).

    Raises:
        ArithmeticError: one of them did not converge to a relative error below 1e-3.
    """
    of = RENDERERS[renderer]
    f, (a, b) = of.decoder(width), of.factors(2 * pairs, 1).split(pairs)
    turns = itertools.product((0, 1, -1), repeat=len(of.low)) if of.periodic else [(0,) * len(of.low)]
    lifts = torch.stack([b + 2 * math.pi * b.new_tensor(turn) for turn in turns])
    made = as_decoder(f, a)
    lengths = torch.stack([steps(made, straight_line(a, lift, 32)).sum(1) for lift in lifts])
    tried = []
    with warnings.catch_warnings():
        # Of lifts that are farther than another, none has to converge; those that count are looked at below.
        warnings.simplefilter("ignore", RuntimeWarning)
        for nearest in lengths.argsort(0)[:_LIFTS]:
            end = lifts[nearest, torch.arange(pairs)]
            tried.append(geodesic(f, a, end, initial=straight_line(a, end, 64), segments=64, tol=1e-5, max_iter=1000))
    best = torch.stack([found.length for found in tried]).argmin(0), torch.arange(pairs)
    length, points, error, converged = (
        torch.stack([getattr(found, name) for found in tried])[best]
        for name in ("length", "points", "error", "converged")
    )
    if not (bool(converged.all()) and error.max() < 1e-3):
        raise ArithmeticError(f"{renderer}: expected relative errors below 1e-3, got up to {error.max():.1e}")
    return length, points


@functools.lru_cache(maxsize=4)
def rendered(setting: Setting, pairs: int) -> Dataset:
    """Noisy images of a setting; the test images are the starts of its pairs, and then their ends.

    Example:
        >>> rendered(Setting("position", 0.35, 2, images=100), pairs=3)
        Dataset('position', train=100, validation=500, test=6, event_shape=(1, 16, 16))
    """
    of, sizes = RENDERERS[setting.renderer], (setting.images, _VALIDATION, 2 * pairs)
    u = torch.cat([of.factors(setting.images, 0), of.factors(_VALIDATION, 2), of.factors(2 * pairs, 1)])
    clean = of.decoder(setting.width)(u)
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal(clean.shape))
    parts = (clean + setting.noise * noise).float().split(sizes)
    labelled = itertools.chain.from_iterable((x, torch.zeros(len(x), dtype=torch.int64)) for x in parts)
    return Dataset(
        setting.renderer,
        *labelled,
        class_names=(setting.renderer,),
        source="latentgeo.paper.known_factors",
        licence="MIT",
        # What determines the data; their bytes may differ in the last digit between machines.
        sha256={"known factors": f"schema 1, {setting}, pairs={pairs}"},
    )


@dataclasses.dataclass(frozen=True)
class KnownFactors(Sweep):
    """Models of every setting of a profile, and how their distances compare with the true ones.

    Attributes:
        profile: ``"quick"``, ``"evidence"`` or ``"paper"``.
        seeds: the number of models S of each setting, or their seeds; by default 3, or 6 or 30 others.
        pairs: the number of test pairs P of each setting; by default 20, 60 or 100.
        settings: names of those that are run; by default all of the profile's.
        store: folder of the run store.
    """

    numbers = ("setting", "seed")
    profile: str = "quick"
    seeds: int | tuple[int, ...] | None = None
    pairs: int | None = None
    settings: tuple[str, ...] | None = None
    store: Path | str | None = None

    def __post_init__(self) -> None:
        """Fill in what depends on the profile, and refuse what cannot be run."""
        if self.profile not in SETTINGS:
            raise ValueError(f"profile: expected one of {', '.join(SETTINGS)}, got {self.profile!r}")
        known = SETTINGS[self.profile]
        unknown = set(self.settings or ()) - set(known)
        if unknown:
            raise ValueError(f"settings: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
        seeds, pairs = _SEEDS[self.profile]
        fill = {
            "seeds": checked_seeds(seeds if self.seeds is None else self.seeds, least=2),
            "pairs": pairs if self.pairs is None else self.pairs,
            "settings": tuple(self.settings or known),
            "store": Path(self.store or runs_dir()),
        }
        for name, value in fill.items():
            object.__setattr__(self, name, value)

    def models(self) -> list[tuple[str, int]]:
        """Setting and seed of each model."""
        return [(name, seed) for name in self.settings for seed in self.seeds]

    def config(self, name: str, seed: int) -> RunConfig:
        """Configuration of one model."""
        setting = SETTINGS[self.profile][name]
        steps = _STEPS // 2 if self.profile == "quick" else _STEPS
        epochs = max(1, round(steps / (setting.images // _BATCH)))
        training = TrainingConfig(epochs, _BATCH, 1e-2, warmup_steps=50, half_life=steps // 4, patience=epochs)
        return RunConfig(
            dataset=setting.renderer,
            architecture="mlp",
            latent_dim=setting.latent_dim,
            decoders=1,
            noise=max(setting.noise, _LEAST_NOISE),
            activation="silu",
            seed=seed,
            training=training,
        )

    def data(self, name: str, _: int = 0) -> Dataset:
        """Data of a setting, the same for all its models."""
        return rendered(SETTINGS[self.profile][name], self.pairs)

    def trained(self, name: str) -> list[VAE]:
        """The models of a setting, trained if they are not yet."""
        with single_thread():
            return [self.stored(name, seed).train() for seed in self.seeds]

    def run(self, *, workers: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
        r"""Train what is not trained yet, and measure every setting.

        Args:
            workers: processes, see :func:`latentgeo.paper.jobs.run_jobs`.

        Returns:
            - distances, one row for each setting, seed, pair and method: ``setting``, ``seed``, ``pair``, ``method``,
              ``value`` and ``truth`` (data units; ``euclidean`` in latent units); what is measured in the data alone,
              ``graph`` and ``data``, for each seed again;
            - pairs, one row for each setting and pair: ``setting``, ``pair``, ``truth``; ``geodesic``, ``reliable`` and
              ``reason`` of :func:`latentgeo.agreement` (without its checks of the assumptions); ``torn`` and ``lost``,
              the shares of the models through which the true path, encoded and decoded, is longer than 5/4 or shorter
              than 4/5 of itself; ``misfit``, the root mean square over models of how far the data are from the nearest
              points of the image, in units of what the noise gives.

        Raises:
            JobsFailedError: a model failed; the others are finished and stored.
        """
        ends = np.arange(self.pairs), np.arange(self.pairs) + self.pairs
        means = self.measure("distances", pair_distances, ends, points="mean", workers=workers)
        means = means.loc[means["method"] == "geodesic", ["setting", "seed", "pair", "value"]]
        jobs = [Job(name, _judged, (self, name)) for name in self.settings]
        judged = run_jobs(jobs, label="settings", workers=workers)
        distances, pairs = (
            pd.concat({name: tables[i] for name, tables in judged.items()}, names=["setting"])
            .droplevel(1)
            .reset_index()
            for i in (0, 1)
        )
        distances = pd.concat([distances, means.assign(method="geodesic_means")], ignore_index=True)
        return distances.merge(pairs[["setting", "pair", "truth"]]), pairs


def _judged(study: KnownFactors, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Distances of a setting and its pairs, see :meth:`KnownFactors.run`."""
    setting, P, models = SETTINGS[study.profile][name], study.pairs, study.trained(name)
    (truth, paths), data = true_geodesics(setting.renderer, setting.width, P), study.data(name)
    x, ends = torch.cat([data.test, data.train]), (np.arange(P), np.arange(P) + P)
    named = dict(zip(map(str, study.seeds), models, strict=True))
    found = agreement(named, x, pairs=ends, check=False, max_iter=50)
    seen = torch.stack([_seen(model, setting, paths) / truth for model in models])  # [S, P]
    pairs = found.pairs[["geodesic", "reliable", "reason"]].assign(truth=truth.numpy())
    pairs = pairs.assign(
        torn=(seen > _QUARTER).double().mean(0).numpy(), lost=(seen < 1 / _QUARTER).double().mean(0).numpy()
    )
    pairs["misfit"] = np.sqrt(np.mean([_misfit(model, data.test) for model in models], 0)) / max(
        setting.noise, _LEAST_NOISE
    )
    distances = found.distances.assign(seed=found.distances["model"].astype(int))[["seed", "pair", "method", "value"]]
    own = {"graph": graph_distances(x, P, truth.numpy()), "data": (x[:P] - x[P : 2 * P]).flatten(1).norm(dim=1)}
    rows = [
        pd.DataFrame({"seed": seed, "pair": np.arange(P), "method": method, "value": np.asarray(value)})
        for method, value in own.items()
        for seed in study.seeds
    ]
    return pd.concat([distances, *rows], ignore_index=True), pairs.reset_index()


@torch.no_grad()
def _seen(model: VAE, setting: Setting, paths: Tensor) -> Tensor:
    """How long paths of factors (P, N + 1, k) are through the eyes of a model, encoded and decoded, shape (P,)."""
    images = RENDERERS[setting.renderer].decoder(setting.width)(paths.flatten(0, 1)).float()
    codes = model.encode(images).unflatten(0, paths.shape[:2])
    lines = straight_line(codes[:, :-1].flatten(0, 1), codes[:, 1:].flatten(0, 1), 8)
    return steps(as_decoder(model.decode, codes[0]), lines).sum(1).unflatten(0, (len(codes), -1)).sum(1)


@torch.no_grad()
def _misfit(model: VAE, x: Tensor) -> np.ndarray:
    """Mean square over pixels of what the nearest points leave of the data of both ends of a pair, shape (P,)."""
    left = model.decode(latent_model(model).points(x).codes).flatten(1) - x.flatten(1)
    return torch.stack(left.square().mean(1).chunk(2)).mean(0).numpy()


def graph_distances(x: Tensor, pairs: int, truth: np.ndarray) -> np.ndarray:
    r"""Shortest paths through the data's own graph of nearest neighbours (as of Isomap), which needs no model.

    Of 4, 8, 16 and 32 neighbours, those are taken whose distances correlate best with the truth: better than anyone
    could choose without it.

    Args:
        x: data, of which the first 2 P are the starts and then the ends of the pairs, shape (n, \*event).
        pairs: P.
        truth: true distances, shape (P,).

    Returns:
        Shape (P,), in data units; infinite between parts that no edge joins.

    Reference:
        Tenenbaum, de Silva and Langford, "A global geometric framework for nonlinear dimensionality reduction",
        Science 290, 2000.
    """
    rows, start = x.flatten(1).double().numpy(), np.arange(pairs)
    found = []
    for neighbours in _NEIGHBOURS:
        graph = kneighbors_graph(rows, neighbours, mode="distance")
        paths = scipy.sparse.csgraph.shortest_path(graph, directed=False, indices=start)
        found.append(paths[start, start + pairs])
    finite = [of for of in found if np.isfinite(of).all()] or found
    return max(finite, key=lambda of: np.corrcoef(of, truth)[0, 1])


def against_truth(
    distances: pd.DataFrame, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    r"""What each distance is worth in each setting: correlation with the truth, error, and spread over models.

    Args:
        distances: from :meth:`KnownFactors.run`.
        resamples: of the models.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        Index ``setting``, ``method``. ``r`` and ``r_far``, the correlation with the truth of all pairs and of the
        farther half of them, the mean over models by Fisher's :math:`\operatorname{artanh} r`; ``scale``, the
        geometric mean of distance over truth; ``bias``, the error that all models share after each one's best scale, as
        a share of the distance, see :func:`latentgeo.paper.scaling.bias_and_spread`; ``mean_cv`` and
        ``signal_to_noise`` of :func:`latentgeo.compare_reliability`. All but ``scale`` with ``_low`` and ``_high``,
        models resampled; what is measured in the data alone has neither these nor a spread: NaN.
    """
    options = {"resamples": resamples, "level": level, "seed": seed}
    tables = {}
    for name, of in distances.groupby("setting", sort=False):
        reliability = compare_reliability(of[~of["method"].isin(_MODEL_FREE)], **options)
        spread = reliability.filter(regex=r"^(mean_cv|signal_to_noise)(_low|_high)?$")
        rows = {method: _errors(part, **options) for method, part in of.groupby("method", sort=False)}
        table = pd.DataFrame.from_dict(rows, orient="index").join(spread)
        alone = table.index.isin(_MODEL_FREE)
        table.loc[alone, table.columns.str.contains("_low|_high")] = np.nan
        tables[name] = table.rename_axis("method")
    return pd.concat(tables, names=["setting"])


def _errors(part: pd.DataFrame, resamples: int, level: float, seed: int) -> dict[str, float]:
    """Correlation with the truth, scale and bias of one method in one setting."""
    wide = part.pivot(index="seed", columns="pair", values="value")
    truth = part.groupby("pair")["truth"].first().to_numpy()
    error = np.log(wide / truth)
    scaled = (wide.div(np.exp(error.mean(axis=1)), axis=0)).stack().rename("value").reset_index()
    known = pd.DataFrame({"pair": wide.columns, "any": truth})
    bias = bias_and_spread(scaled.assign(method="any", n=0), known, resamples=resamples, level=level, seed=seed).iloc[0]
    row = {"scale": np.exp(error.to_numpy().mean())} | bias[["bias", "bias_low", "bias_high"]].to_dict()
    S = len(wide)
    counts = resampled(S, resamples, np.random.default_rng(seed))
    for column, chosen in {"r": truth > 0, "r_far": truth >= np.median(truth)}.items():
        r = np.array([np.corrcoef(of, truth[chosen])[0, 1] for of in wide.to_numpy()[:, chosen]])
        z = np.arctanh(r.clip(-1 + 1e-12, 1 - 1e-12))
        # A resample repeats models, and so varies too little by (S - 1) / S.
        draws = z.mean() + (counts @ z / S - z.mean()) * np.sqrt(S / (S - 1))
        row |= {end: np.tanh(value) for end, value in with_interval(column, z.mean(), draws, level, S).items()}
    return row


def judge(settings: Mapping[str, Setting], pairs: pd.DataFrame, worth: pd.DataFrame) -> pd.DataFrame:
    """Of what kind each setting is, and whether it is seen without the truth.

    Args:
        settings: by name.
        pairs: from :meth:`KnownFactors.run`.
        worth: from :func:`against_truth`.

    Returns:
        Index ``setting``: ``d``; ``torn`` and ``lost``, the shares of true paths that models see too long or too short;
        ``misfit``; the ``kind``: ``"folded"`` where at least 5 % of the true paths are seen too long or too short and
        most of these too long, ``"flattened"`` where most are too short, else ``"no chart"`` where the data are not the
        image of a chart of d dimensions, and ``"sound"`` where they are; ``r`` of the geodesic, the chord and the
        graph; ``cv`` of geodesic and chord; ``reliable``, the share of pairs that agreement relies on; ``flagged``,
        whether these are fewer than three in four or the CV is above 10 %; and ``wrong``, the share of the pairs whose
        geodesic is off the truth by more than 10 %, after the best scale, with ``seen``, the share of these that
        agreement does not rely on.
    """
    rows = {}
    for name, of in pairs.groupby("setting", sort=False):
        torn, lost, at = of["torn"].mean(), of["lost"].mean(), worth.loc[name]
        chart = "sound" if settings[name].has_chart else "no chart"
        kind = chart if torn + lost < _FEW else "folded" if torn > lost else "flattened"
        length = of["geodesic"].astype(float)
        off = np.log(length / of["truth"])
        wrong = ((off - off.mean()).abs() > np.log1p(WRONG)) | length.isna()
        reliable, cv = of["reliable"].mean(), at.loc["geodesic", "mean_cv"]
        rows[name] = {
            "kind": kind,
            "d": settings[name].latent_dim,
            "torn": torn,
            "lost": lost,
            "misfit": np.sqrt((of["misfit"] ** 2).mean()),
            **{f"r_{method}": at.loc[method, "r"] for method in ("geodesic", "ambient_chord", "graph")},
            "cv_geodesic": cv,
            "cv_chord": at.loc["ambient_chord", "mean_cv"],
            "reliable": reliable,
            "flagged": bool(reliable < RELIED_ON or cv > UNSTEADY),
            "wrong": wrong.mean(),
            "seen": (~of.loc[wrong, "reliable"].astype(bool)).mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")
