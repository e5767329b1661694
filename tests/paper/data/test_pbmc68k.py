import sys

import numpy as np
import pytest
import torch

import latentgeo as lg
from latentgeo.paper.data import pbmc68k
from latentgeo.paper.data.cells import all_cells


def test_blood_cells_are_the_atlas_s(counts):
    assert (counts.train.shape, counts.validation.shape, counts.test.shape) == ((500, 765), (100, 765), (100, 765))
    cells, labels = all_cells(counts)
    assert torch.equal(cells, cells.round())
    assert (cells.min(), cells.max()) == (0, 259)
    sizes = dict(zip(counts.class_names, labels.bincount().tolist(), strict=True))
    assert (sizes["Dendritic"], sizes["CD14+ Monocyte"], sizes["CD34+"]) == (240, 129, 13)
    assert len(counts.class_colours) == 10
    assert counts.class_colours[0] == "#1f77b4"
    gaussian = lg.paper.load_dataset("pbmc68k")
    assert torch.equal(gaussian.train_labels, counts.train_labels)
    assert gaussian.train.abs().max() <= 10
    assert gaussian.train.mean(0).abs().max() < 0.15  # clipping moves the mean of genes with outliers
    assert 0.9 < gaussian.train.std(0).median() < 1.1
    # The same cells in the same order: a gene's logarithm rises with its count.
    gene = counts.train.mean(0).argmax()
    assert np.corrcoef(gaussian.train[:, gene], counts.train[:, gene])[0, 1] > 0.3


def test_without_scanpy_the_message_says_what_to_install(monkeypatch):
    pbmc68k.read.cache_clear()
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(lg.paper.MissingDataError, match=r"pip install 'latentgeo\[singlecell\]'"):
        pbmc68k.load()
