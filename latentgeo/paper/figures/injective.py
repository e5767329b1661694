"""What it looks like when a decoder is not injective."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from latentgeo.style import COLOURS, COLUMN, STYLE

_LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))


@plt.rc_context(STYLE)
def collisions(t: np.ndarray, images: Mapping[str, np.ndarray], distances: Mapping[str, np.ndarray]) -> Figure:
    """Images along a line in latent space under several decoders, and how far they are from the line's first image.

    Where a curve comes back to zero, two codes have the same image.

    Args:
        t: the coordinate along the line, shape (M,), ascending.
        images: for each decoder some images at coordinates that divide the line evenly, from its first point to its
            last, shape (n, height, width).
        distances: for each of them the distance in data space from the first image, in data units, shape (M,).

    Returns:
        The figure, a column wide.
    """
    rows, n = len(images), len(next(iter(images.values())))
    step = (t[-1] - t[0]) / (n - 1)
    ends, size = (t[0] - step / 2, t[-1] + step / 2), (COLUMN, 1.75 + 0.52 * rows)
    figure, axes = plt.subplots(rows + 1, 1, figsize=size, height_ratios=[*[1] * rows, 3.6], layout="constrained")
    for ax, (name, strip), colour in zip(axes, images.items(), COLOURS, strict=False):
        low, high = np.percentile(strip, (0.5, 99.5))
        for k, image in enumerate(strip):
            centre = t[0] + k * step
            extent = (centre - 0.46 * step, centre + 0.46 * step, 0, 0.92 * step)
            ax.imshow(image, cmap="gray_r", vmin=low, vmax=high, extent=extent, interpolation="nearest")
        ax.set(xlim=ends, ylim=(0, 0.92 * step), aspect="equal")
        ax.set_axis_off()
        ax.set_title(name, loc="left", color=colour, pad=2)
    for (name, distance), colour, line in zip(distances.items(), COLOURS, _LINES, strict=False):
        axes[-1].plot(t, distance, color=colour, linestyle=line, linewidth=1.4, label=name)
    axes[-1].axhline(0, color="0.6", linewidth=0.6)
    axes[-1].set(xlabel="first latent coordinate", ylabel="distance from the\nfirst image (data units)")
    axes[-1].set_xlim(*ends)
    return figure
