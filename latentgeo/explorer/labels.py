"""Classes of the points: their names, colours and markers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from latentgeo.extras import require

MARKERS = ("o", "s", "^")  # circles, squares, triangles: a new one when the colours are used up
PLAIN = "#3b6ea5"


@dataclasses.dataclass(frozen=True)
class Classes:
    """The class of each point, and how each class is drawn.

    Attributes:
        index: class of each point, shape (n,).
        names: of the classes that occur; without labels there is one, which has an empty name.
        colours: of the classes, as hexadecimal numbers.
        markers: of the classes, among ``MARKERS``.
    """

    index: np.ndarray
    names: list[str]
    colours: list[str]
    markers: list[str]

    def name(self, row: int) -> str:
        """What a point is called: its row and its class."""
        name = self.names[self.index[row]]
        return f"{row} ({name})" if name else str(row)


def _values(labels: Sequence[object] | np.ndarray | Tensor, n: int) -> np.ndarray:
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.shape != (n,):
        raise ValueError(f"labels: expected one label for each of the {n} points, got shape {values.shape}")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.round(values)).any():
            raise ValueError("labels: expected classes, got fractions or NaN; cut a continuous quantity into bins")
        values = values.astype(int)
    return values if values.dtype.kind in "iub" else values.astype(str)


def classes(
    labels: Sequence[object] | np.ndarray | Tensor | None, n: int, class_names: Sequence[str] | None = None
) -> Classes:
    """Names, colours and markers of the classes of n points.

    Args:
        labels: class of each point, integers or names; or None.
        n: the number of points.
        class_names: names of the classes 0, 1, …, for integer labels.

    Raises:
        ImportError: seaborn, whose colours they have, is not installed.
        ValueError: there is not one label a point, labels are not classes, or there are more than 30 classes, which
            cannot be distinguished.

    Example:
        >>> found = classes(["T", "B", "T"], 3)
        >>> found.index.tolist(), found.names, found.markers
        ([1, 0, 1], ['B', 'T'], ['o', 'o'])
    """
    if labels is None:
        return Classes(np.zeros(n, dtype=np.uint8), [""], [PLAIN], [MARKERS[0]])
    values, index = np.unique(_values(labels, n), return_inverse=True)
    if class_names is None:
        names = [str(value) for value in values]
    elif values.dtype.kind in "iub" and values.min() >= 0 and values.max() < len(class_names):
        names = [str(class_names[int(value)]) for value in values]
    else:
        raise ValueError(
            f"class_names: expected a name for each of the labels {', '.join(map(str, values[:12]))}, as integers from "
            f"0, got {len(class_names)} names"
        )
    require("a view with labels", "explorer", "matplotlib", "seaborn")
    from latentgeo.style import COLOURS

    palette = COLOURS.as_hex()
    if len(names) > len(palette) * len(MARKERS):
        raise ValueError(
            f"labels: expected at most {len(palette) * len(MARKERS)} classes, which is what colours and markers can "
            f"distinguish, got {len(names)}; merge the rare ones"
        )
    kinds = range(len(names))
    colours = [palette[k % len(palette)] for k in kinds]
    return Classes(index.astype(np.uint8), names, colours, [MARKERS[k // len(palette)] for k in kinds])
