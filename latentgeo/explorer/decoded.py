"""How decoded points are drawn: as images, or as the values of features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentgeo.adapters.model import as_images
from latentgeo.geometry.decoder import Decoder, Ensemble
from latentgeo.geometry.likelihood import FisherRaoDecoder
from latentgeo.geometry.reach import Untouched, check_modes

KINDS = ("auto", "images", "features")
_SMALLEST = 4  # pixels along a side of what is taken for an image


def channels_last(x: Tensor) -> Tensor | None:
    """Images as (B, height, width, channels), of (B, h, w), (B, c, h, w) or themselves; None where x are not images.

    Example:
        >>> shapes = (9, 28, 28), (9, 3, 32, 32), (9, 32, 32, 3)
        >>> [tuple(channels_last(torch.zeros(shape)).shape) for shape in shapes]
        [(9, 28, 28, 1), (9, 32, 32, 3), (9, 32, 32, 3)]
        >>> channels_last(torch.zeros(9, 2000)) is None
        True
    """
    event = x.shape[1:]
    if len(event) == 2 and min(event) >= _SMALLEST:
        return x.unsqueeze(-1)
    if len(event) == 3 and event[0] in (1, 3) and min(event[1:]) >= _SMALLEST:
        return x.permute(0, 2, 3, 1)
    return x if len(event) == 3 and event[2] in (1, 3) and min(event[:2]) >= _SMALLEST else None


class Pictures:
    """A decoder whose output is ready to be drawn.

    Args:
        decoder: the model's decoder; of an ensemble the mean of its members is drawn, and of a likelihood its mean.
        data: the data, shape (n, *event): its shape is that of flat decoded images, its range the range of greys; None
            where they are no images.
        like: a few latent points, shape (B, d).
        show: latent points (B, d) -> what is drawn (B, *event), instead of the decoder.
        kind: ``"images"``, ``"features"``, or ``"auto"`` to decide by the shape.
        feature_names: names of the F features.
        default_names: of the features of data, if none are given: taken where they are as many as are decoded.

    Raises:
        TypeError, ValueError: what is decoded does not fit the kind, or the names do not fit the features.
    """

    def __init__(
        self,
        decoder: Decoder,
        data: Tensor | None,
        like: Tensor,
        show: Decoder | None = None,
        kind: str = "auto",
        feature_names: Sequence[str] | None = None,
        default_names: Sequence[str] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if show is not None and not callable(show):
            raise TypeError(f"show: expected a callable (B, d) -> (B, *event), got {type(show).__name__}")
        likelihood = decoder.distribution if isinstance(decoder, FisherRaoDecoder) else decoder
        self._decoder = likelihood if show is None else show
        modules = check_modes("show", self._decoder)
        self._members = len(decoder) if show is None and isinstance(decoder, Ensemble) else 0
        with torch.no_grad(), Untouched("show", modules):
            x = self._mean(like)
        data = x if data is None else data
        values, flat = as_images(data), x[0].numel()
        if channels_last(x) is None and flat == data[0].numel() and channels_last(data) is not None:
            x = x.reshape(len(x), *data.shape[1:])
        event, drawable = tuple(x.shape[1:]), channels_last(x) is not None
        if kind == "auto":
            if not drawable and sum(n > 1 for n in event) > 1:
                raise ValueError(
                    f"kind: expected decoded images (1 or 3 channels) or vectors of features, got events of shape "
                    f"{event}; pass show=lambda z: … that makes either of latent points, or kind='features'"
                )
            kind = "images" if drawable else "features"
        if kind == "images" and not drawable:
            raise ValueError(
                f"kind='images': expected decoded images with 1 or 3 channels, got events of shape {event}; pass "
                "show=lambda z: decoder(z).reshape(len(z), channels, height, width)"
            )
        if feature_names is not None and kind == "images":
            raise ValueError("feature_names: expected none for images; pass kind='features' to draw features")
        if feature_names is not None and len(feature_names) != flat:
            raise ValueError(f"feature_names: expected {flat} names, one a feature, got {len(feature_names)}")
        if feature_names is None and default_names is not None and len(default_names) == flat:
            feature_names = default_names
        self.kind, self._event = kind, event
        self._own = show is None
        self.names = [f"feature {k}" for k in range(flat)] if feature_names is None else [str(n) for n in feature_names]
        low, high = values.min().item(), values.max().item()
        if kind == "images" and low >= -1.0 and high <= 1.0:
            low, high = (0.0 if low >= 0.0 else -1.0), 1.0
        self._range = low, max(high, low + 1e-12)

    def _mean(self, z: Tensor) -> Tensor:
        x = self._decoder(z.clone())  # it may work in place
        x = x.mean if isinstance(x, Distribution) else x
        if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != len(z):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"show: expected a tensor (B, *event) with B = {len(z)}, got {got}")
        return x.mean(1) * self._members**0.5 if self._members else x  # an ensemble divides its members by √K

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """Decode: (B, d) -> images (B, height, width, channels) in [0, 1], or features (B, F); on the CPU."""
        return self._drawn(self._mean(z))

    def originals(self, data: Tensor) -> Tensor | None:
        """Data (B, *event) as what is decoded is drawn; None where they are something else than is drawn."""
        x = as_images(data)
        if x[0].numel() != math.prod(self._event) or not (self._own or self.kind == "images"):
            return None
        return self._drawn(x)

    def _drawn(self, x: Tensor) -> Tensor:
        if self.kind == "features":
            return x.flatten(1).float().cpu()
        low, high = self._range
        x = x.reshape(len(x), *self._event).float().cpu()
        return channels_last(((x - low) / (high - low)).clamp(0.0, 1.0))


def frames(count: int, wanted: int = 9) -> list[int]:
    """Evenly spaced points of a curve for a film strip, both ends among them.

    Example:
        >>> frames(17), frames(5)
        ([0, 2, 4, 6, 8, 10, 12, 14, 16], [0, 1, 2, 3, 4])
    """
    wanted = min(wanted, count)
    return [round(k * (count - 1) / (wanted - 1)) for k in range(wanted)]


def largest(values: Tensor, names: Sequence[str], wanted: int = 5) -> list[tuple[str, float]]:
    """The features (F,) of a datum with the largest values, by name.

    Example:
        >>> largest(torch.tensor([0.0, 4.0, 2.0]), ["CD4", "CD8A", "MS4A1"], wanted=2)
        [('CD8A', 4.0), ('MS4A1', 2.0)]
    """
    found = values.topk(min(wanted, len(values)))
    return [(names[k], value) for value, k in zip(found.values.tolist(), found.indices.tolist(), strict=True)]


def most_changing(*curves: Tensor, wanted: int = 6) -> list[int]:
    """Features that change most along decoded curves (N + 1, F), most first, by their range in data units.

    Example:
        >>> most_changing(torch.tensor([[0.0, 1.0, 5.0], [0.1, 3.0, 5.0]]), wanted=2)
        [1, 0]
    """
    spread = torch.stack([curve.amax(0) - curve.amin(0) for curve in curves]).amax(0)
    return spread.argsort(descending=True, stable=True)[:wanted].tolist()
