"""What data sets of single cells share: dealing the cells out to the parts, and the types by name and colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from latentgeo.paper.data.base import Dataset, deal


def dealt(
    name: str, x: np.ndarray, types: Sequence[str], colours: dict[str, str], held_out: int, **origin: object
) -> Dataset:
    """Cells dealt out to the parts of a data set, always in the same way.

    Args:
        name: of the data set.
        x: one row for each cell, shape (n, genes).
        types: name of each cell's type, n of them.
        colours: ``"#rrggbb"`` of each type; the types are numbered in this order.
        held_out: the number of cells in the test part, and again in the validation part.
        **origin: ``source``, ``licence`` and ``sha256`` of the :class:`Dataset`.
    """
    names = tuple(colours)
    numbers = {each: number for number, each in enumerate(names)}
    labels = torch.tensor([numbers[each] for each in types])
    test, validation, train = deal(torch.from_numpy(x.astype(np.float32)), labels, held_out, held_out)
    parts = (*train, *validation, *test)
    return Dataset(name, *parts, class_names=names, class_colours=tuple(colours.values()), **origin)


def all_cells(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells of all parts with their types: (n, genes) and (n,).

    They stand in the order of the parts, not in that of the atlas: do not put them beside an AnnData's own columns.
    """
    return dataset.everything, torch.cat([dataset.train_labels, dataset.validation_labels, dataset.test_labels])
