"""Spread over models against the number of training points."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from latentgeo.plotting.style import COLOURS, METHOD_COLOURS, PAGE, STYLE

_NAMES = {"euclidean": "Euclidean", "ambient_chord": "chord in data space", "geodesic": "geodesic"}
_LOOK = {
    "euclidean": {"color": METHOD_COLOURS["euclidean"], "marker": "s", "linestyle": "-"},
    "ambient_chord": {"color": COLOURS[2], "marker": "^", "linestyle": "-"},
    "geodesic": {"color": METHOD_COLOURS["geodesic"], "marker": "o", "linestyle": "-"},
}
_DECADES = (100, 1_000, 10_000, 100_000)


def _sizes_axis(ax: Axes, n: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.set_xlim(n.min() / 1.5, n.max() * 1.5)
    ax.xaxis.set_major_locator(FixedLocator([tick for tick in _DECADES if n.min() / 1.5 <= tick <= n.max() * 1.5]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("training points n")


def _percent_axis(ax: Axes, low: float, high: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    steps = np.array([1, 2, 5])
    ticks = np.concatenate([steps * 10.0**power for power in range(-3, 4)])
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="y", color="0.93", linewidth=0.6)
    ax.set_axisbelow(True)


def _line(ax: Axes, n: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, **look: object) -> None:
    """A curve with bars for its intervals, in per cent; what reaches zero is cut at the axis."""
    value, low, high = (100.0 * np.asarray(v) for v in (value, low, high))
    ax.vlines(n, np.maximum(low, 1e-6), high, color=look["color"], linewidth=1.0)
    ax.plot(n, value, markersize=4, linewidth=1.3, **look)


def _spread(ax: Axes, curves: pd.DataFrame, fits: pd.DataFrame) -> None:
    """CV of three methods with their exponents at the right end."""
    n_max = curves["n"].max()
    for method, look in _LOOK.items():
        curve = curves[curves["method"] == method].sort_values("n")
        _line(ax, curve["n"], curve["cv"], curve["cv_low"], curve["cv_high"], **look)
    # Labels one below the other in the order of the curves' ends, kept apart by a tenth of the axis.
    ends = curves[(curves["n"] == n_max) & curves["method"].isin(_LOOK)].sort_values("cv")
    bottom, top = np.log(ax.get_ylim())
    heights = (np.log(100 * ends["cv"].to_numpy()) - bottom) / (top - bottom)
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + 0.16)
    for method, height in zip(ends["method"], heights, strict=True):
        row = fits.loc[method]
        text = f"{_NAMES[method]}\n$b$ = {row.exponent:.2f} ± {row.exponent_high - row.exponent:.2f}".replace("-", "−")
        ax.annotate(
            text,
            (1.02, height),
            xycoords="axes fraction",
            va="center",
            fontsize=6.8,
            color=_LOOK[method]["color"],
            linespacing=1.15,
            annotation_clip=False,
        )


def sample_size(
    spreads: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],
    bias: pd.DataFrame,
    control: pd.DataFrame | None = None,
) -> Figure:
    """Spread of distances over models as the data grow, and the error of the geodesic distance where there is a truth.

    Args:
        spreads: for each data set, by its title, ``curves`` and ``fits`` of
            :class:`latentgeo.experiments.scaling.Scaling`; the first is that with a known truth.
        bias: from :func:`latentgeo.experiments.scaling.bias_and_spread`.
        control: ``curves`` of models of unequal marginal distributions, of the first data set; their geodesic is drawn
            dashed.

    Returns:
        The figure, two columns wide.
    """
    with plt.rc_context(STYLE):
        panels = len(spreads) + 1
        figure, axes = plt.subplots(
            1, panels, figsize=(PAGE, 2.35), gridspec_kw={"width_ratios": [1.0] * panels}, layout="constrained"
        )
        shown = [curves[curves["method"].isin(_LOOK)] for curves, _ in spreads.values()]
        high = max(100 * part["cv_high"].max() for part in shown)
        low = min(100 * part["cv"].min() for part in shown)
        dashed = None if control is None else control[control["method"] == "geodesic"].sort_values("n")
        if dashed is not None:
            high = max(high, 100 * dashed["cv"].max())
        low = min(low, 100 * bias.loc[bias["method"] == "geodesic", ["bias", "spread"]].replace(0, np.nan).min().min())
        limits = (low / 1.6, high * 1.5)
        for ax, (title, (curves, fits)) in zip(axes, spreads.items(), strict=False):
            _percent_axis(ax, *limits)
            _sizes_axis(ax, curves["n"])
            _spread(ax, curves, fits)
            ax.set_title(title, loc="left")
        axes[0].set_ylabel("mean CV over models (%)")
        n = np.array(sorted(shown[0]["n"].unique()))
        middle = np.array([n[0] * 1.3, n[0] * 1.3 * 16])
        axes[0].plot(middle, limits[0] * 1.35 * np.array([4.0, 1.0]), color="0.55", linewidth=0.9)
        axes[0].annotate("$n^{-1/2}$", (middle[0], limits[0] * 1.35), fontsize=7, color="0.4", ha="left", va="bottom")
        if dashed is not None:
            axes[0].plot(
                dashed["n"],
                100 * dashed["cv"],
                "o--",
                color=METHOD_COLOURS["geodesic"],
                markerfacecolor="white",
                markersize=4,
                linewidth=1.0,
            )
            axes[0].annotate(
                "geodesic, unequal marginals",
                (float(np.exp(np.log(dashed["n"]).mean())), 100 * dashed["cv"].max()),
                xytext=(0, 5),
                textcoords="offset points",
                fontsize=6.6,
                ha="center",
                color=METHOD_COLOURS["geodesic"],
            )
        ax, of = axes[-1], bias[bias["method"] == "geodesic"].sort_values("n")
        _percent_axis(ax, *limits)
        _sizes_axis(ax, of["n"])
        _line(ax, of["n"], of["spread"], of["spread_low"], of["spread_high"], **_LOOK["geodesic"])
        look = {"color": "0.25", "marker": "D", "linestyle": ":"}
        _line(ax, of["n"], of["bias"], of["bias_low"], of["bias_high"], **look)
        ends = of.iloc[-1]
        lower, upper = sorted((("spread", ends.spread), ("bias", ends.bias)), key=lambda item: item[1])
        bottom, top = np.log(limits)
        heights = [(np.log(max(100 * value, limits[0])) - bottom) / (top - bottom) for _, value in (lower, upper)]
        heights[1] = max(heights[1], heights[0] + 0.16)
        texts = {"spread": "spread\nover models", "bias": "bias against\nthe truth"}
        for (name, _), height in zip((lower, upper), heights, strict=True):
            ax.annotate(
                texts[name],
                (1.02, height),
                xycoords="axes fraction",
                va="center",
                fontsize=6.8,
                linespacing=1.15,
                color=METHOD_COLOURS["geodesic"] if name == "spread" else "0.25",
                annotation_clip=False,
            )
        ax.set_title(f"{next(iter(spreads))}: geodesic error", loc="left")
        ax.set_ylabel("share of the true distance (%)")
    return figure
