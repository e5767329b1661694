"""What survives a change of latent coordinates, and what does not."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latentgeo.style import COLOURS, PAGE, STYLE

_FLOOR = 1e-17  # where a difference of zero is drawn
_MARKERS = "osD^vP*"
_COLOURS = [COLOURS[i] for i in (0, 1, 2, 3, 4, 7)]


@plt.rc_context(STYLE | {"axes.titlesize": 7, "ytick.labelsize": 7})
def identifiability(table: pd.DataFrame, changed: float) -> Figure:
    """Relative difference of every quantity between a model and itself in other coordinates.

    Args:
        table: from :func:`latentgeo.paper.theorem.identifiability_table`.
        changed: relative difference from which a control counts as changed.

    Returns:
        The figure, a page wide: identified quantities and controls on one logarithmic axis, a panel for each model and
        a marker for each family.
    """
    models, families = (list(dict.fromkeys(table[column])) for column in ("model", "family"))
    looks = dict(zip(families, zip(cycle(_MARKERS), cycle(_COLOURS)), strict=False))
    names = list(dict.fromkeys(table["quantity"]))[::-1]
    heights = {name: height for height, name in enumerate(names)}
    identified = set(table.loc[table["kind"] == "identified", "quantity"])
    figure, axes = plt.subplots(
        1, len(models), figsize=(PAGE, 0.16 * len(names) + 1.0), sharey=True, layout="constrained", squeeze=False
    )
    border = sum(name not in identified for name in names) - 0.5
    for ax, model in zip(axes[0], models, strict=True):
        ax.axhspan(border, len(names) - 0.5, color="0.95", zorder=0)
        ax.axvline(changed, color="0.5", linewidth=0.8, linestyle=":", zorder=0)
        for number, (family, (marker, colour)) in enumerate(looks.items()):
            part = table[(table["model"] == model) & (table["family"] == family)]
            offset = 0.5 * (number / max(len(families) - 1, 1) - 0.5)
            x, y = part["difference"].clip(lower=_FLOOR), [heights[name] + offset for name in part["quantity"]]
            ax.plot(x, y, marker, color=colour, markersize=2.8, markeredgewidth=0)
        ax.set(xscale="log", xlim=(_FLOOR / 3, 30), title=model, ylim=(-0.6, len(names) - 0.4))
        ax.set_xticks([1e-16, 1e-8, 1e0], ["$10^{-16}$", "$10^{-8}$", "1"])
        ax.xaxis.set_minor_locator(plt.NullLocator())
        ax.tick_params(axis="y", length=0)
    axes[0, 0].set_yticks(range(len(names)), names)
    for label in axes[0, 0].get_yticklabels():
        label.set_color("0" if label.get_text() in identified else COLOURS[3])
    figure.supxlabel("largest relative difference between the two coordinate systems", fontsize=8)
    handles = [Line2D([], [], marker=m, color=colour, linestyle="", markersize=4) for m, colour in looks.values()]
    figure.legend(handles, families, loc="outside upper center", ncols=len(families))
    return figure
