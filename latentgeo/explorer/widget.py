"""The explorer as a widget: a thin view in the browser of what is computed here."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import TYPE_CHECKING

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from latentgeo.explorer.decoded import frames, most_changing
from latentgeo.explorer.plane import axis_names
from latentgeo.explorer.selection import Selection
from latentgeo.style import COLOURS

if TYPE_CHECKING:
    from latentgeo.explorer.explorer import Explorer

_HERE = files("latentgeo.explorer")


class ExplorerWidget(anywidget.AnyWidget):
    """Points to click, and the answer to two clicks.

    Attributes:
        selected: rows of the chosen points, none to two; written by the view, or by you.
        axes: numbers of the two axes that are shown, see :func:`latentgeo.explorer.plane.axis_names`; written likewise.
        answer: what is drawn for the last two: ``pair``, ``rows`` (distances as text), ``curves`` in the plane, the
            ``window`` around them and all points, and ``strips`` (images) or ``trends`` (features); or ``error`` in
            words.
        scene: what stays the same until other axes are chosen: points, background, axes, legend and caption.

    A message ``{"row": row}`` from the view is answered by that data point, as image or by its largest features.
    """

    _esm = (_HERE / "explorer.js").read_text("utf-8")
    _css = (_HERE / "explorer.css").read_text("utf-8")
    selected = traitlets.List(traitlets.Int(), maxlen=2).tag(sync=True)
    axes = traitlets.List(traitlets.Int(), minlen=2, maxlen=2).tag(sync=True)
    answer = traitlets.Dict().tag(sync=True)
    scene = traitlets.Dict().tag(sync=True)

    def __init__(self, view: Explorer) -> None:
        self._explorer, self._found = view, view.default_selection
        super().__init__(
            selected=list(self._found.pair),
            axes=list(view.plane.shown),
            scene=_scene(view),
            answer=_answer(view, self._found),
        )
        self.observe(self._on_selected, "selected")
        self.observe(self._on_axes, "axes")
        self.on_msg(self._on_row)

    def _on_selected(self, change: dict[str, object]) -> None:
        if len(change["new"]) < 2:
            return
        try:
            self._found = self._explorer.select(*change["new"])
            self.answer = _answer(self._explorer, self._found)
        except Exception as error:  # in a message handler it would go to a log that nobody reads
            self.answer = {"pair": list(change["new"]), "error": f"{type(error).__name__}: {error}"}

    def _on_axes(self, change: dict[str, object]) -> None:
        self._explorer = self._explorer._along(tuple(change["new"]))
        with self.hold_sync():
            self.scene = _scene(self._explorer)
            if "error" not in self.answer:
                self.answer = _answer(self._explorer, self._found)

    def _on_row(self, _: object, message: dict[str, int], __: object) -> None:
        datum = self._explorer._datum(message["row"])
        if isinstance(datum, Tensor):
            self.send(message | {"shape": list(datum.shape)}, [_bytes(datum.numpy())])
        elif datum is not None:
            self.send(message | {"features": [(name, f"{value:.3g}") for name, value in datum]})


def _bytes(images: np.ndarray) -> bytes:
    return (255 * np.nan_to_num(images)).round().astype("u1").tobytes()


def _finite(values: Tensor) -> list[float | None]:
    """Numbers as JSON has them, None for those that are not finite."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _scene(view: Explorer) -> dict[str, object]:
    classes, (low, high) = view.classes, view.levels
    shade = np.nan_to_num((view.background - low) / max(high - low, 1e-12), nan=0.0).clip(0.0, 1.0)
    return {
        "places": view.places[view.shown].astype("<f4").tobytes(),
        "rows": view.shown.astype("<i4").tobytes(),
        "index": classes.index[view.shown].astype("u1").tobytes(),
        "classes": [
            {"name": name, "colour": colour, "marker": marker}
            for name, colour, marker in zip(classes.names, classes.colours, classes.markers, strict=True)
        ],
        "shade": (255 * shade).round().astype("u1").tobytes(),
        "side": len(shade),
        "levels": [low, high],
        "window": view.window.tolist(),
        "axes": list(view.plane.names),
        "menu": axis_names(*view.codes.shape),
        "caption": view.caption,
    }


def _answer(view: Explorer, selection: Selection) -> dict[str, object]:
    lines, window = view._drawn_curves(selection)
    answer = {
        "pair": list(selection.pair),
        "names": [view.classes.name(row) for row in selection.pair],
        "ends": view.places[list(selection.pair)].tolist(),
        "curves": [line.tolist() for line in lines],
        "window": window.tolist(),
        "rows": selection.rows(),
        "converged": selection.converged,
    }
    decoded, originals = (selection.decoded, selection.decoded_straight), selection.originals
    if view.pictures.kind == "images":
        chosen = frames(len(decoded[0]))
        curves = [curve[chosen] for curve in decoded]
        if originals is not None:
            curves = [torch.cat([originals[:1], curve, originals[1:]]) for curve in curves]
        images = torch.stack(curves).numpy()  # [2, frames, h, w, channels]
        answer["strips"], answer["shape"] = _bytes(images), list(images.shape[1:])
        answer["originals"] = originals is not None
    else:
        answer["trends"] = [
            {
                "name": view.pictures.names[feature],
                "colour": colour,
                "values": [_finite(curve[:, feature]) for curve in decoded],
                "originals": [] if originals is None else _finite(originals[:, feature]),
            }
            for feature, colour in zip(most_changing(*decoded), COLOURS.as_hex(), strict=False)
        ]
    return answer
