"""Cells of the mouse's cortex (Tasic et al. 2018): seven marker genes, 133 types."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd

from latentgeo.paper.data.base import Dataset, MissingDataError, check, download, find, folders, read
from latentgeo.paper.data.cells import dealt
from latentgeo.paper.paths import data_dir

ORIGIN = {
    "source": "Tasic et al., Nature 563:72, 2018, as prepared in https://github.com/berenslab/rna-seq-tsne",
    "licence": "terms of use of the Allen Institute, https://alleninstitute.org/terms-of-use",
}
_FILE = "tasic-sample_heatmap_plot_data.csv"
_SHA256 = "57a682d4a46ca76562bf8b9837550e9aac656501349590985b66e18b660a9369"
_URL = f"https://raw.githubusercontent.com/berenslab/rna-seq-tsne/master/data/{_FILE}"
_CELLS, _GENES, _UNIT = 23_822, 7, "_log10_cpm"
HELD_OUT = 2_000


WAYS = (
    f"Two ways to get it: (1) `latentgeo data tasic`, which downloads {_URL}; (2) download it by hand into "
    "{data}/tasic, or into a folder named by LATENTGEO_DATA."
)


def find_file(name: str) -> Path:
    """The first file of this name, in a folder tasic/ or beside it.

    Raises:
        MissingDataError: there is none.
    """
    own = os.environ.get("LATENTGEO_DATA")
    return find([folder / name for folder in folders("tasic", *([Path(own)] if own else []), data_dir())])


def load() -> Dataset:
    """The 23,822 cells with 7 genes in log10 counts per million: 19,822 for training, 2,000 and 2,000 held out.

    Raises:
        MissingDataError: the file is not there.
        DataError: it is damaged.
    """
    path = find_file(_FILE)
    content = read(path)
    check(path, content, _SHA256)
    table = pd.read_csv(io.BytesIO(content))
    genes = [column for column in table.columns if column.endswith(_UNIT)]
    assert (len(table), len(genes)) == (_CELLS, _GENES)  # implied by the checksum
    types = table.drop_duplicates("cluster_id").sort_values("cluster_id")  # numbered by the atlas's tree
    colours = dict(zip(types["cluster_label"], types["cluster_color"].str.lower(), strict=True))
    x = table[genes].to_numpy(np.float32)
    return dealt("tasic", x, list(table["cluster_label"]), colours, HELD_OUT, **ORIGIN, sha256={_FILE: _SHA256})


def fetch() -> None:
    """Download the file if it is not here.

    Raises:
        MissingDataError: it could not be downloaded.
    """
    try:
        find_file(_FILE)
    except MissingDataError:
        download(_URL, f"sha256:{_SHA256}", data_dir() / "tasic")
