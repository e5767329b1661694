"""An interactive view of a latent space, and the same as a picture where nothing can be clicked."""

from __future__ import annotations

import base64
import copy
import functools
import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from latentgeo.adapters.arrays import tensor_of
from latentgeo.adapters.model import POINTS, is_anndata, labels_of, latent_model, takes_anndata
from latentgeo.agreement.pairs import measure_pairs
from latentgeo.explorer.decoded import Pictures, largest
from latentgeo.explorer.labels import classes
from latentgeo.explorer.plane import latent_plane, plane_of
from latentgeo.explorer.selection import Selection
from latentgeo.extras import require
from latentgeo.geometry.arrays import is_array, to_tensor
from latentgeo.geometry.curve import straight_line
from latentgeo.geometry.decoder import Decoder, as_decoder
from latentgeo.geometry.geodesic.starts import DataGraph
from latentgeo.geometry.likelihood import FisherRaoDecoder, StatisticalDecoder
from latentgeo.geometry.metric import volume_element
from latentgeo.progress import clickable

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

    from latentgeo.explorer.widget import ExplorerWidget

REMEDY = "to click points yourself: pip install latentgeo[explorer]"
_SHOWN = 3000  # points that are drawn; more hide each other
_NUMBERS = 2**24  # that the derivatives on the background's grid may take
_SIDES = (16, 64)  # points along a side of that grid, at least and at most
_MARGIN = 0.06  # of the codes' range, on either side
_CANDIDATES = 500  # points of a class among which its medoid is looked for


class Explorer:
    r"""Look around in a model's latent space: click two points, see the geodesic between them and what it decodes to.

    Drag to pan; the wheel, the keys + and - and the buttons zoom, 0 shows all. A point that is hovered shows its datum,
    or its largest features. The arrow keys and Enter choose points too, Escape clears. Other axes are in the menu.

    Shown are the codes of the data over the log volume element :math:`\log \sqrt{\det G(z)}`; of two points that are
    clicked the geodesic (solid) and the straight line (dashed), both decoded, beside the two originals, and the
    distances with their units and certificates. A third click starts again. In a notebook that is run in batch,
    exported or shown on a web page it is a picture of two points chosen beforehand. Nothing is written to the model.
    From a script, save the picture of rows
    0 and 5 by

    ``lg.explore(model, x).figure(0, 5).savefig("pair.png")``

    Flat vectors of pixels, where the data are flat too, are drawn as curves of features. To see images, say their
    shape, such as one channel of 8 by 8 pixels: ``show=lambda z: model.decode(z).view(-1, 1, 8, 8)``.

    Args:
        model: what :func:`latentgeo.latent_model` takes: a VAE, a :class:`latentgeo.LatentModel`, a pair
            ``(encode, decoder)``, or an object with the methods ``encode`` and ``decode``.
        data: what the encoder takes, shape (n, *event), or cells as AnnData: whole where the encoder takes them so, as
            that of :func:`latentgeo.from_scvi`, else their ``.X``. At most 3,000 rows, evenly spaced, are drawn.
        labels: class of each row, integers or names, at most 30 different ones; or for an AnnData the name of a column
            of ``.obs``.
        class_names: names of the classes 0, 1, …, for integer labels.
        axes: the two latent coordinates that are shown, or ``"pca"`` for the first two principal axes of the codes; by
            default the coordinates for d = 2, else the principal axes. The background is then that of the plane of
            these axes through the mean of the codes: the log area element.
        points: what stands for two data points that are clicked, see :meth:`latentgeo.LatentModel.points`: by default
            the points of the image nearest to them, between which distances are identified. Curves then end near the
            codes that are drawn, not at them.
        kind: how decoded points are drawn: ``"images"`` (film strips), ``"features"`` (lines of the six that change
            most along the curves), or ``"auto"`` to decide by their shape.
        feature_names: names of the features, as many as the decoder gives; of AnnData those of its genes by default.
        show: latent points (B, d) -> what is drawn instead of the decoder's output, for instance images from a flat
            vector. By default of an ensemble the mean of its decoders is drawn, and of likelihoods their means.
        segments: N of the curves, even and at least 4.
        tol: tolerance of the geodesics, see :func:`latentgeo.geodesic`.

    Attributes:
        model: the model, a :class:`latentgeo.LatentModel`.
        codes: of all data, shape (n, d).
        classes: classes of the data, with their colours.
        plane: the plane of latent space that is shown.
        pictures: the decoder whose output is drawn.
        shown: rows of the data that are drawn.
        segments: N of the curves.
        tol: tolerance of the geodesics.

    Raises:
        TypeError, ValueError: model, data, labels or what is decoded do not fit; the message says what
            was expected.

    Example:
        >>> paraboloid = lambda z: torch.cat([z, z.square().sum(1, keepdim=True)], 1)
        >>> view = explore((lambda x: x[:, :2], paraboloid), torch.tensor([[0.0, 0, 0], [1, 0, 1], [0, 1, 1]]).double())
        >>> view
        Explorer('model', 3 points, d = 2)
        >>> round(view.select(0, 1).length, 3)  # an arc of a parabola
        1.479
    """

    def __init__(
        self,
        model: object,
        data: Tensor | np.ndarray | AnnData,
        *,
        labels: Sequence[object] | np.ndarray | Tensor | str | None = None,
        class_names: Sequence[str] | None = None,
        axes: Sequence[int] | str | None = None,
        points: str = "nearest",
        kind: str = "auto",
        feature_names: Sequence[str] | None = None,
        show: Decoder | None = None,
        segments: int = 16,
        tol: float = 1e-4,
    ) -> None:
        if points not in POINTS:
            raise ValueError(f"points: expected one of {', '.join(POINTS)}, got {points!r}")
        self.model = latent_model(model)
        cells, labels = is_anndata(data), labels_of(data, labels)
        genes = list(data.var_names) if cells else None
        if cells and not takes_anndata(self.model):
            if data.X is None:
                raise ValueError("data: expected an AnnData with .X, which the model encodes, got one without")
            data = tensor_of(data.X, self.model)
        elif not cells:
            if not isinstance(data, Tensor) and not is_array(data):
                raise TypeError(
                    "data: expected a tensor, an array, a table or an AnnData of rows that the model encodes, got "
                    f"{type(data).__name__}; convert with np.asarray(...)"
                )
            data = to_tensor("data", data)
        if len(data.shape) < 2 or len(data) < 2:
            raise ValueError(f"data: expected at least two rows (n, *event), got shape {tuple(data.shape)}")
        if segments < 4 or segments % 2:
            raise ValueError(f"segments: expected an even number of at least 4, got {segments!r}")
        self.codes = self.model.codes(data)
        self.classes = classes(labels, len(data), class_names)
        self.plane = latent_plane(self.codes, axes)
        self._decoder = as_decoder(self.model.decoder, self.codes)
        with torch.no_grad():  # refuses what the geometry cannot take, before anything is shown
            self._decoder(self.codes[:2])
        known = data if isinstance(data, Tensor) else None
        self.pictures = Pictures(self.model.decoder, known, self.codes[:2], show, kind, feature_names, genes)
        self.shown = np.unique(np.linspace(0, len(data) - 1, min(_SHOWN, len(data))).round().astype(int))
        self.segments, self.tol = segments, tol
        self._data, self._points = data, points

    def __repr__(self) -> str:
        """Name the model, the numbers of points and of latent dimensions."""
        return f"Explorer({self.model.name!r}, {len(self.codes)} points, d = {self.codes.shape[1]})"

    def select(self, i: int, j: int) -> Selection:
        """What the widget shows after clicks at two data points.

        Args:
            i: row of the first.
            j: row of the second.

        Returns:
            The geodesic, equal to that of :func:`latentgeo.geodesic` with ``data=codes``, as ``geodesic``; its
            ``length`` (data units), ``error`` (estimated, relative) and ``converged``; this and the other ``distances``
            as a table; and the geodesic and the straight line decoded. A geodesic that did not converge raises no error
            and no warning.

        Raises:
            IndexError: there is no such row.
            ValueError: both are the same.

        Example:
            >>> view = explore((lambda x: 0.5 * x, lambda z: 2.0 * z), torch.tensor([[0.0, 0.0], [6.0, 8.0]]))
            >>> found = view.select(0, 1)
            >>> found  # doctest: +ELLIPSIS
            Selection(rows 0 and 1, geodesic 10.00 data units ± ... %, converged)
            >>> found.length, float(found.distances["value"]["euclidean"])
            (10.0, 5.0)
        """
        i, j = int(i), int(j)
        if not (0 <= i < len(self.codes) and 0 <= j < len(self.codes)):
            raise IndexError(f"select: expected rows of the data from 0 to {len(self.codes) - 1}, got {i} and {j}")
        if i == j:
            raise ValueError(f"select: expected two different points, got row {i} twice")
        found = self.model.points(self._data[[i, j]], self._points, others=self.codes)
        ends = found.codes.split(1)
        sure, there = bool((found.apart == 0).all()), bool(found.converged.all())
        options = {"segments": self.segments, "tol": self.tol, "data": self._graph}
        table, found = measure_pairs(self._decoder, *ends, **options)
        straight = straight_line(*ends, self.segments)[0]
        decoded = self.pictures(torch.cat([found.points[0], straight])).split(self.segments + 1)
        known = self._data if isinstance(self._data, Tensor) else None
        originals = None if known is None else self.pictures.originals(known[[i, j]])
        statistical = isinstance(self._decoder, StatisticalDecoder) or isinstance(self.model.decoder, FisherRaoDecoder)
        unit = "standard deviations" if statistical else "data units"
        table = table.assign(converged=table["converged"] & there).set_index("method")
        return Selection((i, j), table, found, straight, *decoded, originals, unit, self._points, sure)

    def _along(self, axes: tuple[int, int]) -> Explorer:
        """The same along other axes, by their numbers in :func:`latentgeo.explorer.plane.axis_names`."""
        other = copy.copy(self)
        other.plane = plane_of(self.codes, axes)
        for name in ("places", "window", "background", "levels"):
            vars(other).pop(name, None)
        return other

    def _datum(self, row: int) -> Tensor | list[tuple[str, float]] | None:
        """A data point as it is drawn: an image (height, width, channels), or its largest features by name.

        None where it is neither, as an image is to a decoder of something else.
        """
        x = self._data[[row]]
        if not isinstance(x, Tensor):
            return None if x.X is None else largest(tensor_of(x.X, self.model).flatten().float(), list(x.var_names))
        drawn = self.pictures.originals(x)
        if drawn is None:
            return None
        return drawn[0] if self.pictures.kind == "images" else largest(drawn[0], self.pictures.names)

    @functools.cached_property
    def _graph(self) -> DataGraph:
        """Paths through the images of the data, from which geodesics are sought as well as from straight lines."""
        return DataGraph(self._decoder, self.codes)

    @functools.cached_property
    def places(self) -> np.ndarray:
        """Where the points are drawn: coordinates of all codes in the plane, shape (n, 2)."""
        return self.plane.project(self.codes).float().cpu().numpy()

    @functools.cached_property
    def window(self) -> np.ndarray:
        """Lower and upper corner of what is drawn of the plane, shape (2, 2)."""
        return _around(self.places[self.shown])

    def _drawn_curves(self, selection: Selection) -> tuple[list[np.ndarray], np.ndarray]:
        """The geodesic and the straight line in the plane, and the window that shows them and the points."""
        curves = (selection.geodesic.points[0], selection.straight)
        lines = [self.plane.project(curve).float().cpu().numpy() for curve in curves]
        return lines, _around(np.concatenate([self.places[self.shown], *lines]))

    @functools.cached_property
    def background(self) -> np.ndarray:
        r"""Log area element of the plane on a grid of the window, :math:`\tfrac12 \log \det (E G E^\top)`.

        E are the plane's two axes: with d = 2 it is the log volume element. Rows go up, shape (side, side), in one
        batch and kept; NaN where the element is zero or not finite.
        """
        with torch.no_grad():
            D = self._decoder(self.codes[:1]).shape[1]
        side = int(np.clip((_NUMBERS / (2 * D)) ** 0.5, *_SIDES))
        # Each value stands for the middle of its cell.
        middles = (np.arange(side) + 0.5) / side
        x, y = (low + middles * (high - low) for low, high in self.window.T)
        grid = torch.as_tensor(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)).to(self.codes)
        elements = volume_element(lambda s: self.model.decoder(self.plane.lift(s)), grid).log().cpu().numpy()
        return np.where(np.isfinite(elements), elements, np.nan).reshape(side, side)

    @functools.cached_property
    def levels(self) -> tuple[float, float]:
        """Range of the background's shades: all but its most extreme hundredths."""
        values = self.background[np.isfinite(self.background)]
        return tuple(np.quantile(values, [0.01, 0.99]).tolist()) if len(values) else (0.0, 0.0)

    @functools.cached_property
    def default_pair(self) -> tuple[int, int]:
        """The two rows that are chosen at first.

        With labels, of the classes' medoids (the points least far from the others of their class, in latent units) the
        two whose reconstructions are farthest apart; else points near either end of the first axis.
        """
        medoids = []
        for c in range(len(self.classes.names)):
            rows = self.shown[self.classes.index[self.shown] == c]
            rows = rows[:: -(-len(rows) // _CANDIDATES) or 1]
            if len(rows):
                medoids.append(int(rows[int(torch.cdist(self.codes[rows], self.codes[rows]).sum(1).argmin())]))
        if len(medoids) < 2:
            along = self.shown[np.argsort(self.places[self.shown, 0], kind="stable")]
            twentieth = len(along) // 20
            return int(along[twentieth]), int(along[-1 - twentieth])
        with torch.no_grad():
            x = self._decoder(self.codes[medoids])
        first, second = divmod(int(self._decoder.chords(x, x).fill_diagonal_(-1.0).argmax()), len(medoids))
        return tuple(sorted((medoids[first], medoids[second])))

    @functools.cached_property
    def default_selection(self) -> Selection:
        """What is shown before anything is clicked, and on the picture."""
        return self.select(*self.default_pair)

    @property
    def caption(self) -> str:
        """What is drawn, in words."""
        d, n = self.codes.shape[1], len(self.codes)
        points = f"{len(self.shown):,} of {n:,} codes" if len(self.shown) < n else f"{n:,} codes"
        if d == 2:
            return f"{points}, d = 2. Shade: log volume element, log √det G; darker where a latent step changes more."
        what = "principal axes" if min(self.plane.shown) >= d else "coordinates"
        return (
            f"{points}, d = {d}, on two {what} ({100 * self.plane.share:.0f} % of their variance); curves are "
            "projected. Shade: log area element of the plane of these axes through the mean of the codes; darker "
            "where a latent step in it changes more."
        )

    def describe(self, selection: Selection) -> str:
        """A selection as plain text."""
        first, second = map(self.classes.name, selection.pair)
        lines = [f"{name}: {value} {unit} ({note})" for name, value, unit, note in selection.rows()]
        return "\n".join([f"from ① {first} to ② {second}", *lines])

    def figure(self, i: int | None = None, j: int | None = None) -> Figure:
        """The picture of two points, as the widget would show them.

        Args:
            i: row of the first; where one is missing both are chosen: medoids of different classes, or points near
                either end of the first axis.
            j: row of the second.

        Returns:
            A figure a page wide, that pyplot does not keep: ``figure(0, 5).savefig("pair.png")`` saves it.

        Raises:
            ImportError: matplotlib or seaborn is not installed.
            IndexError, ValueError: see :meth:`select`.
        """
        require("a picture", "explorer", "matplotlib", "seaborn")
        from latentgeo.explorer.static import draw

        return draw(self, self.default_selection if i is None or j is None else self.select(i, j))

    @functools.cached_property
    def widget(self) -> ExplorerWidget:
        """The widget, with the rows of the chosen points as its trait ``selected``.

        Raises:
            ImportError: ipywidgets or anywidget is not installed.
        """
        require("the widget", "explorer", "ipywidgets", "anywidget")
        from latentgeo.explorer.widget import ExplorerWidget

        return ExplorerWidget(self)

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        text = f"{self!r}\n{self.describe(self.default_selection)}"
        bundle = {"text/plain": text if _installed() else f"{text}\n{REMEDY}"}
        try:
            picture = io.BytesIO()
            self.figure().savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
            bundle["image/png"] = base64.b64encode(picture.getvalue()).decode()
        except ImportError as error:
            bundle["text/plain"] += f"\n{error}"
        if _installed() and clickable():
            view = "application/vnd.jupyter.widget-view+json"
            bundle[view] = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return bundle


def _around(places: np.ndarray) -> np.ndarray:
    """Lower and upper corner of a window around places of the plane, shape (2, 2)."""
    low, high = places.min(0), places.max(0)
    margin = _MARGIN * np.maximum(high - low, 1e-6)
    return np.stack([low - margin, high + margin])


def _installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("ipywidgets", "anywidget"))


explore = Explorer  # what is done with it
