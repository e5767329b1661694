"""Cells of the mouse's cortex (Tasic et al. 2018): seven marker genes, 133 types."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from latentgeo.paper.data.base import DataError, Dataset, MissingDataError, download, folders
from latentgeo.paper.data.cells import deal_cells
from latentgeo.paper.paths import data_dir

SOURCE = "Tasic et al., Nature 563:72, 2018, as prepared in https://github.com/berenslab/rna-seq-tsne"
LICENCE = "terms of use of the Allen Institute, https://alleninstitute.org/terms-of-use"
_FILE = "tasic-sample_heatmap_plot_data.csv"
_SHA256 = "57a682d4a46ca76562bf8b9837550e9aac656501349590985b66e18b660a9369"
_URL = f"https://raw.githubusercontent.com/berenslab/rna-seq-tsne/master/data/{_FILE}"
_CELLS, _GENES, _UNIT = 23_822, 7, "_log10_cpm"
HELD_OUT = 2_000


def places() -> list[Path]:
    """Folders that are looked in."""
    own = os.environ.get("LATENTGEO_DATA")
    return folders("tasic", *([Path(own)] if own else []), data_dir())


def find(name: str, ways: str) -> Path:
    """The first file of this name.

    Raises:
        MissingDataError: there is none; the message ends with the ways to get it.
    """
    for folder in places():
        if (folder / name).is_file():
            return folder / name
    raise MissingDataError(f"{name} was not found in {', '.join(str(folder) for folder in places())}. {ways}")


def _ways() -> str:
    return (
        f"Two ways to get it: (1) `latentgeo data tasic`, which downloads {_URL}; (2) download it by hand into "
        f"{data_dir() / 'tasic'}, or into a folder named by LATENTGEO_DATA."
    )


def load() -> Dataset:
    """The 23,822 cells with 7 genes in log10 counts per million: 19,822 for training, 2,000 and 2,000 held out.

    Raises:
        MissingDataError: the file is not there.
        DataError: it is damaged.
    """
    path = find(_FILE, _ways())
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise DataError(f"{path} is damaged: expected sha256 {_SHA256}, got {digest}. Remove it. {_ways()}")
    table = pd.read_csv(io.BytesIO(content))
    genes = [column for column in table.columns if column.endswith(_UNIT)]
    assert (len(table), len(genes)) == (_CELLS, _GENES)  # implied by the checksum
    types = table.drop_duplicates("cluster_id").sort_values("cluster_id")  # numbered by the atlas's tree
    colours = dict(zip(types["cluster_label"], types["cluster_color"].str.lower(), strict=True))
    x = table[genes].to_numpy(np.float32)
    return deal_cells("tasic", x, list(table["cluster_label"]), colours, HELD_OUT, SOURCE, LICENCE, {_FILE: digest})


def fetch(report: Callable[[str], None]) -> None:
    """Download the file if it is not here.

    Raises:
        MissingDataError: it could not be downloaded.
    """
    try:
        find(_FILE, _ways())
    except MissingDataError:
        report(f"downloading {_URL}")
        download(_URL, f"sha256:{_SHA256}", data_dir() / "tasic", _ways())
