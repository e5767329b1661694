"""What several figures draw alike: texts beside points, and square windows."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes


def note(ax: Axes, text: str, point: np.ndarray | tuple[float, float], offset: object, **style: object) -> None:
    """Write a small text beside a point, its middle moved by an offset in points unless the style says otherwise."""
    small = {"fontsize": 7, "ha": "center", "va": "center"}
    ax.annotate(text, point, offset, textcoords="offset points", **small | style)


def square(ax: Axes, shown: np.ndarray, reach: float) -> None:
    """A square window around points of shape (n, 2), each half of it this share of the larger of their two ranges."""
    low, high = shown.min(0), shown.max(0)
    ends = reach * (high - low).max() * np.array([-1, 1])
    x, y = 0.5 * (low + high)
    ax.set(xlim=x + ends, ylim=y + ends)
    ax.set_aspect("equal")
