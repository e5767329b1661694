"""Where models disagree between the data, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from latentgeo.style import COLOURS, PAGE, STYLE

if TYPE_CHECKING:
    from latentgeo.paper.ends_and_paths import Profile

_PARTS = {"ends": ("ends", "D", "0.35"), "path": ("path", "o", COLOURS[0])}
_MARKERS = "os^D"
_LINES = [Line2D([], [], color="0.35", linestyle=style, label=of) for of, style in {"path": "-", "ends": "--"}.items()]


@plt.rc_context(STYLE)
def ends_and_paths(profiles: Mapping[str, Profile], bridge: pd.DataFrame, recipes: pd.DataFrame) -> Figure:
    """Where along a path models disagree, what data on a bridge change, and what recipes do.

    Args:
        profiles: from :func:`latentgeo.paper.ends_and_paths.where`, by name of the models.
        bridge: index ``share``, columns ``ends`` and ``path`` with their intervals, see
            :func:`latentgeo.paper.ends_and_paths.summarise`.
        recipes: columns ``trial``, ``recipe`` and ``path_ratio`` with its interval.

    Returns:
        The figure, a page wide.
    """
    names = list(recipes["recipe"].unique())
    height = max(1.9, 0.75 + 0.16 * len(names))
    figure = plt.figure(figsize=(PAGE, 2.5 + height), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=[2.5, height])
    away, apart, scatter = top.subplots(1, 3)
    for number, (name, of) in enumerate(profiles.items()):
        look, profile = {"color": COLOURS[number], "marker": _MARKERS[number % 4], "markersize": 3}, of.profile
        away.plot(profile["t"], profile["gap"], label=name, **look)
        apart.plot(profile["t"], 100 * profile["path"], **look)
        apart.plot(profile["t"], 100 * profile["ends"], linestyle="--", linewidth=0.9, color=look["color"])
        scatter.plot(of.pairs["gap"], 100 * of.pairs["path"], linestyle="", alpha=0.7, **look)
    away.axhline(1, color="0.8", linewidth=0.8, zorder=0)
    away.set(xlabel="time along the geodesic", ylabel="distance from the data\n(at the ends: 1)")
    top.legend(loc="outside upper center", ncols=len(profiles) + 2, handles=[*away.get_lines()[:-1], *_LINES])
    apart.set(xlabel="time along the geodesic", ylabel="disagreement (% of the chord)", ylim=(0, None))
    scatter.set(xlabel="farthest distance from the data\n(at the ends: 1)", ylabel="path, s.d. over models (%)")
    scatter.set_yscale("log")
    scatter.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    scatter.yaxis.set_major_formatter("{x:g}")
    scatter.yaxis.set_minor_formatter(NullFormatter())

    crossed, tried = below.subplots(1, 2, width_ratios=[1, 1.2])
    shares = bridge.index.to_numpy(dtype=float)
    positive = shares[shares > 0].min()
    at = 100 * np.where(shares > 0, shares, positive / 4)  # no data have a place of their own on a logarithmic axis
    for number, (part, (name, marker, colour)) in enumerate(_PARTS.items()):
        low, high, aside = 100 * bridge[f"{part}_low"], 100 * bridge[f"{part}_high"], at * 1.1**number
        crossed.vlines(aside, low, high, color=colour, linewidth=1.0)
        crossed.plot(aside, 100 * bridge[part], marker=marker, color=colour, markersize=4, label=name)
    crossed.set(xscale="log", yscale="log", ylabel="s.d. over models (%)", xlabel="data on the bridge (%)")
    crossed.set_xticks(at, [f"{100 * share:g}" for share in shares])
    crossed.xaxis.set_minor_locator(NullLocator())
    crossed.yaxis.set_major_locator(LogLocator(subs=(1, 3, 5)))
    crossed.yaxis.set_major_formatter("{x:g}")
    crossed.yaxis.set_minor_formatter(NullFormatter())
    crossed.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

    trials = list(recipes["trial"].unique())
    for number, (name, of) in enumerate(recipes.groupby("trial", sort=False)):
        y = np.array([names[::-1].index(recipe) for recipe in of["recipe"]]) + 0.14 * (len(trials) - 1 - 2 * number)
        colour = COLOURS[number]
        tried.hlines(y, of["path_ratio_low"], of["path_ratio_high"], color=colour, linewidth=1.0)
        tried.plot(of["path_ratio"], y, _MARKERS[number % 4], color=colour, markersize=3.5, label=name)
    tried.axvline(1, color="0.6", linewidth=0.8, linestyle=":")
    tried.set(xscale="log", xlabel="s.d. of the path, over that of one decoder", ylim=(-0.6, len(names) - 0.4))
    tried.set_yticks(range(len(names)), names[::-1])
    tried.xaxis.set_major_formatter("{x:g}")
    tried.xaxis.set_minor_formatter(NullFormatter())
    tried.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(trials))
    for letter, ax in zip("abcde", (away, apart, scatter, crossed, tried), strict=True):
        ax.set_title(f"({letter})", loc="left")
    return figure
