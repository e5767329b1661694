"""How much distances vary over models."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from latentgeo.plotting.style import COLUMN, METHOD_COLOURS, METHOD_NAMES, STYLE


def cv_histogram(cv: pd.DataFrame, models: int, title: str) -> Figure:
    """Coefficients of variation of the pairs' distances over models, geodesic against Euclidean, as in the paper.

    Args:
        cv: one row for each pair with the columns ``euclidean`` and ``geodesic``, see
            :func:`latentgeo.coefficient_of_variation`.
        models: the number of models S.
        title: what the models are.

    Returns:
        The figure, a column wide.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")
        shown = 100 * cv[["euclidean", "geodesic"]]
        bins = np.linspace(0, shown.to_numpy().max() * 1.02, 26)
        for method in shown:
            colour = METHOD_COLOURS[method]
            ax.hist(shown[method], bins=bins, color=colour, alpha=0.55, label=METHOD_NAMES[method])
            ax.axvline(shown[method].mean(), color=colour, linewidth=1.2, linestyle="--")
        ax.set(
            title=f"{title}, {models} models, {len(cv)} pairs",
            xlabel="coefficient of variation over models (%)",
            ylabel="pairs",
        )
        ax.legend(title="distance (dashed: mean)", title_fontsize=7)
    return figure


def reliability(comparison: pd.DataFrame, title: str) -> Figure:
    """Mean coefficient of variation of every method, with intervals over models.

    Args:
        comparison: from :func:`latentgeo.compare_reliability`.
        title: what the models are.

    Returns:
        The figure, a column wide.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(COLUMN, 2.1), layout="constrained")
        shown = comparison.drop(index="data", errors="ignore")[::-1]
        for height, (method, row) in enumerate(shown.iterrows()):
            colour = METHOD_COLOURS.get(method, "0.35")
            low, high = max(row.mean_cv_low, 0.0), row.mean_cv_high
            ax.plot([100 * low, 100 * high], [height, height], color=colour, linewidth=1.2)
            ax.plot(100 * row.mean_cv, height, "o", color=colour, markersize=4)
        ax.set_yticks(range(len(shown)), [METHOD_NAMES.get(method, method) for method in shown.index])
        ax.set(xlim=(0, None), xlabel="mean coefficient of variation (%), 95 % interval")
        ax.set_title(f"{title}, {int(shown['models'].iloc[0])} models", loc="right")
        ax.grid(axis="x", color="0.9")
    return figure
