"""Cells of the mouse's cortex (Tasic et al. 2018): the first 50 principal components, 133 types."""

from __future__ import annotations

import numpy as np

from latentgeo.paper.data.base import DataError, Dataset
from latentgeo.paper.data.cells import dealt
from latentgeo.paper.data.tasic import HELD_OUT, ORIGIN, find_file
from latentgeo.paper.paths import file_checksum

_FILES = ("tasic-pca50.npy", "tasic-ttypes.npy", "tasic-colors.npy")


WAYS = (
    f"Download {', '.join(_FILES)} from https://github.com/berenslab/rna-seq-tsne (data/tasic-preprocessed) into "
    "{data}/tasic, or into a folder named by LATENTGEO_DATA."
)


def load() -> Dataset:
    """The cells by their 50 principal components, divided by the standard deviation of the first.

    No checksum of these files is published; that of what was read is part of every result.

    Raises:
        MissingDataError: a file is not there.
        DataError: the files do not fit together.
    """
    paths = [find_file(name) for name in _FILES]
    try:
        x, types, colours = (np.load(path, allow_pickle=False) for path in paths)
    except (ValueError, EOFError) as error:
        raise DataError(f"{_FILES} in {paths[0].parent} cannot be read ({error})") from error
    if x.ndim != 2 or not len(x) == len(types) == len(colours) or len(x) <= 2 * HELD_OUT or not np.isfinite(x).all():
        raise DataError(
            f"expected finite components, a type and a colour for each of more than {2 * HELD_OUT} cells, got shapes "
            f"{x.shape}, {types.shape} and {colours.shape}"
        )
    names = [str(each) for each in types]
    of_types = dict(sorted(zip(names, (str(each).lower() for each in colours), strict=True)))
    sha256 = {path.name: file_checksum(path) for path in paths}
    return dealt("tasic_pca50", x / x[:, 0].std(), names, of_types, HELD_OUT, **ORIGIN, sha256=sha256)
