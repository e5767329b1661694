"""Distances between types of cells."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from latentgeo.paper.cell_types import (
    class_distances,
    distance_matrix_of,
    draw_class_pairs,
    family_names,
    mantel,
    medoids,
    neighbour_accuracy,
    permute_classes,
)
from latentgeo.paper.data.cells import all_cells


def test_pairs_of_members_belong_to_their_classes():
    labels = torch.tensor([0] * 8 + [1] * 5 + [2] * 2 + [3])
    pairs = draw_class_pairs(labels, list("ABCD"), members=6)
    assert len(pairs) == 6 * 6
    names = np.array(list("ABCD"))[labels.numpy()]
    assert (names[pairs["start"]] == pairs["first"]).all()
    assert (names[pairs["end"]] == pairs["second"]).all()
    assert set(draw_class_pairs(labels, list("ABCD"), 1, largest=2)["first"]) == {"A"}
    pd.testing.assert_frame_equal(pairs, draw_class_pairs(labels, list("ABCD"), members=6))
    with pytest.raises(ValueError, match="at least two classes"):
        draw_class_pairs(torch.zeros(4, dtype=torch.long), ["A"], members=1)


def _table(codes, seeds=(0, 1), classes="ABCDEF"):
    """Distances of points on a line, another scale under each model."""
    rows = []
    for seed in seeds:
        for pair, (i, j) in enumerate(itertools.combinations(range(len(classes)), 2)):
            value = (1 + seed) * abs(codes[i] - codes[j])
            rows.append((seed, pair, classes[i], classes[j], "geodesic", value, True))
    return pd.DataFrame(rows, columns=["seed", "pair", "first", "second", "method", "value", "converged"])


def test_renaming_classes_keeps_the_numbers_and_breaks_the_agreement():
    table = _table([0.0, 1.0, 2.5, 4.5, 7.0, 11.0])
    assert mantel(table, "geodesic", (0, 1)) == (pytest.approx(1.0), pytest.approx(0.001, abs=0.003))
    renamed = permute_classes(table, 1, np.random.default_rng(0))
    for seed in (0, 1):
        first, second = (t.loc[t["seed"] == seed, "value"].sort_values().to_numpy() for t in (table, renamed))
        assert np.array_equal(first, second)
    assert not renamed.duplicated(["seed", "pair"]).any()
    correlation, p = mantel(renamed, "geodesic", (0, 1))
    assert correlation < 0.6  # the control: other names, no agreement
    assert p > 0.02
    matrix = distance_matrix_of(table, 1, "geodesic", list("FABCDE"))
    assert matrix[0, 1] == matrix[1, 0] == 22.0
    assert np.isnan(np.diag(matrix)).all()


def test_medoids_and_neighbours():
    x = torch.tensor([[0.0], [1.0], [2.2], [10.0], [11.0], [13.0]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert medoids(x, labels) == {0: 1, 1: 4}
    assert neighbour_accuracy(x, labels, neighbours=2) == 1.0
    assert neighbour_accuracy(x, torch.tensor([0, 1, 0, 1, 0, 1]), neighbours=2) < 0.5  # the control
    assert family_names(["Vip a", "Vip b", "Sst c", "Rare d"], torch.tensor([0, 1, 1] + [2] * 97)) == [
        "",
        "Vip",
        "Sst",
        "",
    ]


@pytest.mark.slow
def test_distances_of_types_come_from_the_store_the_second_time(trained, counts, monkeypatch):
    cells, labels = all_cells(counts)
    pairs = draw_class_pairs(labels, counts.class_names, members=2, largest=3)
    start, end = (torch.tensor(pairs.loc[pairs.index[:2], side].to_numpy()) for side in ("start", "end"))
    z, euclidean = trained.trained(0).encode(cells), []
    for study in (dataclasses.replace(trained, points="mean"), trained):
        table = class_distances(study, pairs, segments=4, workers=0)
        assert len(table) == 2 * 3 * table["method"].nunique()
        one = table.query("seed == 0 and pair == 0").set_index("method")["value"]
        euclidean.append(one["euclidean"])
    assert euclidean[0] == pytest.approx((z[start] - z[end]).norm(dim=1).mean().item(), rel=1e-5)
    assert euclidean[1] != pytest.approx(euclidean[0], rel=1e-2)  # between the points of greatest likelihood
    assert one["data"] == pytest.approx((cells[start] - cells[end]).norm(dim=1).mean().item(), rel=1e-5)
    assert one["ambient_chord"] <= one["geodesic"] * 1.001
    monkeypatch.setattr("latentgeo.paper.study.run_jobs", lambda *_, **__: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(table, class_distances(trained, pairs, segments=4, workers=0), check_exact=True)
