"""Data sets: loaded from checked files into tensors, with a validation split taken from the training data."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentgeo.paths import data_dir

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class _IdxFile:
    """One file of Fashion-MNIST in IDX format, compressed as published."""

    md5: str  # of the published .gz
    sha256: str  # of the content
    magic: int
    shape: tuple[int, ...]


_FASHION_FILES = {
    "train-images-idx3-ubyte": _IdxFile(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        2051,
        (60_000, 28, 28),
    ),
    "train-labels-idx1-ubyte": _IdxFile(
        "25c81989df183df01b3e8a0aad5dffbe",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        2049,
        (60_000,),
    ),
    "t10k-images-idx3-ubyte": _IdxFile(
        "bef4ecab320f06d8554ea6380940ec79",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        2051,
        (10_000, 28, 28),
    ),
    "t10k-labels-idx1-ubyte": _IdxFile(
        "bb300cfdad3c16e7a12a480ee83cd310",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        2049,
        (10_000,),
    ),
}


class DataError(ValueError):
    """A data file is damaged: the message names it, what was expected, and the ways to get it."""


class MissingDataError(DataError, FileNotFoundError):
    """A data file is not on this machine: the message says where it was looked for and the ways to get it."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in three parts that share no image, with their labels and their origin.

    Attributes:
        name: the name it was loaded by.
        train: training images, float32 in [0, 1], shape (n, channels, height, width).
        train_labels: shape (n,), int64, indices into ``class_names``.
        validation: images that choose when training stops, taken from the published training data.
        validation_labels: their labels.
        test: images that results are reported on; never seen in training, nor used to choose anything.
        test_labels: their labels.
        class_names: names of the classes.
        source: where the data come from.
        licence: the licence that they are under.
        sha256: checksums of the files (or arrays) that were read, by name.
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

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """Shape of one image (channels, height, width)."""
        return tuple(self.train.shape[1:])

    def __repr__(self) -> str:
        """Name, sizes and image shape, not the pixels."""
        sizes = f"train={len(self.train)}, validation={len(self.validation)}, test={len(self.test)}"
        return f"Dataset({self.name!r}, {sizes}, event_shape={self.event_shape})"


def _ways_to_get_fashion_mnist() -> str:
    return (
        "Three ways to get it: (1) `make data`, or `latentgeo data fashion_mnist`; "
        f"(2) on Debian or Ubuntu, `apt-get install {_DEBIAN_PACKAGE}`; "
        f"(3) download the four .gz files from https://github.com/zalandoresearch/fashion-mnist into "
        f"{data_dir() / 'fashion-mnist'}, or into a folder fashion-mnist/ under one named by LATENTGEO_DATA."
    )


def _fashion_folders() -> list[Path]:
    """Folders that may hold the files, in the order in which they are looked in."""
    own = os.environ.get("LATENTGEO_DATA")
    folders = [Path(own) / "fashion-mnist"] if own else []
    return [*folders, data_dir() / "fashion-mnist", _DEBIAN_FOLDER]


def _find(name: str) -> Path:
    """The first file of this name, compressed or not, in the folders."""
    for folder in _fashion_folders():
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    looked = ", ".join(str(folder) for folder in _fashion_folders())
    raise MissingDataError(f"{name}.gz was not found in {looked}. {_ways_to_get_fashion_mnist()}")


def _read_idx(path: Path, expected: _IdxFile) -> tuple[np.ndarray, str]:
    """Content of an IDX file as an array, and its checksum, after checking it against the published one."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be unpacked ({error}); expected gzip with content of sha256 {expected.sha256}. "
            f"Remove the file. {_ways_to_get_fashion_mnist()}"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected.sha256:
        size = 4 * (1 + len(expected.shape)) + int(np.prod(expected.shape))
        raise DataError(
            f"{path} is damaged: expected {size:,} bytes of sha256 {expected.sha256} once unpacked, got "
            f"{len(content):,} bytes of {digest}. Remove the file. {_ways_to_get_fashion_mnist()}"
        )
    header = np.frombuffer(content, ">i4", count=1 + len(expected.shape))
    assert tuple(header) == (expected.magic, *expected.shape)  # implied by the checksum
    return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(expected.shape), digest


def _images(pixels: np.ndarray, brightest: float) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / brightest).unsqueeze(1)


def _fashion_mnist() -> Dataset:
    arrays, digests = {}, {}
    for name, expected in _FASHION_FILES.items():
        arrays[name], digests[name] = _read_idx(_find(name), expected)
    images = _images(arrays["train-images-idx3-ubyte"], 255.0)
    labels = torch.from_numpy(arrays["train-labels-idx1-ubyte"].astype(np.int64))
    order = torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(len(images)))
    train, validation = order[5000:], order[:5000]
    return Dataset(
        name="fashion_mnist",
        train=images[train],
        train_labels=labels[train],
        validation=images[validation],
        validation_labels=labels[validation],
        test=_images(arrays["t10k-images-idx3-ubyte"], 255.0),
        test_labels=torch.from_numpy(arrays["t10k-labels-idx1-ubyte"].astype(np.int64)),
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        source="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        sha256=digests,
    )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = _images(bunch.images, 16.0), torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(len(images)))
    test, validation, train = order[:360], order[360:540], order[540:]
    return Dataset(
        name="digits",
        train=images[train],
        train_labels=labels[train],
        validation=images[validation],
        validation_labels=labels[validation],
        test=images[test],
        test_labels=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
        source="scikit-learn's copy of https://archive.ics.uci.edu/dataset/80",
        licence="CC BY 4.0",
        sha256={
            "images": hashlib.sha256(bunch.images.astype("<f8").tobytes()).hexdigest(),
            "labels": hashlib.sha256(bunch.target.astype("<i8").tobytes()).hexdigest(),
        },
    )


_LOADERS: dict[str, Callable[[], Dataset]] = {"digits": _digits, "fashion_mnist": _fashion_mnist}
DATASETS = tuple(_LOADERS)


def load_dataset(name: str) -> Dataset:
    """Load a data set from this machine; nothing is downloaded.

    Args:
        name: ``"digits"`` (1,797 images of 8×8, ships with scikit-learn) or ``"fashion_mnist"`` (70,000 of 28×28).

    Returns:
        The data set; the same object at each call, so do not write to its tensors.

    Raises:
        ValueError: the name is unknown.
        MissingDataError: a file is not there; the message names it and the ways to get it.
        DataError: a file is damaged or truncated; the message says what was expected.

    Example:
        >>> load_dataset("digits")
        Dataset('digits', train=1257, validation=180, test=360, event_shape=(1, 8, 8))
    """
    if name not in _LOADERS:
        raise ValueError(f"expected a data set among {', '.join(DATASETS)}, got {name!r}")
    return _load_cached(name, os.environ.get("LATENTGEO_DATA"))


@functools.lru_cache(maxsize=4)
def _load_cached(name: str, _folder: str | None) -> Dataset:
    return _LOADERS[name]()


def _have_fashion_mnist(report: Callable[[str], None]) -> bool:
    """Whether all files are here and whole; a damaged one of our own cache is moved aside."""
    for name, expected in _FASHION_FILES.items():
        try:
            path = _find(name)
        except MissingDataError:
            return False
        try:
            _read_idx(path, expected)
        except DataError as error:
            if path.parent != data_dir() / "fashion-mnist":
                raise
            report(f"moved aside: {error}")
            os.replace(path, path.with_name(f"{path.name}.damaged"))
            return _have_fashion_mnist(report)
    return True


def _install_debian_package(report: Callable[[str], None]) -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    report(f"installing the Debian package {_DEBIAN_PACKAGE}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", "-y", _DEBIAN_PACKAGE]):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            report(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-300:]}")


def _download_fashion_mnist() -> None:
    import pooch

    for name, expected in _FASHION_FILES.items():
        try:
            pooch.retrieve(
                f"{_FASHION_URL}{name}.gz",
                known_hash=f"md5:{expected.md5}",
                fname=f"{name}.gz",
                path=data_dir() / "fashion-mnist",
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=60),
            )
        except (OSError, ValueError) as error:
            raise MissingDataError(
                f"{name}.gz could not be downloaded ({error}). {_ways_to_get_fashion_mnist()}"
            ) from error


def fetch_dataset(name: str, report: Callable[[str], None] = print) -> Dataset:
    """Get a data set onto this machine if it is not here yet, and load it.

    Tried in this order: files that are here; the Debian package, where there is apt and we may install; a download
    with checksums and a progress bar.

    Args:
        name: as for :func:`load_dataset`.
        report: called with a line for each thing done.

    Returns:
        The data set.

    Raises:
        ValueError: the name is unknown.
        MissingDataError: none of the ways worked.
        DataError: a file outside our own cache is damaged.
    """
    if name == "fashion_mnist" and not _have_fashion_mnist(report):
        _install_debian_package(report)
        if not _have_fashion_mnist(report):
            _download_fashion_mnist()
    dataset = load_dataset(name)
    report(f"{dataset!r} is here")
    return dataset
