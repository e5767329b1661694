"""What is computed when two points are chosen."""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch
from torch import Tensor

from latentgeo.geometry.curve import chord_length, richardson, straight_line
from latentgeo.geometry.decoder import Decoder, as_decoder
from latentgeo.geometry.geodesic.solve import Geodesic, geodesic


@dataclasses.dataclass(frozen=True)
class Selection:
    """Two data points, and two ways between their codes.

    Attributes:
        pair: rows (i, j) of the data.
        geodesic: the geodesic between their codes with its certificates, P = 1.
        straight: the straight latent line, shape (N + 1, d).
        straight_length: its length under the metric, in data units.
        straight_error: estimated relative error of that length.
        chord: distance of the two reconstructions, in data units.
        euclidean: distance of the codes, in latent units; not identified.
        decoded: the geodesic decoded as it is drawn: images (N + 1, height, width, channels) with values in [0, 1], or
            features (N + 1, F).
        decoded_straight: the straight line likewise.
    """

    pair: tuple[int, int]
    geodesic: Geodesic
    straight: Tensor
    straight_length: float
    straight_error: float
    chord: float
    euclidean: float
    decoded: Tensor
    decoded_straight: Tensor

    def __repr__(self) -> str:
        """Name the rows, the geodesic's length and how far to trust it, not the curves."""
        geodesic = f"geodesic {_number(self.length)} ± {_percent(self.error)}"
        converged = "converged" if self.converged else "not converged"
        return f"Selection(rows {self.pair[0]} and {self.pair[1]}, {geodesic}, {converged})"

    @property
    def length(self) -> float:
        """Length of the geodesic, in data units."""
        return self.geodesic.length.item()

    @property
    def error(self) -> float:
        """Estimated relative error of the geodesic's length."""
        return self.geodesic.error.item()

    @property
    def converged(self) -> bool:
        """Whether the geodesic was found to tolerance."""
        return self.geodesic.converged.item()

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, value and certificate of each distance, as text."""
        converged = "converged" if self.converged else "not converged: do not trust it, raise segments"
        return [
            ("geodesic", _number(self.length), f"± {_percent(self.error)}, {converged}"),
            ("straight line", _number(self.straight_length), f"± {_percent(self.straight_error)}"),
            ("chord in data space", _number(self.chord), "of the reconstructions"),
            ("codes apart", _number(self.euclidean), "latent units; not identified"),
        ]


def _number(value: float) -> str:
    return f"{value:#.4g}" if math.isfinite(value) else "not finite"


def _percent(share: float) -> str:
    if not share <= 1.0:
        return "more than 100 %"
    return f"{100 * share:.2g} %"


def measure(decoder: Decoder, ends: Tensor, segments: int, tol: float) -> tuple[Geodesic, Tensor, dict[str, float]]:
    """Geodesic, straight line and distances between two latent points.

    Args:
        decoder: f, a callable (B, d) -> (B, *event).
        ends: the two points, shape (2, d).
        segments: N of the geodesic and of the straight line.
        tol: tolerance of the geodesic.

    Returns:
        The geodesic (P = 1), the straight line (N + 1, d), and the other fields of :class:`Selection` by name. The
        error of the straight line's length is all that the last doubling of its segments changed, which holds for
        decoders with kinks too.
    """
    start, end = ends[:1], ends[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the certificates are shown beside the length
        found = geodesic(decoder, start, end, segments=segments, tol=tol)
    with torch.no_grad():
        fine = straight_line(start, end, 2 * segments)
        lengths = chord_length(decoder, fine[:, ::2]), chord_length(decoder, fine)
        chord = as_decoder(decoder, ends)(ends).diff(dim=0).norm()
    distances = {
        "straight_length": richardson(*lengths).item(),
        "straight_error": ((lengths[1] - lengths[0]).abs() / lengths[1]).item(),
        "chord": chord.item(),
        "euclidean": (end - start).norm().item(),
    }
    return found, fine[0, ::2], distances
