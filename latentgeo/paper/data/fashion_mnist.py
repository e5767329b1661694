"""Fashion-MNIST: from files that are here, from Debian's package, or by download."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import torch

from latentgeo.paper.data.base import (
    DataError,
    Dataset,
    MissingDataError,
    check,
    deal,
    download,
    find,
    folders,
    images,
    read,
)
from latentgeo.paper.paths import data_dir, move_aside

_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_DEBIAN_PACKAGE = "dataset-fashion-mnist"
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_SHA256 = {  # of the content of each file, which is in IDX format
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_MD5 = {  # of the published .gz
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_CLASSES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
WAYS = (
    "Three ways to get it: (1) `make data`, or `latentgeo data fashion_mnist`; "
    f"(2) on Debian or Ubuntu, `apt-get install {_DEBIAN_PACKAGE}`; "
    "(3) download the four .gz files from https://github.com/zalandoresearch/fashion-mnist into {data}/fashion-mnist, "
    "or into a folder fashion-mnist/ under one named by LATENTGEO_DATA."
)


def _find(name: str) -> Path:
    """The first file of this name, compressed or not, in the folders."""
    places = folders("fashion-mnist", _DEBIAN_FOLDER)
    return find([folder / f"{name}{ending}" for folder in places for ending in (".gz", "")])


def _read(path: Path) -> np.ndarray:
    """Content of an IDX file as an array, after comparing it with the published checksum."""
    content, sha256 = read(path), _SHA256[path.name.removesuffix(".gz")]
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be unpacked ({error}) to content of sha256 {sha256}. Remove it") from error
    check(path, content, sha256)
    header = 4 * (1 + content[3])  # bytes: the last of the first four is the number of axes
    return np.frombuffer(content, np.uint8, offset=header).reshape(np.frombuffer(content[4:header], ">i4"))


def load() -> Dataset:
    """The 70,000 images of 28×28 pixels: 55,000 for training, 5,000 for validation, the published 10,000 for testing.

    Raises:
        MissingDataError: a file is not there.
        DataError: a file is damaged or truncated.
    """
    pixels, labels, test, test_labels = (_read(_find(name)) for name in _SHA256)
    labels, test_labels = (torch.from_numpy(values.astype(np.int64)) for values in (labels, test_labels))
    validation, train = deal(images(pixels), labels, 5000)
    return Dataset(
        "fashion_mnist",
        *train,
        *validation,
        images(test),
        test_labels,
        class_names=tuple(_CLASSES.split(", ")),
        source="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        sha256=_SHA256,
    )


def _all_here() -> bool:
    """Whether all files are here and whole; a damaged one of our own cache is moved aside."""
    for name in _SHA256:
        try:
            path = _find(name)
            _read(path)
        except MissingDataError:
            return False
        except DataError as error:
            if path.parent != data_dir() / "fashion-mnist":
                raise
            print(f"moved aside: {error}")
            move_aside(path)
            return _all_here()
    return True


def _install_debian_package() -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    print(f"installing the Debian package {_DEBIAN_PACKAGE}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", "-y", _DEBIAN_PACKAGE]):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-300:]}")


def fetch() -> None:
    """Get the files: those that are here, else Debian's package where it may be installed, else by download.

    Raises:
        MissingDataError: none of the ways worked.
        DataError: a file outside our own cache is damaged.
    """
    if not _all_here():
        _install_debian_package()
        if not _all_here():
            for name, md5 in _MD5.items():
                download(f"{_URL}{name}.gz", f"md5:{md5}", data_dir() / "fashion-mnist")
