r"""How the spread of distances over models falls as the data grow: exponents, floors, and the error against a truth.

Intervals resample models, which are what was drawn; see :mod:`latentgeo.agreement.reliability`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from latentgeo.agreement.reliability import cubes, cv_over_models, moments, resampled, with_interval, with_log_interval


@dataclasses.dataclass(frozen=True)
class Scaling:
    r"""How the mean CV over pairs changes with the number of training points, method by method.

    Attributes:
        curves: one row for each method and n: ``method``, ``n``, ``cv``, ``cv_low``, ``cv_high``.
        fits: one row for each method (index):

            - ``exponent``, ``exponent_low``, ``exponent_high``: b of the power law :math:`\mathrm{CV} = a n^{-b}`,
              least squares in logarithms; 1/2 is the rate of a smooth parametric model;
            - ``less_baseline``, ``less_baseline_low``, ``less_baseline_high``: b minus that of the baseline, the same
              models resampled for both;
            - ``first_half``, ``last_half``, each with ``_low`` and ``_high``: b of the smaller and of the larger
              sizes; one in the middle counts to both;
            - ``rate``, ``floor``, ``floor_low``, ``floor_high``: a and c of
              :math:`\mathrm{CV}^2 = a^2 / n + c^2`, least squares of relative errors, neither negative;
            - ``floor_share``: c divided by the CV at the largest n.
    """

    curves: pd.DataFrame
    fits: pd.DataFrame


def power_law(n: np.ndarray, cv: np.ndarray) -> np.ndarray:
    r"""Exponent b of :math:`\mathrm{CV} = a n^{-b}` by least squares in logarithms.

    Args:
        n: sizes, shape (M,), at least two.
        cv: positive values, shape (*batch, M).

    Returns:
        Shape (*batch,).

    Example:
        >>> power_law(np.array([1.0, 100.0]), np.array([3.0, 0.3])).round(12)
        np.float64(0.5)
    """
    x = np.log(n) - np.log(n).mean()
    return -(np.log(cv) @ x) / (x @ x)


def root_n_law(n: np.ndarray, cv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Fit :math:`\mathrm{CV}^2 = a^2/n + c^2`, :math:`a, c \ge 0`, by least squares of relative errors.

    Args:
        n: sizes, shape (M,), at least two.
        cv: positive values, shape (*batch, M).

    Returns:
        a, the estimation error of a single point, and the floor c, each of shape (*batch,).

    Example:
        >>> n = np.array([10.0, 100.0, 1000.0])
        >>> [float(part.round(6)) for part in root_n_law(n, np.sqrt(9.0 / n + 0.04))]
        [3.0, 0.2]
        >>> [float(part.round(6)) for part in root_n_law(n, 3.0 / np.sqrt(n))]
        [3.0, 0.0]
    """
    u, v = 1.0 / (n * cv**2), 1.0 / cv**2  # a² u + c² v should be 1
    uu, vv, uv, u1, v1 = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1), u.sum(-1), v.sum(-1)
    determinant = uu * vv - uv**2
    a, c = (vv * u1 - uv * v1) / determinant, (uu * v1 - uv * u1) / determinant
    # Where the best of one would be negative it is zero, and the other is fitted alone.
    return tuple(
        np.sqrt(
            np.stack([np.where(a < 0, 0.0, np.where(c < 0, u1 / uu, a)), np.where(a < 0, v1 / vv, c.clip(min=0.0))])
        )
    )


def _mean_cv(table: pd.DataFrame, weights: np.ndarray, scale_free: bool) -> dict[str, np.ndarray]:
    """Mean CV over pairs of each method for the models and, in the rows that follow, for each resample of them."""
    curves = {}
    for method, values in cubes(table)[0].items():
        used = values / values.mean(1, keepdims=True) if scale_free else values
        plain = cv_over_models(used).mean(keepdims=True)
        curves[method] = np.concatenate([plain, cv_over_models(used, weights).mean(1)])
    return curves


def scaling(
    table: pd.DataFrame,
    *,
    baseline: str = "euclidean",
    scale_free: bool = False,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Scaling:
    """Mean CV of each method at each size, and how it falls, with intervals that resample models.

    A seed is drawn for all sizes at once, as its initial weights are the same for each.

    Args:
        table: from :meth:`SampleSizeStudy.run`, of at least two sizes with the same seeds.
        baseline: the method that exponents are compared with.
        scale_free: whether to divide each model's distances by their mean over pairs first.
        resamples: of the models.
        level: of the intervals.
        seed: of the resampling.

    Raises:
        ValueError: there is one size only, or fewer than three models of each, the sizes have different seeds, an
            option is out of range, or the baseline is not in the table.
    """
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(f"expected at least 2 resamples and 0 < level < 1, got {resamples!r} and {level!r}")
    table = table[table["method"] != "data"]
    seeds = {n: tuple(sorted(part["seed"].unique())) for n, part in table.groupby("n")}
    if len(seeds) < 2 or len(set(seeds.values())) != 1 or len(next(iter(seeds.values()))) < 3:
        raise ValueError(
            f"expected at least two sizes with the same seeds each, at least three for intervals, got {seeds}"
        )
    n, S = np.array(sorted(seeds), dtype=float), len(next(iter(seeds.values())))
    weights = resampled(S, resamples, np.random.default_rng(seed))
    by_size = [_mean_cv(table[table["n"] == size], weights, scale_free) for size in sorted(seeds)]
    draws = {method: np.stack([curve[method] for curve in by_size], -1) for method in by_size[0]}  # [1 + B, sizes]
    if baseline not in draws:
        raise ValueError(f"baseline: expected a method among {', '.join(draws)}, got {baseline!r}")

    def interval(name: str, values: np.ndarray) -> dict[str, float]:
        return with_interval(name, values[0], values[1:], level, S)

    curves, fits = [], {}
    half = len(n) // 2
    for method, curve in draws.items():
        # A resample may hold one model only, whose CV is zero.
        curve = np.where(curve > 0, curve, np.nan)
        for size, cv in zip(n, curve.T, strict=True):
            curves.append({"method": method, "n": int(size)} | with_log_interval("cv", cv[0], cv[1:], level, S))
        exponent, (rate, level_off) = power_law(n, curve), root_n_law(n, curve)
        row = interval("exponent", exponent)
        row |= interval("less_baseline", exponent - power_law(n, draws[baseline].clip(min=1e-300)))
        row |= interval("first_half", power_law(n[: half + 1], curve[:, : half + 1]))
        row |= interval("last_half", power_law(n[-half - 1 :], curve[:, -half - 1 :]))
        row |= {"rate": rate[0]} | interval("floor", level_off)
        row["floor_low"] = max(row["floor_low"], 0.0)
        fits[method] = row | {"floor_share": level_off[0] / curve[0, -1]}
    return Scaling(pd.DataFrame(curves), pd.DataFrame.from_dict(fits, orient="index").rename_axis("method"))


def bias_and_spread(
    table: pd.DataFrame, truth: pd.DataFrame, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    r"""Error of distances against the truth, in two parts.

    With :math:`r_{sp} = \log(v_{sp} / v_p)`, the distance of pair p under model s against the true one,

    .. math:: \mathrm{spread}^2 = \mathrm{mean}_p\, \mathrm{var}_s(r_{sp}), \qquad
        \mathrm{bias}^2 = \mathrm{mean}_p\, (\mathrm{mean}_s\, r_{sp})^2 - \mathrm{spread}^2 / S

    where the last term takes out what the mean of S models still has of the spread; a negative difference counts as 0.

    Args:
        table: from :meth:`SampleSizeStudy.run`.
        truth: from :func:`latentgeo.paper.torus.true_distances`: a column for each method that has a truth.
        resamples: of the models.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        One row for each method and n: ``method``, ``n``, ``bias``, ``bias_low``, ``bias_high``, ``spread``,
        ``spread_low``, ``spread_high`` (as shares of the true distance, over all pairs) and ``mean_error``, the mean
        of :math:`r_{sp}` itself: negative where distances are too short.
    """
    methods = [method for method in truth.columns if method in set(table["method"])]
    if not methods:
        raise ValueError(f"truth: expected a column for a method of the table, got {', '.join(truth.columns)}")
    rows = []
    for method in methods:
        for n, part in table[table["method"] == method].groupby("n"):
            wide = part.pivot(index="seed", columns="pair", values="value")
            ratio = np.log(wide.to_numpy() / truth.set_index("pair").loc[wide.columns, method].to_numpy())  # [S, P]
            S = len(ratio)
            drawn = moments(ratio, None), moments(ratio, resampled(S, resamples, np.random.default_rng(seed)))
            mean, variance = (np.vstack(of) for of in zip(*drawn, strict=True))
            variance = variance.mean(1)
            bias = np.sqrt(((mean**2).mean(1) - variance / S).clip(min=0.0))
            row = {"method": method, "n": n, "mean_error": ratio.mean()}
            for name, values in (("bias", bias), ("spread", np.sqrt(variance))):
                row |= with_log_interval(name, values[0], values[1:], level, S)
            rows.append(row)
    return pd.DataFrame(rows)


def final_slope(curves: pd.DataFrame) -> pd.DataFrame:
    """How much the training still moved at its end.

    Args:
        curves: from :meth:`SampleSizeStudy.curves`.

    Returns:
        One row for each n: ``n``; ``steps``; ``loss``, the least validation loss (nats per point, mean over models);
        ``last_quarter``, by how much the training loss fell over the last quarter of the steps (nats);
        ``share``, that as a share of its whole fall since the first epoch; ``stopped``, the step of the least
        validation loss as a share of all steps, mean over models.
    """
    rows = []
    for n, part in curves.groupby("n"):
        summary = []
        for _, one in part.groupby("seed"):
            one = one.sort_values("step")
            last, first = one["train_loss"].iloc[-1], one["train_loss"].iloc[0]
            before = np.interp(0.75 * one["step"].iloc[-1], one["step"], one["train_loss"])
            best = one["validation_loss"].idxmin()
            summary.append(
                {
                    "steps": one["step"].iloc[-1],
                    "loss": one.loc[best, "validation_loss"],
                    "last_quarter": before - last,
                    "share": (before - last) / (first - last),
                    "stopped": one.loc[best, "step"] / one["step"].iloc[-1],
                }
            )
        rows.append({"n": n, **pd.DataFrame(summary).mean()})
    return pd.DataFrame(rows)
