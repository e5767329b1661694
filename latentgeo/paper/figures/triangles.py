"""Geodesic triangles in latent spaces, and directions carried around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import proj3d
from torch import Tensor

from latentgeo.paper.figures.parts import OUTLINE, note, square
from latentgeo.style import COLOURS, PAGE, STYLE

_SIDES = (COLOURS[0], COLOURS[1], COLOURS[2])  # ab, bc, ca
_ARROW = 0.36  # length of the longest arrow, relative to the triangle


def square_grid(reach: float) -> Tensor:
    """Lines of a square grid, to be moved into the latent spaces that share it.

    Args:
        reach: half its width, in latent units.

    Returns:
        13 lines along each axis as curves of 121 points, shape (26, 121, 2), in float64.

    Example:
        >>> lines = square_grid(3.0)
        >>> lines.shape, lines[0, [0, -1]].tolist()
        (torch.Size([26, 121, 2]), [[-3.0, -3.0], [3.0, -3.0]])
    """
    along, levels = (torch.linspace(-reach, reach, n, dtype=torch.float64) for n in (121, 13))
    lines = torch.stack(torch.broadcast_tensors(along, levels[:, None]), -1)
    return torch.cat([lines, lines.flip(2)])


@dataclasses.dataclass(frozen=True)
class TriangleView:
    """A geodesic triangle as one latent space shows it.

    Attributes:
        title: what the latent space is.
        boundary: the loop a, b, c, a with equally many segments on each side, shape (3 M + 1, 2).
        codes: latent codes that are drawn behind it, shape (n, 2).
        grid: curves of a grid that all spaces share, each (k, 2).
        identified: lengths of the sides ab, bc, ca, the angles at a, b, c in radians, and the area: seven numbers.
        euclidean: the same of the straight triangle, in latent units.
    """

    title: str
    boundary: np.ndarray
    codes: np.ndarray
    grid: Sequence[np.ndarray]
    identified: Sequence[float]
    euclidean: Sequence[float]


def _draw_sides(ax: Axes, loop: np.ndarray, **style: object) -> np.ndarray:
    """Sides of a loop in their colours; its corners are returned."""
    M = (len(loop) - 1) // 3
    for k, colour in enumerate(_SIDES):
        ax.plot(*loop[k * M : (k + 1) * M + 1].T, color=colour, linewidth=2.0, **style)
    return loop[::M][:3]


def _draw_triangle(ax: Axes, loop: np.ndarray, straight: bool = True) -> None:
    """Sides in their colours over a light fill, the straight triangle dashed, and the corners' letters."""
    corners = _draw_sides(ax, loop, solid_capstyle="round", zorder=4)
    ax.fill(*loop.T, color=COLOURS[4], alpha=0.22, linewidth=0, zorder=2)
    if straight:
        ax.plot(*corners[[0, 1, 2, 0]].T, color="0.15", linewidth=0.9, linestyle=(0, (4, 2.5)), zorder=3)
    ax.plot(*corners.T, "o", color="0.1", markersize=3.5, zorder=5)
    _letters(ax, corners, loop.mean(0), 8.0, 6)


def _letters(ax: Axes, corners: np.ndarray, middle: np.ndarray, distance: float, zorder: int) -> None:
    """A, B and C, each at a distance in points from its corner, away from the middle."""
    for corner, letter in zip(corners, "ABC", strict=True):
        away = (corner - middle) / np.linalg.norm(corner - middle)
        note(ax, letter, corner, distance * away, fontsize=9, weight="bold", path_effects=OUTLINE, zorder=zorder)


def _write_measures(ax: Axes, view: TriangleView) -> None:
    """Measures of the geodesic and of the straight triangle, a line each, in columns."""
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    height, style = 1.0, {"fontsize": 7, "va": "top"}
    for heading, measures, text, sides in (
        ("geodesic (data units)", view.identified, "0.1", _SIDES),
        ("straight, dashed (latent units)", view.euclidean, "0.4", ("0.4",) * 3),
    ):
        ax.text(0.0, height, heading, weight="bold", color=text, **style)
        lengths, angles = [f"{value:.4f}" for value in (*measures[:3], measures[6])], np.degrees(measures[3:6])
        rows = {"sides": lengths[:3], "angles": [f"{value:.2f}°" for value in angles], "area": lengths[3:]}
        for name, numbers in rows.items():
            height -= 0.125
            ax.text(0.0, height, name, color=text, **style)
            for x, number, side in zip((0.42, 0.69, 0.96), numbers, sides, strict=False):
                ax.text(x, height, number, ha="right", color=side if name == "sides" else text, **style)
        height -= 0.175


@plt.rc_context(STYLE)
def geodesic_triangles(views: Sequence[TriangleView], labels: np.ndarray) -> Figure:
    """The same geodesic triangle in several latent spaces, with its measures and those of the straight triangle below.

    Args:
        views: one for each latent space; their ``identified`` numbers should agree.
        labels: class of each code as a digit, shape (n,), which is its marker.

    Returns:
        The figure, a page wide. Lengths are in data units, those of straight triangles in latent units.
    """
    figure, axes = plt.subplots(2, len(views), figsize=(PAGE, 3.85), squeeze=False, height_ratios=[1.72, 1])
    figure.subplots_adjust(left=0.055, right=0.995, top=0.94, bottom=0.01, wspace=0.16, hspace=0.27)
    for number, (ax, below, view) in enumerate(zip(*axes, views, strict=True)):
        for line in view.grid:
            ax.plot(*line.T, color="0.87", linewidth=0.6, zorder=0)
        for c in np.unique(labels):
            ax.scatter(*view.codes[labels == c].T, s=11, marker=f"${c}$", color="0.45", linewidth=0, zorder=1)
        _draw_triangle(ax, view.boundary)
        square(ax, np.concatenate([view.codes, view.boundary]), 0.58)
        ax.set(title=view.title, xlabel="$z_1$ (latent units)", ylabel="$z_2$" if number == 0 else "")
        ax.locator_params(nbins=4)
        _write_measures(below, view)
    return figure


@dataclasses.dataclass(frozen=True)
class TransportView:
    """A direction carried around a triangle, as one latent space shows it.

    Attributes:
        title: what the latent space is.
        loop: the walk, shape (3 M + 1, 2).
        points: where the direction is drawn, shape (m, 2), the last one back at the start.
        directions: the direction there, shape (m, 2).
        grid: curves of a grid that all spaces share, each (k, 2).
    """

    title: str
    loop: np.ndarray
    points: np.ndarray
    directions: np.ndarray
    grid: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class FieldView:
    """A scalar on latent space.

    Attributes:
        title: what the latent space is.
        x: first coordinates of a curvilinear grid, shape (n, m).
        y: second coordinates.
        values: at the grid's points.
        marks: points that correspond between the spaces, shape (k, 2).
        at_marks: values there, shape (k,).
    """

    title: str
    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    marks: np.ndarray
    at_marks: np.ndarray


def _draw_arrows(ax: Axes, points: np.ndarray, tips: np.ndarray) -> None:
    """The carried direction at every stop, in plane coordinates: black where it starts, red where it ends."""
    last = len(points) - 1
    for number, (point, tip) in enumerate(zip(points, tips, strict=True)):
        ends = number in (0, last)
        colour = COLOURS[3] if number == last else ("0.1" if number == 0 else "0.4")
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.8 if ends else 0.9, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", tip, point, arrowprops=style | {"mutation_scale": 10 if ends else 7}, zorder=8 if ends else 7)
        if ends:
            along = (tip - point) / np.linalg.norm(tip - point)
            name, offset = "end" if number == last else "start", (11.0 * along[0], 6.0 * along[1])
            note(ax, name, tip, offset, color=colour, path_effects=OUTLINE, zorder=9)


def _draw_transport(ax: Axes, view: TransportView, turn: float) -> None:
    for line in view.grid:
        ax.plot(*line.T, color="0.87", linewidth=0.6, zorder=0)
    _draw_triangle(ax, view.loop, straight=False)
    size = _ARROW * np.ptp(view.loop, axis=0).max() / np.linalg.norm(view.directions, axis=1).max()
    tips = view.points + size * view.directions
    _draw_arrows(ax, view.points, tips)
    square(ax, np.concatenate([view.loop, tips]), 0.6)
    ax.set(title=f"{view.title}\nturned by {np.degrees(turn):.4f}°", xlabel="$z_1$ (latent units)")
    ax.locator_params(nbins=4)


@plt.rc_context(STYLE)
def transport_and_curvature(
    surface: tuple[np.ndarray, np.ndarray, np.ndarray],
    loop: np.ndarray,
    arrows: tuple[np.ndarray, np.ndarray],
    views: Sequence[TransportView],
    turns: Sequence[float],
    fields: Sequence[FieldView],
) -> Figure:
    """Parallel transport around a triangle on a surface and in its latent spaces; below, curvature of a decoder.

    Args:
        surface: coordinates x, y, z of the surface in space, each (n, m).
        loop: the walk in space, shape (3 M + 1, 3).
        arrows: points and directions of the carried vector in space, each (m, 3).
        views: the same walk in two latent spaces.
        turns: the angle by which the vector has turned in each of them, in radians.
        fields: curvature of a decoder in two latent spaces.

    Returns:
        The figure, a page wide.
    """
    figure = plt.figure(figsize=(PAGE, 5.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.05])
    spec = above.add_gridspec(1, 3, width_ratios=[1.15, 1, 1])
    space = above.add_subplot(spec[0], projection="3d", computed_zorder=False)
    _draw_in_space(space, surface, loop, arrows)
    planes = [above.add_subplot(spec[1 + number]) for number in range(len(views))]
    for ax, view, turn in zip(planes, views, turns, strict=True):
        _draw_transport(ax, view, turn)
    planes[0].set_ylabel("$z_2$")
    axes = below.subplots(1, len(fields))
    largest = np.nanpercentile(np.abs(np.concatenate([field.values.ravel() for field in fields])), 98)
    for number, (ax, field) in enumerate(zip(axes, fields, strict=True)):
        style = {"cmap": "PuOr_r", "vmin": -largest, "vmax": largest, "shading": "gouraud", "rasterized": True}
        mesh = ax.pcolormesh(field.x, field.y, field.values, **style)
        shown = np.stack([field.x, field.y], -1).reshape(-1, 2)
        square(ax, shown[np.isfinite(shown).all(1)], 0.53)
        for mark, value, letter in zip(field.marks, field.at_marks, "PQRSTUVW", strict=False):
            left = mark[0] > np.mean(ax.get_xlim())
            ax.plot(*mark, "o", color="0.1", markersize=3.5, markeredgecolor="white", markeredgewidth=0.5)
            style = {"ha": "right" if left else "left", "va": "baseline", "path_effects": OUTLINE}
            note(ax, f"{letter}  {value:+.4f}", mark, (-4 if left else 4, 4), **style)
        ax.set(title=field.title, xlabel="$z_1$ (latent units)", ylabel="$z_2$" if number == 0 else "")
        ax.locator_params(nbins=5)
    below.colorbar(mesh, ax=axes, label="Gaussian curvature $K$ (data unit$^{-2}$)", extend="both", aspect=25)
    return figure


def _draw_in_space(
    ax: Axes,
    surface: tuple[np.ndarray, np.ndarray, np.ndarray],
    loop: np.ndarray,
    arrows: tuple[np.ndarray, np.ndarray],
) -> None:
    ax.plot_surface(*surface, color="0.93", alpha=1.0, linewidth=0, antialiased=True, rstride=1, cstride=1, zorder=0)
    ax.plot_wireframe(*surface, color="0.78", linewidth=0.3, rstride=4, cstride=4, zorder=1)
    corners = _draw_sides(ax, loop, zorder=3)
    low, high = loop.min(0), loop.max(0)
    centre, half = 0.5 * (low + high), 0.62 * (high - low).max()
    ax.set(xlim=centre[0] + half * np.array([-1, 1]), ylim=centre[1] + half * np.array([-1, 1]))
    ax.set_zlim(centre[2] - half, centre[2] + half)
    ax.set_box_aspect((1, 1, 1), zoom=1.35)
    ax.set_axis_off()
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal = normal / np.linalg.norm(normal)
    ax.view_init(elev=np.degrees(np.arcsin(normal[2])), azim=np.degrees(np.arctan2(normal[1], normal[0])))
    points, directions = arrows
    size = _ARROW * np.ptp(loop, axis=0).max() / np.linalg.norm(directions, axis=1).max()
    # Arrows and letters lie flat on the picture; arrows in space hide behind the surface that they touch.
    matrix = ax.get_proj()
    flat = [np.stack(proj3d.proj_transform(*x.T, matrix)[:2], 1) for x in (points, points + size * directions, corners)]
    _draw_arrows(ax, flat[0], flat[1])
    _letters(ax, flat[2], flat[2].mean(0), 10.0, 9)
    ax.set_title("on the surface")
