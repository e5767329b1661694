"""The explorer as a picture, for where nothing can be clicked."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from torch import Tensor

from latentgeo.explorer.decoded import frames, most_changing
from latentgeo.explorer.explorer import REMEDY, _installed
from latentgeo.explorer.selection import Selection
from latentgeo.plotting.style import COLOURS, PAGE, STYLE

if TYPE_CHECKING:
    from latentgeo.explorer.explorer import Explorer

_DASHES = (0, (4, 1.6))


def draw(view: Explorer, selection: Selection) -> Figure:
    """Draw a view with two points chosen.

    Args:
        view: the explorer.
        selection: of it.

    Returns:
        The figure, a page wide: the latent plane on the left; both curves decoded, and distances, on the right.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 3.9), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.05))
        _plane(left, view, selection)
        images = view.pictures.kind == "images"
        upper, lower = right.subfigures(2, 1, height_ratios=(1.0 if images else 1.35, 1.0))
        if images:
            strips = upper.subplots(2, 1)
            _strip(strips[0], "geodesic (solid), decoded", selection.decoded)
            _strip(strips[1], "straight line (dashed), decoded", selection.decoded_straight)
        else:
            _trends(upper.add_subplot(), view, selection)
        _words(lower, view, selection)
    return figure


def _plane(figure: SubFigure, view: Explorer, selection: Selection) -> None:
    ax = figure.add_subplot()
    low, high = view.levels
    shade = ax.imshow(
        view.background,
        extent=view.window.T.flatten().tolist(),
        origin="lower",
        aspect="auto",
        cmap=_greys(),
        vmin=low,
        vmax=high,
        interpolation="bilinear",
    )
    index, places = view.classes.index[view.shown], view.places[view.shown]
    colours, markers = np.array(view.classes.colours)[index], np.array(view.classes.markers)[index]
    for marker in np.unique(markers):  # all classes at once, lest the last ones hide the first
        where = markers == marker
        ax.scatter(*places[where].T, s=9, c=colours[where], marker=marker, edgecolor="white", linewidth=0.25)
    curves = (selection.geodesic.points[0], selection.straight)
    lines = [view.plane.project(curve).float().cpu().numpy() for curve in curves]
    for line in lines:
        ax.plot(*line.T, color="white", linewidth=3.2)
    for line, style in zip(lines, ("-", _DASHES), strict=True):
        ax.plot(*line.T, color="black", linewidth=1.6, linestyle=style)
    ends = view.places[list(selection.pair)]
    ax.scatter(*ends.T, s=34, facecolor="white", edgecolor="black", linewidth=1.2, zorder=4)
    names = [f"${name}$" if name.startswith("z_") else name for name in view.plane.names]
    ax.set(xlim=view.window[:, 0], ylim=view.window[:, 1], xlabel=names[0], ylabel=names[1])
    element = "log volume element" if len(view.plane.origin) == 2 else "log area element"
    bar = figure.colorbar(shade, ax=ax, location="top", aspect=40, pad=0.01, label=element)
    bar.outline.set_visible(False)
    if view.classes.names:
        drawn = zip(view.classes.names, view.classes.colours, view.classes.markers, strict=True)
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4.5, label=name)
            for name, colour, marker in drawn
        ]
        longest = max(map(len, view.classes.names))
        columns = 4 if longest < 12 else 3 if longest < 17 else 2
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.1, columnspacing=0.8)


def _greys() -> mpl.colors.Colormap:
    """Light greys, on which all colours of points can be seen."""
    return mpl.colors.LinearSegmentedColormap.from_list("greys", ["#ffffff", "#9a9a9a"])


def _strip(ax: Axes, name: str, images: Tensor) -> None:
    """Images (N + 1, height, width, channels) side by side, nine of them."""
    padded = [np.pad(images[k].numpy(), ((0, 0), (0, 1), (0, 0)), constant_values=1.0) for k in frames(len(images))]
    strip = np.concatenate(padded, 1)
    ax.imshow(strip if strip.shape[2] == 3 else strip[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(name, loc="left")


def _trends(ax: Axes, view: Explorer, selection: Selection) -> None:
    curves = (selection.decoded, selection.decoded_straight)
    t = np.linspace(0, 1, len(curves[0]))
    for colour, feature in zip(COLOURS, most_changing(*curves), strict=False):
        for curve, style in zip(curves, ("-", _DASHES), strict=True):
            label = view.pictures.name(feature) if style == "-" else None
            ax.plot(t, curve[:, feature], color=colour, linewidth=1.3, linestyle=style, label=label)
    ax.set(xlim=(0, 1), xlabel="time along the curve", ylabel="decoded value")
    ax.set_title("geodesic (solid), straight line (dashed)", loc="left")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)


def _words(figure: SubFigure, view: Explorer, selection: Selection) -> None:
    caption = view.caption if _installed() else f"{view.caption} {REMEDY[0].upper()}{REMEDY[1:]}"
    ends = " to ".join(view.classes.name(row) for row in selection.pair)
    rows = "\n".join(f"{name}: {value} ({note})" for name, value, note in selection.rows())
    blocks = (
        (0.97, f"from {ends}", {"weight": "bold"}),
        (0.84, rows, {"linespacing": 1.4, "fontsize": 7.5}),
        (0.36, textwrap.fill(caption, 64), {"fontsize": 6.5, "color": "0.3"}),
    )
    for height, text, style in blocks:
        figure.text(0.01, height, text, va="top", **style)
