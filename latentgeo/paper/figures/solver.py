"""Speed and certificates of the solver."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from latentgeo.style import COLOURS, COLUMN, PAGE, STYLE


@plt.rc_context(STYLE)
def error_against_time(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Relative length error against time, as a multiple of our default's, of several solvers: a panel per decoder.

    Args:
        tables: from :func:`latentgeo.paper.benchmark.error_against_time`, by what the decoder is.

    Returns:
        The figure, a page wide.
    """
    solvers = list(dict.fromkeys(solver for table in tables.values() for solver in table["solver"]))
    figure, axes = plt.subplots(
        1, len(tables), figsize=(PAGE, 2.6), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        for number, solver in enumerate(solvers):
            part = table[table["solver"] == solver].sort_values("ratio")
            style = {"color": COLOURS[number], "marker": "osD^vPX*"[number], "markersize": 3.5, "linewidth": 1}
            ax.plot(part["ratio"], part["mean_error"], label=solver, zorder=3 - 0.1 * number, **style)
        ax.set(xscale="log", yscale="log", title=title, xlabel="time ÷ our default's")
        ax.grid(color="0.92")
    axes[0, 0].set_ylabel("mean relative length error")
    handles = {label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


@plt.rc_context(STYLE)
def scaling(table: pd.DataFrame, fitted: pd.Series) -> Figure:
    """Time of geodesics as one size of the problem grows, with the fitted exponents.

    Args:
        table: from :func:`latentgeo.paper.benchmark.scaling`.
        fitted: from :func:`latentgeo.paper.benchmark.exponents`.

    Returns:
        The figure, a page wide, a panel for each variable.
    """
    names = {"P": "pairs $P$", "N": "segments $N$", "d": "latent dimensions $d$", "K": "decoders $K$"}
    figure, axes = plt.subplots(1, len(fitted), figsize=(PAGE, 2.0), sharey=True, layout="constrained", squeeze=False)
    for ax, (variable, power) in zip(axes[0], fitted.items(), strict=True):
        part = table[table["variable"] == variable]
        ax.plot(part["size"], part["seconds"], "o", color=COLOURS[0], markersize=4)
        middle = np.exp(np.log(part[["size", "seconds"]]).mean())
        line = middle["seconds"] * (part["size"] / middle["size"]) ** power
        ax.plot(part["size"], line, color="0.5", linewidth=0.9, zorder=0)
        ax.set(xscale="log", yscale="log", title=f"exponent {power:.2f}", xlabel=names[variable])
        ax.set_xticks(part["size"], [f"{size:g}" for size in part["size"]])
        ax.xaxis.minorticks_off()
        ax.grid(axis="y", color="0.92")
    axes[0, 0].set_ylabel("time (s)")
    return figure


@plt.rc_context(STYLE)
def calibration(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """True error of every geodesic against the error that its certificate claims.

    Args:
        tables: from :func:`latentgeo.paper.benchmark.calibration`, by what the decoder is.

    Returns:
        The figure, a column wide: points below the diagonal are covered by their claim.
    """
    figure, ax = plt.subplots(figsize=(COLUMN, 2.8), layout="constrained")
    floor = 1e-7
    for number, (label, table) in enumerate(tables.items()):
        colour, marker = COLOURS[(0, 1, 2, 4)[number % 4]], "osD^"[number % 4]
        x, y = table["claimed"].clip(lower=floor), table["true"].clip(lower=floor)
        ax.plot(x, y, marker, color=colour, markersize=3, alpha=0.6, markeredgewidth=0, label=label)
    limits = np.array([floor, max(ax.get_xlim()[1], ax.get_ylim()[1])])
    ax.plot(limits, limits, color="0.4", linewidth=0.9, zorder=0)
    ax.annotate("true = claimed", (3e-5, 3e-5), fontsize=7, ha="right", va="bottom", color="0.3")
    ax.set(xscale="log", yscale="log", xlabel="claimed relative error", ylabel="true relative error")
    ax.grid(color="0.92")
    ax.legend(loc="upper left")
    return figure
