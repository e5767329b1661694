"""Data sets of single cells, distances between their types, and the figures of both."""

import hashlib
import itertools
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

import latentgeo as lg
from latentgeo.paper import data as datasets
from latentgeo.paper import figures
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
from latentgeo.paper.data import pbmc68k, pbmc68k_counts, tasic, tasic_pca50
from latentgeo.paper.data.cells import all_cells
from latentgeo.paper.figures.cells import LatentView, MirroredMatrix, cell_atlas, cell_planes
from latentgeo.paper.profiles import training_preset

matplotlib.use("agg")


@pytest.fixture(scope="module")
def counts():
    pytest.importorskip("scanpy", reason="the cells ship with scanpy: pip install 'latentgeo[singlecell]'")
    return lg.paper.load_dataset("pbmc68k_counts")


def test_counts_are_those_that_the_logarithms_came_from():
    random = np.random.default_rng(0)
    counts = random.poisson(2.0, (40, 300))
    logged = np.log1p(counts * random.uniform(1.0, 5.0, (40, 1))).round(3)
    assert (pbmc68k_counts.counts_from(logged) == counts).all()
    with pytest.raises(lg.paper.DataError, match="not logarithms"):
        pbmc68k_counts.counts_from(logged + 0.05 * (logged > 0))
    logged[3] = 0
    with pytest.raises(lg.paper.DataError, match="a cell without"):
        pbmc68k_counts.counts_from(logged)


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_DATA", str(tmp_path))
    for module in (tasic, tasic_pca50, datasets.base):
        monkeypatch.setattr(module, "data_dir", lambda: tmp_path / "project")
    datasets._load_cached.cache_clear()
    yield tmp_path
    datasets._load_cached.cache_clear()


def _tasic_csv():
    """A file in the layout of the published one, of 23,822 cells."""
    n, random = 23_822, np.random.default_rng(0)
    table = pd.DataFrame({"sample_name": [f"cell{i}" for i in range(n)], "cluster_id": 1 + random.integers(0, 3, n)})
    table["cluster_color"] = table["cluster_id"].map({1: "#AA0000", 2: "#00BB00", 3: "#0000CC"})
    table["cluster_label"] = table["cluster_id"].map({1: "Vip a", 2: "Vip b", 3: "Sst c"})
    for gene in ("Gad2", "Slc17a7", "Lamp5", "Sncg", "Vip", "Sst", "Pvalb"):
        table[f"{gene}_log10_cpm"] = random.random(n).round(3)
    return table.to_csv(index=False).encode()


def test_tasic_is_found_checked_and_read(folder, monkeypatch):
    with pytest.raises(lg.paper.MissingDataError, match="latentgeo data tasic"):
        lg.paper.load_dataset("tasic")
    content = _tasic_csv()
    path = folder / "tasic-sample_heatmap_plot_data.csv"  # in the root of LATENTGEO_DATA
    path.write_bytes(content)
    with pytest.raises(lg.paper.DataError, match="is damaged: expected sha256 57a682d4"):
        lg.paper.load_dataset("tasic")
    monkeypatch.setattr(tasic, "_SHA256", hashlib.sha256(content).hexdigest())
    (folder / "tasic").mkdir()
    path.rename(folder / "tasic" / path.name)
    data = lg.paper.load_dataset("tasic")
    assert data.train.shape == (19_822, 7)
    assert data.class_names == ("Vip a", "Vip b", "Sst c")
    assert data.class_colours == ("#aa0000", "#00bb00", "#0000cc")
    tasic.fetch(lambda line: pytest.fail(f"nothing is to be fetched, but {line}"))


def test_components_of_tasic_must_fit_their_types(folder):
    with pytest.raises(lg.paper.MissingDataError, match=r"tasic-pca50\.npy was not found"):
        lg.paper.load_dataset("tasic_pca50")
    n, random = 4_100, np.random.default_rng(0)
    x = random.standard_normal((n, 50)) * 30
    types = np.array(["Vip a", "Sst c"])[np.arange(n) % 2]
    np.save(folder / "tasic-pca50.npy", x)
    np.save(folder / "tasic-ttypes.npy", types)
    np.save(folder / "tasic-colors.npy", np.where(types == "Vip a", "#AA0000", "#0000CC"))
    data = lg.paper.load_dataset("tasic_pca50")
    assert data.train.shape == (100, 50)
    assert (data.class_names, data.class_colours) == (("Sst c", "Vip a"), ("#0000cc", "#aa0000"))
    assert 0.8 < all_cells(data)[0][:, 0].std() < 1.2
    np.save(folder / "tasic-colors.npy", np.array(["#AA0000"]))
    datasets._load_cached.cache_clear()
    with pytest.raises(lg.paper.DataError, match="a type and a colour for each"):
        lg.paper.load_dataset("tasic_pca50")
    np.save(folder / "tasic-colors.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(lg.paper.DataError, match="cannot be read"):
        lg.paper.load_dataset("tasic_pca50")


def test_presets_of_cells():
    assert training_preset("pbmc68k", "mlp", "evidence").epochs > training_preset("pbmc68k", "mlp", "quick").epochs
    paper = training_preset("pbmc68k_counts", "counts", "paper")
    assert paper.epochs == 3 * training_preset("pbmc68k_counts", "counts", "evidence").epochs
    with pytest.raises(ValueError, match="expected the architecture 'counts' for pbmc68k_counts, got 'mlp'"):
        training_preset("pbmc68k_counts", "mlp", "quick")


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


@pytest.fixture(scope="module")
def trained(counts, tmp_path_factory):
    config = lg.paper.TrainingConfig(epochs=2, batch_size=100, learning_rate=1e-2, warmup_steps=2, half_life=60)
    store = tmp_path_factory.mktemp("runs")
    return lg.paper.Study("pbmc68k_counts", "counts", seeds=2, decoders=2, training=config, store=store)


def test_distances_of_types_come_from_the_store_the_second_time(trained, counts, monkeypatch):
    cells, labels = all_cells(counts)
    pairs = draw_class_pairs(labels, counts.class_names, members=2, largest=3)
    table = class_distances(trained, pairs, segments=4, workers=0, progress=False)
    assert len(table) == 2 * 3 * table["method"].nunique()
    one = table.query("seed == 0 and pair == 0").set_index("method")["value"]
    z = trained.trained(0).encode(cells)
    start, end = (torch.tensor(pairs.loc[pairs.index[:2], side].to_numpy()) for side in ("start", "end"))
    assert one["euclidean"] == pytest.approx((z[start] - z[end]).norm(dim=1).mean().item(), rel=1e-5)
    assert one["data"] == pytest.approx((cells[start] - cells[end]).norm(dim=1).mean().item(), rel=1e-5)
    assert one["ambient_chord"] <= one["geodesic"] * 1.001
    monkeypatch.setattr("latentgeo.paper.study.run_jobs", lambda *_, **__: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(
        table, class_distances(trained, pairs, segments=4, workers=0, progress=False), check_exact=True
    )


def test_figures_of_cells(trained, counts):
    cells, labels = all_cells(counts)
    views = [LatentView.of(f"model {s}", trained.trained(s), cells, [(0, 1), (2, 3)], steps=6) for s in (0, 1)]
    assert (views[0].sides[:, 0] == views[0].codes[[0, 2]]).all()
    n = len(counts.class_names)
    upper = np.arange(float(n * n)).reshape(n, n)
    matrix = MirroredMatrix("distance", upper, upper.T + 100, ("one", "two"), "latent units")
    figure = cell_atlas(views, labels.numpy(), counts.class_names, counts.class_colours, [matrix] * 3)
    panels = [ax for part in figure.subfigs for ax in part.axes]
    shown = next(ax for ax in panels if ax.images).images[0].get_array()
    assert shown[0, 1] == upper[0, 1]  # above the diagonal the one
    assert shown[1, 0] == (upper.T + 100)[1, 0]  # below it the other
    codes = [view.codes for view in views]
    names = [str(k) for k in range(n)]
    planes = cell_planes(
        {"PBMC": codes}, {"PBMC": labels.numpy()}, {"PBMC": names}, {"PBMC": list(counts.class_colours)}
    )
    assert len(planes.axes) == 2
    table = _table([0.0, 1.0, 2.5, 4.5, 7.0, 11.0], seeds=(0, 1, 2))
    euclidean = table.assign(method="euclidean", value=table["value"] * (1 + 0.1 * table["pair"] * table["seed"]))
    geodesic = table.assign(value=table["value"] * (1 + 0.01 * table["pair"] * table["seed"] ** 2))
    comparison = lg.compare_reliability(pd.concat([geodesic, euclidean]))
    figure = figures.reliabilities({"PBMC": comparison}, side_by_side=True)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Euclidean", "geodesic"]
