r"""How well distances agree across models, and how sure that can be known from S of them.

The unit of replication is the model: the pairs share the models, so that resampling pairs alone, or a t-test over
pairs as in the paper, takes one accident of training for a hundred pieces of evidence. Intervals here resample
models; the paper's test stands beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats

_COLUMNS = {"seed", "pair", "method", "value"}
_RESAMPLES = 200  # of each of many subsets of models
_TESTS = ("p_models", "scale_free_p_models", "p", "scale_free_p")
_ROUNDING = 1e-12  # standard deviations of a logarithm, and differences of CVs, below this are none


def cubes(table: pd.DataFrame, needed: Sequence[str] = ()) -> tuple[dict[str, np.ndarray], int]:
    """Values by method as arrays (S, P), over the pairs finite under every model and method, and how many are not.

    Args:
        table: as for :func:`coefficient_of_variation`.
        needed: methods that it must have.

    Raises:
        ValueError: see :func:`coefficient_of_variation`, or a method that is needed is missing.
    """
    missing = _COLUMNS - set(table.columns)
    if missing:
        raise ValueError(f"expected columns {sorted(_COLUMNS)}, but {sorted(missing)} are missing")
    wide = table.pivot(index=["method", "seed"], columns="pair", values="value")  # raises ValueError on duplicates
    methods, seeds = wide.index.levels
    if len(seeds) < 2:
        raise ValueError(f"expected at least two models to compare, got {len(seeds)}")
    if len(wide) != len(methods) * len(seeds):
        raise ValueError("expected every method for every model; some combinations are missing from the table")
    finite = comparable(wide)
    if not finite.any():
        raise ValueError("expected at least one pair with finite, positive values under every method, got none")
    for name in needed:
        if name not in methods:
            raise ValueError(f"method or baseline: expected a method among {', '.join(methods)}, got {name!r}")
    kept = wide.loc[:, finite]
    return {method: kept.loc[method].loc[seeds].to_numpy() for method in methods}, int((~finite).sum())


def comparable(wide: pd.DataFrame) -> np.ndarray:
    """Which pairs can be compared: finite under all models and methods, and positive under a model by every method.

    Args:
        wide: values with the index ``method`` and model, a column for each pair.
    """
    # The CV of a distance that is zero under every model is 0/0.
    positive = (wide.groupby(level="method").mean() > 0).to_numpy().all(0)
    return np.isfinite(wide.to_numpy()).all(0) & positive


def cv_over_models(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    r"""Coefficient of variation over models for each pair.

    Args:
        values: shape (S, P).
        weights: how often each model was drawn in each resample, shape (B, S); once each by default.

    Returns:
        Shape (P,), or (B, P) for resamples. A resample of S models with replacement repeats some of them, which
        makes its variance too small by (S - 1)/S on average; that factor is taken out.
    """
    mean, variance = moments(values, weights)
    return np.sqrt(variance) / np.where(mean > 0, mean, np.nan)


def moments(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over models for each pair; the variance is exactly 0 where only rounding is left.

    Args:
        values: shape (S, P).
        weights: as for :func:`cv_over_models`, whose factor is taken out of the variance of resamples here.

    Returns:
        Shape (P,), or (B, P) for resamples, each.

    Example:
        >>> moments(np.array([[1.0], [3.0]]), None)
        (array([2.]), array([2.]))
    """
    S = len(values)
    counts = np.ones((1, S)) if weights is None else weights
    centre = values.mean(0)
    deviation = values - centre
    mean, squares = counts @ deviation / S, counts @ deviation**2
    variance = (squares - S * mean**2) / (S - 1)
    variance[variance < 1e-12 * squares] = 0.0  # a draw of one model alone
    if weights is None:
        return (mean + centre)[0], variance[0]
    return mean + centre, variance * S / (S - 1)


def coefficient_of_variation(table: pd.DataFrame) -> pd.DataFrame:
    r"""Coefficient of variation of every pair's distance over models, by method: the paper's statistic.

    Compare only CVs over the same number of models: the standard deviation of few is too small on average (by 20 % for
    two models, 6 % for five).

    .. math:: \mathrm{CV}_p = \frac{\sqrt{\tfrac{1}{S-1} \sum_s (v_{sp} - \bar v_p)^2}}{\bar v_p}

    Args:
        table: one row for each model, pair and method with the columns ``seed``, ``pair``, ``method``, ``value``, as
            from :meth:`latentgeo.paper.Study.run`.

    Returns:
        One row for each pair, one column for each method, dimensionless.

    Raises:
        ValueError: columns are missing, a combination is missing or doubled, or there are fewer than two models.

    References:
        Syrota et al., "Identifying Metric Structures of Deep Latent Variable Models", ICML 2025, experiments.

    Example:
        >>> rows = [(0, 0, "geodesic", 1.0), (1, 0, "geodesic", 3.0)]
        >>> coefficient_of_variation(pd.DataFrame(rows, columns=["seed", "pair", "method", "value"])).round(4)
        method  geodesic
        pair
        0         0.7071
    """
    values, _ = cubes(table)
    wide = pd.DataFrame({method: cv_over_models(of) for method, of in values.items()})
    return wide.rename_axis(index="pair", columns="method")


def _spearman(values: np.ndarray) -> float:
    """Mean rank correlation over all pairs of models; NaN where one of them ranks nothing."""
    ranks = np.apply_along_axis(scipy.stats.rankdata, 1, values)
    if ranks.shape[1] < 3:
        return float("nan")
    with np.errstate(invalid="ignore"):
        correlations = np.corrcoef(ranks)
    return float(correlations[np.triu_indices(len(values), 1)].mean())


def _paired_test(cv: np.ndarray, baseline_cv: np.ndarray) -> dict[str, float]:
    """The paper's test: one-sided paired t-test over pairs for a CV below the baseline's, which itself has none."""
    if len(cv) < 2 or cv is baseline_cv:
        return dict.fromkeys(("t", "df", "p"), np.nan)
    test = scipy.stats.ttest_rel(cv, baseline_cv, alternative="less")
    return {"t": float(test.statistic), "df": len(cv) - 1, "p": float(test.pvalue)}


def resampled(count: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """How often each of some models, or pairs, is drawn in resamples of as many: shape (resamples, count)."""
    return random.multinomial(count, np.full(count, 1 / count), size=resamples)


def student_reach(draws: np.ndarray, level: float, models: int) -> float:
    """Half the width of a Student interval with the standard error of bootstrap draws and S - 1 degrees of freedom.

    Percentiles of the draws are far too narrow for few models: in simulations of five models a nominal 95 % interval
    of that kind held the truth four times in five, this one nineteen times in twenty. Draws that are not finite are
    left out; where they are more than a quarter, as with two models whose draws need a variance, the reach is NaN.
    """
    finite = draws[np.isfinite(draws)]
    if len(finite) < 0.75 * len(draws):
        return float("nan")
    return float(scipy.stats.t.ppf((1 + level) / 2, models - 1) * np.std(finite))


def with_interval(name: str, estimate: float, draws: np.ndarray, level: float, models: int) -> dict[str, float]:
    """An estimate by its name, with the ends of its Student interval as ``name_low`` and ``name_high``."""
    reach = student_reach(draws, level, models)
    return {name: float(estimate), f"{name}_low": float(estimate - reach), f"{name}_high": float(estimate + reach)}


def with_log_interval(
    name: str, estimate: float, draws: np.ndarray, level: float, models: int, spreads: int = 1
) -> dict[str, float]:
    """As :func:`with_interval`, of the logarithm: no limit is negative. What is 0, infinite or NaN is its own limits.

    Resamples of two models have no variance half the time, so that nothing can be said from them. The limits are then
    those of normal distributions whose pairs count as one: each of the ``spreads`` standard deviations in the estimate
    (one, or two in a ratio) is known with S - 1 degrees of freedom. They are wide, and too wide where pairs differ.
    """
    if not 0 < estimate < np.inf:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), float(estimate))
    with np.errstate(divide="ignore"):
        reach = student_reach(np.log(draws), level, models)
    if np.isnan(reach):
        tail, freedom = (1 - level) / 2, models - 1
        single = scipy.stats.chi2.ppf(tail, freedom) / freedom
        reach = -0.5 * np.log(single if spreads == 1 else scipy.stats.f.ppf(tail, freedom, freedom))
    ends = {"": 0.0, "_low": -reach, "_high": reach}
    return {f"{name}{end}": float(estimate * np.exp(shift)) for end, shift in ends.items()}


def _one_sided(estimate: float, draws: np.ndarray, models: int) -> float:
    """Probability of an estimate at least so far below zero, were the truth zero; Student, S - 1 degrees of freedom."""
    error = float(np.nanstd(draws))
    return float(scipy.stats.t.cdf(estimate / error, models - 1)) if error > 0 else float("nan")


def holm(p: pd.Series) -> pd.Series:
    r"""Probabilities of a family of m tests, adjusted so that one of them is wrong with no more than the level in all.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min\big(1, (m - j + 1)\, p_{(j)}\big)

    Args:
        p: of each test; NaN for what is no test.

    Returns:
        The same index; NaN stays.

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Example:
        >>> holm(pd.Series([0.03, 0.01, np.nan, 0.04])).tolist()
        [0.06, 0.03, nan, 0.06]
    """
    ordered = p.dropna().sort_values()
    left = np.arange(len(ordered), 0, -1)
    return (left * ordered).clip(upper=1.0).cummax().reindex(p.index)


def compare_reliability(
    table: pd.DataFrame,
    baseline: str | Sequence[str] = "euclidean",
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Compare how much distances vary over models between each method and one or several baselines.

    A CV rewards whatever varies little, and a constant, which says nothing, has none. Signal to noise holds what a
    distance says of the pairs against what the models disagree about. With the distances :math:`v_{sp}`,

    .. math:: y_{sp} = \log v_{sp} - \frac1P \sum_q \log v_{sq}, \qquad
        \mathrm{SNR}^2 = \frac{\tfrac1P \sum_p \bar y_p^2}
            {\tfrac1P \sum_p \tfrac1{S-1} \sum_s (y_{sp} - \bar y_p)^2}, \qquad \bar y_p = \frac1S \sum_s y_{sp},

    which no scale of a model changes. The mean over models keeps 1/S of the noise, so that a distance of noise alone
    has about :math:`1/\sqrt S`; compare it only over the same number of models.

    Args:
        table: as for :func:`coefficient_of_variation`; with a column ``converged``, its failures are counted.
        baseline: the method that the others are compared with, or several of them.
        resamples: bootstrap resamples of the models.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        One row for each method (index ``method``), in the order of the table, but for ``data``, the distance of the
        data themselves, which no model enters; for several baselines one for each of
        them and each method (index ``baseline``, ``method``). Dimensionless unless said otherwise:

        - ``mean_cv``, ``mean_cv_low``, ``mean_cv_high``: mean CV over pairs, with its interval over models on the
          logarithmic scale;
        - ``difference``, ``difference_low``, ``difference_high``: mean CV minus the baseline's (negative: steadier
          than the baseline), models resampled, the same ones for both methods;
        - ``p_models``: one-sided probability of such a difference, were there none, models resampled;
        - ``difference_pairs_low``, ``difference_pairs_high``: the interval with models and pairs resampled;
        - ``ratio``, ``ratio_low``, ``ratio_high``: mean CV over the baseline's, the effect size; models resampled on
          the logarithmic scale, without the few draws that take one model S times and so have no variance. Of two
          models half the draws are such, and the limits are those of a normal distribution, as for ``mean_cv``;
        - ``t``, ``df``, ``p``: the paper's paired t-test over pairs, one-sided for a CV below the baseline's. The
          pairs share the models, so p overstates the evidence, see :func:`latentgeo.reliability.false_positive_rates`;
        - ``scale_free_cv``, ``scale_free_difference`` with ``_low`` and ``_high``, ``scale_free_p_models``,
          ``scale_free_t``, ``scale_free_p``: the same after each model's distances are divided by their mean over
          pairs, so that a mere difference of scale between models does not count;
        - ``signal_to_noise`` with ``_low`` and ``_high``: over the pairs positive under every model and method; models
          resampled on the logarithmic scale. 0 for a constant; infinite, with its limits, for what has a signal and no
          noise; NaN for fewer than two such pairs;
        - ``signal_ratio`` with ``_low`` and ``_high``: over the baseline's, in the same way (above 1: says more than
          the baseline); NaN where one of the two is 0 or infinite;
        - ``p_models_holm``, ``scale_free_p_models_holm``, ``p_holm``, ``scale_free_p_holm``: the probabilities above,
          adjusted for the family of all methods that are compared with one baseline, see :func:`holm`;
        - ``spearman``: mean rank correlation of the distances between two models;
        - ``models``, ``pairs``: S and P; ``dropped_pairs``: pairs left out, for every method alike, because a value
          was not finite or all were zero; ``unconverged``: the share of values whose solver did not converge.

    Raises:
        ValueError: a baseline is not in the table, an option is out of range, or see
            :func:`coefficient_of_variation`.

    Example:
        Two pairs are as long as each other under one model, and a factor e⁴ apart under the other: y is 0, 0 and
        -2, 2, the signal 1 and the noise √2.

        >>> rows = [(0, 0, "euclidean", 1.0), (0, 1, "euclidean", 1.0)]
        >>> rows += [(1, 0, "euclidean", 1.0), (1, 1, "euclidean", np.exp(4))]
        >>> table = pd.DataFrame(rows, columns=["seed", "pair", "method", "value"])
        >>> compare_reliability(table)["signal_to_noise"].round(4).item()
        0.7071
    """
    if not isinstance(baseline, str):
        if not baseline:
            raise ValueError("baseline: expected at least one method, got none")
        options = {"resamples": resamples, "level": level, "seed": seed}
        return pd.concat({name: compare_reliability(table, name, **options) for name in baseline}, names=["baseline"])
    if "method" in table.columns:
        table = table[table["method"] != "data"]  # no model enters it
    values, dropped = cubes(table, [baseline])
    _check_resampling(resamples, level)
    S, P = values[baseline].shape
    random = np.random.default_rng(seed)
    models, pairs = resampled(S, resamples, random), resampled(P, resamples, random) / P  # [B, S] and [B, P]
    scale_free = {method: of / of.mean(1, keepdims=True) for method, of in values.items()}
    plain, free = (
        {method: (cv_over_models(of), cv_over_models(of, models)) for method, of in those.items()}
        for those in (values, scale_free)
    )
    mean_draws = {method: draws.mean(1) for method, (_, draws) in plain.items()}
    positive = np.all([(of > 0).all(0) for of in values.values()], axis=0)
    logs = {method: np.log(of[:, positive]) for method, of in values.items()}
    signal = {method: (_signal_to_noise(of), _signal_to_noise(of, models)) for method, of in logs.items()}
    converged = table.groupby("method")["converged"].mean() if "converged" in table.columns else None
    rows = {}
    for method, of in values.items():
        (cv, draws), (base_cv, base_draws) = plain[method], plain[baseline]
        gap, gaps = (cv - base_cv).mean(), draws - base_draws  # [B, P]
        row = with_log_interval("mean_cv", cv.mean(), mean_draws[method], level, S)
        row |= with_interval("difference", gap, gaps.mean(1), level, S)
        row["p_models"] = _one_sided(gap, gaps.mean(1), S)
        over_both = with_interval("difference_pairs", gap, (gaps * pairs).sum(1), level, S)
        row |= {name: over_both[name] for name in ("difference_pairs_low", "difference_pairs_high")}
        row |= _ratio("ratio", cv.mean(), mean_draws[method], base_cv.mean(), mean_draws[baseline], level, S)
        row |= _paired_test(cv, base_cv)
        (cv, draws), (base_cv, base_draws) = free[method], free[baseline]
        gap, gaps = (cv - base_cv).mean(), (draws - base_draws).mean(1)
        row["scale_free_cv"] = cv.mean()
        row |= with_interval("scale_free_difference", gap, gaps, level, S)
        row["scale_free_p_models"] = _one_sided(gap, gaps, S)
        test = _paired_test(cv, base_cv)
        row |= {f"scale_free_{name}": test[name] for name in ("t", "p")}
        row |= with_log_interval("signal_to_noise", *signal[method], level, S)
        row |= _ratio("signal_ratio", *signal[method], *signal[baseline], level, S)
        row["spearman"] = _spearman(of)
        row |= {"models": S, "pairs": P, "dropped_pairs": dropped}
        row["unconverged"] = 0.0 if converged is None else 1.0 - converged[method]
        rows[method] = row
    compared = pd.DataFrame.from_dict(rows, orient="index").loc[table["method"].unique()].rename_axis("method")
    return compared.assign(**{f"{name}_holm": holm(compared[name]) for name in _TESTS})


def _signal_to_noise(logs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Signal to noise, see :func:`compare_reliability`, of log distances (S, P); shape (), or (B,) for resamples."""
    if logs.shape[1] < 2:
        return np.array(np.nan)
    mean, variance = moments(logs - logs.mean(1, keepdims=True), weights)
    signal, noise = (np.where(of > _ROUNDING, of, 0.0) for of in (mean.std(-1), np.sqrt(variance.mean(-1))))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(signal > 0, signal / noise, 0.0)


def _check_resampling(draws: int, level: float) -> None:
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"expected at least one draw or resample, and 0 < level < 1, got {draws!r} and {level!r}")


def _ratio(
    name: str, value: float, draws: np.ndarray, base: float, base_draws: np.ndarray, level: float, models: int
) -> dict[str, float]:
    """Ratio with its interval on the logarithmic scale; NaN where a term is zero or infinite."""
    if draws is base_draws:  # of the baseline to itself
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), 1.0 if 0 < value < np.inf else np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = value / base if min(value, base) > 0 and max(value, base) < np.inf else np.nan
        return with_log_interval(name, ratio, draws / base_draws, level, models, spreads=2)


def split_into_ends_and_path(
    table: pd.DataFrame,
    method: str = "geodesic",
    chord: str = "ambient_chord",
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.Series:
    r"""How much of what models disagree about is where a curve ends, and how much is the way between.

    A distance d is its chord c, which its ends alone decide, times the stretch d/c of the path between them:

    .. math:: \operatorname{Var} \log d = \operatorname{Var} \log c + \operatorname{Var} \log \tfrac dc
        + 2 \operatorname{Cov}\left(\log c, \log \tfrac dc\right),

    each over models, and the mean over pairs. A difference of scale between models counts as one of the ends.

    Args:
        table: as for :func:`latentgeo.coefficient_of_variation`, with the two methods among others.
        method: whose distances are split.
        chord: the method of the straight distances between the same ends, in the same units.
        resamples: bootstrap resamples of the models.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        ``ends``, ``path`` and ``covariance`` (twice the covariance), the shares of the variance, which sum to 1, and
        ``stretch``, the mean of d/c over pairs and models, each with ``_low`` and ``_high``, models resampled (NaN for
        the shares of two models); ``spread``, the standard deviation over pairs of the mean over models of log d/c;
        ``variance``, of log d over models, the mean over pairs; ``models``, ``pairs``, and ``dropped_pairs``, not
        finite under every model and method or not positive for one of the two methods. Where log d does not vary over
        models, the shares are NaN, and so is the spread of one pair.

    Raises:
        ValueError: a method is not in the table, no pair is left, an option is out of range, or see
            :func:`latentgeo.coefficient_of_variation`.

    Example:
        A path that is as long as its chord under one model, and twice as long under the other, whose chord is the same:

        >>> rows = [(0, 0, "geodesic", 1.0), (0, 0, "ambient_chord", 1.0)]
        >>> rows += [(1, 0, "geodesic", 2.0), (1, 0, "ambient_chord", 1.0)]
        >>> table = pd.DataFrame(rows, columns=["seed", "pair", "method", "value"])
        >>> split_into_ends_and_path(table)[["ends", "path", "covariance", "stretch"]].tolist()
        [0.0, 1.0, 0.0, 1.5]
    """
    values, dropped = cubes(table, [method, chord])
    _check_resampling(resamples, level)
    positive = ((values[method] > 0) & (values[chord] > 0)).all(0)
    if not positive.any():
        raise ValueError(f"expected a pair at positive {method} and {chord} distance under every model, got none")
    whole, straight = values[method][:, positive], values[chord][:, positive]
    S, P = whole.shape
    logs = np.log(whole), np.log(straight), np.log(whole / straight)

    def shares(weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        total, ends, path = (moments(of, weights)[1].mean(-1) for of in logs)
        total = np.where(total > _ROUNDING**2, total, np.nan)
        return total, np.array([ends, path, total - ends - path]) / total

    models = resampled(S, resamples, np.random.default_rng(seed))
    (variance, estimates), (_, draws) = shares(None), shares(models)
    row = {}
    for name, estimate, of in zip(("ends", "path", "covariance"), estimates, draws, strict=True):
        row |= with_interval(name, estimate, of, level, S)
    stretch = (whole / straight).mean(1)
    row |= with_interval("stretch", stretch.mean(), models @ stretch / S, level, S)
    row |= {"spread": logs[2].mean(0).std(ddof=1) if logs[2].shape[1] > 1 else np.nan}
    row |= {"variance": np.nan_to_num(variance), "models": S, "pairs": P, "dropped_pairs": dropped + (~positive).sum()}
    return pd.Series(row, dtype=float)


def power_curve(
    table: pd.DataFrame,
    models: Sequence[int],
    *,
    method: str = "geodesic",
    baseline: str = "euclidean",
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    r"""How often S' of the models at hand would show the effect that all of them show.

    For each S' ≤ S, ``draws`` subsets of S' models are drawn without replacement and compared. Subsets overlap, the
    more so the nearer S' is to S, where the share is that of a single experiment; read the curve up to about S/2.

    Args:
        table: as for :func:`latentgeo.coefficient_of_variation`.
        models: numbers of models S', each between 2 and S.
        method: whose CV is compared,
        baseline: with whose.
        draws: subsets for each S'.
        level: of the interval over models; the paper's one-sided t-test is held against 1 - level.
        seed: of the drawing.

    Returns:
        One row for each S': ``models``; ``power``, the share of subsets whose interval of the difference in mean CV,
        models resampled, lies on the side of zero where the difference over all models lies; ``t_test``, the share in
        which the paper's one-sided t-test over pairs finds the method steadier; ``difference``, the mean difference,
        and ``half_width``, the mean half width of its interval.

    Raises:
        ValueError: a method is not in the table, or a number of models is out of range.
    """
    values, _ = cubes(table, [method, baseline])
    _check_resampling(draws, level)
    S = len(values[method])
    if not models or min(models) < 2 or max(models) > S:
        raise ValueError(f"models: expected numbers between 2 and the {S} models of the table, got {list(models)}")
    sign = np.sign((cv_over_models(values[method]) - cv_over_models(values[baseline])).mean())
    random, rows = np.random.default_rng(seed), []
    for size in models:
        drawn = []
        for _ in range(draws):
            chosen = random.choice(S, size, replace=False)
            weights = resampled(size, _RESAMPLES, random)
            a, b = values[method][chosen], values[baseline][chosen]
            cv_a, cv_b = cv_over_models(a), cv_over_models(b)
            spread = (cv_over_models(a, weights) - cv_over_models(b, weights)).mean(1)
            gap, reach = (cv_a - cv_b).mean(), student_reach(spread, level, size)
            p = scipy.stats.ttest_rel(cv_a, cv_b, alternative="less").pvalue
            drawn.append((sign * gap > reach, p < 1 - level, gap, reach))
        rows.append((size, *(np.mean(column) for column in zip(*drawn, strict=True))))
    return pd.DataFrame(rows, columns=["models", "power", "t_test", "difference", "half_width"])


def false_positive_rates(
    table: pd.DataFrame,
    *,
    method: str = "geodesic",
    baseline: str = "euclidean",
    draws: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    r"""How often either test finds a difference where there is none, between two methods under the same models.

    With the distances relative to their mean over models,

    .. math:: u_{sp} = v_{sp} \Big/ \frac1S \sum_r v_{rp},

    either method might have been called the other, were both as steady: in each draw every model exchanges its u of one
    method for those of the other with probability one half, all pairs at once. So the tests stay paired as they are,
    within models and over pairs, and whatever they find is false. A one-sided test of level 95 % should find something
    in 5 % of the draws.

    Args:
        table: as for :func:`latentgeo.coefficient_of_variation`.
        method: whose CV is compared,
        baseline: with whose.
        draws: exchanges.
        level: one minus the nominal rate.
        seed: of the drawing.

    Returns:
        ``t_test``: the share of draws in which the paper's paired t-test over pairs, one-sided, has p < 1 - level;
        ``models``: that in which a one-sided Student test with the standard error from resampling models does; ``p``:
        the share of draws, the table's own order among them, in which the mean CV of the first lies as far below the
        other's as in the table, a permutation test of the difference.

    Raises:
        ValueError: a method is not in the table, or see :func:`latentgeo.coefficient_of_variation`.

    Reference:
        Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", Springer 2005, matched pairs.
    """
    values, random = cubes(table, [method, baseline])[0], np.random.default_rng(seed)
    _check_resampling(draws, level)
    u = np.stack([values[name] / values[name].mean(0) for name in (method, baseline)])  # [2, S, P]
    S = u.shape[1]
    observed = np.subtract(*(cv_over_models(of) for of in u)).mean()
    tested, found, as_far = [], [], 1
    for _ in range(draws):
        drawn = np.where(random.random((S, 1)) < 0.5, u, u[::-1])
        cv, weights = [cv_over_models(of) for of in drawn], resampled(S, _RESAMPLES, random)
        tested.append(scipy.stats.ttest_rel(*cv, alternative="less").pvalue < 1 - level)
        gaps = np.subtract(*(cv_over_models(of, weights) for of in drawn)).mean(1)
        gap = (cv[0] - cv[1]).mean()
        found.append(_one_sided(gap, gaps, S) < 1 - level)
        as_far += gap <= observed + _ROUNDING
    return {"t_test": float(np.mean(tested)), "models": float(np.mean(found)), "p": float(as_far / (draws + 1))}
