"""Charts of flat and curved surfaces, and how far Euclidean distances are from geodesic ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.paper.figures.parts import note
from latentgeo.style import COLOURS, METHOD_COLOURS, PAGE, STYLE

_LINE = {"color": "0.55", "linewidth": 0.6, "zorder": 1}
_EVERY = 20
_MARKERS = {"euclidean": "s--", "geodesic": "o-"}


@plt.rc_context(STYLE)
def flatness(
    points: Sequence[np.ndarray],
    meshes: Sequence[np.ndarray],
    colour: np.ndarray,
    penalised: Mapping[str, tuple[np.ndarray, np.ndarray]],
    agreement: pd.DataFrame,
    caps: pd.Series,
    marks: Mapping[str, float],
) -> Figure:
    """Where Euclidean distance means something: a flat surface in three charts, and how curvature and training matter.

    Args:
        points: the same points on the surface (n, 3), in a latent chart (n, 2) and in a Euclidean chart (n, 2).
        meshes: a fine rectangular mesh of the Euclidean chart in the same places: (a, b, 3), (a, b, 2) and (a, b, 2),
            of which every twentieth line is drawn.
        colour: a number for each point, the same in the three panels, shape (n,).
        penalised: Euclidean distances, scaled to data units, and geodesic ones, each (P,), by name of the model.
        agreement: mean CV over models by weight of the isometry penalty (index) and method (columns).
        caps: stress of spherical caps by radius in radians.
        marks: stress of other surfaces by name, drawn as horizontal lines.

    Returns:
        The figure, a page wide, in two rows.
    """
    figure = plt.figure(figsize=(PAGE, 4.7), layout="constrained")
    panels = figure.subplot_mosaic("abc;def", per_subplot_kw={"a": {"projection": "3d"}})
    top = [panels[letter] for letter in "abc"]
    titles = ("a  image of the decoder: flat", "b  a latent chart", "c  chart from geodesic distances")
    for ax, title, dots, mesh in zip(top, titles, points, meshes, strict=True):
        for curve in (*mesh[::_EVERY], *mesh[:, ::_EVERY].swapaxes(0, 1)):
            ax.plot(*curve.T, **_LINE)
        in_space = {"depthshade": False} if dots.shape[1] == 3 else {}
        ax.scatter(*dots.T, c=colour, cmap="viridis", s=13, linewidth=0, zorder=2, **in_space)
        ax.set_title(title, loc="left")
    _in_space(top[0], meshes[0])
    top[1].set(xlabel="$z_1$ (latent units)", ylabel="$z_2$ (latent units)")
    top[2].set(xlabel="arc length (data units)", ylabel="height (data units)")
    top[2].set_aspect("equal", adjustable="datalim")
    _scatter(panels["d"], penalised)
    _agreement(panels["e"], agreement)
    _stress(panels["f"], caps, marks)
    return figure


def _in_space(ax: Axes, mesh: np.ndarray) -> None:
    """A translucent sheet under the points, coloured along its first direction, seen from where it does not hide."""
    colours = np.broadcast_to(plt.get_cmap("viridis")(np.linspace(0, 1, len(mesh)))[:, None], (*mesh.shape[:2], 4))
    stride = {"rstride": _EVERY // 4, "cstride": _EVERY}
    ax.plot_surface(*np.moveaxis(mesh, 2, 0), facecolors=colours, alpha=0.3, linewidth=0, shade=False, **stride)
    ax.set_axis_off()
    ax.view_init(elev=58, azim=60)
    ax.set_box_aspect(np.ptp(mesh, axis=(0, 1)), zoom=1.45)


def _scatter(ax: Axes, penalised: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    values = np.concatenate([distances for both in penalised.values() for distances in both])
    limits = 0.9 * values.min(), 1.05 * values.max()
    ax.plot(limits, limits, color="0.6", linewidth=0.8, zorder=0)
    styles = ({"color": COLOURS[1], "marker": "s"}, {"color": COLOURS[0], "marker": "o"})
    for (name, (euclidean, geodesic)), style in zip(penalised.items(), styles, strict=True):
        ax.scatter(geodesic, euclidean, s=9, alpha=0.75, linewidth=0, label=name, **style)
    ax.set(xlim=limits, ylim=limits, xlabel="geodesic (data units)", ylabel="Euclidean × factor (data units)")
    ax.set_title("d  without and with penalty", loc="left")
    ax.set_aspect("equal")
    ax.legend(loc="lower right", handletextpad=0.1, borderpad=0.1, borderaxespad=0.2)


def _agreement(ax: Axes, agreement: pd.DataFrame) -> None:
    places = np.arange(len(agreement))
    for method in agreement.columns:
        ax.plot(places, 100 * agreement[method], _MARKERS[method], color=METHOD_COLOURS[method], markersize=4.5)
        place, offset = (0, 100 * agreement[method].iloc[0]), (7, 6 if method == "euclidean" else -6)
        note(ax, METHOD_NAMES[method], place, offset, ha="left", color=METHOD_COLOURS[method])
    ax.set_xticks(places, [f"{weight:g}" for weight in agreement.index])
    ax.set(xlim=(-0.3, places[-1] + 0.3), ylim=(0, 125 * agreement.to_numpy().max()))
    ax.set(xlabel="weight λ of the penalty (nats)", ylabel="mean CV over models (%)")
    ax.set_title("e  agreement between trainings", loc="left")


def _stress(ax: Axes, caps: pd.Series, marks: Mapping[str, float]) -> None:
    radii = caps.index.to_numpy()
    ax.loglog(radii, caps, "o-", color=COLOURS[2], markersize=4)
    guide = caps.iloc[0] * (radii / radii[0]) ** 2
    ax.loglog(radii, 0.35 * guide, ":", color="0.4", linewidth=1)
    middle = len(radii) // 2
    note(ax, "$r^2$", (radii[middle], 0.35 * guide[middle]), (6, -5), ha="left", va="baseline", color="0.3")
    for name, value in marks.items():
        ax.axhline(value, color="0.35", linewidth=0.8, linestyle="--", zorder=0)
        note(ax, name, (radii[0], value), (0, 2.5), ha="left", va="bottom", color="0.2")
    place = (radii[middle], caps.iloc[middle])
    note(ax, "cap of a sphere", place, (-6, 4), ha="right", va="baseline", color=COLOURS[2])
    ax.set(xlabel="radius r of the cap (rad)", ylabel="stress of the best flat chart")
    ax.set_title("f  curvature leaves stress", loc="left")
