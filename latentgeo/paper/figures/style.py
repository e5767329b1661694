"""What all figures share: the width of a column, colours that everyone can distinguish, and how a figure is saved."""

from __future__ import annotations

import io
from collections.abc import Collection

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from latentgeo.paper.paths import figures_dir
from latentgeo.paper.reproduction.manifest import Source, save_files


def save(figure: Figure, name: str, sources: Collection[Source]) -> Figure:
    """Save a figure as PDF and PNG in the folder of figures, with a record of where it comes from, and close it.

    Args:
        figure: the figure.
        name: file name without ending.
        sources: the models that it shows, see :func:`latentgeo.paper.reproduction.manifest.save_files`.

    Returns:
        The figure, so that a notebook shows it as the value of its cell.
    """
    files = {}
    # No date inside, so that the same figure is the same file.
    for ending, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, metadata=metadata, bbox_inches="tight")
        files[f"{name}.{ending}"] = buffer.getvalue()
    save_files(figures_dir(), files, sources)
    plt.close(figure)
    return figure
