"""Every figure of the notebooks, one function each: drawn at the width of a column, in colours that all can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentgeo.paths import figures_dir

COLUMN = 3.25  # inches, a column of the conference's two
PAGE = 6.75  # inches, both columns
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
}
_COLOURS = sns.color_palette("colorblind")
METHOD_NAMES = {
    "euclidean": "Euclidean",
    "geodesic": "geodesic",
    "geodesic_one_decoder": "geodesic (one decoder)",
    "straight_line": "straight latent line",
    "ambient_chord": "chord in data space",
    "data": "distance of the data",
}
_METHOD_COLOURS = {"euclidean": _COLOURS[1], "geodesic": _COLOURS[0]}


def save(figure: Figure, name: str) -> Figure:
    """Save a figure as PDF and PNG in the folder of figures, and close it.

    Args:
        figure: the figure.
        name: file name without ending.

    Returns:
        The figure, so that a notebook shows it as the value of its cell.
    """
    folder = figures_dir()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.pdf", folder / f"{name}.png"]
    # No date inside, so that the same figure is the same file.
    figure.savefig(paths[0], metadata={"CreationDate": None}, bbox_inches="tight")
    figure.savefig(paths[1], bbox_inches="tight")
    plt.close(figure)
    return figure


def _against(
    axes: Axes, first: np.ndarray, second: np.ndarray, colour: object, title: str, labels: tuple[str, str]
) -> None:
    """Scatter of one model's numbers against the other's, with the line of agreement."""
    limit = 1.05 * max(first.max(), second.max())
    axes.plot([0, limit], [0, limit], color="0.6", linewidth=0.8, zorder=0)
    axes.scatter(first, second, s=7, color=colour, alpha=0.7, linewidth=0)
    axes.set(xlim=(0, limit), ylim=(0, limit), title=title, xlabel=labels[0], ylabel=labels[1])
    axes.set_aspect("equal")


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
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(PAGE, 6.0), layout="constrained")
        palette = sns.color_palette("colorblind" if len(class_names) <= 10 else "husl", len(class_names))
        for model, (ax, z) in enumerate(zip(axes[0], codes, strict=True)):
            for c, name in enumerate(class_names):
                ax.scatter(*z[labels == c, :2].T, s=7, color=palette[c], label=name, linewidth=0)
                ax.annotate(
                    name,
                    np.median(z[labels == c, :2], axis=0),
                    fontsize=8,
                    weight="bold",
                    ha="center",
                    bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "edgecolor": palette[c]},
                )
            ax.set(title=f"codes of model {model + 1}", xlabel="$z_1$", ylabel="$z_2$")
        for ax, method, unit in zip(axes[1], ("euclidean", "geodesic"), ("latent units", "data units"), strict=True):
            wide = table[table["method"] == method].pivot(index="pair", columns="seed", values="value").to_numpy()
            title = f"{METHOD_NAMES[method]} distances of {len(wide)} pairs"
            models = (f"model 1 ({unit})", f"model 2 ({unit})")
            _against(ax, wide[:, 0], wide[:, 1], _METHOD_COLOURS[method], title, models)
    return figure


def invariance(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Figure:
    """Relative change of distances under a change of latent coordinates, by method.

    Args:
        before: distances of pairs by method, each of shape (P,).
        after: the same pairs in the new coordinates.

    Returns:
        The figure, a panel for each method, all on the same vertical scale.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(before), figsize=(PAGE, 2.3), sharey=True, layout="constrained", squeeze=False
        )
        for ax, (method, values) in zip(axes[0], before.items(), strict=True):
            change = 100 * (after[method] / values - 1)
            ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
            ax.scatter(values, change, s=10, color=_METHOD_COLOURS.get(method, _COLOURS[7]), linewidth=0)
            unit = "latent units" if method == "euclidean" else "data units"
            ax.set(xlim=(0, None), title=METHOD_NAMES[method], xlabel=f"distance before ({unit})")
            ax.annotate(
                f"largest: {np.abs(change).max():.2g} %",
                (0.98, 0.96),
                xycoords="axes fraction",
                ha="right",
                va="top",
                fontsize=7,
            )
        axes[0, 0].set_ylabel("relative change (%)")
    return figure


def cv_histogram(cv: pd.DataFrame, models: int, title: str) -> Figure:
    """Coefficients of variation of the pairs' distances over models, geodesic against Euclidean, as in the paper.

    Args:
        cv: one row for each pair with the columns ``euclidean`` and ``geodesic``, see
            :func:`latentgeo.coefficient_of_variation`.
        models: the number of models S.
        title: what the models are.

    Returns:
        The figure, a column wide.
    """
    with plt.rc_context(_STYLE):
        figure, ax = plt.subplots(figsize=(COLUMN, 2.3), layout="constrained")
        shown = 100 * cv[["euclidean", "geodesic"]]
        bins = np.linspace(0, shown.to_numpy().max() * 1.02, 26)
        for method in shown:
            colour = _METHOD_COLOURS[method]
            ax.hist(shown[method], bins=bins, color=colour, alpha=0.55, label=METHOD_NAMES[method])
            ax.axvline(shown[method].mean(), color=colour, linewidth=1.2, linestyle="--")
        ax.set(
            title=f"{title}, {models} models, {len(cv)} pairs",
            xlabel="coefficient of variation over models (%)",
            ylabel="pairs",
        )
        ax.legend(title="distance (dashed: mean)", title_fontsize=7)
    return figure


def reliability(comparison: pd.DataFrame, title: str) -> Figure:
    """Mean coefficient of variation of every method, with intervals over models.

    Args:
        comparison: from :func:`latentgeo.compare_reliability`.
        title: what the models are.

    Returns:
        The figure, a column wide.
    """
    with plt.rc_context(_STYLE):
        figure, ax = plt.subplots(figsize=(COLUMN, 2.1), layout="constrained")
        shown = comparison.drop(index="data", errors="ignore")[::-1]
        for height, (method, row) in enumerate(shown.iterrows()):
            colour = _METHOD_COLOURS.get(method, "0.35")
            low, high = max(row.mean_cv_low, 0.0), row.mean_cv_high
            ax.plot([100 * low, 100 * high], [height, height], color=colour, linewidth=1.2)
            ax.plot(100 * row.mean_cv, height, "o", color=colour, markersize=4)
        ax.set_yticks(range(len(shown)), [METHOD_NAMES.get(method, method) for method in shown.index])
        ax.set(xlim=(0, None), xlabel="mean coefficient of variation (%), 95 % interval")
        ax.set_title(f"{title}, {int(shown['models'].iloc[0])} models", loc="right")
        ax.grid(axis="x", color="0.9")
    return figure


def error_against_time(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Relative length error against time of several solvers, a panel for each decoder.

    Args:
        tables: from :func:`latentgeo.experiments.benchmark.error_against_time`, by what the decoder is.

    Returns:
        The figure, a page wide.
    """
    solvers = list(dict.fromkeys(solver for table in tables.values() for solver in table["solver"]))
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(tables), figsize=(PAGE, 2.6), sharey=True, layout="constrained", squeeze=False
        )
        for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
            for number, solver in enumerate(solvers):
                part = table[table["solver"] == solver]
                colour, marker = _COLOURS[(0, 1, 2, 4)[number % 4]], "osD^"[number % 4]
                ax.plot(part["seconds"], part["mean_error"], marker + "-", color=colour, markersize=4, label=solver)
            ax.set(xscale="log", yscale="log", title=title, xlabel="time (s)")
            ax.grid(color="0.92")
        axes[0, 0].set_ylabel("mean relative length error")
        handles = {
            label: handle for ax in axes[0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def scaling(table: pd.DataFrame, fitted: pd.Series) -> Figure:
    """Time of geodesics as one size of the problem grows, with the fitted exponents.

    Args:
        table: from :func:`latentgeo.experiments.benchmark.scaling`.
        fitted: from :func:`latentgeo.experiments.benchmark.exponents`.

    Returns:
        The figure, a page wide, a panel for each variable.
    """
    names = {"P": "pairs $P$", "N": "segments $N$", "d": "latent dimensions $d$", "K": "decoders $K$"}
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(fitted), figsize=(PAGE, 2.0), sharey=True, layout="constrained", squeeze=False
        )
        for ax, (variable, power) in zip(axes[0], fitted.items(), strict=True):
            part = table[table["variable"] == variable]
            ax.plot(part["size"], part["seconds"], "o", color=_COLOURS[0], markersize=4)
            middle = np.exp(np.log(part[["size", "seconds"]]).mean())
            line = middle["seconds"] * (part["size"] / middle["size"]) ** power
            ax.plot(part["size"], line, color="0.5", linewidth=0.9, zorder=0)
            ax.set(xscale="log", yscale="log", title=f"exponent {power:.2f}", xlabel=names[variable])
            ax.set_xticks(part["size"], [f"{size:g}" for size in part["size"]])
            ax.xaxis.minorticks_off()
            ax.grid(axis="y", color="0.92")
        axes[0, 0].set_ylabel("time (s)")
    return figure


def calibration(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """True error of every geodesic against the error that its certificate claims.

    Args:
        tables: from :func:`latentgeo.experiments.benchmark.calibration`, by what the decoder is.

    Returns:
        The figure, a column wide: points below the diagonal are covered by their claim.
    """
    with plt.rc_context(_STYLE):
        figure, ax = plt.subplots(figsize=(COLUMN, 2.8), layout="constrained")
        floor = 1e-7
        for number, (label, table) in enumerate(tables.items()):
            colour, marker = _COLOURS[(0, 1, 2, 4)[number % 4]], "osD^"[number % 4]
            x, y = table["claimed"].clip(lower=floor), table["true"].clip(lower=floor)
            ax.plot(x, y, marker, color=colour, markersize=3, alpha=0.6, markeredgewidth=0, label=label)
        limits = np.array([floor, max(ax.get_xlim()[1], ax.get_ylim()[1])])
        ax.plot(limits, limits, color="0.4", linewidth=0.9, zorder=0)
        ax.annotate("true = claimed", limits[[0, 0]] * 10, fontsize=7, ha="right", va="bottom", color="0.3")
        ax.set(xscale="log", yscale="log", xlabel="claimed relative error", ylabel="true relative error")
        ax.grid(color="0.92")
        ax.legend(loc="upper left")
    return figure


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
    with plt.rc_context(_STYLE | {"axes.titlesize": 7.5}):
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
