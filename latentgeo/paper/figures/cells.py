"""Atlases of single cells: latent spaces of two models, distances between cell types, and how well models agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import KDTree
from torch import Tensor

from latentgeo.adapters.model import latent_model
from latentgeo.geometry.geodesic.solve import geodesic
from latentgeo.geometry.metric import pullback_metric
from latentgeo.paper.figures.parts import OUTLINE, note, write_names
from latentgeo.paper.models.vae import VAE
from latentgeo.style import METHOD_COLOURS, PAGE, STYLE

_DASHES = (0, (4, 1.5))


@dataclasses.dataclass(frozen=True)
class LatentView:
    """One model's latent plane with d = 2, as the reader is to see it.

    Attributes:
        title: of its panel.
        codes: codes of the cells, shape (n, 2).
        sides: geodesics between the points of the image nearest to a few cells, shape (P, N + 1, 2); their ends are
            joined by straight lines too.
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

    @property
    def extent(self) -> np.ndarray:
        """Least and largest coordinates of what is drawn, shape (2, 2)."""
        drawn = np.concatenate([self.codes, self.centres, *self.sides])
        return np.stack([drawn.min(0), drawn.max(0)])

    @classmethod
    def of(cls, title: str, model: VAE, cells: Tensor, pairs: Sequence[tuple[int, int]], steps: int = 13) -> LatentView:
        """Look at a model.

        Args:
            title: of the panel.
            model: with two latent dimensions.
            cells: data of the cells, shape (n, *event).
            pairs: indices of the cells that geodesics join.
            steps: places across the longer side of the codes' bounding box at which the metric is shown, where there
                are codes nearby.
        """
        z, decoder = model.encode(cells), model.decode
        corners = cells[[pair[side] for side in (0, 1) for pair in pairs]]
        start, end = latent_model(model).points(corners, "nearest", others=z).codes.chunk(2)
        found = geodesic(decoder, start, end, segments=32)
        low, high = z.amin(0), z.amax(0)
        step = (high - low).max() / steps
        lines = [torch.arange(float(a), float(b) + float(step), float(step)) for a, b in zip(low, high, strict=True)]
        grid = torch.cartesian_prod(*lines)
        centres = grid[torch.cdist(grid, z).amin(1) < 0.7 * step]
        return cls(
            title,
            z.numpy(),
            found.points.numpy(),
            (start - end).norm(dim=1).numpy(),
            found.length.numpy(),
            centres.numpy(),
            pullback_metric(decoder, centres).numpy(),
        )


@dataclasses.dataclass(frozen=True)
class MirroredMatrix:
    """Two symmetric matrices in one panel.

    Attributes:
        title: of the panel.
        upper: what is shown above the diagonal.
        lower: what is shown below it.
        names: of the two.
        unit: of both.
        cmap: colours; zero is the first of them.
    """

    title: str
    upper: np.ndarray
    lower: np.ndarray
    names: tuple[str, str]
    unit: str
    cmap: str = "viridis"


@plt.rc_context(STYLE)
def cell_atlas(
    views: Sequence[LatentView],
    labels: np.ndarray,
    class_names: Sequence[str],
    class_colours: Sequence[str],
    matrices: Sequence[MirroredMatrix],
) -> Figure:
    """Two models of the same cells: their latent planes above, distances between cell types below.

    In the planes, ellipses are circles under the pull-back metric, all of the same radius in data space. Each matrix
    has one set of numbers above its diagonal and another below: what agrees is symmetric.

    Args:
        views: the latent planes of the two models.
        labels: type of each cell, shape (n,).
        class_names: names of the types; their numbers in the figure start with 1.
        class_colours: the types' colours.
        matrices: three of them.

    Returns:
        The figure, a page wide.
    """
    figure = plt.figure(figsize=(PAGE, 6.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.65, 1.0))
    planes = above.subplots(1, 2)
    radius = _common_radius(views)
    width = max(np.ptp(view.extent, axis=0).max() for view in views)
    for letter, ax, view in zip("ab", planes, views, strict=True):
        _plane(ax, view, labels, class_colours, radius, 1.12 * width)
        ax.set_title(f"{letter}  {view.title}", loc="left")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, markersize=4, label=f"{number}  {name}")
        for number, (name, colour) in enumerate(zip(class_names, class_colours, strict=True), start=1)
    ]
    circle = {"marker": "o", "linestyle": "", "markerfacecolor": "none", "markeredgecolor": "0.6", "markersize": 7}
    handles += [
        Line2D([], [], color=METHOD_COLOURS["euclidean"], linestyle=_DASHES, label="straight line, latent units"),
        Line2D([], [], color=METHOD_COLOURS["geodesic"], linewidth=1.8, label="geodesic, data units"),
        Line2D([], [], **circle, label=f"circle of radius {radius:g} data units"),
    ]
    above.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=1.5, columnspacing=1.0)
    for letter, ax, matrix in zip("cde", below.subplots(1, 3), matrices, strict=True):
        _mirrored(below, ax, matrix)
        ax.set_title(f"{letter}  {matrix.title}", loc="left")
    return figure


def _common_radius(views: Sequence[LatentView]) -> float:
    """One radius in data space, of one significant digit, whose ellipses hardly overlap in any of the planes."""
    largest = min(
        0.5
        * np.median(KDTree(view.centres).query(view.centres, 2)[0][:, 1])
        * np.quantile(np.linalg.eigvalsh(view.metrics)[:, 0], 0.2) ** 0.5
        for view in views
    )
    digit = 10.0 ** np.floor(np.log10(largest))
    return float(np.floor(largest / digit) * digit)


def _plane(ax: Axes, view: LatentView, labels: np.ndarray, colours: Sequence[str], radius: float, width: float) -> None:
    values, vectors = np.linalg.eigh(view.metrics)
    axes = 2.0 * radius / np.sqrt(values)
    turned = np.degrees(np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]))
    style = {"facecolor": "none", "edgecolor": "0.7", "linewidth": 0.6, "zorder": 0}
    where = {"offsets": view.centres, "offset_transform": ax.transData}
    ax.add_collection(EllipseCollection(*axes.T, turned, units="xy", **where, **style))
    ax.scatter(*view.codes.T, s=9, c=[colours[label] for label in labels], linewidth=0, zorder=2)
    for curve, straight, length in zip(view.sides, view.euclidean, view.geodesic, strict=True):
        ends = curve[[0, -1]]
        ax.plot(*curve.T, color="white", linewidth=3.0, zorder=3)
        ax.plot(*curve.T, color=METHOD_COLOURS["geodesic"], linewidth=1.8, zorder=4)
        ax.plot(*ends.T, color=METHOD_COLOURS["euclidean"], linewidth=1.3, linestyle=_DASHES, zorder=4)
        ax.plot(*ends.T, "o", color="black", markersize=4.5, markeredgecolor="white", markeredgewidth=0.8, zorder=5)
        _on_both_sides(ax, curve, f"{straight:.1f}", f"{length:.1f}")
    write_names(ax, view.codes, labels, [str(number + 1) for number in range(len(colours))])
    middle = view.extent.mean(0)
    low, high = middle - 0.5 * width, middle + 0.5 * width
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    ax.set(xlabel="$z_1$ (latent units)", ylabel="$z_2$ (latent units)")


def _on_both_sides(ax: Axes, curve: np.ndarray, straight: str, length: str) -> None:
    """Write both lengths of a side at its middle, each beside its own curve."""
    middle, chord = curve[len(curve) // 2], curve[[0, -1]].mean(0)
    along = curve[-1] - curve[0]
    normal = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    normal = normal if normal @ (middle - chord) >= 0 else -normal
    for place, way, text, method in ((middle, 9.5, length, "geodesic"), (chord, -9.5, straight, "euclidean")):
        style = {"fontsize": 8, "color": METHOD_COLOURS[method], "path_effects": OUTLINE, "zorder": 7}
        note(ax, text, place, way * normal, **style)


def _mirrored(figure: Figure, ax: Axes, matrix: MirroredMatrix) -> None:
    """One matrix above the diagonal and one below it, with their scale."""
    shown = np.where(np.triu(np.ones_like(matrix.upper, dtype=bool), 1), matrix.upper, matrix.lower)
    np.fill_diagonal(shown, np.nan)
    image = ax.imshow(shown, cmap=matrix.cmap, vmin=0.0)
    ticks = np.arange(len(shown))
    numbered = ticks + 1 if len(ticks) <= 12 else [""] * len(ticks)
    ax.set_xticks(ticks, numbered)
    ax.set_yticks(ticks, numbered)
    ax.tick_params(length=0, pad=1.5)
    ax.spines[:].set_visible(False)
    ax.text(1.02, 1.0, matrix.names[0], rotation=270, ha="left", va="top", fontsize=7.5, transform=ax.transAxes)
    ax.set_xlabel(matrix.names[1], loc="left", fontsize=7.5, labelpad=1)
    figure.colorbar(image, ax=ax, orientation="horizontal", label=matrix.unit, aspect=22, shrink=0.85, pad=0.02)


@plt.rc_context(STYLE)
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
    figure, axes = plt.subplots(len(planes), 2, figsize=(PAGE, 3.0 * len(planes)), layout="constrained", squeeze=False)
    for row, (title, codes) in zip(axes, planes.items(), strict=True):
        for model, (ax, z) in enumerate(zip(row, codes, strict=True), start=1):
            size = 9 if len(z) < 5_000 else 1.2
            colours = [class_colours[title][label] for label in labels[title]]
            ax.scatter(*z.T, s=size, c=colours, linewidth=0, rasterized=len(z) > 5_000)
            width = 0.6 * max(len(text) for text in class_names[title])  # of a line's height
            named = np.array([bool(class_names[title][label]) for label in labels[title]])
            write_names(ax, z[named], labels[title][named], class_names[title], width)
            ax.set_title(f"{title}, model {model}", loc="left")
            ax.set(xlabel="$z_1$ (latent units)", ylabel="$z_2$ (latent units)")
            ax.set_aspect("equal", adjustable="datalim")
    return figure
