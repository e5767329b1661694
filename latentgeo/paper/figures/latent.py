"""Latent spaces side by side, and what changes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.style import METHOD_COLOURS, PAGE, STYLE


@plt.rc_context(STYLE)
def two_models(
    codes: Sequence[np.ndarray], labels: np.ndarray, class_names: Sequence[str], table: pd.DataFrame
) -> Figure:
    """Two models of the same data: their codes, and their distances between the same pairs.

    Args:
        codes: latent codes of the same images under each model, two arrays (n, d); two coordinates are drawn.
        labels: class of each image, shape (n,).
        class_names: names of the classes.
        table: distances of the two models with the columns ``seed``, ``pair``, ``method`` and ``value``.

    Returns:
        The figure: codes above, Euclidean and geodesic distances below.
    """
    figure, axes = plt.subplots(2, 2, figsize=(PAGE, 6.0), layout="constrained")
    palette = sns.color_palette("colorblind" if len(class_names) <= 10 else "husl", len(class_names))
    for model, (ax, z) in enumerate(zip(axes[0], codes, strict=True)):
        for c, name in enumerate(class_names):
            ax.scatter(*z[labels == c, :2].T, s=7, color=palette[c], label=name, linewidth=0)
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "edgecolor": palette[c]}
            ax.text(*np.median(z[labels == c, :2], axis=0), name, fontsize=8, weight="bold", ha="center", bbox=box)
        ax.set(title=f"codes of model {model + 1}", xlabel="$z_1$", ylabel="$z_2$")
    for ax, method, unit in zip(axes[1], ("euclidean", "geodesic"), ("latent units", "data units"), strict=True):
        wide = table[table["method"] == method].pivot(index="pair", columns="seed", values="value").to_numpy()
        limit = 1.05 * wide.max()
        ax.plot([0, limit], [0, limit], color="0.6", linewidth=0.8, zorder=0)
        ax.scatter(*wide.T, s=7, color=METHOD_COLOURS[method], alpha=0.7, linewidth=0)
        ax.set(xlim=(0, limit), ylim=(0, limit), title=f"{METHOD_NAMES[method]} distances of {len(wide)} pairs")
        ax.set(xlabel=f"model 1 ({unit})", ylabel=f"model 2 ({unit})", aspect="equal")
    return figure


@plt.rc_context(STYLE | {"axes.titlesize": 7.5})
def latent_spaces(
    codes: Mapping[str, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    coordinates: tuple[int, int] = (0, 1),
) -> Figure:
    """Codes of the same images in several latent spaces.

    Args:
        codes: latent codes (n, d) by the title of their panel.
        labels: class of each image, shape (n,).
        class_names: names of the classes; names of one letter are the markers.
        coordinates: the two coordinates that are drawn.

    Returns:
        The figure, a page wide, three panels in a row, each on its own scale; a cross marks the origin.
    """
    rows = -(-len(codes) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(PAGE, 2.35 * rows + 0.3), layout="constrained", squeeze=False)
    palette = sns.color_palette("colorblind" if len(class_names) <= 10 else "husl", len(class_names))
    for ax in axes.flat[len(codes) :]:
        ax.set_axis_off()
    for ax, (title, z) in zip(axes.flat, codes.items(), strict=False):
        ax.plot(0, 0, "+", color="0.2", markersize=12, zorder=3)
        for c, name in enumerate(class_names):
            marker = f"${name}$" if len(name) == 1 else "o"
            points = z[labels == c][:, list(coordinates)]
            ax.scatter(*points.T, s=13, marker=marker, color=palette[c], label=name, linewidth=0)
        ax.set_title(title)
        ax.set_aspect("equal", adjustable="datalim")
    for ax in axes[-1]:
        ax.set_xlabel(f"$z_{{{coordinates[0] + 1}}}$")
    for ax in axes[:, 0]:
        ax.set_ylabel(f"$z_{{{coordinates[1] + 1}}}$")
    handles, names = axes[0, 0].get_legend_handles_labels()
    if any(len(name) > 1 for name in names):
        figure.legend(handles, names, loc="outside lower center", ncols=5, markerscale=2)
    return figure
