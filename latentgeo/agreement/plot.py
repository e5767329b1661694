"""How far several trainings of one's own model agree, pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.style import COLUMN, METHOD_COLOURS, STYLE

if TYPE_CHECKING:
    from latentgeo.agreement.report import Agreement

_UNRELIABLE = "0.55"


@plt.rc_context(STYLE)
def plot(report: Agreement) -> Figure:
    """What :meth:`latentgeo.agreement.report.Agreement.plot` draws."""
    pairs = report.pairs
    reliable = pairs["reliable"].to_numpy(bool)
    figure = plt.figure(figsize=(COLUMN, 4.3), layout="constrained")
    axes = figure.subplot_mosaic([["euclidean", "geodesic"], ["cv", "cv"]], height_ratios=[1, 1.25])
    axes["geodesic"].sharey(axes["euclidean"])
    for method in ("euclidean", "geodesic"):
        mean, low, high = (pairs[f"{method}{end}"].to_numpy(float, na_value=np.nan) for end in ("", "_low", "_high"))
        order, unit = np.argsort(mean), np.nanmean(mean)
        rank = np.empty(len(order))
        rank[order] = np.arange(1, len(order) + 1)
        for chosen, colour in ((~reliable, _UNRELIABLE), (reliable, METHOD_COLOURS[method])):
            axes[method].vlines(rank[chosen], low[chosen] / unit, high[chosen] / unit, color=colour, linewidth=0.8)
            axes[method].plot(rank[chosen], mean[chosen] / unit, "o", color=colour, markersize=1.6)
        axes[method].set(title=METHOD_NAMES[method], xlabel="pairs, by distance")
    axes["euclidean"].set(ylabel="distance / mean distance", ylim=(0, None))
    axes["geodesic"].tick_params(labelleft=False)
    ax, cv = axes["cv"], 100 * pairs[["cv_euclidean", "cv_geodesic"]].to_numpy(float, na_value=np.nan)
    top = 1.05 * np.nanmax(cv)
    ax.plot([0, top], [0, top], color="0.75", linewidth=0.8, zorder=0)
    ax.plot(*cv[reliable].T, "o", color=METHOD_COLOURS["geodesic"], markersize=2.6, label="reliable")
    ax.plot(*cv[~reliable].T, "o", color=_UNRELIABLE, markersize=2.6, markerfacecolor="none", label="not reliable")
    ax.plot(*np.nanmean(cv, 0), "+", color="black", markersize=9, markeredgewidth=1.2, label="mean")
    ax.set(xlim=(0, top), ylim=(0, top), xlabel="CV of Euclidean distance (%)", ylabel="CV of geodesic distance (%)")
    ax.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.1)
    ax.set_title(f"{len(report.names)} models, {len(pairs)} pairs")
    plt.close(figure)
    return figure
