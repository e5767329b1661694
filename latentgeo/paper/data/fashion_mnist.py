"""Fashion-MNIST: from files that are here, from Debian's package, or by download."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from latentgeo.paper.data.base import DataError, Dataset, MissingDataError, dealt, download, folders, images, shuffled
from latentgeo.paper.paths import data_dir

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


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


def _ways_to_get_fashion_mnist() -> str:
    return (
        "Three ways to get it: (1) `make data`, or `latentgeo data fashion_mnist`; "
        f"(2) on Debian or Ubuntu, `apt-get install {_DEBIAN_PACKAGE}`; "
        f"(3) download the four .gz files from https://github.com/zalandoresearch/fashion-mnist into "
        f"{data_dir() / 'fashion-mnist'}, or into a folder fashion-mnist/ under one named by LATENTGEO_DATA."
    )


def _fashion_folders() -> list[Path]:
    return folders("fashion-mnist", _DEBIAN_FOLDER)


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


def load() -> Dataset:
    """The 70,000 images of 28×28 pixels: 55,000 for training, 5,000 for validation, the published 10,000 for testing.

    Raises:
        MissingDataError: a file is not there.
        DataError: a file is damaged or truncated.
    """
    arrays, digests = {}, {}
    for name, expected in _FASHION_FILES.items():
        arrays[name], digests[name] = _read_idx(_find(name), expected)
    pixels = images(arrays["train-images-idx3-ubyte"])
    labels = torch.from_numpy(arrays["train-labels-idx1-ubyte"].astype(np.int64))
    order = shuffled(len(pixels))
    return Dataset(
        name="fashion_mnist",
        **dealt(pixels, labels, validation=order[:5000], train=order[5000:]),
        test=images(arrays["t10k-images-idx3-ubyte"]),
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


def fetch(report: Callable[[str], None]) -> None:
    """Get the files: those that are here, else Debian's package where it may be installed, else by download.

    Raises:
        MissingDataError: none of the ways worked.
        DataError: a file outside our own cache is damaged.
    """
    if not _have_fashion_mnist(report):
        _install_debian_package(report)
        if not _have_fashion_mnist(report):
            for name, expected in _FASHION_FILES.items():
                url, known = f"{_FASHION_URL}{name}.gz", f"md5:{expected.md5}"
                download(url, known, data_dir() / "fashion-mnist", _ways_to_get_fashion_mnist())
