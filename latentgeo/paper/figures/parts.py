"""What several figures draw alike: texts beside points, names of groups, and square windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes

OUTLINE = [patheffects.withStroke(linewidth=2.2, foreground="white")]


def note(ax: Axes, text: str, point: np.ndarray | tuple[float, float], offset: object, **style: object) -> None:
    """Write a small text beside a point, its middle moved by an offset in points unless the style says otherwise."""
    small = {"fontsize": 7, "ha": "center", "va": "center"}
    ax.annotate(text, point, offset, textcoords="offset points", **small | style)


def write_names(ax: Axes, codes: np.ndarray, labels: np.ndarray, names: Sequence[str], width: float = 1.0) -> None:
    """Names at the median codes of their types, moved until no two of a given width would overlap."""
    numbers = np.unique(labels)
    shape = np.array([width, 1.0])
    places = np.stack([np.median(codes[labels == number], axis=0) for number in numbers]) / shape
    least = 0.05 * np.ptp(codes, axis=0).max()
    for _ in range(200):
        between = places[:, None] - places[None]
        distance = np.linalg.norm(between, axis=2) + np.eye(len(places)) * 1e9
        close = np.maximum(least - distance, 0.0) / np.maximum(distance, 1e-9)
        places = places + 0.25 * (between * close[..., None]).sum(1)
    style = {"fontsize": 8, "weight": "bold", "path_effects": OUTLINE, "ha": "center", "va": "center", "zorder": 6}
    for number, place in zip(numbers, places * shape, strict=True):
        ax.text(*place, names[number], **style)


def square(ax: Axes, shown: np.ndarray, reach: float) -> None:
    """A square window around points of shape (n, 2), each half of it this share of the larger of their two ranges."""
    low, high = shown.min(0), shown.max(0)
    ends = reach * (high - low).max() * np.array([-1, 1])
    x, y = 0.5 * (low + high)
    ax.set(xlim=x + ends, ylim=y + ends)
    ax.set_aspect("equal")
