"""What all figures share: the width of a column, colours that everyone can distinguish, and how a figure is saved."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from latentgeo.paper.paths import figures_dir
from latentgeo.paper.reproduction.manifest import write_record
from latentgeo.style import COLOURS

METHOD_NAMES = {
    "euclidean": "Euclidean",
    "geodesic": "geodesic",
    "geodesic_one_decoder": "geodesic (one decoder)",
    "straight_line": "straight latent line",
    "ambient_chord": "chord in data space",
    "data": "distance of the data",
}
METHOD_COLOURS = {"euclidean": COLOURS[1], "geodesic": COLOURS[0]}


def save(figure: Figure, name: str) -> Figure:
    """Save a figure as PDF and PNG in the folder of figures, with a record of where it comes from, and close it.

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
    write_record(*paths)
    plt.close(figure)
    return figure
