"""Atlases of single cells: latent spaces of two models, distances between cell types, and how well models agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latentgeo.plotting.style import METHOD_COLOURS, METHOD_NAMES, PAGE, STYLE

_OUTLINE = [matplotlib.patheffects.withStroke(linewidth=2.2, foreground="white")]
_SIDES = {"horizontalalignment": "center", "verticalalignment": "center", "fontsize": 7.5, "zorder": 6}


@dataclasses.dataclass(frozen=True)
class LatentView:
    """One model's latent plane with d = 2, as the reader is to see it.

    Attributes:
        title: of its panel.
        codes: codes of the cells, shape (n, 2).
        sides: geodesics between a few cells, shape (P, N + 1, 2); their ends are joined by straight lines too.
        euclidean: Euclidean distances of these pairs in latent units, shape (P,).
        geodesic: geodesic distances in data units, shape (P,).
        centres: places where the metric is shown, shape (m, 2).
        metrics: the metric there, shape (m, 2, 2).
    """

    title: str
    codes: np.ndarray
    sides: np.ndarray
    euclidean: np.ndarray
    geodesic: np.ndarray
    centres: np.ndarray
    metrics: np.ndarray


def cell_atlas(
    views: Sequence[LatentView],
    labels: np.ndarray,
    class_names: Sequence[str],
    class_colours: Sequence[str],
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]],
    units: Mapping[str, str],
) -> Figure:
    """Two models of the same cells: their latent planes above, distances between cell types below.

    In the planes, ellipses are circles of equal radius under the pull-back metric. Each matrix has one distance above
    its diagonal and another below: what agrees is symmetric.

    Args:
        views: the latent planes of the two models.
        labels: type of each cell, shape (n,).
        class_names: names of the types; their numbers in the figure start with 1.
        class_colours: the types' colours.
        matrices: for each panel by its title the matrices that are shown above and below the diagonal.
        units: what the numbers of each panel are, by its title.

    Returns:
        The figure, a page wide.
    """
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(PAGE, 6.6), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.62, 1.0))
        planes = above.subplots(1, 2)
        for letter, ax, view in zip("ab", planes, views, strict=True):
            _plane(ax, view, labels, class_colours)
            ax.set_title(f"{letter}  {view.title}", loc="left")
        handles = [
            Line2D([], [], marker="o", linestyle="", color=colour, markersize=4, label=f"{number}  {name}")
            for number, (name, colour) in enumerate(zip(class_names, class_colours, strict=True), start=1)
        ]
        handles += [
            Line2D([], [], color=METHOD_COLOURS["euclidean"], linestyle=(0, (4, 1.5)), label="straight latent line"),
            Line2D([], [], color=METHOD_COLOURS["geodesic"], linewidth=1.8, label="geodesic"),
        ]
        above.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=1.5, columnspacing=1.2)
        for letter, ax, (title, (upper, lower)) in zip("cde", below.subplots(1, 3), matrices.items(), strict=True):
            _mirrored(below, ax, upper, lower, units[title])
            ax.set_title(f"{letter}  {title}", loc="left")
    return figure


def _plane(ax: Axes, view: LatentView, labels: np.ndarray, colours: Sequence[str]) -> None:
    values, vectors = np.linalg.eigh(view.metrics)
    radius = 0.42 * np.median(_spacing(view.centres)) * np.median(values.max(1)) ** 0.5
    axes = 2.0 * radius / np.sqrt(values)
    angles = np.degrees(np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]))
    ax.add_collection(
        EllipseCollection(
            axes[:, 0],
            axes[:, 1],
            angles,
            units="xy",
            offsets=view.centres,
            transOffset=ax.transData,
            facecolor="none",
            edgecolor="0.72",
            linewidth=0.6,
            zorder=0,
        )
    )
    ax.scatter(*view.codes.T, s=9, c=[colours[label] for label in labels], linewidth=0, alpha=0.9, zorder=2)
    for number in np.unique(labels):
        place = np.median(view.codes[labels == number], axis=0)
        ax.text(*place, str(number + 1), fontsize=8, weight="bold", path_effects=_OUTLINE, zorder=5, **_CENTRED)
    for curve, euclidean, geodesic in zip(view.sides, view.euclidean, view.geodesic, strict=True):
        ends = curve[[0, -1]]
        ax.plot(*curve.T, color="white", linewidth=3.2, zorder=3)
        ax.plot(*curve.T, color=METHOD_COLOURS["geodesic"], linewidth=1.8, zorder=4)
        ax.plot(*ends.T, color=METHOD_COLOURS["euclidean"], linewidth=1.2, linestyle=(0, (4, 1.5)), zorder=4)
        ax.plot(*ends.T, "o", color="black", markersize=4.5, markeredgecolor="white", markeredgewidth=0.8, zorder=6)
    ax.set(xlabel="$z_1$ (latent units)", ylabel="$z_2$ (latent units)")
    ax.set_aspect("equal", adjustable="datalim")


_CENTRED = {"horizontalalignment": "center", "verticalalignment": "center"}


def _spacing(points: np.ndarray) -> np.ndarray:
    """Distance of each point to its nearest neighbour."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    return np.sort(distances, axis=1)[:, 1]


def _mirrored(figure: Figure, ax: Axes, upper: np.ndarray, lower: np.ndarray, unit: str) -> None:
    """One matrix above the diagonal and one below it, with their scale."""
    shown = np.where(np.triu(np.ones_like(upper, dtype=bool), 1), upper, lower)
    np.fill_diagonal(shown, np.nan)
    image = ax.imshow(shown, cmap="viridis", vmin=0.0)
    ticks = np.arange(len(shown))
    ax.set_xticks(ticks, ticks + 1)
    ax.set_yticks(ticks, ticks + 1)
    ax.tick_params(length=0, pad=1.5)
    for spine in ax.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=ax, orientation="horizontal", label=unit, aspect=25, pad=0.03)


def cell_planes(
    planes: Mapping[str, Sequence[np.ndarray]],
    labels: Mapping[str, np.ndarray],
    class_names: Mapping[str, Sequence[str]],
    class_colours: Mapping[str, Sequence[str]],
) -> Figure:
    """Latent planes of two models for each of several data sets of cells.

    Args:
        planes: codes (n, 2) under each of two models, by the title of the data set.
        labels: type of each cell, by title.
        class_names: what is written at the median code of each type, by title; empty for nothing.
        class_colours: the types' colours, by title.

    Returns:
        The figure, a page wide, one row for each data set.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(planes), 2, figsize=(PAGE, 3.0 * len(planes)), layout="constrained", squeeze=False
        )
        for row, (title, codes) in zip(axes, planes.items(), strict=True):
            for model, (ax, z) in enumerate(zip(row, codes, strict=True), start=1):
                size = 9 if len(z) < 5_000 else 1.2
                colours = [class_colours[title][label] for label in labels[title]]
                ax.scatter(*z.T, s=size, c=colours, linewidth=0, rasterized=len(z) > 5_000)
                for number in np.unique(labels[title]):
                    place = np.median(z[labels[title] == number], axis=0)
                    text = class_names[title][number]
                    ax.text(*place, text, fontsize=8, weight="bold", path_effects=_OUTLINE, zorder=5, **_CENTRED)
                ax.set_title(f"{title}, model {model}", loc="left")
                ax.set(xlabel="$z_1$ (latent units)", ylabel="$z_2$ (latent units)")
                ax.set_aspect("equal", adjustable="datalim")
    return figure


def class_reliability(comparisons: Mapping[str, pd.DataFrame]) -> Figure:
    """Mean coefficient of variation of distances between cell types over models, by data set and method.

    Args:
        comparisons: from :func:`latentgeo.compare_reliability`, by the title of their panel.

    Returns:
        The figure, a page wide; intervals are over models.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, len(comparisons), figsize=(PAGE, 2.3), sharey=True, layout="constrained", squeeze=False
        )
        for letter, ax, (title, comparison) in zip("abcdef", axes[0], comparisons.items(), strict=False):
            shown = comparison.drop(index="data", errors="ignore")[::-1]
            for height, (method, row) in enumerate(shown.iterrows()):
                colour = METHOD_COLOURS.get(method, "0.35")
                low, high = max(row.mean_cv_low, 0.0), row.mean_cv_high
                ax.plot([100 * low, 100 * high], [height, height], color=colour, linewidth=1.4)
                ax.plot(100 * row.mean_cv, height, "o", color=colour, markersize=4.5, label="distances")
                ax.plot(
                    100 * row.scale_free_cv, height, "D", color=colour, markersize=3.6, fillstyle="none", zorder=1
                )
            ax.set_yticks(range(len(shown)), [METHOD_NAMES.get(method, method) for method in shown.index])
            ax.set(xlim=(0, None), ylim=(-0.6, len(shown) - 0.4), xlabel="mean CV over models (%)")
            ax.set_title(f"{letter}  {title}", loc="left")
            ax.grid(axis="x", color="0.9")
        handles = [
            Line2D([], [], marker="o", color="0.35", linewidth=1.4, markersize=4.5, label="CV, 95 % interval"),
            Line2D([], [], marker="D", linestyle="", color="0.35", markersize=3.6, fillstyle="none", label="scale-free CV"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
