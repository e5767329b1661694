"""What distances are worth where the truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latentgeo.style import COLOURS, METHOD_COLOURS, PAGE, STYLE

_LOOK = {
    "geodesic": ("geodesic", "o", METHOD_COLOURS["geodesic"]),
    "euclidean": ("Euclidean, latent", "v", METHOD_COLOURS["euclidean"]),
    "ambient_chord": ("chord", "D", "0.35"),
    "graph": ("graph of the data", "|", COLOURS[2]),
}


@plt.rc_context(STYLE)
def known_factors(images: Mapping[str, np.ndarray], worth: pd.DataFrame, judged: pd.DataFrame) -> Figure:
    """Correlation with the truth and spread over models of each distance, one line for each setting, by kind.

    Args:
        images: pictures of each renderer by its name, shape (m, height, width).
        worth: from :func:`latentgeo.paper.known_factors.against_truth`.
        judged: from :func:`latentgeo.paper.known_factors.judge`.

    Returns:
        The figure, a page wide.
    """
    kinds = judged.groupby("kind", sort=False).groups
    rows = [(kind, name) for kind in kinds for name in kinds[kind]]
    height = 1.6 + 0.17 * len(rows)
    figure = plt.figure(figsize=(PAGE, height), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=[0.75, height - 0.75])
    for ax, (name, pictures) in zip(top.subplots(1, len(images), squeeze=False)[0], images.items(), strict=True):
        ax.imshow(
            np.concatenate([np.pad(of, ((0, 0), (0, 2)), constant_values=np.nan) for of in pictures], 1), cmap="gray_r"
        )
        ax.set_facecolor("0.9")
        ax.set_title(name.replace("_", " "), fontsize=7)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    left, right = below.subplots(1, 2, sharey=True)
    y = np.arange(len(rows))[::-1]
    for method, (_, marker, colour) in _LOOK.items():
        look = {"marker": marker, "linestyle": "", "color": colour, "markersize": 7 if marker == "|" else 4.2}
        r = np.array([worth.loc[(name, method), "r"] for _, name in rows])
        left.plot(1 - r, y, **look, zorder=3)
        if method != "graph":
            right.plot([100 * worth.loc[(name, method), "mean_cv"] for _, name in rows], y, **look, zorder=3)
    for at, (_, name) in zip(y, rows, strict=True):
        low, high = worth.loc[(name, "geodesic"), ["mean_cv_low", "mean_cv_high"]]
        right.plot([100 * low, 100 * high], [at, at], color=METHOD_COLOURS["geodesic"], linewidth=0.8)
        right.text(
            1.02, at, f"{100 * judged.loc[name, 'reliable']:.0f} %", va="center", transform=right.get_yaxis_transform()
        )
    bounds = np.flatnonzero([a[0] != b[0] for a, b in itertools.pairwise(rows)])
    for ax in (left, right):
        ax.set_xscale("log")
        ax.grid(axis="x", color="0.92")
        for bound in bounds:
            ax.axhline(y[bound] - 0.5, color="0.6", linewidth=0.6)
    left.set_yticks(y, [name for _, name in rows])
    for kind, names in kinds.items():
        first = y[[name for _, name in rows].index(names[0])]
        left.text(0.98, first, kind, transform=left.get_yaxis_transform(), ha="right", va="center", style="italic")
    ticks = [0.5, 0.1, 0.01, 0.001, 0.0001]
    left.set_xticks(ticks, [f"{1 - tick:g}" for tick in ticks])
    left.minorticks_off()
    left.invert_xaxis()
    left.axvline(0.01, color="0.6", linewidth=0.8, linestyle=":")
    left.set_xlabel("correlation with the true distance")
    right.set_xlabel("mean CV over models (%)")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_title("reliable pairs", fontsize=7, loc="right", x=1.2)
    handles = [Line2D([], [], marker=m, color=c, linestyle="", label=label) for label, m, c in _LOOK.values()]
    below.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
