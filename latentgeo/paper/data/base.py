"""What every data set is: tensors in three parts, with their origin, and the errors of a file that is not there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentgeo.paper.paths import checksum, data_dir

SPLIT_SEED = 0


class DataError(ValueError):
    """A data file is damaged: the message names it and what was expected."""


class MissingDataError(DataError, FileNotFoundError):
    """A data file is not on this machine: the message says where it was looked for."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message alone, as nothing has gone wrong in a program."""
        return str(self).splitlines()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images, or cells, in three parts that share none of them, with their labels and their origin.

    Attributes:
        name: the name it was loaded by.
        train: training images, float32 in [0, 1], shape (n, channels, height, width); where they are too many for the
            memory, bytes (uint8, 0 to 255) that stay on the disk, see :func:`latentgeo.adapters.model.as_images`.
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


def find(paths: Sequence[Path]) -> Path:
    """The first of these paths at which there is something.

    Raises:
        MissingDataError: there is none.
    """
    for path in paths:
        if path.exists():
            return path
    looked = ", ".join(dict.fromkeys(str(path.parent) for path in paths))
    raise MissingDataError(f"{paths[0].name} was not found in {looked}")


def read(path: Path) -> bytes:
    """Content of a file.

    Raises:
        MissingDataError: it is not there.
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingDataError(f"{path} is not there") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def check(path: Path, content: bytes, sha256: str) -> None:
    """Compare what a file holds with the published checksum.

    Raises:
        DataError: it is another.
    """
    if (found := checksum(content)) != sha256:
        raise DataError(f"{path} is damaged: expected sha256 {sha256}, got {found} ({len(content):,} bytes). Remove it")


def download(url: str, known_hash: str, folder: Path) -> Path:
    """Download a file into a folder, with a progress bar.

    Args:
        url: of the file, whose name is its last part.
        known_hash: its checksum, such as ``"sha256:…"``.
        folder: where it goes.

    Raises:
        MissingDataError: there is no connection, or what came has another checksum.
    """
    import pooch

    print(f"downloading {url}")
    name = url.rpartition("/")[2]
    try:
        with_bar = pooch.HTTPDownloader(progressbar=True, timeout=60)
        return Path(pooch.retrieve(url, known_hash=known_hash, fname=name, path=folder, downloader=with_bar))
    except (OSError, ValueError) as error:
        raise MissingDataError(f"{name} could not be downloaded ({error})") from error


def images(pixels: np.ndarray, brightest: float = 255.0) -> Tensor:
    """Grey images of shape (n, height, width) as float32 in [0, 1], shape (n, 1, height, width)."""
    return torch.from_numpy(pixels.astype(np.float32) / brightest).unsqueeze(1)


def deal(x: Tensor, labels: Tensor, *held_out: int) -> list[tuple[Tensor, Tensor]]:
    """Rows and their labels dealt out at random, always in the same way: parts of these sizes, and the rest."""
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(x)))
    return [(x[part], labels[part]) for part in order.split([*held_out, len(x) - sum(held_out)])]
