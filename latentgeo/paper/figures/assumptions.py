"""What happens where an assumption of the identifiability theorem does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentgeo.geometry import surfaces
from latentgeo.paper.figures.parts import note
from latentgeo.style import COLOURS, PAGE, STYLE

PANELS = ("winding", "cusp", "pyramid", "figure-eight", "noise")
_ONE = {"color": COLOURS[0], "linewidth": 2.2, "solid_capstyle": "round"}
_OTHER = {"color": COLOURS[3], "linewidth": 1.4, "linestyle": (0, (3, 1.2))}
_IMAGE = {"color": "0.82", "linewidth": 5.0, "zorder": 0, "solid_capstyle": "round"}


def _curve(decoder: object, start: float, end: float, **options: object) -> np.ndarray:
    return decoder(torch.linspace(start, end, 400, dtype=torch.float64)[:, None], **options).numpy().T


def _points(ax: Axes, x: np.ndarray, offsets: Sequence[tuple[float, float]]) -> None:
    ax.plot(*x.T, "o", color="black", markersize=4, zorder=5)
    for point, name, offset in zip(x, ("x", "x'"), offsets, strict=True):
        note(ax, name, point, offset, fontsize=8)


def _winding(ax: Axes, a: float, b: float) -> None:
    once_more = np.linspace(a, b + 2.0 * np.pi, 400)
    radius = 1.12 + 0.16 * (once_more - a) / (b + 2.0 * np.pi - a)  # moved off the circle, to be seen
    ax.plot(radius * np.cos(once_more), radius * np.sin(once_more), **_OTHER)


def _cusp(ax: Axes, a: float, b: float) -> None:
    style = {"color": "white", "markeredgecolor": COLOURS[3], "markersize": 9, "markeredgewidth": 1.4, "zorder": 4}
    ax.plot(*_curve(surfaces.cusp, a, a)[:, 0], "o", **style)


def _figure_eight(ax: Axes, a: float, b: float) -> None:
    # The other strand's codes of the same data.
    ax.plot(*_curve(surfaces.figure_eight, a - np.pi * np.sign(a), b - np.pi * np.sign(b), other=True), **_OTHER)


# Curves with two data: the decoder, the codes of its image, what else is drawn, and where the data's names stand.
_CURVES = {
    "winding": (surfaces.winding, (0.0, 2.0 * np.pi), _winding, ((-8, -6), (2, -11))),
    "cusp": (surfaces.cusp, (-0.95, 0.95), _cusp, ((-8, 0), (-2, 10))),
    "figure-eight": (surfaces.figure_eight, (-np.pi, np.pi), _figure_eight, ((0, -10), (0, 10))),
}


def _pyramid(ax: Axes) -> None:
    grid = torch.linspace(-1.0, 1.0, 13, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    x, y, height = surfaces.pyramid(z).numpy().transpose(2, 0, 1)
    ax.plot_surface(x, y, -height, color="0.9", edgecolor="0.6", linewidth=0.3, rstride=1, cstride=1, shade=False)
    for sign in (-1.0, 1.0):
        for ridge in (((0.0, sign), (0.0, 0.0)), ((0.0, 0.0), (0.0, sign))):
            ax.plot(*ridge, (0.02, -0.98), color="0.15", linewidth=1.8, zorder=8)
    ax.plot([0.0], [0.0], [0.03], "o", color="white", markeredgecolor=COLOURS[3], markersize=6, zorder=10)
    ax.set(xlim=(-1.0, 1.0), ylim=(-1.0, 1.0), zlim=(-2.0, 0.0))
    ax.set_box_aspect((1.0, 1.0, 0.9), zoom=1.1)
    ax.view_init(elev=32, azim=-62)


def _noise(ax: Axes, covariance: np.ndarray, signals: Sequence[np.ndarray], x: np.ndarray) -> None:
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = np.stack([np.cos(turn), np.sin(turn)])

    def ellipse(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return 2.0 * vectors @ (np.sqrt(values.clip(0.0))[:, None] * circle)

    ax.fill(*ellipse(covariance), color="0.9", zorder=0)
    for matrix, style in zip(signals, (_ONE, _OTHER), strict=True):
        ax.plot(*ellipse(matrix), **style)
    _points(ax, x, ((-8, 4), (3, -9)))


@plt.rc_context(STYLE)
def broken_assumptions(
    codes: Mapping[str, Sequence[float]],
    noise: tuple[np.ndarray, Sequence[np.ndarray], np.ndarray],
    captions: Mapping[str, str],
    spectra: Mapping[str, Sequence[float]],
    threshold: float = 1e-2,
) -> Figure:
    """One picture for each assumption that fails, and how far the codes of trained models spread.

    Args:
        codes: latent points of the two marked data, in radians or latent units, for ``"winding"``, ``"cusp"`` and
            ``"figure-eight"``.
        noise: covariance of the data, shape (2, 2), those of the signal under two models, and two data, shape (2, 2).
        captions: what was measured, one or two lines for each of :data:`PANELS`.
        spectra: variances of the codes along their principal axes relative to the prior's, by the name of the model.
        threshold: below which the posterior is called collapsed.

    Returns:
        The figure, a page wide. Blue and solid is one choice of codes or model, red and dashed another of the same
        data.

    Raises:
        ValueError: a caption is missing.
    """
    if set(captions) != set(PANELS):
        raise ValueError(f"captions: expected one for each of {', '.join(PANELS)}, got {', '.join(captions)}")
    titles = {
        "winding": "not injective",
        "cusp": "rank drops",
        "pyramid": "not smooth (ReLU)",
        "figure-eight": "no embedding",
        "noise": "unknown noise, D = d",
    }
    figure = plt.figure(figsize=(PAGE, 5.0))
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.11, top=0.94, wspace=0.12, hspace=0.42)
    for number, name in enumerate(PANELS):
        ax = figure.add_subplot(2, 3, number + 1, projection="3d" if name == "pyramid" else None)
        ax.set_axis_off()
        ax.set_anchor("C")
        box = ax.get_subplotspec().get_position(figure)
        figure.text(box.x0 + 0.01, box.y1 + 0.015, f"({'abcde'[number]}) {titles[name]}", fontweight="bold")
        middle = 0.5 * (box.x0 + box.x1)
        figure.text(middle, box.y0 - 0.015, captions[name], ha="center", va="top", fontsize=7, linespacing=1.25)
        if name == "pyramid":
            _pyramid(ax)
            continue
        if name == "noise":
            _noise(ax, *noise)
        else:
            decoder, whole, draw, offsets = _CURVES[name]
            ax.plot(*_curve(decoder, *whole), **_IMAGE)
            between = _curve(decoder, *codes[name])
            ax.plot(*between, **_ONE)
            draw(ax, *codes[name])
            _points(ax, between[:, [0, -1]].T, offsets)
        ax.margins(0.08)
        ax.set_aspect("equal", adjustable="datalim")
    ax = figure.add_subplot(2, 3, 6)
    box = ax.get_subplotspec().get_position(figure)
    figure.text(box.x0 + 0.01, box.y1 + 0.015, "(f) collapsed posterior", fontweight="bold")
    for number, (name, spectrum) in enumerate(spectra.items()):
        values = np.sort(np.asarray(spectrum, dtype=float))[::-1]
        style = {"color": (COLOURS[0], COLOURS[3])[number % 2], "marker": "os"[number % 2], "markersize": 3.5}
        ax.plot(range(1, len(values) + 1), values, linewidth=0.9, label=name, **style)
    ax.axhline(threshold, color="0.4", linewidth=0.9, linestyle=":")
    longest = max(map(len, spectra.values()))
    note(ax, "collapsed", (longest, threshold), (0, -9), ha="right", va="baseline")
    ax.set(yscale="log", xlabel="principal axis of the codes", ylabel="variance relative to the prior's")
    ax.set_ylim(top=20.0)
    ax.legend(loc="upper right", borderaxespad=0.0)
    ax.set_position([box.x0 + 0.08, box.y0, box.width - 0.08, box.height])
    ax.set_xticks(range(1, 1 + longest, 5))
    return figure
