"""What every data set is: tensors in three parts, with their origin, and the errors of a file that is not there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentgeo.paper.paths import data_dir

SPLIT_SEED = 0


class DataError(ValueError):
    """A data file is damaged: the message names it, what was expected, and the ways to get it."""


class MissingDataError(DataError, FileNotFoundError):
    """A data file is not on this machine: the message says where it was looked for and the ways to get it."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images, or cells, in three parts that share none of them, with their labels and their origin.

    Attributes:
        name: the name it was loaded by.
        train: training images, float32 in [0, 1], shape (n, channels, height, width); where they are too many for the
            memory, bytes (uint8, 0 to 255) that stay on the disk, see :func:`latentgeo.paper.models.vae.as_images`.
        train_labels: shape (n,), int64, indices into ``class_names``.
        validation: images that choose when training stops, taken from the published training data.
        validation_labels: their labels.
        test: images that results are reported on; never seen in training, nor used to choose anything.
        test_labels: their labels.
        class_names: names of the classes.
        source: where the data come from.
        licence: the licence that they are under.
        sha256: checksums of the files (or arrays) that were read, by name.
        class_colours: the colour of each class in the atlas that the cells come from, ``"#rrggbb"``; empty without.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    source: str
    licence: str
    sha256: Mapping[str, str]
    class_colours: tuple[str, ...] = ()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one image (channels, height, width), or of one cell (genes,)."""
        return tuple(self.train.shape[1:])

    @property
    def everything(self) -> Tensor:
        """Images of all parts, one part after another: training, validation, test."""
        return torch.cat([self.train, self.validation, self.test])

    def __repr__(self) -> str:
        """Name, sizes and image shape, not the pixels."""
        sizes = f"train={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        return f"Dataset({self.name!r}, {sizes}, event_shape={self.event_shape})"


def folders(name: str, *further: Path) -> list[Path]:
    """Folders that may hold the files of a data set, in the order in which they are looked in.

    Args:
        name: of the folder under ``LATENTGEO_DATA`` and under ``data/``.
        further: places outside the project.
    """
    own = os.environ.get("LATENTGEO_DATA")
    return [*([Path(own) / name] if own else []), data_dir() / name, *further]


def download(url: str, known_hash: str, folder: Path, ways: str) -> Path:
    """Fetch one file with a progress bar, and check it.

    Args:
        url: of the file.
        known_hash: its checksum, as ``"sha256:…"`` or ``"md5:…"``.
        folder: where it goes.
        ways: to get the data, the end of the message.

    Raises:
        MissingDataError: it could not be downloaded, or is not the file that was published.
    """
    import pooch

    name = url.rpartition("/")[2]
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=60)
    try:
        return Path(pooch.retrieve(url, known_hash, fname=name, path=folder, downloader=downloader))
    except (OSError, ValueError) as error:
        raise MissingDataError(f"{name} could not be downloaded ({error}). {ways}") from error


def dealt(x: Tensor, labels: Tensor, **parts: Tensor | slice) -> dict[str, Tensor]:
    """Fields of :class:`Dataset`: images and labels of each part, by the indices of its images."""
    fields = {part: x[index] for part, index in parts.items()}
    return fields | {f"{part}_labels": labels[index] for part, index in parts.items()}


def images(pixels: np.ndarray, brightest: float = 255.0) -> Tensor:
    """Grey images of shape (n, height, width) as float32 in [0, 1], shape (n, 1, height, width)."""
    return torch.from_numpy(pixels.astype(np.float32) / brightest).unsqueeze(1)


def shuffled(n: int) -> Tensor:
    """The order in which n images are dealt out to the parts of a data set, always the same."""
    return torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(n))
