"""What the number of decoders changes, and what happens when they are drawn anew at each time point."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from latentgeo.style import COLOURS, PAGE, STYLE


@plt.rc_context(STYLE)
def ensembles(comparison: pd.DataFrame, table: pd.DataFrame, sizes: Sequence[int], points: Sequence[int]) -> Figure:
    """CV against the number of decoders, and length of independent draws against the number of time points.

    Args:
        comparison: from :func:`latentgeo.compare_reliability`, with rows ``geodesic_K``.
        table: from :func:`latentgeo.paper.ensembles.ensemble_distances`, for pairs whose draws are measured.
        sizes: numbers of decoders K.
        points: numbers of segments N.

    Returns:
        The figure, a page wide.
    """
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.3), layout="constrained")
    _against_decoders(axes[0], comparison, sizes)
    lengths = table.groupby(["method", "pair"])["value"].mean().unstack("method")
    _against_points(axes[1], lengths, sizes, points)
    _pair_by_pair(axes[2], lengths, sizes, points)
    return figure


def _against_decoders(ax: plt.Axes, comparison: pd.DataFrame, sizes: Sequence[int]) -> None:
    rows = comparison.loc[[f"geodesic_{size}" for size in sizes]]
    reach = 100 * np.abs(rows[["mean_cv_low", "mean_cv_high"]].to_numpy().T - rows["mean_cv"].to_numpy())
    ax.errorbar(sizes, 100 * rows["mean_cv"], reach, color=COLOURS[0], marker="o", markersize=4, linewidth=1.2)
    ax.plot(sizes, 100 * rows["scale_free_cv"], ":o", color=COLOURS[0], markersize=3.2, markerfacecolor="white")
    ax.set(xscale="log", xlabel="decoders $K$", ylabel="mean CV (%)", ylim=(0, None))
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set_title("a  hollow: scale-free", loc="left")


def _against_points(ax: plt.Axes, lengths: pd.DataFrame, sizes: Sequence[int], points: Sequence[int]) -> None:
    looks = (("", COLOURS[3], "s", "independent draws"), ("_chords", COLOURS[0], "o", "minus disagreement"))
    for ending, colour, marker, label in looks:
        drawn = lengths[[f"draws_{N}{ending}" for N in points]].to_numpy()
        ax.plot(points, drawn.T, color=colour, linewidth=0.4, alpha=0.5)
        ax.plot(points, drawn.mean(0), color=colour, marker=marker, markersize=4, label=label)
    ax.axhline(lengths[f"geodesic_{max(sizes)}"].mean(), color="black", linewidth=0.9, linestyle="--")
    ax.set(xscale="log", yscale="log", xlabel="time points $N$", ylabel="length (data units)")
    ax.set_xticks(points, [str(N) for N in points])
    ax.minorticks_off()
    ax.set_ylim(top=50 * lengths[[f"draws_{N}" for N in points]].to_numpy().max())  # room for the legend
    ax.legend(loc="upper left", title="dashed: expected metric", title_fontsize=7)
    ax.set_title("b  no limit", loc="left")


def _pair_by_pair(ax: plt.Axes, lengths: pd.DataFrame, sizes: Sequence[int], points: Sequence[int]) -> None:
    geodesic = lengths[f"geodesic_{max(sizes)}"]
    for number, N in enumerate(points):
        draws = lengths[f"draws_{N}"]
        ax.plot(geodesic / geodesic.mean(), draws / draws.mean(), "os^D"[number % 4], color=COLOURS[number],
                markersize=3.2, alpha=0.8, label=f"$N$ = {N}")  # fmt: skip
    ends = np.array([(geodesic / geodesic.mean()).min(), (geodesic / geodesic.mean()).max()])
    ax.plot(ends, ends, color="0.6", linewidth=0.9, linestyle="--", zorder=0)
    ax.set(xlabel="geodesic / its mean", ylabel="draws / their mean")
    ax.legend(loc="upper left", handletextpad=0.2)
    ax.set_title("c  pair by pair", loc="left")
