"""Data sets: loaded from checked files into tensors, with a validation split taken from the training data."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from latentgeo.paper.data.base import DataError, Dataset, MissingDataError
from latentgeo.paper.paths import data_dir

__all__ = ["DATASETS", "DataError", "Dataset", "MissingDataError", "fetch_dataset", "load_dataset"]

# Each is a module with load() -> Dataset, which never downloads; where files are needed also with WAYS, the ways to get
# them, and, where a program may do it, with fetch().
DATASETS = ("celeba", "cifar10", "digits", "fashion_mnist", "pbmc68k", "pbmc68k_counts", "tasic", "tasic_pca50")


@contextmanager
def _module(name: str) -> Iterator[object]:
    """The module of a data set; errors that it raises in the block end with the ways to get the files."""
    if name not in DATASETS:
        raise ValueError(f"expected a data set among {', '.join(DATASETS)}, got {name!r}")
    module = import_module(f"{__name__}.{name}")
    try:
        yield module
    except DataError as error:
        if not hasattr(module, "WAYS"):
            raise
        raise type(error)(f"{error}. {module.WAYS.format(data=data_dir())}") from error


def load_dataset(name: str) -> Dataset:
    """Load a data set from this machine; nothing is downloaded.

    Args:
        name: ``"digits"`` (1,797 images of 8×8, ships with scikit-learn), ``"fashion_mnist"`` (70,000 of 28×28),
            ``"cifar10"`` (60,000 of 3×32×32) or ``"celeba"`` (202,599 of 3×64×64); or of single cells ``"pbmc68k"``,
            ``"pbmc68k_counts"`` (700 of 765 genes, ships with scanpy), ``"tasic"`` (23,822 of 7 genes) or
            ``"tasic_pca50"`` (the same by principal components).

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
    return _load_cached(name, os.environ.get("LATENTGEO_DATA"))


@functools.lru_cache(maxsize=4)
def _load_cached(name: str, _folder: str | None) -> Dataset:
    with _module(name) as module:
        return module.load()


def fetch_dataset(name: str) -> Dataset:
    """Get a data set onto this machine if it is not here yet, and load it.

    Tried in this order: files that are here; a Debian package, where there is one and apt may install it; a download
    with checksums and a progress bar. Each thing done is printed.

    Args:
        name: as for :func:`load_dataset`.

    Returns:
        The data set.

    Raises:
        ValueError: the name is unknown.
        MissingDataError: none of the ways worked.
        DataError: a file outside our own cache is damaged.
    """
    with _module(name) as module:
        if hasattr(module, "fetch"):
            module.fetch()
    dataset = load_dataset(name)
    print(f"{dataset!r} is here")
    return dataset
