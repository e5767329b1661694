"""CelebA: from the official aligned JPEGs, one at a time, into one memory-mapped array. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from latentgeo.extras import require
from latentgeo.paper.data.base import DataError, Dataset, MissingDataError, find, folders, read
from latentgeo.paper.paths import checksum, data_dir, file_checksum, write_atomically

_SITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_IMAGES, _PARTITION = "img_align_celeba", "list_eval_partition.txt"
_SIZE = (178, 218)  # width, height
_CROP, _SIDE = 148, 64
_PROCESSING = f"RGB, centre crop {_CROP}x{_CROP}, resized to {_SIDE}x{_SIDE} (bilinear with antialiasing), uint8"


WAYS = (
    f"CelebA is for non-commercial research and is downloaded by hand under its own terms from {_SITE}: unpack "
    f"img_align_celeba.zip, so that there are celeba/{_IMAGES}/000001.jpg and so on, and celeba/{_PARTITION}, in "
    "{data} or in a folder named by LATENTGEO_DATA."
)


def _read_partition(path: Path) -> tuple[list[str], np.ndarray, str]:
    """Names of the images and their parts (0 training, 1 validation, 2 test), ordered by part, and the checksum."""
    content = read(path)
    names, parts = [], []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2") or Path(fields[0]).name != fields[0]:
            raise DataError(f"{path}, line {number}: expected a file name and 0, 1 or 2, got {line[:80]!r}")
        names.append(fields[0])
        parts.append(int(fields[1]))
    if len(set(names)) < len(names) or set(parts) != {0, 1, 2}:
        raise DataError(
            f"{path}: expected different images in all of the three parts, got {len(names)} lines, "
            f"{len(set(names))} different images and the parts {sorted(set(parts))}"
        )
    order = np.argsort(parts, kind="stable")
    return [names[i] for i in order], np.array(parts)[order], checksum(content)


def _sizes(folder: Path, names: list[str]) -> list[int]:
    """Bytes of each image file that the partition file lists.

    Raises:
        MissingDataError: some are not there.
    """
    with os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    missing = [name for name in names if name not in sizes]
    if missing:
        raise MissingDataError(
            f"{len(missing):,} of the {len(names):,} images listed in {_PARTITION} are not in {folder}, the first of "
            f"them {missing[0]}"
        )
    return [sizes[name] for name in names]


def _pixels(path: Path, content: bytes) -> np.ndarray:
    """The pixels of one image, shape (3, 64, 64)."""
    import io

    require("CelebA", "notebooks", "PIL")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
            if image.size != _SIZE:
                raise DataError(f"{path}: expected {_SIZE} pixels, got {image.size}")
            left, top = ((side - _CROP) // 2 for side in _SIZE)
            crop = image.convert("RGB").crop((left, top, left + _CROP, top + _CROP))
            # Pillow widens the triangle of the bilinear filter by the reduction, which is the antialiasing.
            return np.asarray(crop.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _make(cache: Path, folder: Path, names: list[str], record: dict[str, object]) -> dict[str, object]:
    """Write the array and then its record, each under another name until it is whole; return the record."""
    partial = cache.with_suffix(".partial")
    array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(names), 3, _SIDE, _SIDE))
    everything = hashlib.sha256()
    for row, name in enumerate(tqdm(names, desc="reading CelebA", disable=None)):
        content = read(folder / name)
        everything.update(content)
        array[row] = _pixels(folder / name, content)
    array.flush()
    del array
    record = {**record, "images_sha256": everything.hexdigest(), "pixels_sha256": file_checksum(partial)}
    os.replace(partial, cache)
    write_atomically(cache.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    return record


def _cached(cache: Path, record: dict[str, object]) -> dict[str, object] | None:
    """The record of an array that is whole and made from the same files, else None."""
    try:
        found = json.loads(cache.with_suffix(".json").read_bytes())
        if record.items() <= found.items() and found["pixels_sha256"] == file_checksum(cache):
            return found
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    return None


def load() -> Dataset:
    """The 202,599 images in the official parts, as bytes of shape (n, 3, 64, 64) that stay on the disk.

    Every image is cropped to its middle 148×148 pixels and resized to 64×64, bilinearly with antialiasing. The result
    is kept in one array under ``data/celeba-64/``, 2.5 GB, which is made at the first call and checked at all others;
    the tensors are views of it, and a model converts the batch that it is given. There are no classes: labels are 0.

    Raises:
        MissingDataError: the partition file, or an image that it lists, is not there.
        DataError: a file is damaged, or an image is not of 178×218 pixels.
    """
    folder = find([folder / _IMAGES for folder in folders("celeba")]).parent
    names, parts, partition = _read_partition(folder / _PARTITION)
    sizes = _sizes(folder / _IMAGES, names)
    listing = checksum("".join(f"{n} {size}\n" for n, size in zip(names, sizes, strict=True)).encode())
    record = {"processing": _PROCESSING, "partition_sha256": partition, "listing_sha256": listing}
    key = checksum(json.dumps(record, sort_keys=True).encode())[:16]
    cache = data_dir() / "celeba-64" / f"{key}.npy"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_suffix(".lock")):
        made = _cached(cache, record) or _make(cache, folder / _IMAGES, names, record)
    # Mapped copy-on-write, as PyTorch has no tensors that cannot be written to.
    pixels = torch.from_numpy(np.load(cache, mmap_mode="c"))
    each = pixels.split(np.bincount(parts).tolist())
    train, validation, test = ((part, torch.zeros(len(part), dtype=torch.int64)) for part in each)
    return Dataset(
        "celeba",
        *train,
        *validation,
        *test,
        class_names=("face",),
        source=f"{_SITE}, aligned images ({len(names):,}), {_PROCESSING}",
        licence="non-commercial research only, under the terms of its site",
        sha256={_PARTITION: partition, _IMAGES: str(made["images_sha256"]), "pixels": str(made["pixels_sha256"])},
    )
