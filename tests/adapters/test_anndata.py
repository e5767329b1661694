"""Geodesic neighbour graphs of blood cells in AnnData, and scanpy's tools on them."""

import functools
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import latentgeo as lg
from latentgeo.adapters.anndata import geodesic_distances, geodesic_neighbors
from tests.surfaces import hill, ring

sc = pytest.importorskip("scanpy", reason="needs scanpy: pip install 'latentgeo[singlecell]'")
anndata = pytest.importorskip("anndata")
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
_CELLS, _GENES, _NEIGHBORS = 48, 100, 6


@functools.lru_cache(maxsize=1)
def _atlas():
    """Blood cells of three types, with the logarithms of the expression of their most variable genes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atlas = sc.datasets.pbmc68k_reduced()
    types = atlas.obs["bulk_labels"].astype(str)
    taken = np.concatenate([np.flatnonzero(types == each)[:16] for each in ("CD14+ Monocyte", "CD19+ B", "CD56+ NK")])
    expression = atlas.raw.X.toarray()[taken]
    expression = expression[:, np.argsort(-expression.var(0), kind="stable")[:_GENES]]
    obs = pd.DataFrame({"type": types.iloc[taken].to_numpy()}, index=atlas.obs_names[taken])
    return anndata.AnnData(scipy.sparse.csr_matrix(expression), obs=obs)


@functools.lru_cache(maxsize=1)
def _model():
    """A small VAE of these cells in double precision, trained for a second."""
    cells = torch.from_numpy(_atlas().X.toarray())
    config = lg.paper.TrainingConfig(epochs=20, batch_size=16, learning_rate=5e-3, warmup_steps=5, patience=20)
    vae = lg.paper.build_vae("mlp", (cells.shape[1],), 2, decoders=1, seed=0, activation="tanh")
    return lg.paper.train(vae, cells, cells[:16], config, seed=0).double().eval()


@pytest.fixture
def cells():
    return _atlas().copy()


@functools.lru_cache(maxsize=1)
def _graph():
    adata = _atlas().copy()
    geodesic_neighbors(adata, _model(), n_neighbors=_NEIGHBORS, segments=8)
    return adata


@pytest.fixture
def graph():
    return _graph().copy()


@functools.lru_cache(maxsize=1)
def _brute_force():
    return lg.distance_matrix(_model().decode, torch.from_numpy(_graph().obsm["X_latentgeo"]), segments=8).numpy()


def test_the_graph_is_that_of_all_pairs(graph):
    distances = graph.obsp["distances"]
    k = _NEIGHBORS - 1
    assert scipy.sparse.issparse(distances)
    assert (distances.getnnz(axis=1) == k).all()
    every = _brute_force() + np.diag(np.full(_CELLS, np.inf))
    rows = distances.indices.reshape(_CELLS, k)
    assert np.array_equal(rows, np.argsort(every, axis=1)[:, :k])
    assert np.allclose(distances.data.reshape(_CELLS, k), np.sort(every, axis=1)[:, :k], rtol=1e-5)
    assert graph.obs["neighbors_certified"].all()
    certificate = graph.uns["neighbors"]["certificate"]
    assert certificate["pairs"] < _CELLS * (_CELLS - 1) / 4
    assert (certificate["unconverged"], certificate["certified"]) == (0, 1.0)
    assert graph.obsp["distances_error"].data.max() == certificate["largest_error"] < 0.01
    # The control: distances of codes join other cells.
    codes = graph.obsm["X_latentgeo"]
    euclidean = np.linalg.norm(codes[:, None] - codes[None], axis=2) + np.diag(np.full(_CELLS, np.inf))
    assert np.mean([set(a) == set(b) for a, b in zip(rows, np.argsort(euclidean, axis=1)[:, :k], strict=True)]) < 0.8


def test_what_is_written_is_where_scanpy_writes_it(graph):
    reference = graph.copy()
    sc.pp.neighbors(reference, n_neighbors=_NEIGHBORS, use_rep="X_latentgeo")
    assert set(reference.uns["neighbors"]) <= set(graph.uns["neighbors"])
    assert set(reference.uns["neighbors"]["params"]) <= set(graph.uns["neighbors"]["params"])
    assert graph.uns["neighbors"]["params"]["metric"] == "geodesic"
    for key in ("distances", "connectivities"):
        assert type(graph.obsp[key]) is type(reference.obsp[key])
        assert graph.obsp[key].shape == reference.obsp[key].shape
    weights = graph.obsp["connectivities"]
    assert abs(weights - weights.T).max() == 0
    assert (weights.data.min() > 0, weights.data.max() <= 1) == (True, True)
    # Weights are scanpy's function of the distances: those of precomputed ones are the same.
    precomputed = anndata.AnnData(_brute_force())
    sc.pp.neighbors(precomputed, n_neighbors=_NEIGHBORS, metric="precomputed", use_rep="X")
    assert np.allclose(weights.toarray(), precomputed.obsp["connectivities"].toarray(), atol=1e-3)


def test_the_graph_does_not_depend_on_latent_coordinates(graph):
    codes = torch.from_numpy(graph.obsm["X_latentgeo"])
    twist = lg.RadialTwist(0.3)
    turned = graph.copy()
    turned.obsm["X_turned"] = twist(codes).numpy()
    decoder = lg.reparametrise(_model().decode, twist)
    geodesic_neighbors(turned, decoder, n_neighbors=_NEIGHBORS, use_rep="X_turned", segments=8)

    def shared(key):
        one, other = graph.obsp[key] > 0, turned.obsp[key] > 0
        return one.multiply(other).sum() / one.sum()

    assert shared("distances") > 0.97
    assert np.allclose(graph.obsp["connectivities"].toarray(), turned.obsp["connectivities"].toarray(), atol=0.05)
    for adata, rep in ((graph, "X_latentgeo"), (turned, "X_turned")):
        sc.pp.neighbors(adata, n_neighbors=_NEIGHBORS, use_rep=rep)
    assert shared("distances") < 0.9  # the control: Euclidean neighbours do


def test_scanpy_s_tools_run_on_it(graph, tmp_path):
    sc.tl.leiden(graph, flavor="igraph", n_iterations=2, directed=False)
    sc.tl.umap(graph, maxiter=20)
    sc.tl.paga(graph, groups="leiden")
    sc.tl.diffmap(graph, n_comps=5)
    assert graph.obs["leiden"].nunique() > 1
    assert graph.obsm["X_umap"].shape == (_CELLS, 2)
    for found in (graph.obsm["X_umap"], graph.obsm["X_diffmap"], graph.uns["paga"]["connectivities"].data):
        assert np.isfinite(found).all()
    graph.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert (read.obsp["distances"] != graph.obsp["distances"]).nnz == 0
    assert read.uns["neighbors"]["certificate"]["unconverged"] == 0


def test_graphs_stand_side_by_side(cells, graph):
    sc.pp.neighbors(graph, n_neighbors=_NEIGHBORS, use_rep="X_latentgeo")
    before = graph.obsp["connectivities"].copy()
    graph.layers["logged"] = graph.X
    found = geodesic_neighbors(
        graph,
        _model(),
        n_neighbors=_NEIGHBORS,
        layer="logged",
        key_added="seed0",
        method="gauss",
        segments=8,
        copy=True,
    )
    assert "seed0" not in graph.uns
    assert (found.obsp["connectivities"] != before).nnz == 0
    assert np.array_equal(found.obsm["X_seed0"], graph.obsm["X_latentgeo"])
    assert {"seed0_distances", "seed0_connectivities", "seed0_distances_error"} <= set(found.obsp)
    assert found.obs["seed0_certified"].all()
    params = found.uns["seed0"]["params"]
    assert (params["method"], params["segments"], params["use_rep"]) == ("gauss", 8, "X_seed0")
    sc.tl.leiden(found, neighbors_key="seed0", flavor="igraph", n_iterations=2, directed=False)


def test_dense_and_sparse_cells_have_the_same_codes(cells):
    expected = _model().encode(torch.from_numpy(cells.X.toarray()).double()).numpy()
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, np.asarray):
        small = anndata.AnnData(kind(cells.X.toarray()[:12]))
        geodesic_neighbors(small, _model(), n_neighbors=3, points="mean", segments=4)
        assert small.obsm["X_latentgeo"].dtype == np.float64  # of the parameters, not of the expression
        assert np.allclose(small.obsm["X_latentgeo"], expected[:12])


def test_what_is_uncertain_is_said():
    arcs = np.repeat(np.arange(5.0), 6)[:, None] * 20 + np.tile(np.linspace(0.0, 1.0, 6), 5)[:, None]
    adata = anndata.AnnData(np.zeros((30, 1), np.float32), obsm={"X_arcs": arcs})
    with pytest.warns(UserWarning, match=r"5 components, .* init_pos='random'"):
        geodesic_neighbors(adata, lambda z: z.clone(), use_rep="X_arcs", n_neighbors=3)
    sc.tl.umap(adata, init_pos="random", maxiter=5)
    angles = np.linspace(0.0, 5.8, 30)[:, None]
    adata = anndata.AnnData(np.zeros((30, 1), np.float32), obsm={"X_angles": angles})
    circle = lambda z: torch.cat([z.cos(), z.sin()], -1)  # noqa: E731
    with pytest.warns(RuntimeWarning, match="raise candidates") as seen:
        geodesic_neighbors(adata, circle, use_rep="X_angles", n_neighbors=7, candidates=6)
    assert {warning.filename for warning in seen} == {__file__}  # the caller's line
    assert 0 < adata.uns["neighbors"]["certificate"]["certified"] < 1
    assert adata.uns["neighbors"]["params"]["candidates"] == 6
    assert not adata.obs["neighbors_certified"].iloc[0]


@pytest.fixture
def groups():
    """Cells on a line that a decoder stretches by two; the last has no group."""
    codes = np.array([0.0, 1.0, 10.0, 12.0, 30.0, 99.0])[:, None]
    obs = pd.DataFrame({"type": pd.Categorical(["b", "b", "a/x", "a/x", "c", None])}, index=list("012345"))
    return anndata.AnnData(np.zeros((6, 1), np.float32), obs=obs, obsm={"X_line": codes})


def test_distances_of_groups_are_means_over_their_members(groups, tmp_path):
    table = geodesic_distances(groups, lambda z: 2.0 * z, "type", use_rep="X_line", members=400, segments=4)
    assert list(table.index) == list(table.columns) == ["a/x", "b", "c"]
    assert np.array_equal(table, table.T)
    assert np.diag(table) == pytest.approx([4.0, 2.0, 0.0])  # of different members; a single cell has no other
    error = groups.uns["latentgeo_type"]["standard_error"]
    expected = np.array([[4.0, 21.0, 38.0], [21.0, 2.0, 59.0], [38.0, 59.0, 0.0]])
    assert (np.abs(table - expected) <= 4 * error + 1e-9).all(axis=None)
    assert groups.uns["latentgeo_type"]["names"].tolist() == ["a/x", "b", "c"]
    groups.write_h5ad(tmp_path / "groups.h5ad")  # a name with a slash too
    means = geodesic_distances(groups, lambda z: 2.0 * z, "type", statistic="frechet", use_rep="X_line", key_added="m")
    assert means.to_numpy() == pytest.approx(np.array([[0.0, 21.0, 38.0], [21.0, 0.0, 59.0], [38.0, 59.0, 0.0]]))
    assert groups.uns["m"]["solver_error"].max() < 1e-6
    of_curves = {"statistic": "frechet", "use_rep": "X_line", "max_iter": 1}  # not of the iterations of the mean
    assert geodesic_distances(groups, lambda z: 2.0 * z, "type", **of_curves).to_numpy() == pytest.approx(
        means.to_numpy()
    )


@pytest.mark.parametrize("statistic", ["mean", "frechet"])
def test_distances_of_groups_are_sought_along_all_cells(statistic):
    obs = pd.DataFrame({"type": pd.Categorical(["a", *5 * [None], "b", *5 * [None]])}, index=[*map(str, range(12))])
    cells = anndata.AnnData(np.zeros((12, 1), np.float32), obs=obs, obsm={"X_ring": ring(12).numpy()})
    options = {"use_rep": "X_ring", "statistic": statistic, "members": 2}
    round_it = geodesic_distances(cells, hill, "type", **options)
    over = geodesic_distances(cells, hill, "type", data=None, **options)
    assert round_it.loc["a", "b"] < 0.95 * over.loc["a", "b"]


def test_distances_of_groups_are_identified(graph):
    codes = torch.from_numpy(graph.obsm["X_latentgeo"])
    warp = lg.CoordinateWarp(power=2.0, shift=0.5)
    graph.obsm["X_warped"] = warp(codes).numpy()
    decoder = _model().decode
    here = geodesic_distances(graph, decoder, "type", use_rep="X_latentgeo", members=4, segments=8)
    there = geodesic_distances(
        graph, lg.reparametrise(decoder, warp), "type", use_rep="X_warped", members=4, segments=8
    )
    assert np.allclose(here, there, rtol=5e-3)
    flat = [geodesic_distances(graph, None, "type", use_rep=rep, members=4) for rep in ("X_latentgeo", "X_warped")]
    assert not np.allclose(*flat, rtol=0.1)  # the control


def test_pairs_that_did_not_converge_are_left_out_and_counted(groups):
    def torn(z):  # nothing crosses 11
        return torch.where((z - 11.0).abs() < 0.5, torch.nan, 1.0) * z

    with pytest.raises(ValueError, match="geodesics between groups number 0 and 0 converged"):
        geodesic_distances(groups, torn, "type", use_rep="X_line", members=4)
    groups.obs["type"] = ["b", "b", "b", "c", "c", "c"]
    groups.obsm["X_line"][:, 0] = [0.0, 1.0, 2.0, 3.0, 4.0, 15.0]
    with pytest.warns(RuntimeWarning, match="did not converge and are left out of the means"):
        table = geodesic_distances(groups, torn, "type", use_rep="X_line", members=12)
    assert groups.uns["latentgeo_type"]["unconverged"] > 0
    assert table.to_numpy().max() < 5.0


def test_what_does_not_fit_is_refused_with_the_remedy(cells, groups):
    with pytest.raises(TypeError, match=r"expected an anndata\.AnnData, got ndarray"):
        geodesic_neighbors(np.zeros((3, 2)), _model())
    with pytest.raises(ValueError, match="n_neighbors: expected between 2 and the number of cells 48, got 49"):
        geodesic_neighbors(cells, _model(), n_neighbors=49)
    with pytest.raises(ValueError, match=r"use_rep: expected one of \['X_line'\] in .obsm, got 'X_pca'"):
        geodesic_neighbors(groups, _model(), n_neighbors=3, use_rep="X_pca")
    with pytest.raises(ValueError, match="use_rep or layer, got both"):
        geodesic_neighbors(groups, _model(), n_neighbors=3, use_rep="X_line", layer="counts")
    with pytest.raises(ValueError, match=r"layer: expected one of \[\] in .layers, got 'counts'"):
        geodesic_neighbors(cells, _model(), layer="counts")
    with pytest.raises(TypeError, match="LatentModel"):
        geodesic_neighbors(cells, torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="got segment"):
        geodesic_distances(cells, _model(), "type", segment=4)
    with pytest.raises(ValueError, match=r"groupby: expected one of \['type'\] in .obs, got 'leiden'"):
        geodesic_distances(cells, _model(), "leiden")
    with pytest.raises(ValueError, match="statistic: expected one of mean, frechet, got 'median'"):
        geodesic_distances(cells, _model(), "type", statistic="median")
    cells.obs["one"] = "all"
    with pytest.raises(ValueError, match="at least two groups"):
        geodesic_distances(cells, _model(), "one")
    with pytest.raises(ValueError, match="members: expected at least 2"):
        geodesic_distances(cells, _model(), "type", members=1)


def test_progress_is_shown_if_asked_for_and_threads_stay_as_they_are(cells, capsys):
    threads = torch.get_num_threads()
    geodesic_neighbors(cells, _model(), n_neighbors=_NEIGHBORS, segments=4, progress=True)
    assert f"{_CELLS}/{_CELLS}" in capsys.readouterr().err
    assert torch.get_num_threads() == threads
    geodesic_neighbors(cells, _model(), n_neighbors=_NEIGHBORS, segments=4)
    assert "neighbours" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "call", [geodesic_neighbors, lambda *given, **options: geodesic_distances(*given, "type", **options)]
)
def test_what_is_not_encoded_is_distinguished_from_codes(cells, call):
    cells.obsm["X_pca"] = cells.X.toarray()[:, :50]
    expected = (
        r"use_rep: expected latent points that are encoded already, got .*\(48, 50\).*adata\.obsm\['X_latent'\] = "
    )
    with pytest.raises(ValueError, match=expected):
        call(cells, _model(), use_rep="X_pca")
    cells.obsm["X_all"] = cells.X.toarray().astype(float)  # the remedy
    cells.obsm["X_latent"] = _model().encode(torch.as_tensor(cells.obsm["X_all"])).detach().numpy()
    call(cells, _model(), use_rep="X_latent", segments=4)


def test_a_decoder_in_training_mode_is_refused_before_codes_pass_through_it(cells):
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.BatchNorm1d(6))
    cells.obsm["X_codes"] = np.random.default_rng(0).normal(size=(cells.n_obs, 2))
    with pytest.raises(ValueError, match=r"BatchNorm1d in training mode"):
        geodesic_neighbors(cells, lambda z: decoder(z), use_rep="X_codes", n_neighbors=3)
    assert decoder[1].num_batches_tracked == 0
