"""CIFAR-10: from the official binary archive, or from any folder in its layout. Nothing is unpickled."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import torch

from latentgeo.adapters.model import as_images
from latentgeo.paper.data.base import DataError, Dataset, MissingDataError, deal, download, find, folders, read
from latentgeo.paper.paths import checksum, data_dir, write_atomically

_FOLDER = "cifar-10-batches-bin"
_ARCHIVE = "cifar-10-binary.tar.gz"
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_TRAINING = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST, _META = "test_batch.bin", "batches.meta.txt"
_RECORD = "archive.json"  # what the archive was, and the checksum of each file that came out of it
_SHAPE = (3, 32, 32)
_BYTES = 1 + 3 * 32 * 32  # of a record: the label, then red, green and blue
# Other copies of the same pictures, by the checksum of their test_batch.bin.
_COPIES = {"18fde75bb6b08389d237f73ff3863b75b88eb8920dadf3900bc92e4e644e6545": "a JPEG copy"}


WAYS = (
    f"Two ways to get it: (1) `latentgeo data cifar10`, which downloads {_URL} (170,052,171 bytes, sha256 "
    f"{_SHA256}); (2) unpack that archive by hand, so that the folder {_FOLDER}/ lies in {{data}} or in a folder named "
    "by LATENTGEO_DATA."
)


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path} is damaged: {what}. Remove the folder {path.parent}")


def _records(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3, 32, 32) and labels (n,) of a file."""
    if not content or len(content) % _BYTES:
        raise _damaged(path, f"expected a multiple of {_BYTES} bytes, got {len(content):,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, _BYTES)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise _damaged(path, f"expected labels from 0 to 9, got {labels.max()}")
    return records[:, 1:].reshape(-1, *_SHAPE), labels


def _origin(folder: Path, sha256: dict[str, str], sizes: tuple[int, int]) -> str:
    """Where the files are from: by the record of our own unpacking, by their checksum, or unknown."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        archive, files = record["archive"], dict(record["files"])
    except FileNotFoundError:
        copy = _COPIES.get(sha256[_TEST])
        counted = f"{sizes[0]:,} training, {sizes[1]:,} test images"
        if copy is None:
            return f"an unverified copy in the official layout ({counted}), not checked against the official archive"
        return f"{copy} in the official layout ({counted}): the same pictures, not the same bytes"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / _RECORD, f"expected JSON with the checksums of the files ({error})") from error
    for name, expected in files.items():
        if sha256.get(name) != expected:
            raise _damaged(folder / name, f"expected sha256 {expected}, got {sha256.get(name, 'no such file')}")
    return f"{_URL} (sha256 {archive})"


def load() -> Dataset:
    """The 60,000 images of 3×32×32: a tenth of the training images for validation, the test images for testing.

    A copy that lacks some of the five files of training images is taken for what it is: ``source`` says how many
    images there are, and whether they come from the official archive.

    Raises:
        MissingDataError: a file is not there.
        DataError: a file is damaged or truncated.
    """
    folder = find([folder / _TEST for folder in folders(_FOLDER)]).parent
    training = [name for name in _TRAINING if (folder / name).exists()]
    contents = {name: read(folder / name) for name in (*(training or _TRAINING), _TEST, _META)}
    sha256 = {name: checksum(content) for name, content in contents.items()}
    class_names = tuple(contents.pop(_META).decode("utf-8", "replace").split())
    if len(class_names) != 10:
        raise _damaged(folder / _META, f"expected the names of 10 classes, got {len(class_names)}")
    parts = {name: _records(content, folder / name) for name, content in contents.items()}
    test, test_labels = parts.pop(_TEST)
    pixels = torch.from_numpy(np.concatenate([part[0] for part in parts.values()]))
    labels = torch.from_numpy(np.concatenate([part[1] for part in parts.values()]))
    source = _origin(folder, sha256, (len(pixels), len(test)))
    validation, train = deal(pixels, labels, len(pixels) // 10)
    return Dataset(
        "cifar10",
        *(as_images(train[0]), train[1]),
        *(as_images(validation[0]), validation[1]),
        *(as_images(torch.from_numpy(test.copy())), torch.from_numpy(test_labels)),
        class_names=class_names,
        source=source,
        licence="not stated; cite Krizhevsky 2009",
        sha256=sha256,
    )


def _unpack(archive: Path, folder: Path) -> None:
    """Take the files that are known from an archive that has been checked, and record what they are; no other paths.

    Raises:
        DataError: the archive lacks a file.
    """
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for name in (*_TRAINING, _TEST, _META):
                contents[name] = opened.extractfile(f"{_FOLDER}/{name}").read()
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}). Remove it") from error
    files = {name: checksum(content) for name, content in contents.items()}
    contents[_RECORD] = (json.dumps({"archive": _SHA256, "files": files}, indent=2) + "\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)


def fetch() -> None:
    """Download and unpack the official archive, unless the files are here already.

    Raises:
        MissingDataError: it cannot be downloaded.
        DataError: the files that are here are damaged, or the archive is not what it should be.
    """
    try:
        load()
    except MissingDataError:
        _unpack(download(_URL, f"sha256:{_SHA256}", data_dir()), data_dir() / _FOLDER)
