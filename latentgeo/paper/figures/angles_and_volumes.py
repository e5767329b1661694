"""What angles, areas, volumes and densities are worth across trainings, and distances across recipes."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.paper.angles_and_volumes import BASELINE, NAMES
from latentgeo.style import COLOURS, METHOD_COLOURS, PAGE, STYLE

_LOOK = {
    "geodesic": ("o", METHOD_COLOURS["geodesic"], "full", "-"),
    "ambient_chord": ("D", "0.35", "full", "-"),
    "euclidean": ("v", METHOD_COLOURS["euclidean"], "full", "-"),
    "euclidean_means": ("v", METHOD_COLOURS["euclidean"], "none", "--"),
}
_ROWS = ("angle", "area", "enclosed area", "density")
_RECIPE_LOOK = {
    "geodesic": ("o", METHOD_COLOURS["geodesic"]),
    "ambient_chord": ("D", "0.35"),
    "straight_line": ("s", COLOURS[2]),
    "euclidean": ("v", METHOD_COLOURS["euclidean"]),
}
_AXIS_NAMES = {"all": "all recipes", "dimension": "latent dimension", "decoders": "number of decoders"}


def _marked(method: str, **more: object) -> dict[str, object]:
    marker, colour, fill, line = _LOOK[method]
    look = {"marker": marker, "color": colour, "fillstyle": fill, "linestyle": line}
    return look | {"markersize": 4.2, "linewidth": 0.9} | more


@plt.rc_context(STYLE)
def angles_and_volumes(worths: Mapping[str, pd.DataFrame]) -> Figure:
    """Signal to noise of each quantity over that of its Euclidean counterpart, and of volumes by their dimension.

    Args:
        worths: by title, from :func:`latentgeo.paper.angles_and_volumes.worth`.

    Returns:
        The figure, a page wide.
    """
    figure, axes = plt.subplots(2, len(worths), figsize=(PAGE, 4.4), layout="constrained", sharey="row", squeeze=False)
    for ax in axes[0, 1:]:
        ax.sharex(axes[0, 0])
    for (above, below), (title, of) in zip(axes.T, worths.items(), strict=True):
        for y, quantity in enumerate(_ROWS[::-1]):
            for shift, method in zip((0.2, 0.0, -0.2), _LOOK, strict=False):
                if (quantity, method) in of.index:
                    value, low, high = of.loc[
                        (quantity, method), [f"signal_ratio{end}" for end in ("", "_low", "_high")]
                    ]
                    above.plot([low, high], [y + shift] * 2, color=_LOOK[method][1], linewidth=1.0)
                    above.plot(value, y + shift, **_marked(method, linestyle=""))
        above.axvline(1.0, color="0.6", linewidth=0.8, linestyle=":")
        above.set_title(f"{title}, {int(of['models'].iloc[0])} models", loc="left")
        for method in _LOOK:
            names = [name for name in of.index.unique("quantity") if (name, method) in of.index and "volume " in name]
            ks = [int(name.split()[1]) for name in names if name != "volume element"]
            rows = of.xs(method, level="method").loc[[f"volume {k}" for k in ks]]
            below.plot(ks, rows["signal_to_noise"], **_marked(method))
            if method in ("geodesic", BASELINE):
                ends = (rows["signal_to_noise_low"].astype(float), rows["signal_to_noise_high"].astype(float))
                below.fill_between(ks, *ends, color=_LOOK[method][1], alpha=0.15, linewidth=0)
    axes[0, 0].set_yticks(np.arange(len(_ROWS)), _ROWS[::-1])
    for above, below in axes.T:
        above.set(xscale="log", xlabel="signal to noise,\nover Euclidean, posterior means")
        below.set(yscale="log", xlabel="dimension k of the volume")
        above.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=7))
        above.xaxis.set_major_formatter("{x:g}")
        above.xaxis.set_minor_formatter(NullFormatter())
        below.yaxis.set_major_formatter("{x:g}")
        below.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        above.grid(axis="x", color="0.92")
        below.grid(axis="y", color="0.92")
    axes[1, 0].set_ylabel("signal to noise of volumes")
    handles = [Line2D([], [], label=_name(method), **_marked(method)) for method in _LOOK]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _name(method: str) -> str:
    return {"geodesic": "geodesic, nearest points", "ambient_chord": "chord, nearest points"}.get(method, NAMES[method])


@plt.rc_context(STYLE)
def recipes(compared: pd.DataFrame) -> Figure:
    """Standard deviations of log distance within and between recipes, with every model's scale and without.

    Args:
        compared: from :func:`latentgeo.paper.recipes.compare_recipes`.

    Returns:
        The figure, a page wide.
    """
    axis_names, methods = list(compared.index.unique("axis")), list(compared.index.unique("method"))
    figure, axes = plt.subplots(
        1, 2, figsize=(PAGE, 0.9 + 0.6 * len(axis_names)), layout="constrained", sharex=True, sharey=True
    )
    titles = {"as it is": "log distance", "free": "log distance, scale of each model taken out"}
    shifts = np.linspace(0.3, -0.3, len(methods))
    for ax, (scale, title) in zip(axes, titles.items(), strict=True):
        for y, axis in enumerate(axis_names[::-1]):
            for shift, method in zip(shifts, methods, strict=True):
                of, (marker, colour) = 100 * compared.loc[(axis, scale, method)], _RECIPE_LOOK[method]
                ax.plot([of["between_low"], of["between_high"]], [y + shift] * 2, color=colour, linewidth=1.0)
                ax.plot(of["between"], y + shift, marker, color=colour, markersize=4)
                ax.plot(of["within"], y + shift, "|", color=colour, markersize=7)
        ax.set_title(title, loc="left")
        ax.set(xlabel="standard deviation (%)", xlim=(0, None))
        ax.grid(axis="x", color="0.92")
    axes[0].set_yticks(np.arange(len(axis_names)), [_AXIS_NAMES.get(name, name) for name in axis_names[::-1]])
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, linewidth=1.0, label=METHOD_NAMES[method])
        for method, (marker, colour) in _RECIPE_LOOK.items()
        if method in methods
    ]
    black = {"color": "black", "linestyle": ""}
    handles += [
        Line2D([], [], marker="o", markersize=4, label="between recipes", **black),
        Line2D([], [], marker="|", markersize=7, label="between seeds", **black),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
