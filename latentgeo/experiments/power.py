"""How many models a comparison needs, and how often each test is wrong: by drawing from the models at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats

from latentgeo.experiments.statistics import cubes, cv_over_models, student_reach

_RESAMPLES = 200


def _bootstrap(S: int, random: np.random.Generator) -> np.ndarray:
    return random.multinomial(S, np.full(S, 1 / S), size=_RESAMPLES)


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
    values, _ = cubes(table)
    for name in (method, baseline):
        if name not in values:
            raise ValueError(f"expected a method among {', '.join(values)}, got {name!r}")
    S = len(values[method])
    if not models or min(models) < 2 or max(models) > S:
        raise ValueError(f"models: expected numbers between 2 and the {S} models of the table, got {list(models)}")
    sign = np.sign((cv_over_models(values[method]) - cv_over_models(values[baseline])).mean())
    random, rows = np.random.default_rng(seed), []
    for size in models:
        found, tested, gaps, reaches = [], [], [], []
        for _ in range(draws):
            chosen = random.choice(S, size, replace=False)
            weights = _bootstrap(size, random)
            a, b = values[method][chosen], values[baseline][chosen]
            cv_a, cv_b = cv_over_models(a), cv_over_models(b)
            spread = (cv_over_models(a, weights) - cv_over_models(b, weights)).mean(1)
            gaps.append((cv_a - cv_b).mean())
            reaches.append(student_reach(spread, level, size))
            found.append(sign * gaps[-1] > reaches[-1])
            tested.append(scipy.stats.ttest_rel(cv_a, cv_b, alternative="less").pvalue < 1 - level)
        rows.append(
            {
                "models": size,
                "power": np.mean(found),
                "t_test": np.mean(tested),
                "difference": np.mean(gaps),
                "half_width": np.mean(reaches),
            }
        )
    return pd.DataFrame(rows)


def false_positive_rates(
    table: pd.DataFrame, *, method: str = "geodesic", draws: int = 500, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    r"""How often either test finds a difference where there is none.

    The models are split at random into two halves, and one half is compared with the other by the same method. Both
    halves are draws from the same population of models, so that whatever is found is false. A one-sided test of
    level 95 % should find something in 5 % of the splits.

    Args:
        table: as for :func:`latentgeo.coefficient_of_variation`, of at least four models.
        method: whose distances are compared with themselves.
        draws: splits.
        level: one minus the nominal rate.
        seed: of the drawing.

    Returns:
        ``t_test``: the share of splits in which the paper's paired t-test over pairs, one-sided, has p < 1 - level;
        ``models``: that in which a one-sided Student test with the standard error from resampling the models of either
        half does; ``halves``: models in each half.

    Raises:
        ValueError: the method is not in the table, or there are fewer than four models.
    """
    values, _ = cubes(table)
    if method not in values:
        raise ValueError(f"expected a method among {', '.join(values)}, got {method!r}")
    of, random = values[method], np.random.default_rng(seed)
    size = len(of) // 2
    if size < 2:
        raise ValueError(f"expected at least four models to split in halves, got {len(of)}")
    tested, found = [], []
    for _ in range(draws):
        order = random.permutation(len(of))
        halves = of[order[:size]], of[order[size : 2 * size]]
        cv = [cv_over_models(half) for half in halves]
        tested.append(scipy.stats.ttest_rel(*cv, alternative="less").pvalue < 1 - level)
        variance = sum(cv_over_models(half, _bootstrap(size, random)).mean(1).var() for half in halves)
        t = (cv[0] - cv[1]).mean() / np.sqrt(variance)
        found.append(scipy.stats.t.cdf(t, 2 * (size - 1)) < 1 - level)
    return {"t_test": float(np.mean(tested)), "models": float(np.mean(found)), "halves": size}
