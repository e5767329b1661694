"""The explorer as a picture, for where nothing can be clicked."""

from __future__ import annotations

import bisect
import textwrap
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from torch import Tensor

from latentgeo.explorer.decoded import frames, most_changing
from latentgeo.explorer.explorer import REMEDY, _installed
from latentgeo.explorer.selection import Selection
from latentgeo.style import COLOURS, PAGE, STYLE

if TYPE_CHECKING:
    from latentgeo.explorer.explorer import Explorer

_DASHES = (0, (4, 1.6))
_HEIGHT = 72.0 * 3.9  # of the figure, in points, unless the words need more
_LEFT, _RIGHT = (72.0 * PAGE * share / 2.05 for share in (1.0, 1.05))  # widths of the two halves, in points
_INSIDE = 0.9  # share of them that words take: drawn with hinting, letters are up to a twelfth wider than measured
_GREYS = ("#ffffff", "#9a9a9a")  # light ones, on which all colours of points can be seen
_COLUMNS, _ROWS = 4, 8  # of the legend, at most
_NAME = 90.0  # points that the name of a feature may take


def draw(view: Explorer, selection: Selection) -> Figure:
    """Draw a view with two points chosen.

    Args:
        view: the explorer.
        selection: of it.

    Returns:
        The figure, a page wide: the latent plane on the left; both curves decoded, and distances, on the right. Words
        are wrapped, and the figure is the higher for them; names of classes and features that are too long for a legend
        lose their middle.
    """
    images = view.pictures.kind == "images"
    with mpl.rc_context(STYLE):
        words, needed = _words(view, selection)
        above = _HEIGHT * (0.5 if images else 0.574)
        below = max(_HEIGHT - above, needed)
        figure = Figure(figsize=(PAGE, (above + below) / 72.0), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(_LEFT, _RIGHT))
        _plane(left, view, selection)
        upper, lower = right.subfigures(2, 1, height_ratios=(above, below))
        if images:
            strips = upper.subplots(2, 1)
            _strip(strips[0], "geodesic (solid), decoded", selection.decoded, selection.originals)
            _strip(strips[1], "straight line (dashed), decoded", selection.decoded_straight, selection.originals)
        else:
            _trends(upper.add_subplot(), view, selection)
        for down, text, style in words:
            lower.text(0.01, 1.0 - down / below, text, va="top", **style)
    return figure


def _width(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line, in points."""
    font = FontProperties(family=mpl.rcParams["font.family"], size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def _wrapped(text: str, width: float, size: float, weight: str = "normal", indent: str = "") -> list[str]:
    """Lines no wider than a width in points; all but the first are indented."""

    def lines(characters: int) -> list[str]:
        return textwrap.wrap(text, characters, subsequent_indent=indent)

    def widest(characters: int) -> float:
        return max(_width(line, size, weight) for line in lines(characters))

    fitting = bisect.bisect_right(range(1, len(text) + 1), width, key=widest)
    return lines(max(fitting, 1))


def _shortened(name: str, width: float, size: float) -> str:
    """A name no wider than a width in points, its middle left out if it must."""

    def short(kept: int) -> str:
        return f"{name[: (kept + 1) // 2].rstrip()}…{name[len(name) - kept // 2 :].lstrip()}"

    if _width(name, size) <= width:
        return name
    return short(bisect.bisect_right(range(1, len(name)), width, key=lambda kept: _width(short(kept), size)))


def _plane(figure: SubFigure, view: Explorer, selection: Selection) -> None:
    ax = figure.add_subplot()
    low, high = view.levels
    shade = ax.imshow(
        view.background,
        extent=view.window.T.flatten().tolist(),
        origin="lower",
        aspect="auto",
        cmap=mpl.colors.LinearSegmentedColormap.from_list("greys", _GREYS),
        vmin=low,
        vmax=high,
        interpolation="bilinear",
    )
    index, places = view.classes.index[view.shown], view.places[view.shown]
    colours, markers = np.array(view.classes.colours)[index], np.array(view.classes.markers)[index]
    for marker in np.unique(markers):  # all classes at once, lest the last ones hide the first
        where = markers == marker
        ax.scatter(*places[where].T, s=9, c=colours[where], marker=marker, edgecolor="white", linewidth=0.25)
    lines, window = view._drawn_curves(selection)
    for line in lines:
        ax.plot(*line.T, color="white", linewidth=3.2)
    for line, style in zip(lines, ("-", _DASHES), strict=True):
        ax.plot(*line.T, color="black", linewidth=1.6, linestyle=style)
    ends = lines[0][[0, -1]]  # near the codes, not at them
    for number, (end, code) in enumerate(zip(ends, view.places[list(selection.pair)], strict=True), 1):
        ax.plot(*np.stack([end, code]).T, color="black", linewidth=0.8, linestyle=":")
        ax.text(*end, str(number), size=6.5, weight="bold", ha="center", va="center", zorder=5)
    ax.scatter(*ends.T, s=62, facecolor="white", edgecolor="black", linewidth=1.2, zorder=4)
    names = [f"${name}$" if name.startswith("z_") else name for name in view.plane.names]
    ax.set(xlim=window[:, 0], ylim=window[:, 1], xlabel=names[0], ylabel=names[1])
    element = "log volume element" if len(view.plane.origin) == 2 else "log area element"
    bar = figure.colorbar(shade, ax=ax, location="top", aspect=40, pad=0.01, label=element)
    bar.outline.set_visible(False)
    if any(view.classes.names):
        columns, width = _columns(view.classes.names)
        size = mpl.rcParams["legend.fontsize"]
        handles = [
            Line2D([], [], color=c, marker=m, linestyle="", markersize=4.5, label=_shortened(name, width, size))
            for name, c, m in zip(view.classes.names, view.classes.colours, view.classes.markers, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.1, columnspacing=0.8)


def _columns(names: list[str]) -> tuple[int, float]:
    """Columns of a legend of classes, as many as fit, and the width in points that a name may take there."""
    size = mpl.rcParams["legend.fontsize"]
    widest, fewest = max(_width(name, size) for name in names), -(-len(names) // _ROWS)
    for columns in range(min(_COLUMNS, len(names)), fewest - 1, -1):
        # A handle and the gap to its name take 2.1 em, the gap between columns 0.8 em, the borders 1.8 em in all.
        room = (_INSIDE * _LEFT - size * (2.1 * columns + 0.8 * (columns - 1) + 1.8)) / columns
        if widest <= room:
            break
    return columns, room


def _strip(ax: Axes, name: str, images: Tensor, originals: Tensor | None) -> None:
    """Images (N + 1, height, width, channels) side by side, nine of them; the originals (2, ...) on either side."""
    shown = [*images[frames(len(images))].numpy()]
    gaps = [1] * len(shown)
    if originals is not None:
        wide = max(2, images.shape[2] // 3)
        first, second = originals.numpy()
        shown, gaps = [first, *shown, second], [wide, *gaps[1:], wide, 1]
    padded = [np.pad(x, ((0, 0), (0, gap), (0, 0)), constant_values=1.0) for x, gap in zip(shown, gaps, strict=True)]
    strip = np.concatenate(padded, 1)
    ax.imshow(strip if strip.shape[2] == 3 else strip[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(name if originals is None else f"{name}, between the originals", loc="left")


def _trends(ax: Axes, view: Explorer, selection: Selection) -> None:
    curves = (selection.decoded, selection.decoded_straight)
    t = np.linspace(0, 1, len(curves[0]))
    for colour, feature in zip(COLOURS, most_changing(*curves), strict=False):
        for curve, style in zip(curves, ("-", _DASHES), strict=True):
            name = _shortened(view.pictures.names[feature], _NAME, mpl.rcParams["legend.fontsize"])
            label = name if style == "-" else None
            ax.plot(t, curve[:, feature], color=colour, linewidth=1.3, linestyle=style, label=label)
        if selection.originals is not None:
            ax.plot([0, 1], selection.originals[:, feature], "o", color=colour, markersize=3.5, clip_on=False)
    ax.set(xlim=(0, 1), xlabel="time along the curve", ylabel="decoded value")
    ax.set_xticks([0, 1], ["①", "②"])
    dots = "" if selection.originals is None else "\noriginals (dots)"
    ax.set_title(f"geodesic (solid), straight line (dashed){dots}", loc="left")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)


def _words(view: Explorer, selection: Selection) -> tuple[list[tuple[float, str, dict[str, object]]], float]:
    """Blocks of wrapped words with their distances from the top and styles, and the height of all, in points."""
    caption = view.caption if _installed() else f"{view.caption} {REMEDY[0].upper()}{REMEDY[1:]}"
    width = _INSIDE * _RIGHT
    heading, *rows = view.describe(selection).splitlines()
    lines = [line for row in rows for line in _wrapped(row, width, 7.5, indent="    ")]
    blocks = (
        (_wrapped(heading, width, 8.0, "bold"), 1.2, {"fontsize": 8.0, "weight": "bold"}),
        (lines, 1.4, {"fontsize": 7.5}),
        (_wrapped(caption, width, 6.5), 1.2, {"fontsize": 6.5, "color": "0.3"}),
    )
    words, down = [], 4.0
    for lines, spacing, style in blocks:
        words.append((down, "\n".join(lines), {"linespacing": spacing} | style))
        down += len(lines) * spacing * style["fontsize"] + 8.0
    return words, down - 4.0
