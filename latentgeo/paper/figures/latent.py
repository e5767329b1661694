"""Latent spaces side by side, and what changes between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from latentgeo.agreement.pairs import METHOD_NAMES
from latentgeo.agreement.reliability import coefficient_of_variation
from latentgeo.paper.figures.parts import write_names
from latentgeo.style import METHOD_COLOURS, PAGE, STYLE


@plt.rc_context(STYLE)
def two_models(
    codes: Sequence[np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    table: pd.DataFrame,
    class_colours: Sequence[str] | None = None,
) -> Figure:
    """Two models of the same data: their codes, and the distances between their classes.

    Args:
        codes: latent codes of the same data under each model, two arrays (n, d); two coordinates are drawn.
        labels: class of each datum, shape (n,).
        class_names: names of the classes.
        table: distances of the two models with the columns ``seed``, ``pair``, ``method`` and ``value``.
        class_colours: the classes' colours; a palette that everyone can distinguish by default.

    Returns:
        The figure, a page wide: codes above; below, on logarithmic axes, each distance under one model against the
        other, Euclidean and geodesic. What lies off the grey line disagrees, on the same relative scale in both.
    """
    figure = plt.figure(figsize=(PAGE, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.12, 1.0))
    colours = class_colours or sns.color_palette("colorblind" if len(class_names) <= 10 else "husl", len(class_names))
    for model, (ax, z) in enumerate(zip(above.subplots(1, 2), codes, strict=True)):
        for c, name in enumerate(class_names):
            ax.scatter(*z[labels == c, :2].T, s=7, color=colours[c], label=f"{c + 1}  {name}", linewidth=0)
        write_names(ax, z[:, :2], labels, [str(c + 1) for c in range(len(class_names))])
        ax.set(title=f"training {model + 1}", xlabel="$z_1$", ylabel="$z_2$")
        ax.set_aspect("equal", adjustable="datalim")
    above.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, markerscale=1.6)
    wide = table.pivot(index="pair", columns=["method", "seed"], values="value")
    reach = max(wide[method].to_numpy().max() / wide[method].to_numpy().min() for method in ("euclidean", "geodesic"))
    for ax, method, unit in zip(below.subplots(1, 2), ("euclidean", "geodesic"), ("latent", "data"), strict=True):
        both = wide[method].to_numpy()
        middle, half = np.sqrt(both.max() * both.min()), 1.1 * np.sqrt(reach)
        ends = (middle / half, middle * half)
        ax.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
        ax.scatter(*both.T, s=11, color=METHOD_COLOURS[method], alpha=0.8, linewidth=0)
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        cv = 100 * coefficient_of_variation(table[table["method"] == method])[method].mean()
        ax.set(title=f"{METHOD_NAMES[method]} distances: CV {cv:.1f} %")
        ax.set(xlabel=f"training 1 ({unit} units)", ylabel=f"training 2 ({unit} units)")
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
