"""What is concluded from distances between cells."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from latentgeo.agreement.pairs import pair_distances
from latentgeo.paper import figures
from latentgeo.paper.conclusions import (
    CONCLUSIONS,
    Cells,
    agreements,
    between_types,
    cell_distances,
    cell_pairs,
    compare,
    dealt_anew,
    draw_cells,
    nearest,
    principal_components,
)
from latentgeo.paper.data.cells import all_cells


def _cells(types=4, members=5, neighbours=3):
    number = np.repeat(np.arange(types), members)
    return Cells(np.arange(len(number)), number, tuple("ABCDEFGH"[:types]), 0, neighbours)


def _distances(cells, S=4, noise=0.0, seed=0):
    """Distances of points in the plane, types apart, each model with its own noise and scale."""
    random = np.random.default_rng(seed)
    place = np.array([[0.0, 0.0], [9.0, 1.0], [4.0, 8.0], [15.0, 9.0], [20.0, 2.0], [3.0, 20.0]])
    x = place[cells.types] + random.standard_normal((len(cells), 2))
    models = [(1 + s) * (x + noise * random.standard_normal(x.shape)) for s in range(S)]
    return np.stack([np.linalg.norm(of[:, None] - of, axis=2) for of in models])


def _means(found):
    """Mean over models or pairs of different ones."""
    several = {key: of for key, of in found.items() if len(of) > 1}
    return {key: of[np.triu_indices(len(of), 1)].mean() if of.ndim == 2 else of.mean() for key, of in several.items()}


def test_as_many_cells_of_each_type_are_drawn():
    labels = torch.tensor([0] * 9 + [1] * 3 + [2] * 7 + [3] * 6 + [4] * 5)
    cells = draw_cells(labels, "ABCDE", 5, "C", neighbours=4)
    assert cells.names == tuple("ACDE")
    assert cells.names[cells.root] == "C"
    assert (np.array(list("ABCDE"))[labels[cells.rows]] == np.array(cells.names)[cells.types]).all()
    assert len(np.unique(cells.rows)) == len(cells) == 20
    assert draw_cells(labels, "ABCDE", 5, "C", neighbours=4, largest=3).names == tuple("ACD")
    assert cells.chance["neighbours", "trainings"] == pytest.approx(4 / 19)
    assert cells.chance["neighbours", "types"] == pytest.approx(4 / 19)
    with pytest.raises(ValueError, match="'B' among them, got A, C, D, E"):
        draw_cells(labels, "ABCDE", 5, "B", neighbours=4)
    with pytest.raises(ValueError, match="neighbours: expected between 1 and 18, got 19"):
        draw_cells(labels, "ABCDE", 5, "C", neighbours=19)


def test_neighbours_and_distances_of_types_are_those_of_a_line():
    x = np.array([0.0, 1.0, 2.5, 4.5, 8.0])
    D = np.abs(x[:, None] - x)
    found = [np.flatnonzero(row).tolist() for row in nearest(D, 2)]
    assert found == [[1, 2], [0, 2], [1, 3], [1, 2], [2, 3]] or found[2] == [0, 1]
    D[0, 1] = D[1, 0] = 0.0  # twins: none is its own neighbour
    assert not np.diag(nearest(D, 1)).any()
    types = np.array([0, 1, 1, 0, 2])
    expected = [
        np.mean([D[i, j] for i in np.flatnonzero(types == a) for j in np.flatnonzero(types == b)])
        for a, b in itertools.combinations(range(3), 2)
    ]
    np.testing.assert_allclose(between_types(D, types), expected)


def test_models_that_differ_in_scale_alone_agree_on_everything_and_noise_costs():
    cells = _cells()
    same, noisy = (agreements({"geodesic": _distances(cells, noise=of)}, cells) for of in (0.0, 3.0))
    for conclusion, against in CONCLUSIONS:
        of, control = (found[conclusion, against, "geodesic"] for found in (same, noisy))
        if against == "trainings":
            np.testing.assert_allclose(of, 1.0)
            assert np.allclose(control, control.T)
        assert control.mean() < of.mean()


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_unrelated_models_agree_by_chance_as_the_closed_form_says(noise):
    cells, random = _cells(), np.random.default_rng(1)
    distances = {"geodesic": _distances(cells, S=6, noise=noise)}
    drawn = pd.DataFrame(_means(agreements(dealt_anew(distances, cells, random), cells)) for _ in range(40))
    error = drawn.sem()
    for key, chance in cells.chance.items():
        of = (*key, "geodesic")
        assert abs(drawn.mean()[of] - chance) < 4 * error[of]
        assert _means(agreements(distances, cells))[of] > chance + 0.2  # the control


def test_cells_dealt_within_their_types_keep_what_the_types_say():
    cells = _cells()
    mixed = Cells(cells.rows, np.random.default_rng(2).permutation(cells.types), cells.names, 0, 3)
    distances = {"geodesic": _distances(mixed, noise=0.5), "pca_2": _distances(mixed, S=1)}
    dealt = dealt_anew(distances, mixed, np.random.default_rng(3), within=True)
    assert not np.allclose(dealt["geodesic"], distances["geodesic"])
    before, after = (agreements(of, mixed) for of in (distances, dealt))
    for key in [("types", "trainings"), ("neighbours", "types"), ("clusters", "types")]:
        np.testing.assert_allclose(after[*key, "geodesic"], before[*key, "geodesic"])
    assert _means(after)["neighbours", "trainings", "geodesic"] < _means(before)["neighbours", "trainings", "geodesic"]
    for kept, of in zip(distances["geodesic"], dealt["geodesic"], strict=True):
        np.testing.assert_allclose(between_types(of, mixed.types), between_types(kept, mixed.types))


def test_intervals_over_pairs_of_models_hold_the_truth_as_often_as_they_say():
    random, S, held, sided = np.random.default_rng(0), 10, 0, 0
    cells = _cells()
    for draw in range(200):
        found = {}
        for method in ("geodesic", "euclidean"):
            of = 0.5 + 0.05 * np.add.outer(*2 * [random.standard_normal(S)]) + np.eye(S)
            own = 0.05 * random.standard_normal((S, S))
            found["order", "trainings", method] = of + own + own.T
        row = compare(found, cells, resamples=200, seed=draw).loc["order", "trainings", "euclidean"]
        held += row["agreement_low"] < 0.5 < row["agreement_high"]
        sided += row["p"] < 0.05
        assert row["agreement_high"] <= 1
        assert (row["p"] < 0.05) == (row["difference_low"] > 0 or row["difference_high"] < 0)
    assert held >= 180
    assert sided <= 20


def test_differences_are_paired_and_what_no_model_enters_is_not_compared_between_trainings():
    cells, S = _cells(), 6
    shared = 0.3 * np.random.default_rng(0).standard_normal(S)
    of = 0.5 + np.add.outer(shared, shared)
    found = {
        ("order", "trainings", "geodesic"): of + 0.1,
        ("order", "trainings", "euclidean"): of,
        ("order", "trainings", "pca_2"): np.ones((1, 1)),
        ("neighbours", "types", "geodesic"): 0.5 + shared,
        ("neighbours", "types", "pca_2"): np.array([0.4]),
    }
    table = compare(found, cells)
    row = table.loc["order", "trainings", "euclidean"]
    assert row[["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert row["p"] < 1e-9
    assert row["agreement_high"] - row["agreement_low"] > 0.1  # unpaired, the difference would not be seen
    assert ("order", "trainings", "pca_2") not in table.index
    row = table.loc["neighbours", "types", "pca_2"]
    assert row["agreement"] == 0.4
    assert np.isnan(row["agreement_low"])
    assert row["calibrated"] == pytest.approx((0.4 - 4 / 19) / (1 - 4 / 19))
    same = found | {("order", "trainings", "euclidean"): found["order", "trainings", "geodesic"]}
    assert compare(same, cells).loc[("order", "trainings", "euclidean"), ["difference", "p"]].tolist() == [0, 1]
    reach = scipy.stats.t.ppf(0.975, S - 1) * shared.std(ddof=1) / np.sqrt(S)
    assert row["difference_high"] - row["difference"] == pytest.approx(reach, rel=0.05)


def test_principal_components_of_a_plane_keep_its_distances():
    random = np.random.default_rng(0)
    x = random.standard_normal((60, 2)) @ random.standard_normal((2, 7))
    found = principal_components(torch.from_numpy(x), np.arange(9))
    D = np.linalg.norm(x[:9, None] - x[:9], axis=2)
    for of in found.values():
        np.testing.assert_allclose(of, D[None], atol=1e-6)
    assert list(found) == ["pca_2", "pca_50"]


@pytest.mark.slow
def test_distances_of_cells_are_those_of_pairs_and_are_drawn(counts, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_FIGURES", str(tmp_path))
    x, labels = all_cells(counts)
    cells = draw_cells(labels, counts.class_names, 1, "CD34+", neighbours=2, largest=None)
    distances, how = cell_distances(trained, cells, segments=8, workers=0)
    n = len(cells)
    assert set(distances) == {*how.index, "pca_2", "pca_50"}
    i, j = np.array([0, 3]), np.array([5, 1])
    expected = pair_distances(trained.trained(1), x[cells.rows[i]], x[cells.rows[j]], segments=16)
    for method in ("geodesic", "ambient_chord", "straight_line"):
        of = expected.loc[expected["method"] == method, "value"]
        np.testing.assert_allclose(distances[method][1][i, j], of, rtol=2e-3)
    z = trained.trained(1).encode(x[cells.rows])
    np.testing.assert_allclose(distances["euclidean"][1], torch.cdist(z, z), atol=1e-5)
    assert not np.allclose(distances["euclidean"], distances["euclidean_nearest"])
    assert distances["geodesic"].shape == (2, n, n)
    assert distances["pca_2"].shape == (1, n, n)
    table = compare(agreements(distances, cells), cells)
    compared = pd.concat({"cells": table.assign(p_holm=table["p"])}, names=["data"])
    figures.save(figures.conclusions(compared), "figure", [trained])
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_cell_against_itself_is_at_distance_zero(counts, trained):
    x = all_cells(counts)[0]
    twins = torch.stack([x[3], x[5]]), torch.stack([x[3], x[4]])
    table = cell_pairs(trained.trained(0), *twins, points="posterior", segments=8, tol=1e-2)
    first = table[table["pair"] == 0]
    assert first["converged"].all()
    assert (first["value"] == 0).all()
    assert (table[table["pair"] == 1]["value"] > 0).all()
