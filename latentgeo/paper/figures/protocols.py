"""How much models agree between identified points, and between the paper's."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.style import METHOD_COLOURS, PAGE, STYLE

_LOOK = {"nearest": ("between nearest points", 0.13, "full"), "mean": ("between posterior means", -0.17, "none")}


@plt.rc_context(STYLE)
def protocols(comparisons: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean CV and signal to noise of every method, one row of panels for each kind of model.

    Filled: between the points of the image nearest to the data. Hollow: between posterior means.

    Args:
        comparisons: by title, from :func:`latentgeo.paper.protocols.compare_protocols`.

    Returns:
        The figure, a page wide.
    """
    rows = len(comparisons)
    figure, axes = plt.subplots(
        rows, 2, figsize=(PAGE, 0.75 + 1.05 * rows), layout="constrained", sharey="row", sharex="col", squeeze=False
    )
    for row, (title, comparison) in zip(axes, comparisons.items(), strict=True):
        methods = list(comparison.index.unique("method"))[::-1]
        for ax, (name, scale) in zip(row, {"mean_cv": 100.0, "signal_to_noise": 1.0}.items(), strict=True):
            for (points, method), of in comparison.iterrows():
                _, shift, fill = _LOOK[points]
                y, colour = methods.index(method) + shift, METHOD_COLOURS.get(method, "0.35")
                low, high = (scale * of[f"{name}_{end}"] for end in ("low", "high"))
                ax.plot([low, high], [y, y], color=colour, linewidth=1.3 if fill == "full" else 0.8)
                ax.plot(scale * of[name], y, "o", color=colour, markersize=4.2, fillstyle=fill, markerfacecoloralt="w")
            ax.grid(axis="x", color="0.9")
        row[0].set_yticks(np.arange(len(methods)), [METHOD_NAMES.get(of, of) for of in methods])
        row[0].set(ylim=(-0.6, len(methods) - 0.4))
        row[0].set_title(f"{title}, {int(comparison['models'].iloc[0])} models", loc="left")
    axes[-1, 0].set(xlabel="mean CV over models (%)", xlim=(0, None))
    axes[-1, 1].set(xlabel="signal to noise", xscale="log")
    axes[-1, 1].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes[-1, 1].xaxis.set_major_formatter("{x:g}")
    axes[-1, 1].xaxis.set_minor_formatter("")
    grey = {"color": "0.35", "marker": "o", "linewidth": 1.0, "markersize": 4.2}
    handles = [Line2D([], [], label=label, fillstyle=fill, **grey) for label, _, fill in _LOOK.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
