"""How much distances vary over models."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.style import COLOURS, COLUMN, METHOD_COLOURS, PAGE, STYLE


@plt.rc_context(STYLE)
def cv_histogram(cv: pd.DataFrame, models: int, title: str) -> Figure:
    """Coefficients of variation of the pairs' distances over models, as in the paper.

    Args:
        cv: one row for each pair, a column for each method to show, see :func:`latentgeo.coefficient_of_variation`.
        models: the number of models S.
        title: what the models are.

    Returns:
        The figure, a column wide.
    """
    figure, ax = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")
    shown = 100 * cv
    bins = np.linspace(0, shown.to_numpy().max() * 1.02, 26)
    for number, method in enumerate(shown):
        colour = METHOD_COLOURS.get(method, COLOURS[number % len(COLOURS)])
        ax.hist(shown[method], bins=bins, color=colour, alpha=0.55, label=METHOD_NAMES.get(method, method))
        ax.axvline(shown[method].mean(), color=colour, linewidth=1.2, linestyle="--")
    ax.set(title=f"{title}, {models} models, {len(cv)} pairs", ylabel="pairs")
    ax.set_xlabel("coefficient of variation over models (%)")
    ax.legend(title="distance (dashed: mean)", title_fontsize=7)
    return figure


@plt.rc_context(STYLE)
def reliabilities(comparisons: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean coefficients of variation of every method, one panel for each kind of model.

    Filled: the CV with its interval over models. Hollow: the scale-free CV, for which each model's distances are
    divided by their mean.

    Args:
        comparisons: from :func:`latentgeo.compare_reliability`, against one baseline, by title.

    Returns:
        The figure, a column wide; more than four panels stand side by side on a page's width.
    """
    columns = 1 if len(comparisons) <= 4 else 2
    rows = math.ceil(len(comparisons) / columns)
    size = (COLUMN if columns == 1 else PAGE, 0.9 + 1.4 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=columns > 1)
    for ax in axes.flat[len(comparisons) :]:
        ax.set_axis_off()
    axes = axes.ravel()[: len(comparisons)]
    for ax, (title, comparison) in zip(axes, comparisons.items(), strict=True):
        shown = comparison[::-1]
        for y, (method, row) in enumerate(shown.iterrows()):
            colour = METHOD_COLOURS.get(method, "0.35")
            ax.plot([100 * row.mean_cv_low, 100 * row.mean_cv_high], [y, y], color=colour, linewidth=1.3)
            ax.plot(100 * row.mean_cv, y, "o", color=colour, markersize=4.2)
            ax.plot(100 * row.scale_free_cv, y - 0.3, "D", color=colour, markersize=3, fillstyle="none")
        ax.set_yticks(range(len(shown)), [METHOD_NAMES.get(method, method) for method in shown.index])
        ax.set(ylim=(-0.7, len(shown) - 0.5))
        ax.set_title(f"{title}, {int(shown['models'].iloc[0])} models", loc="right")
        ax.grid(axis="x", color="0.9")
        ax.set_xlabel("mean CV over models (%)" if ax in axes[-columns:] else "")
    right = max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(0.0, right)
    grey = {"color": "0.35"}
    handles = [
        Line2D([], [], marker="o", linewidth=1.3, markersize=4.2, label="CV, 95 % interval", **grey),
        Line2D([], [], marker="D", linestyle="", markersize=3, fillstyle="none", label="scale-free CV", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@plt.rc_context(STYLE)
def power(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """How often an effect is found with fewer models, by resampling models and by the paper's t-test.

    Args:
        curves: from :func:`latentgeo.reliability.power_curve`, by name of the comparison.

    Returns:
        The figure, a column wide.
    """
    figure, ax = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")
    for number, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[number], "os^D"[number % 4]
        ax.plot(curve["models"], 100 * curve["power"], color=colour, marker=marker, markersize=3.5, label=name)
        ax.plot(curve["models"], 100 * curve["t_test"], color=colour, linewidth=0.9, linestyle=":")
    ax.axhline(80, color="0.8", linewidth=0.8, zorder=0)
    ax.set(xlabel="models", ylabel="experiments that find it (%)", ylim=(-3, 103), xlim=(0, None))
    ax.legend(title="solid: models resampled\ndotted: t-test over pairs", title_fontsize=7)
    return figure


@plt.rc_context(STYLE)
def ends_and_path(splits: Mapping[str, pd.Series]) -> Figure:
    """Shares of the ends and of the path in the variance of log distance over models, and their covariance.

    Args:
        splits: from :func:`latentgeo.reliability.split_into_ends_and_path`, by name.

    Returns:
        The figure, a column wide.
    """
    figure, ax = plt.subplots(figsize=(COLUMN, 1.0 + 0.3 * len(splits)), layout="constrained")
    labels = {"ends": "ends", "path": "path", "covariance": "covariance"}
    colours = dict(zip(labels, (COLOURS[0], COLOURS[1], "0.75"), strict=True))
    for y, split in enumerate(splits.values()):
        left = 0.0
        for part, colour in colours.items():
            share = 100 * split[part]
            ax.barh(y, share, left=left if share > 0 else 0.0, color=colour, height=0.62)  # what is below zero, there
            left += share
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set_yticks(range(len(splits)), list(splits))
    ax.invert_yaxis()
    ax.set_xlabel("share of the variance (%)")
    figure.legend(
        handles=[Patch(color=colours[of], label=labels[of]) for of in labels], loc="outside lower center", ncols=3
    )
    return figure
