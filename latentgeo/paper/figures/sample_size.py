"""Spread over models against the number of training points."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from latentgeo.paper.scaling import Scaling
from latentgeo.style import COLOURS, METHOD_COLOURS, PAGE, STYLE

_LOOK = {
    "euclidean": {"label": "Euclidean", "color": METHOD_COLOURS["euclidean"], "marker": "s"},
    "ambient_chord": {"label": "chord", "color": COLOURS[2], "marker": "^"},
    "geodesic": {"label": "geodesic", "color": METHOD_COLOURS["geodesic"], "marker": "o"},
}
_DECADES = (100, 1_000, 10_000, 100_000)
_MEANS = {"linestyle": (0, (4, 1.5)), "linewidth": 0.8, "alpha": 0.8}  # between posterior means


def _axes(ax: Axes, n: np.ndarray, low: float, high: float) -> None:
    """Sizes and per cent, both logarithmic and written out."""
    left, right = n.min() / 1.5, n.max() * 1.5
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high), xlabel="training points n")
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in _DECADES if left <= tick <= right]))
    ax.yaxis.set_major_locator(FixedLocator([step * 10.0**power for power in range(-3, 4) for step in (1, 2, 5)]))
    for axis, written in ((ax.xaxis, "{x:,.0f}"), (ax.yaxis, "{x:g}")):
        axis.set_major_formatter(written)
        axis.set_minor_formatter("")
    ax.grid(axis="y", color="0.93", linewidth=0.6)
    ax.set_axisbelow(True)


def _bars(ax: Axes, n: np.ndarray, low: np.ndarray, high: np.ndarray, colour: object) -> None:
    """Intervals in per cent; what reaches below zero is cut at the axis."""
    ax.vlines(n, np.maximum(100.0 * low, 1e-6), 100.0 * high, color=colour, linewidth=1.0, alpha=0.8)


def _labels(ax: Axes, labels: list[tuple[float, str, object]], apart: float) -> None:
    """Texts right of the axes at the heights of the curves' ends (per cent), kept apart by a share of the axis."""
    bottom, top = np.log(ax.get_ylim())
    labels = sorted(labels, key=lambda label: label[0])
    heights = [(np.log(max(value, 1e-9)) - bottom) / (top - bottom) for value, _, _ in labels]
    heights[0] = max(heights[0], 0.5 * apart)
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + apart)
    heights[-1] = min(heights[-1], 1.05 - 0.5 * apart)
    for i in reversed(range(len(heights) - 1)):
        heights[i] = min(heights[i], heights[i + 1] - apart)
    for height, (_, text, colour) in zip(heights, labels, strict=True):
        options = {"va": "center", "fontsize": 6.6, "linespacing": 1.1, "color": colour, "annotation_clip": False}
        ax.annotate(text, (1.03, height), xycoords="axes fraction", **options)


def _spread(
    ax: Axes, curves: pd.DataFrame, fits: pd.DataFrame, means: pd.DataFrame, control: pd.DataFrame | None
) -> None:
    """CV of three methods, the fits through them, and exponent and floor of each at the right end."""
    labels = []
    if control is not None:
        colour = METHOD_COLOURS["geodesic"]
        look = {"color": colour, "markerfacecolor": "white", "markersize": 4, "linewidth": 1.0}
        ax.plot(control["n"], 100.0 * control["cv"], "o:", **look)
        labels.append((100.0 * control["cv"].iloc[-1], "geodesic, unequal\nmarginals", colour))
    for (method, look), dodge in zip(_LOOK.items(), (1.0, 1.06, 0.94), strict=True):
        curve, fit = curves[curves["method"] == method].sort_values("n"), fits.loc[method]
        n = curve["n"].to_numpy()
        _bars(ax, dodge * n, curve["cv_low"].to_numpy(), curve["cv_high"].to_numpy(), look["color"])
        ax.plot(dodge * n, 100.0 * curve["cv"], markersize=3.5, linestyle="none", **look)
        mean = means[means["method"] == method].sort_values("n")
        ax.plot(mean["n"], 100.0 * mean["cv"], color=look["color"], **_MEANS)
        fine = np.geomspace(n.min(), n.max(), 100)
        ax.plot(fine, 100.0 * np.sqrt(fit.rate**2 / fine + fit.floor**2), color=look["color"], linewidth=1.1)
        exponent = f"{fit.exponent:.2f} ± {fit.exponent_high - fit.exponent:.2f}".replace("-", "−")
        text = f"{look['label']}\n$b$ = {exponent}\n$c$ = {100 * fit.floor:.2g} %"
        labels.append((100.0 * curve["cv"].iloc[-1], text, look["color"]))
    _labels(ax, labels, apart=0.2)


def _errors(ax: Axes, errors: pd.DataFrame, means: pd.DataFrame) -> None:
    """Bias and spread of the geodesic distance."""
    n = errors["n"].to_numpy()
    looks = {
        "spread": ("spread\nover models", "o-", METHOD_COLOURS["geodesic"]),
        "bias": ("bias against\nthe truth", "D-", "0.25"),
    }
    labels = []
    for part, (name, line, colour) in looks.items():
        _bars(ax, n, errors[f"{part}_low"].to_numpy(), errors[f"{part}_high"].to_numpy(), colour)
        ax.plot(n, 100.0 * errors[part], line, markersize=4, linewidth=1.2, color=colour)
        ax.plot(means["n"], 100.0 * means[part], color=colour, **_MEANS)
        labels.append((100.0 * errors[part].iloc[-1], name, colour))
    _labels(ax, labels, apart=0.15)


@plt.rc_context(STYLE)
def sample_size(
    spreads: Mapping[str, tuple[Scaling, Scaling]], errors: tuple[pd.DataFrame, pd.DataFrame], control: pd.DataFrame
) -> Figure:
    """Spread of distances over models as the data grow, and the error of the geodesic distance where there is a truth.

    Of each pair the first is drawn with its intervals: between nearest points; the second as thin dashed lines:
    between posterior means.

    Args:
        spreads: for each data set by its title; the first is that with a known truth. Lines are the first's fits of
            root-n law and floor c; b is the exponent of the power law.
        errors: from :func:`latentgeo.paper.scaling.bias_and_spread`.
        control: ``curves`` of models of unequal marginal distributions, of the first data set; their geodesic is drawn
            dotted.

    Returns:
        The figure, two columns wide.
    """
    geodesic, means = (of[of["method"] == "geodesic"].sort_values("n") for of in errors)
    shown = [of.curves[of.curves["method"].isin(_LOOK)] for both in spreads.values() for of in both]
    dotted = control[control["method"] == "geodesic"].sort_values("n")
    parts = [*(part["cv"] for part in [*shown, dotted]), *(of[["bias", "spread"]].stack() for of in (geodesic, means))]
    values = pd.concat(parts)
    limits = (100.0 * values[values > 0].min() / 1.8, 100.0 * values.max() * 1.9)
    figure, axes = plt.subplots(1, len(spreads) + 1, figsize=(PAGE, 2.6), layout="constrained")
    for ax, (title, (of, paper)) in zip(axes, spreads.items(), strict=False):
        _axes(ax, of.curves["n"], *limits)
        _spread(ax, of.curves, of.fits, paper.curves, dotted if ax is axes[0] else None)
        ax.set_title(title, loc="left")
    axes[0].set_ylabel("mean CV over models (%)")
    _axes(axes[-1], geodesic["n"], *limits)
    _errors(axes[-1], geodesic, means)
    axes[-1].set_title(next(iter(spreads)), loc="left")
    axes[-1].set_ylabel("error of geodesic distance (%)")
    grey = {"color": "0.35"}
    handles = [
        Line2D([], [], marker="o", markersize=3.5, linewidth=1.1, label="between nearest points", **grey),
        Line2D([], [], label="between posterior means", **grey | _MEANS),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
