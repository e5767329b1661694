r"""Do distances carry over from one recipe to another, as well as from one seed to the next?

A recipe is all that is chosen before a training: architecture, activation, latent dimension, number of decoders. With
the logarithm y of the distance of pair p under seed s of recipe r,

.. math:: y_{rsp} = \mu_p + b_{rp} + w_{rsp}, \qquad
    \hat\sigma_w^2 = \frac1{RP} \sum_{r, p} \operatorname{Var}_s y_{rsp}, \qquad
    \hat\sigma_b^2 = \frac1P \sum_p \operatorname{Var}_r \bar y_{r \cdot p} - \frac{\hat\sigma_w^2}{S},

the components of variance within and between recipes: a nested analysis of variance for each pair, and the mean over
pairs. The recipes were chosen, not drawn: intervals speak of these, over other seeds.

Reference: Searle, Casella and McCulloch, "Variance Components", Wiley 1992, chapter 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from latentgeo.agreement.reliability import resampled, student_reach, with_log_interval
from latentgeo.paper.models.training import TrainingConfig
from latentgeo.paper.study import Study

# What differs from the first, name by name; the first is the centre.
_STAR = {
    "centre": {},
    "ELU": {"activation": "elu"},
    "SiLU": {"activation": "silu"},
    "d = 4": {"latent_dim": 4},
    "d = 16": {"latent_dim": 16},
    "K = 8": {"decoders": 8},
    "conv": {"model": "conv"},
}
AXES = {
    "activation": ("centre", "ELU", "SiLU"),
    "dimension": ("centre", "d = 4", "d = 16"),
    "decoders": ("centre", "K = 8"),
    "architecture": ("centre", "conv"),
}
# Epochs and seeds of the models; conv is left out where models are to be trained in seconds.
_SCALES = {"quick": (25, range(3)), "evidence": (100, range(3, 8)), "paper": (300, range(30))}
METHODS = ("geodesic", "ambient_chord", "straight_line", "euclidean")


def recipes(profile: str = "quick", pairs: int = 60, store: Path | None = None) -> dict[str, Study]:
    """Studies of the digits that differ in one choice from the first, ``"centre"``: MLP, tanh, d = 8, one decoder.

    Args:
        profile: ``"quick"`` (3 models each, without convolutions), ``"evidence"`` (5 others) or ``"paper"`` (30).
        pairs: of test data P, the same ones for all.
        store: folder of the run store; ``data/runs`` by default.

    Returns:
        By name. All are trained for as many epochs, and measured between the points nearest to the posterior means of
        the image, which are identified as well as those nearest to the data, and cannot lie infinitely far away, as
        these do where a datum of 64 pixels has 16 dimensions to be fitted with.
    """
    epochs, seeds = _SCALES[profile]
    training = TrainingConfig(
        epochs, batch_size=64, learning_rate=4e-3, warmup_steps=50, half_life=10 * epochs, patience=epochs
    )
    common = {"dataset": "digits", "model": "mlp", "seeds": seeds, "pairs": pairs, "training": training, "decoders": 1}
    common["points"] = "posterior"
    return {
        name: Study(**common | differs, store=store)
        for name, differs in _STAR.items()
        if profile != "quick" or name != "conv"
    }


def log_distances(tables: Mapping[str, pd.DataFrame], method: str) -> np.ndarray:
    """Logarithms of one distance, shape (R, S, P), over the pairs positive and finite under every model.

    Args:
        tables: of each recipe, from :meth:`latentgeo.paper.Study.run`, of the same pairs and as many seeds.
        method: of the distances.

    Raises:
        ValueError: the recipes do not have as many seeds, or no pair is left.
    """
    wide = [
        of[of["method"] == method].pivot(index="seed", columns="pair", values="value").to_numpy()
        for of in tables.values()
    ]
    shapes = {of.shape for of in wide}
    if len(shapes) > 1:
        raise ValueError(f"expected as many seeds and pairs under each recipe, got {', '.join(map(str, shapes))}")
    values = np.stack(wide)
    kept = (np.isfinite(values) & (values > 0)).all((0, 1))
    if not kept.any():
        raise ValueError(f"expected a pair at positive, finite {method} distance under every model, got none")
    return np.log(values[..., kept])


def components(y: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> dict[str, float]:
    r"""Standard deviations within and between recipes of values such as logarithms of distances.

    Args:
        y: shape (R, S, P), of S ≥ 2 models of each of R recipes; R = 1 has no part between recipes.
        resamples: of the models of each recipe.
        level: of the intervals.
        seed: of the resampling.

    Returns:
        ``within`` and ``between``, :math:`\hat\sigma_w` and :math:`\hat\sigma_b`, in units of y (0 where the latter's
        square is negative); ``share``, :math:`\sigma_b^2 / (\sigma_b^2 + \sigma_w^2)`; ``transfer``, the standard
        deviation over pairs of the mean over all models, over :math:`\sqrt{\sigma_b^2 + \sigma_w^2}`: the signal to
        noise of a distance under a model of another recipe and seed. Each with ``_low`` and ``_high``; ``models``,
        R·S, and ``pairs``. Multiply distances by any number: only ``between`` and ``within`` see that models do so.

    Raises:
        ValueError: a recipe has fewer than two models.

    Example:
        Two recipes whose seeds agree, and which differ by 2:

        >>> found = components(np.array([[[0.0], [0.0]], [[2.0], [2.0]]]))
        >>> found["within"], round(found["between"], 4), found["share"]
        (0.0, 1.4142, 1.0)
    """
    if y.ndim != 3 or y.shape[1] < 2:
        raise ValueError(f"y: expected shape (R, S, P) with S ≥ 2 models of each recipe, got {y.shape}")
    R, S, P = y.shape
    mean = y.mean(1)  # [R, P]
    deviation = y - mean[:, None]
    squares = (deviation**2).sum(1) / (S - 1)
    random = np.random.default_rng(seed)
    moved, spread = np.empty((resamples, R, P)), np.empty((resamples, R))
    for r in range(R):
        counts = resampled(S, resamples, random) / S
        shift = counts @ deviation[r]  # of a resample's mean, which varies too little by (S - 1) / S
        moved[:, r] = mean[r] + shift * np.sqrt(S / (S - 1))
        # So does a resample's variance.
        spread[:, r] = ((counts @ deviation[r] ** 2 - shift**2) * (S / (S - 1)) ** 2).mean(1)

    def parts(means: np.ndarray, within: np.ndarray, extra: float) -> dict[str, np.ndarray]:
        between = means.var(-2, ddof=1).mean(-1) - extra * within / S if R > 1 else 0.0 * within
        signal = means.mean(-2).std(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            noise = between.clip(0.0) + within
            share = between.clip(0.0) / noise
            return {"within": within, "between": between, "share": share, "transfer": np.log(signal / np.sqrt(noise))}

    found = parts(mean, np.float64(squares.mean()), 1.0)
    # The means of resamples differ by the variance within once more.
    draws = parts(moved, spread.mean(1), 2.0)
    row = {}
    freedom = R * (S - 1)
    for name, value in found.items():
        if name == "within":
            with np.errstate(invalid="ignore"):
                row |= with_log_interval(name, np.sqrt(value), np.sqrt(draws[name]), level, freedom + 1)
            continue
        reach = student_reach(draws[name], level, freedom + 1)
        ends = np.array([value, value - reach, value + reach], dtype=float)
        if name == "transfer":
            ends = np.exp(ends)
        elif name == "share":
            ends = ends.clip(0.0, 1.0)
        else:
            ends = np.sqrt(ends.clip(0.0))
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends.tolist(), strict=True))
    return row | {"models": R * S, "pairs": P}


def compare_recipes(tables: Mapping[str, pd.DataFrame], **options: float) -> pd.DataFrame:
    """Components of every distance, over all recipes and along each axis of choices, with scale and without.

    Args:
        tables: of each recipe, from :meth:`latentgeo.paper.Study.run`.
        **options: of :func:`components`.

    Returns:
        Index ``axis`` (``"all"`` first), ``scale`` (``"as it is"``, or ``"free"``: after each model's mean of the
        logarithms is subtracted, so that what is left is which pairs are far) and ``method``.
    """
    rows = {}
    for axis, names in {"all": tuple(tables), **AXES}.items():
        chosen = {name: tables[name] for name in names if name in tables}
        if len(chosen) < 2:
            continue
        for method in METHODS:
            y = log_distances(chosen, method)
            for scale, of in {"as it is": y, "free": y - y.mean(2, keepdims=True)}.items():
                rows[axis, scale, method] = components(of, **options)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["axis", "scale", "method"])
