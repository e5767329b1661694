"""What is concluded from each distance, and how far trainings agree on it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latentgeo.paper.conclusions import CONCLUSIONS, NAMES
from latentgeo.style import METHOD_COLOURS, PAGE, STYLE

_MARKERS, _APART = "os^Dv", 0.26
_LEFT, _SIGNS = -0.05, 1.09  # where panels begin, and where better and worse are marked
_SCALES = ("share", "adjusted Rand index", "Spearman's correlation", "Kendall's correlation", "share")
_SCALES += ("adjusted Rand index",)


@plt.rc_context(STYLE)
def conclusions(compared: pd.DataFrame) -> Figure:
    """Agreement of every conclusion by every distance, one panel for each conclusion, one marker for each data set.

    Dotted: unrelated models, a line for each data set where they differ. Arrows: intervals that go on. At the right: +
    where a distance agrees better than the geodesic, − where it agrees less, after Holm's adjustment.

    Args:
        compared: from :func:`latentgeo.paper.conclusions.compare`, of several data sets (index level ``data``), with a
            column ``p_holm``.

    Returns:
        The figure, a page wide.
    """
    methods, data = [of for of in NAMES if of in compared.index.unique("method")][::-1], compared.index.unique("data")
    figure, axes = plt.subplots(2, 3, figsize=(PAGE, 5.4), layout="constrained", sharey=True)
    for ax, ((conclusion, against), title), label in zip(axes.flat, CONCLUSIONS.items(), _SCALES, strict=True):
        for number, name in enumerate(data):
            of = compared.xs((name, conclusion, against), level=("data", "conclusion", "against"))
            shift = _APART * ((len(data) - 1) / 2 - number)
            for method, row in of.iterrows():
                y, colour = methods.index(method) + shift, METHOD_COLOURS.get(method, "0.35")
                ax.plot([max(row.agreement_low, _LEFT), row.agreement_high], [y, y], color=colour, linewidth=1.0)
                if row.agreement_low < _LEFT:
                    ax.plot(_LEFT, y, "<", color=colour, markersize=2.5, clip_on=False)
                ax.plot(row.agreement, y, _MARKERS[number], color=colour, markersize=3.4)
                if row.p_holm < 0.05:
                    ax.plot(_SIGNS, y, "_" if row.difference > 0 else "+", color=colour, markersize=4.5, clip_on=False)
            ax.axvline(of["chance"].iloc[0], color="0.6", linewidth=0.8, linestyle=":")
        ax.grid(axis="x", color="0.92")
        ax.set_title(title, loc="left")
        ax.set_xlim(_LEFT, 1.12)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
        ax.set_yticks(np.arange(len(methods)), [NAMES[method] for method in methods])
        ax.set_ylim(-0.6, len(methods) - 0.4)
        ax.set_xlabel(label)
    look = {"color": "0.35", "linestyle": "", "markersize": 3.4}
    handles = [Line2D([], [], marker=_MARKERS[k], label=name, **look) for k, name in enumerate(data)]
    handles.append(Line2D([], [], color="0.6", linestyle=":", label="unrelated models"))
    signs = {"+": "agrees better than the geodesic", "_": "agrees less than the geodesic"}
    look["markersize"] = 4.5
    handles += [Line2D([], [], marker=sign, label=f"{words} (p < 0.05)", **look) for sign, words in signs.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
