"""What independently trained models were found to agree on: tables, and the same in plain words."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from types import FunctionType, MethodType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from latentgeo.adapters.model import POINTS, LatentModel, labels_of, latent_model, warn_of_conditions
from latentgeo.agreement.pairs import draw_pairs, farthest_from_codes, measure_pairs
from latentgeo.agreement.reliability import comparable, compare_reliability
from latentgeo.extras import require
from latentgeo.geometry.arrays import is_array, to_tensor
from latentgeo.geometry.decoder import Decoder, as_decoder
from latentgeo.identifiability.assumptions import check_assumptions
from latentgeo.progress import bar_options
from latentgeo.warn import warn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Kinks cost digits, which the errors of the lengths show; the other assumptions cost the claim.
TOLERATED = ("smooth",)
RELIED_ON = 0.75  # share of the pairs that are reliable, below which no distance of the models is relied on
UNSTEADY = 0.1  # mean coefficient of variation of geodesics, beyond which neither
_FEW_PAIRS = 3  # pairs, below which nothing is said of how much they differ
_NEGLIGIBLE = 1e-3  # relative differences that nobody asks about
_FEW = 5  # trainings, below which Student's intervals are several times as wide as a normal distribution's
_TIED = "an end has other points as near"
_REMEDIES = {
    "not converged": " (raise segments, or max_iter)",
    _TIED: " (where a decoder has kinks, as of ReLU: train with a smooth activation)",
    "out of the data's support": " (train for longer, or give more data)",
}


@dataclasses.dataclass(frozen=True, repr=False)
class Agreement:
    """How far S models agree on the distances of P pairs of data; what :func:`latentgeo.agreement` returns.

    Attributes:
        distances: one row for each model, pair and method: ``model``, ``pair``, ``method``, ``value`` (data units;
            latent units for ``euclidean``, which is between the encoder's codes in any case), ``converged`` and
            ``error`` (estimated relative error of the value; 0 where it is exact), and whether the points at both ends
            are ``unique``, and other points of the image ``tied`` with them, so that the geodesic could differ by more
            than ``max_cv``.
        pairs: one row for each pair: ``first`` and ``second`` (rows of the data) and, with labels, ``first_label`` and
            ``second_label``; ``geodesic``, the mean over the models in which it converged, with its Student interval
            ``geodesic_low`` to ``geodesic_high`` over these and their coefficient of variation ``cv_geodesic``; the
            same for ``euclidean``, over all models; ``models``, in how many the geodesic converged; ``gap``, the
            largest over models of how far it runs from any code's image, in units of the distance between neighbouring
            codes' images; ``reliable`` and, where it is not, the ``reason``. What too few converged models leave open
            is ``pd.NA``.
        methods: one row for each method, from :func:`latentgeo.compare_reliability` against Euclidean distance; empty
            if no pair is finite and positive by every method.
        assumptions: from :func:`latentgeo.check_assumptions`, with a column ``model``; empty if not asked for.
        names: the models.
        level: of the intervals.
        points: between what distances were measured.
    """

    distances: pd.DataFrame
    pairs: pd.DataFrame
    methods: pd.DataFrame
    assumptions: pd.DataFrame
    names: tuple[str, ...]
    level: float
    points: str = "nearest"

    def __repr__(self) -> str:
        """Say how many models, pairs and reliable pairs, not the tables."""
        return (
            f"Agreement({len(self.names)} models, {len(self.pairs)} pairs, {int(self.pairs.reliable.sum())} reliable)"
        )

    def summary(self) -> str:
        """Say in plain words, with numbers, how far the models agree and which pairs not to rely on."""
        return "\n".join(self._sentences())

    def plot(self) -> Figure:
        """Draw the distances of every pair with their intervals over models, and their coefficients of variation.

        Above: pairs in the order of their mean distance, each method in units of its mean over pairs, with intervals
        over models. Below: the coefficient of variation of each pair by both methods; under the diagonal the geodesic
        distance is the steadier one. Grey: not reliable, for the reasons in ``pairs``.

        Returns:
            A figure a column wide, that pyplot does not keep, so that a notebook shows it once, as the value of a cell.

        Raises:
            ImportError: matplotlib or seaborn is not installed.
        """
        require("a picture", "explorer", "matplotlib", "seaborn")
        from latentgeo.agreement.plot import plot

        return plot(self)

    def _sentences(self) -> list[str]:
        P, S = len(self.pairs), len(self.names)
        lines = [f"{S} models ({', '.join(self.names)}), {P} pairs of data."]
        if self.methods.empty:
            lines.append(
                "The methods cannot be compared: no pair has a finite distance by all of them, or under some model all "
                "distances are zero."
            )
        else:
            lines += self._comparison()
        reliable = int(self.pairs["reliable"].sum())
        lines.append(
            f"{reliable} of {P} geodesic distances are reliable: found by the solver, within the data, and steady. How "
            "well a mean over trainings is known, its interval says."
        )
        if self.points == "mean":
            lines.append(
                "They are measured between the encoder's codes, which are not identified: other coordinates would "
                "place them elsewhere. Those of points='nearest' are."
            )
        if S < _FEW:
            lines[0] += f" So few trainings leave intervals wide; train {_FEW} or more."
        reasons = self.pairs.loc[~self.pairs["reliable"], "reason"].str.split("; ").explode()
        # The same reason in one model or in several is one reason here.
        kinds = reasons.str.replace(r" in \d+ of \d+ models$", "", regex=True).groupby(level=0).unique().explode()
        lines += [
            f"- {kind}: {count} of {P} pairs{_REMEDIES.get(kind, '')}" for kind, count in kinds.value_counts().items()
        ]
        lines += self._advice()
        failing = self.assumptions[self.assumptions["verdict"] != "holds"]
        if self.assumptions.empty:
            lines.append("The assumptions were not checked.")
        elif failing.empty:
            lines.append("No counter-example to the assumptions was found in any model.")
        geodesics = self.distances[(self.distances["method"] == "geodesic") & self.distances["converged"]]
        error = geodesics.groupby("model")["error"].median()
        for row in failing.itertuples():
            if row.assumption in TOLERATED:
                told = f" (median error {100 * error[row.model]:.2g} %)" if row.model in error else ""
                lines.append(
                    f"- {row.model}: the decoder has kinks (ReLU) or bends very fast. That does not exclude a pair "
                    f"but costs digits{told}; a smooth activation gives them back, or, where it bends, more segments."
                )
            else:
                lines.append(f"- {row.model}: {row.assumption} {row.verdict}, {row.detail}")
        return lines

    def _advice(self) -> list[str]:
        """Sentences on which distance to use: none, chords or geodesics."""
        if self.methods.empty:
            return []
        cv, lines = self.methods.loc["geodesic", "mean_cv"], []
        stretch = self._stretch()
        if self.pairs["reliable"].mean() < RELIED_ON or cv > UNSTEADY:
            cause = "as where models fold or have latent dimensions too few or too many"
            tied = self.pairs["reason"].str.contains(_TIED, regex=False)
            kinked = self.assumptions.query("assumption in @TOLERATED and verdict != 'holds'")
            if len(kinked) and tied.mean() > 1.0 - RELIED_ON:
                cause = "here as decoders with kinks (ReLU) leave ends undecided: train with a smooth activation"
            lines.append(
                f"Rely on none of these distances: fewer than {100 * RELIED_ON:g} % of the pairs are reliable, or "
                f"geodesics vary by more than {100 * UNSTEADY:g} %, {cause}. That chords are steady then says nothing; "
                "shortest paths through a graph of the data (as in sklearn.manifold.Isomap) are nearer to the truth."
            )
        elif len(stretch) >= _FEW_PAIRS:
            spread = stretch.std()
            lines.append(
                f"Geodesics are {np.exp(stretch.mean()):.4g} times as long as their chords in the mean, give or take "
                f"{100 * spread:.2g} % between pairs and {100 * cv:.2g} % between models: "
                + (
                    "chords, which cost no solving, will do."
                    if spread < max(cv, _NEGLIGIBLE)
                    else "use geodesics, as chords cut the bends off."
                )
            )
        lines.append(
            "Compare no codes between trainings. What all models leave out alike, for want of latent dimensions or of "
            "data, is steady and not seen here: compare how far reconstructions miss the data with the data's noise."
        )
        return lines

    def _stretch(self) -> pd.Series:
        """Logarithm of length over chord of each reliable pair, mean over models."""
        reliable = self.pairs.index[self.pairs["reliable"]]
        of = self.distances[self.distances["pair"].isin(reliable) & (self.distances["value"] > 0)]
        both = of.pivot(index=["model", "pair"], columns="method", values="value").reindex(
            columns=["geodesic", "ambient_chord"]
        )
        return np.log(both["geodesic"] / both["ambient_chord"]).dropna().groupby("pair").mean()

    def _comparison(self) -> list[str]:
        """Sentences on coefficients of variation and ranks."""
        row, base = self.methods.loc["geodesic"], self.methods.loc["euclidean"]
        low, high = row.difference_low, row.difference_high
        if high < 0:
            found = "geodesic distances agree better"
        elif low > 0:
            found = "geodesic distances agree less"
        else:
            found = "it contains zero, so that these models do not decide which agree better"
        lines = [
            f"Mean coefficient of variation over models: geodesic {100 * row.mean_cv:.2g} %, Euclidean "
            f"{100 * base.mean_cv:.2g} %; difference {100 * row.difference:.2g} percentage points, "
            f"{100 * self.level:g} % interval over models [{100 * low:.2g}, {100 * high:.2g}]: {found}.",
            f"The same with each model's distances divided by their mean, so that a scale does not count: geodesic "
            f"{100 * row.scale_free_cv:.2g} %, Euclidean {100 * base.scale_free_cv:.2g} %; difference "
            f"{100 * row.scale_free_difference:.2g} points [{100 * row.scale_free_difference_low:.2g}, "
            f"{100 * row.scale_free_difference_high:.2g}].",
        ]
        if not math.isnan(row.spearman):
            lines.append(
                f"Rank correlation of the pairs between two models: geodesic {row.spearman:.3f}, Euclidean "
                f"{base.spearman:.3f}."
            )
        return lines

    def _repr_html_(self) -> str:
        shown = ["mean_cv", "difference", "difference_low", "difference_high", "scale_free_cv", "spearman"]
        table = "" if self.methods.empty else self.methods[shown].to_html(float_format=lambda value: f"{value:.3g}")
        return f"<div>{'<br>'.join(html.escape(line) for line in self._sentences())}</div>{table}"


_MAX_GAP = 2.0  # distance of a geodesic from the codes, in units of that between neighbouring codes
_SEARCHES = {"pairs": 8, "points": 64}  # of check_assumptions, for each model
_COLUMNS = ["model", "assumption", "verdict", "quantity", "detail", "value", "threshold"]  # of check_assumptions


def agreement(
    models: Sequence[object] | Mapping[str, object],
    data: object,
    *,
    pairs: int | tuple[Sequence[int], Sequence[int]] | np.ndarray = 100,
    points: str = "nearest",
    labels: Sequence[object] | str | None = None,
    segments: int = 16,
    tol: float = 1e-4,
    max_iter: int = 200,
    max_cv: float = 0.1,
    level: float = 0.95,
    check: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Agreement:
    r"""Measure how far independently trained models agree on distances between the same data.

    Each geodesic is the shorter of those found from the straight line and from the shortest path through the images of
    the data, so that two models do not differ for having found two different ones.

    A pair's geodesic distance is called reliable if

    - the solver converged under every model, and so did the search for the points at its ends, to which a second search
      found no others about as near that are so far apart as to change it by more than ``max_cv``;
    - the geodesic stays where the data have codes. With the images :math:`f(z_i)` of codes as landmarks, its farthest
      point must be no farther from the nearest of them than twice the distance within which 95 % of them have a
      neighbour, :math:`\max_t \min_i \|f(z(t)) - f(z_i)\| \le 2\, q_{95}\big(\min_{j \ne i} \|f(z_j) - f(z_i)\|\big)`.
      Chords in data space do not depend on latent coordinates, so neither does this;
    - its coefficient of variation over models is at most ``max_cv``;
    - no model has a counter-example to the theorem's assumptions, :func:`latentgeo.check_assumptions` with few searches
      (8 pairs, 64 codes). Kinks alone do not count: they cost digits, which ``error`` shows.

    Args:
        models: S ≥ 2 models, each anything that :func:`latentgeo.latent_model` takes, by name or in a sequence. They
            may differ in latent dimension. Their decoders must give the same kind of data, else lengths have different
            units.
        data: a tensor, NumPy array or data frame of shape (n, \*event), n ≥ 3, moved to each model's dtype and device
            where these can be found; anything else that has rows and a length, such as an AnnData, goes to the encoders
            as it is.
        pairs: how many pairs P to draw (fewer if the data have fewer); or their rows in the data, as a tuple
            ``(first, second)`` of index sequences or an integer array of shape (P, 2).
        points: between what distances are measured: ``"nearest"``, the points of the image nearest to the data, or
            ``"posterior"``, those nearest to the posterior means of the image, which are identified; or ``"mean"``, the
            codes of the encoder, which are not; see :meth:`latentgeo.LatentModel.points`.
        labels: of the data, length n, or for an AnnData the name of a column of ``.obs``, to stand in the table of
            pairs.
        segments: N of the geodesics.
        tol: tolerance of the geodesics.
        max_iter: iterations of the geodesics on each level.
        max_cv: coefficient of variation beyond which a pair is not relied on.
        level: of the intervals. They are Student's over models, with S - 1 degrees of freedom, and hold the mean over
            trainings, not the next training's distance.
        check: whether to check the assumptions.
        seed: of the draw of pairs and of the searches.
        progress: whether to show a progress bar; None for after two seconds where somebody watches, in a terminal or a
            notebook.

    Returns:
        Distances, intervals, reasons not to rely on a pair, and :meth:`Agreement.summary` of them.

    Raises:
        ValueError: fewer than two models, data that are not finite, labels or pairs that do not fit them, an option out
            of range, or codes that are not codes, see :meth:`latentgeo.LatentModel.codes`.
        TypeError: one of them is not a model, or the data have no rows.

    Warns:
        UserWarning: two models give exactly the same codes, and so are not independent trainings; or they are held at
            different conditions, such as batches, library sizes or labels.

    Example:
        The same decoder in two coordinate systems, that of the second bent: geodesics agree and codes do not.

        >>> def lift(z):
        ...     return torch.stack([z[:, 0], z[:, 1], z.square().sum(1)], 1)
        >>> first = (lambda x: x[:, :2], lift)
        >>> second = (lambda x: x[:, :2].sinh(), lambda z: lift(z.asinh()))
        >>> z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> report = agreement({"plain": first, "bent": second}, lift(z), pairs=10, check=False)
        >>> report.methods["mean_cv"][["euclidean", "geodesic"]].round(2).tolist()
        [0.29, 0.0]
    """
    if not (max_cv > 0 and math.isfinite(max_cv)) or not 0 < level < 1:
        raise ValueError(f"expected max_cv > 0 and 0 < level < 1, got {max_cv!r} and {level!r}")
    if points not in POINTS:
        raise ValueError(f"points: expected one of {', '.join(POINTS)}, got {points!r}")
    named = _named(models)
    rows = _rows(data)
    n = len(rows)
    labels = labels_of(rows, labels)
    names_of = None if labels is None else np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if names_of is not None and names_of.shape != (n,):
        raise ValueError(f"labels: expected one for each of the {n} data, got shape {names_of.shape}")
    first, second = _indices(pairs, n, seed)
    steps = (4 if check else 3) * len(named)
    bar = tqdm(total=steps, desc="agreement", unit="step", **bar_options(progress))
    codes = {}
    for model in named:
        codes[model.name] = model.codes(rows)
        bar.update()
    _warn_of_copies(codes)
    tables, gaps, checked = [], [], []
    ends = np.union1d(first, second)
    for model in named:
        z = codes[model.name].clone()
        f = as_decoder(model.decoder, z)
        at_ends = model.points(rows[ends], points, others=z)
        z[ends] = at_ends.codes
        bar.update()
        options = {"segments": segments, "tol": tol, "max_iter": max_iter, "data": z}
        table, found = measure_pairs(f, z[first], z[second], **options)
        table.insert(0, "model", model.name)
        euclidean = (codes[model.name][first] - codes[model.name][second]).norm(dim=1)
        table.loc[table["method"] == "euclidean", "value"] = euclidean.double().cpu().numpy()
        at = np.searchsorted(ends, np.stack([first, second]))  # [2, P]
        ended, unique, apart = (of.double().cpu().numpy()[at] for of in at_ends[1:])  # [2, P] each
        tied = apart.sum(0) > max_cv * found.length.double().cpu().numpy()
        table["converged"] &= ended.all(0)[table["pair"]]
        table = table.assign(unique=unique.all(0)[table["pair"]], tied=tied[table["pair"]])
        tables.append(table)
        gaps.append(farthest_from_codes(f, z, ends, found.points, seed))
        bar.update()
        if check:
            checked.append(_checked(model.name, f, codes[model.name], seed))
            bar.update()
    bar.close()
    distances = pd.concat(tables, ignore_index=True)
    assumptions = pd.concat(checked, ignore_index=True) if check else pd.DataFrame(columns=_COLUMNS)
    both = {"first": first, "second": second}
    if names_of is not None:
        both |= {f"{end}_label": names_of[index] for end, index in list(both.items())}
    table = _pair_table(distances, np.stack(gaps), assumptions, max_cv, level)
    return Agreement(
        distances=distances,
        pairs=pd.concat([pd.DataFrame(both), table], axis=1).rename_axis("pair"),
        methods=_comparison(distances, level, seed),
        assumptions=assumptions,
        names=tuple(model.name for model in named),
        level=level,
        points=points,
    )


def _named(models: Sequence[object] | Mapping[str, object]) -> list[LatentModel]:
    """Models with names that distinguish them."""
    if isinstance(models, Mapping):
        named = [latent_model(model, str(name)) for name, model in models.items()]
    elif isinstance(models, Sequence) and not isinstance(models, str):
        if isinstance(models, tuple) and all(isinstance(part, FunctionType | MethodType) for part in models):
            raise TypeError(
                "models: expected a sequence of models, got functions; several pairs go in as "
                "[(encode_1, decode_1), (encode_2, decode_2), …]"
            )
        named = [latent_model(model) for model in models]
        if len({model.name for model in named}) < len(named):
            named = [dataclasses.replace(model, name=f"{model.name} {k + 1}") for k, model in enumerate(named)]
    else:
        raise TypeError(
            f"models: expected a sequence or a mapping of at least two models, got {type(models).__name__} alone"
        )
    if len(named) < 2:
        raise ValueError(
            f"models: expected at least two independently trained models, got {len(named)}; train the same recipe "
            "again from another seed"
        )
    warn_of_conditions(named)
    return named


def _rows(data: object) -> object:
    """The data, as a tensor if they are an array, checked."""
    if isinstance(data, Tensor) or is_array(data):
        data = to_tensor("data", data)
    served = isinstance(data, Dataset | DataLoader)
    if served or not hasattr(data, "__len__") or not hasattr(data, "shape"):
        gather = "gather its data first, as in torch.stack([dataset[i][0] for i in range(len(dataset))])"
        raise TypeError(
            f"data: expected a tensor, a NumPy array or a table with rows, got {type(data).__name__}; "
            f"{gather if served else 'convert with np.asarray(...)'}"
        )
    if isinstance(data, Tensor):
        if data.ndim < 2:
            raise ValueError(f"data: expected shape (n, *event), got {tuple(data.shape)}")
        if not torch.isfinite(data).all():
            raise ValueError("data: expected finite values, got NaN or infinity; drop those rows first")
    if len(data) < 3:
        raise ValueError(f"data: expected at least three rows, got {len(data)}")
    return data


def _indices(pairs: object, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pairs, two arrays of shape (P,)."""
    if isinstance(pairs, numbers.Integral) and not isinstance(pairs, bool):
        if pairs < 1:
            raise ValueError(f"pairs: expected at least 1, got {pairs}")
        if pairs <= n // 2:
            return draw_pairs(n, int(pairs), seed)
        total, random = n * (n - 1) // 2, np.random.default_rng(seed)
        if n <= 2000:
            chosen = random.permutation(total)[:pairs]
        else:  # too many to be listed
            chosen = random.choice(total, min(int(pairs), total), replace=False)
        first = np.arange(n - 1) * (2 * n - np.arange(n - 1) - 1) // 2  # number of the first pair of each row
        row = np.searchsorted(first, chosen, side="right") - 1
        return row, chosen - first[row] + row + 1
    if isinstance(pairs, tuple):
        both = [np.asarray(part) for part in pairs]
    else:
        table = np.asarray(pairs)
        both = list(table.T) if table.ndim == 2 else [table]
    if len(both) != 2 or both[0].shape != both[1].shape or both[0].ndim != 1 or both[0].size == 0:
        got = repr(pairs) if isinstance(pairs, str) else [part.shape for part in both]
        raise ValueError(
            "pairs: expected a number, a tuple (first, second) of index sequences of the same length, or an array of "
            f"shape (P, 2), got {got}; all pairs of the {n} data are pairs={n * (n - 1) // 2}"
        )
    if any(part.dtype.kind not in "iu" for part in both):
        raise TypeError(f"pairs: expected integer indices, got {both[0].dtype} and {both[1].dtype}")
    if min(part.min() for part in both) < 0 or max(part.max() for part in both) >= n:
        raise ValueError(f"pairs: expected indices from 0 to {n - 1}, got values outside")
    if (both[0] == both[1]).any():
        raise ValueError("pairs: expected two different rows in every pair, got a row paired with itself")
    return both[0].astype(np.int64), both[1].astype(np.int64)


def _warn_of_copies(codes: Mapping[str, Tensor]) -> None:
    for (first, a), (second, b) in itertools.combinations(codes.items(), 2):
        if a.shape == b.shape and torch.equal(a.cpu(), b.cpu()):
            warn(
                f"models: {first!r} and {second!r} give exactly the same codes, so that their agreement is no "
                "evidence; train them independently, from different seeds. Functions made in a loop must bind their "
                "model: lambda x, model=model: model.encode(x)",
                UserWarning,
            )


def _checked(name: str, f: Decoder, z: Tensor, seed: int) -> pd.DataFrame:
    """The assumptions of one model, at its codes."""
    different = len(z.unique(dim=0))
    if different < 3:
        detail = f"only {different} different codes for {len(z)} data: the encoder has collapsed"
        row = {"assumption": "different codes", "quantity": "different codes", "value": float(different)}
        table = pd.DataFrame([row | {"threshold": 3.0, "verdict": "fails", "detail": detail}])
    else:
        table = check_assumptions(f, z, seed=seed, **_SEARCHES)
    table.insert(0, "model", name)
    return table


def _pair_table(
    distances: pd.DataFrame, gaps: np.ndarray, assumptions: pd.DataFrame, max_cv: float, level: float
) -> pd.DataFrame:
    """Means, intervals and reasons, one row for each pair."""

    def wide(method: str, column: str) -> np.ndarray:
        of = distances[distances["method"] == method]
        return of.pivot(index="model", columns="pair", values=column).loc[of["model"].unique()].to_numpy()  # [S, P]

    converged, tied = (wide("geodesic", column).astype(bool) for column in ("converged", "tied"))
    euclidean = wide("euclidean", "value")
    S = len(converged)
    columns = _over_models("geodesic", wide("geodesic", "value"), converged, level)
    columns |= _over_models("euclidean", euclidean, np.isfinite(euclidean), level)
    broken = assumptions[(assumptions["verdict"] == "fails") & ~assumptions["assumption"].isin(TOLERATED)]
    failing = broken["assumption"].value_counts(sort=False)
    common = [f"assumption: {name} fails in {k} of {S} models" for name, k in failing.items()]
    reasons = []
    for p in range(converged.shape[1]):
        found = []
        checks = {"not converged": ~converged[:, p], _TIED: tied[:, p]}
        for what, failed in (checks | {"out of the data's support": gaps[:, p] > _MAX_GAP}).items():
            if failed.any():
                found.append(f"{what} in {failed.sum()} of {S} models")
        if columns["geodesic"][p] == 0:
            found.append("both data have the same image under every model")
        if columns["cv_geodesic"][p] > max_cv:
            found.append(f"varies more than {100 * max_cv:g} % between models")
        reasons.append("; ".join(found + common))
    table = pd.DataFrame(columns).astype("Float64")  # in which what is not known is pd.NA
    reliable = [not reason for reason in reasons]
    return table.assign(models=converged.sum(0), gap=gaps.max(0), reliable=reliable, reason=reasons)


def _over_models(method: str, values: np.ndarray, used: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """Mean, Student interval and CV over the models (S, P) that are used, NaN where these are too few."""
    count, shown = used.sum(0), np.ma.masked_array(values, ~used)
    mean, deviation = (of.filled(np.nan) for of in (shown.mean(0), shown.std(0, ddof=1)))
    reach = scipy.stats.t.ppf((1 + level) / 2, np.maximum(count - 1, 1)) * deviation / np.sqrt(np.maximum(count, 1))
    return {
        method: mean,
        f"{method}_low": np.maximum(mean - reach, 0.0),  # a distance is not negative
        f"{method}_high": mean + reach,
        f"cv_{method}": deviation / np.where(mean > 0, mean, np.nan),
    }


def _comparison(distances: pd.DataFrame, level: float, seed: int) -> pd.DataFrame:
    """Reliability of every method against Euclidean distance; empty if no pair can be compared."""
    wide = distances[distances["method"] != "data"].pivot(index=["method", "model"], columns="pair", values="value")
    wide = wide.loc[:, comparable(wide)]
    if wide.empty or not (wide.sum(axis=1) > 0).all():  # under a model that has collapsed all are zero
        return pd.DataFrame(index=pd.Index([], name="method"))
    return compare_reliability(distances.rename(columns={"model": "seed"}), level=level, seed=seed)
