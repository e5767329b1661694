"""Blood cells (PBMC 68k, reduced), which ship with scanpy: logarithms of normalised counts, each gene standardised."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import numpy as np

from latentgeo.paper.data.base import Dataset, MissingDataError
from latentgeo.paper.data.cells import dealt
from latentgeo.paper.paths import checksum

_HELD_OUT = 100
_CLIP = 10.0  # standard deviations, as is usual: a gene found in one cell of 700 is not to outweigh all others
_LEAST_DEVIATION = 0.05  # of a gene; below that its scale would be that of one or two cells


@functools.lru_cache(maxsize=1)
def read() -> tuple[np.ndarray, tuple[str, ...], dict[str, str], dict[str, str]]:
    """Log-normalised expression (700, 765), type of each cell, colours of the types, and checksums, from scanpy.

    Raises:
        MissingDataError: scanpy is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations among scanpy's own dependencies
            import scanpy

            atlas = scanpy.datasets.pbmc68k_reduced()
    except ImportError as error:
        raise MissingDataError(
            f"the cells ship with scanpy, which cannot be imported ({error}): pip install 'latentgeo[singlecell]'"
        ) from error
    expression = atlas.raw.X.toarray().astype("<f4")
    types = tuple(str(each) for each in atlas.obs["bulk_labels"])
    names = [str(each) for each in atlas.obs["bulk_labels"].cat.categories]
    colours = dict(zip(names, (str(each).lower() for each in atlas.uns["bulk_labels_colors"]), strict=True))
    sha256 = {"expression": checksum(expression.tobytes()), "types": checksum("\n".join(types).encode())}
    return expression, types, colours, sha256


def deal(name: str, x: np.ndarray) -> Dataset:
    """The data set of this name, from one row for each of scanpy's cells: 500 for training, 100 and 100 held out."""
    _, types, colours, sha256 = read()
    return dealt(
        name,
        x,
        types,
        colours,
        _HELD_OUT,
        source="scanpy.datasets.pbmc68k_reduced(), of 10x Genomics' PBMC 68k (Zheng et al., Nature Communications "
        "8:14049, 2017)",
        licence="CC BY 4.0 (10x Genomics)",
        sha256=sha256,
    )


def load() -> Dataset:
    r"""The 700 cells with 765 genes, for a Gaussian likelihood of unit variance.

    Of the logarithm :math:`\log(1 + x)` of normalised counts the mean over training cells is taken away, gene by gene,
    and the rest divided by the standard deviation and clipped to ±10.

    Raises:
        MissingDataError: scanpy is not installed.
    """
    dataset = deal("pbmc68k", read()[0])
    mean, deviation = dataset.train.mean(0), dataset.train.std(0).clamp_min(_LEAST_DEVIATION)
    parts = {
        part: ((getattr(dataset, part) - mean) / deviation).clamp(-_CLIP, _CLIP)
        for part in ("train", "validation", "test")
    }
    return dataclasses.replace(dataset, **parts)
