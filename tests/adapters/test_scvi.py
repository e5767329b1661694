import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

import latentgeo as lg

anndata = pytest.importorskip("anndata")
scvi = pytest.importorskip("scvi")
GUIDE = Path(lg.__file__).with_name("README.md")
GENES, CELLS = 12, 64
SMOOTH = {"extra_decoder_kwargs": {"activation_fn": nn.Softplus}}


MODELS = scvi.model
EVERYTHING = {
    "batch_key": "batch",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}  # of setup_anndata
HELD = {"batch": "a", "covariates": {"donor": "y", "age": 0.3}}


def _cells():
    random = np.random.default_rng(0)
    rates = np.where(np.arange(CELLS)[:, None] % 2, np.linspace(1, 8, GENES), np.linspace(8, 1, GENES))
    adata = anndata.AnnData(random.poisson(rates).astype(np.float32))
    adata.obs["batch"] = ["b", "a", "b", "b"] * (CELLS // 4)
    adata.obs["size"] = random.uniform(5.0, 9.0, CELLS)
    adata.obs["donor"] = ["x", "y", "x", "x"] * (CELLS // 4)
    adata.obs["age"] = random.uniform(size=CELLS)
    adata.obs["type"] = ["T", "B"] * (CELLS // 2)
    adata.obsm["protein"] = random.poisson(5.0, (CELLS, 3)).astype(np.float32)
    return adata


def _trained(adata=None, setup=None, of=MODELS.SCVI, **options):
    adata = _cells() if adata is None else adata
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(2)
        of.setup_anndata(adata, **(setup or {}))
        options = ({} if of is MODELS.PEAKVI else {"gene_likelihood": "nb"}) | options
        sizes = {"n_latent": 2} | ({} if of is MODELS.TOTALVI else {"n_hidden": 8})
        model = of(adata, **sizes, **options)
        quiet = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu"}
        model.train(max_epochs=1, **quiet, **({"reduce_lr_on_plateau": False} if of is MODELS.TOTALVI else {}))
    return model


@pytest.fixture(scope="module")
def trained():
    return _trained(setup={"batch_key": "batch"}, encode_covariates=True, **SMOOTH)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning|scvi|anndata")
        yield


def _counts(model):
    return torch.from_numpy(model.adata.X)


# Models with their setups and options.
CASES = {
    **{f"SCVI, {of}": (MODELS.SCVI, EVERYTHING, {"gene_likelihood": of}) for of in ("nb", "zinb", "poisson", "normal")},
    "SCVI, smooth": (MODELS.SCVI, EVERYTHING, {"gene_likelihood": "zinb", "n_layers": 2} | SMOOTH),
    "SCVI, of batches": (MODELS.SCVI, EVERYTHING, {"dispersion": "gene-batch"}),
    "SCVI, of labels": (MODELS.SCVI, EVERYTHING | {"labels_key": "type"}, {"dispersion": "gene-label"}),
    "SCVI, of cells": (MODELS.SCVI, EVERYTHING, {"gene_likelihood": "normal", "dispersion": "gene-cell"}),
    "SCVI, embedded batches": (MODELS.SCVI, EVERYTHING, {"batch_representation": "embedding"}),
    "SCVI, size factors": (MODELS.SCVI, EVERYTHING | {"size_factor_key": "size"}, {"gene_likelihood": "zinb"}),
    **{
        f"LinearSCVI, {of}": (MODELS.LinearSCVI, {"batch_key": "batch"}, {"gene_likelihood": of})
        for of in ("nb", "zinb", "poisson")
    },
    **{
        f"SCANVI, {of}": (
            MODELS.SCANVI,
            EVERYTHING | {"labels_key": "type", "unlabeled_category": "unknown"},
            {"gene_likelihood": of},
        )
        for of in ("nb", "zinb", "poisson")
    },
    "PEAKVI": (MODELS.PEAKVI, EVERYTHING, {}),
    "PEAKVI, plain": (MODELS.PEAKVI, EVERYTHING, {"model_depth": False, "region_factors": False}),
    **{
        f"TOTALVI, {of}": (
            MODELS.TOTALVI,
            EVERYTHING | {"protein_expression_obsm_key": "protein"},
            {"gene_likelihood": of},
        )
        for of in ("nb", "zinb")
    },
}


def _generated(model, z, size):
    """What scvi itself generates at the conditions of ``HELD``: a distribution (B, genes) of each part of the data."""
    module, n = model.module, len(z)
    given = {"batch_index": torch.zeros(n, 1, dtype=torch.long)}
    if not isinstance(model, MODELS.LinearSCVI):
        given |= {"cat_covs": torch.ones(n, 1, dtype=torch.long), "cont_covs": torch.full((n, 1), 0.3).to(z)}
    if isinstance(model, MODELS.PEAKVI):
        factor = 1.0 if module.region_factors is None else module.region_factors.sigmoid()
        depth = size if module.model_depth else 1.0
        return [torch.distributions.Bernoulli(module.generative(z, z, **given)["px"] * depth * factor)]
    library = torch.full((n, 1), size).to(z)
    if isinstance(model, MODELS.TOTALVI):
        px = module.generative(z, library, label=None, **given)["px_"]
        px = {"mu": px["rate"], "theta": px["r"], "zi_logits": px["dropout"]}
    else:
        extra = {"size_factor": library.log(), "y": torch.zeros(n, 1, dtype=torch.long)}
        px = module.generative(z, library.log(), **given, **extra)["px"]
        if module.gene_likelihood in ("poisson", "normal"):
            return [px]
        px = {"mu": px.mu, "theta": px.theta, "zi_logits": getattr(px, "zi_logits", None)}
    logits = px.pop("zi_logits")
    counts = scvi.distributions.NegativeBinomial(**px)
    return [torch.distributions.Bernoulli(logits=logits), counts] if module.gene_likelihood == "zinb" else [counts]


def _outcomes(p):
    """Values (T, 1 or B, 1 or genes) that a distribution takes, and their weights: all, or a fine grid of them."""
    if isinstance(p, torch.distributions.Bernoulli):
        return torch.tensor([0.0, 1.0]).double().reshape(2, 1, 1), 1.0
    if isinstance(p, torch.distributions.Normal):
        t = torch.linspace(-9, 9, 300, dtype=torch.float64)
        return p.loc + p.scale * t.reshape(-1, 1, 1), (t[1] - t[0]) * p.scale
    return torch.arange(600.0).double().reshape(-1, 1, 1), 1.0


@torch.no_grad()
def _fisher(generate, z):
    r"""Information :math:`\sum_x p\, \partial \log p\, \partial \log p^\top` of outcomes, by automatic derivatives.

    Differences would be wrong across kinks. Where a first part says whether a zero is an extra one, counts are seen
    where it is not.
    """
    found = torch.zeros(len(z), z.shape[1], z.shape[1]).double()
    parts = generate(z)
    seen = 1.0 - parts[0].probs if len(parts) == 2 else 1.0
    for k, p in enumerate(parts):
        x, weight = _outcomes(p)

        def log_p(z, k=k, x=x):
            return generate(z)[k].log_prob(x)

        slope = torch.stack(
            [torch.func.jvp(log_p, (z,), (e.expand_as(z),))[1] for e in torch.eye(z.shape[1]).to(z)], -1
        )
        mass = p.log_prob(x).exp() * weight
        torch.testing.assert_close(mass.sum(0), torch.ones_like(mass[0]), rtol=1e-7, atol=1e-7)
        mass = mass * (seen if k == len(parts) - 1 else 1.0)
        found += torch.einsum("tbg,tbgi,tbgj->bij", mass, slope, slope)
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_the_metric_is_fishers_of_what_the_model_generates(case, monkeypatch):
    of, setup, options = CASES[case]
    model = _trained(setup=setup, of=of, **options)
    if hasattr(model.module, "px_r"):
        model.module.px_r.data.clamp_(min=-0.5)  # so that 600 counts are all that come
    held = HELD if of is not MODELS.LinearSCVI else {"batch": "a"}
    held = held | ({"covariates": HELD["covariates"] | {"type": "B"}} if case == "SCVI, of labels" else {})
    size = 0.7 if of is MODELS.PEAKVI else 4.0 if "size_factor_key" in setup else 40.0
    cells = lg.from_scvi(model, library_size=size, dtype=torch.float64, **held)
    z = cells.encode(model.adata[:3])
    torch.testing.assert_close(
        z, torch.from_numpy(model.get_latent_representation()[:3]).double(), atol=1e-5, rtol=1e-5
    )
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # scvi's looks some things up in single precision
    model.module.double().eval()
    expected = _fisher(lambda z: _generated(model, z, size), z)
    found = lg.pullback_metric(cells.decoder, z)
    assert (found - expected).abs().max() < 1e-7 * expected.abs().max()
    assert torch.linalg.eigvalsh(found).min() > 0


def test_what_is_not_asked_for_is_held_at_what_most_cells_have():
    adata = _cells()
    model = _trained(adata, setup=EVERYTHING)
    held = {"batch": "b", "covariates": {"donor": "x", "age": float(np.median(adata.obs["age"]))}}
    z = torch.randn(4, 2)
    same, other = lg.from_scvi(model, **held), lg.from_scvi(model, **held | {"covariates": {"donor": "y"}})
    torch.testing.assert_close(lg.from_scvi(model).decoder(z), same.decoder(z))
    assert not torch.allclose(lg.from_scvi(model).decoder(z), other.decoder(z), rtol=1e-3)
    for wrong, message in (({"donor": "z"}, "'x', 'y', got 'z'"), ({"age": "old"}, "finite number, got 'old'")):
        with pytest.raises(ValueError, match=message):
            lg.from_scvi(model, covariates=wrong)


def test_the_depth_of_a_cell_is_a_share():
    model = _trained(of=MODELS.PEAKVI)
    depth = model.module.d_encoder(torch.from_numpy(model.adata.X)).median().item()
    z = torch.randn(4, 2)
    expected = lg.from_scvi(model, library_size=depth).decoder(z)
    torch.testing.assert_close(lg.from_scvi(model).decoder(z), expected)
    with pytest.raises(ValueError, match=r"at most 1, got 40\.0"):
        lg.from_scvi(model, library_size=40.0)


def test_the_complete_data_tell_more_than_the_counts_and_as_much_where_no_zeros_are_added():
    model = _trained(gene_likelihood="zinb")
    cells, alone = (lg.from_scvi(model, dtype=torch.float64, ignore_zero_inflation=of) for of in (False, True))
    z = cells.encode(model.adata[:4])
    share = 1.0 - cells.decoder.distribution(z).zi_probs.amax(1)
    found, least = lg.pullback_metric(cells.decoder, z), lg.pullback_metric(alone.decoder, z)
    assert torch.linalg.eigvalsh(found - share[:, None, None] * least).min() > 0
    with torch.no_grad():  # no extra zeros at all
        model.module.decoder.px_dropout_decoder.weight.zero_()
        model.module.decoder.px_dropout_decoder.bias.fill_(-80.0)
    cells = lg.from_scvi(model, dtype=torch.float64)
    torch.testing.assert_close(lg.pullback_metric(cells.decoder, z), least)


def test_a_size_factor_takes_the_place_of_library_size():
    adata = _cells()
    model = _trained(adata, setup={"size_factor_key": "size"}, **SMOOTH)
    decoder = lg.from_scvi(model).decoder
    z, factor = torch.randn(5, 2), float(np.median(adata.obs["size"]))
    batch = torch.zeros(5, 1, dtype=torch.long)
    with torch.no_grad():
        p = model.module.generative(z, torch.zeros(5, 1), batch, size_factor=torch.full((5, 1), factor).log())["px"]
        r = model.module.px_r.exp()
        assert torch.allclose(decoder(z), 2 * r.sqrt() * (p.mu / r).sqrt().asinh(), rtol=1e-4)


def test_codes_are_the_models_own(trained):
    cells, x = lg.from_scvi(trained), _counts(trained)
    own = torch.from_numpy(trained.get_latent_representation())
    in_b = torch.from_numpy((trained.adata.obs["batch"] == "b").to_numpy())
    assert torch.allclose(cells.codes(trained.adata), own, atol=1e-6)
    assert torch.allclose(cells.codes(x)[in_b], own[in_b], atol=1e-5)  # most cells are from b
    assert torch.allclose(lg.from_scvi(trained, batch="a").encode(x)[~in_b], own[~in_b], atol=1e-5)
    assert torch.equal(cells.encode(x.long()), cells.encode(x))


def test_the_median_library_and_the_most_common_batch_are_the_defaults(trained):
    library = float(np.median(trained.adata.X.sum(1)))
    z = torch.randn(4, 2)
    expected = lg.from_scvi(trained, library_size=library, batch="b").decoder(z)
    assert torch.equal(lg.from_scvi(trained).decoder(z), expected)
    assert not torch.allclose(lg.from_scvi(trained, batch="a").decoder(z), expected)
    assert not torch.allclose(lg.from_scvi(trained, library_size=2 * library).decoder(z), expected)


def test_nothing_of_the_model_is_changed(trained):
    trained.module.train()
    before = {name: value.clone() for name, value in trained.module.state_dict().items()}
    python, state = np.random.get_state()[1].copy(), torch.get_rng_state()
    cells = lg.from_scvi(trained)
    z = cells.codes(_counts(trained))
    lg.geodesic(cells.decoder, z[:3], z[3:6])
    assert all(module.training for module in trained.module.modules())
    assert all(torch.equal(value, before[name]) for name, value in trained.module.state_dict().items())
    assert all(parameter.grad is None for parameter in cells.decoder.parameters())
    trained.module.eval()
    cells.encode(trained.adata)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == python).all()
    # A later change of the model does not reach what was made of it.
    image = cells.decoder(z)
    with torch.no_grad():
        trained.module.decoder.px_scale_decoder[0].weight.add_(1.0).mul_(1.5)
    assert torch.equal(cells.decoder(z), image)
    trained.module.load_state_dict(before)


@pytest.mark.slow
def test_kinks_are_found(trained):
    models = {"smooth": lg.from_scvi(trained), "ReLU": lg.from_scvi(_trained(setup={"batch_key": "batch"}))}
    z = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    for name, verdict in (("smooth", "holds"), ("ReLU", "fails")):
        table = lg.check_assumptions(models[name].decoder, z, pairs=4, points=16).set_index("assumption")
        assert table.loc["smooth", "verdict"] == verdict


def test_cells_keep_their_batches_wherever_anndata_goes(trained, capsys):
    adata, cells = trained.adata, lg.from_scvi(trained)
    before, columns = adata.X.copy(), set(adata.obs)
    own = torch.from_numpy(trained.get_latent_representation())
    lost = cells.codes(_counts(trained))  # as counts all cells are from one batch
    assert (lost - own).norm() > 0.01 * own.norm()
    pytest.importorskip("scanpy")
    found = lg.geodesic_neighbors(adata, cells, n_neighbors=4, points="mean", copy=True, progress=True)
    torch.testing.assert_close(torch.from_numpy(found.obsm["X_latentgeo"]), own, atol=1e-6, rtol=1e-6)
    assert "neighbors: 100%" in capsys.readouterr().err.replace("neighbours", "neighbors")
    nearest = lg.geodesic_neighbors(adata, cells, n_neighbors=4, copy=True)
    torch.testing.assert_close(
        torch.from_numpy(nearest.obsm["X_latentgeo"]), cells.points(adata).codes, atol=1e-5, rtol=1e-5
    )
    table = lg.geodesic_distances(nearest, cells, "type", use_rep="X_latentgeo", members=2)
    assert np.isfinite(table).all(None)
    with pytest.raises(ValueError, match="SCVI encodes the layer that it was set up with, got 'counts'"):
        lg.geodesic_neighbors(adata, cells, layer="counts", n_neighbors=4)
    view = lg.explore(cells, adata, labels=adata.obs["type"], points="mean")
    torch.testing.assert_close(view.codes, own, atol=1e-6, rtol=1e-6)
    assert view.pictures.names == list(adata.var_names)
    z = view.codes[:3]
    torch.testing.assert_close(view.pictures(z), cells.decoder.distribution(z).mean, rtol=1e-5, atol=1e-5)
    assert np.isfinite(view.select(0, 1).length)
    with pytest.raises(TypeError, match=r"from_scvi\(model\)"):
        lg.explore(trained, adata)
    # A copy that scvi has not seen, sparse and in another order: encoded alike, and not written to.
    other = anndata.AnnData(scipy.sparse.csr_matrix(adata.X[::-1]), obs=_cells().obs[::-1])
    torch.testing.assert_close(cells.encode(other), own.flip(0), atol=1e-6, rtol=1e-6)
    assert not [name for name in (*other.obs, *other.uns) if "scvi" in name]
    assert (before == adata.X).all()
    assert set(adata.obs) == columns
    other.obs["batch"] = "c"
    with pytest.raises(ValueError, match="c"):
        cells.encode(other)


def test_models_are_compared_on_counts_and_on_cells(trained):
    other = _trained(setup={"batch_key": "batch"}, **SMOOTH)
    models = {"first": lg.from_scvi(trained), "second": lg.from_scvi(other)}
    options = {"pairs": 4, "segments": 8, "tol": 1e-2, "check": False}
    report = lg.agreement(models, _counts(trained), **options)
    own = lg.agreement(models, trained.adata, labels="type", **options)
    for found in (report, own):
        assert found.names == ("first", "second")
        assert np.isfinite(found.distances["value"]).all()
    assert own.pairs["first_label"].tolist() == trained.adata.obs["type"].iloc[own.pairs["first"]].tolist()
    with pytest.raises(ValueError, match=r"labels: expected one of \[.*'type'.*\] in \.obs.*got 'kind'"):
        lg.agreement(models, trained.adata, labels="kind", **options)


def test_models_are_compared_at_one_condition_alone(trained):
    held = lg.from_scvi(trained, library_size=50.0, batch="a")
    assert repr(held) == "LatentModel('SCVI', condition={'library_size': 50.0, 'batch': 'a'})"
    for other in ({"batch": "a"}, {"library_size": 50.0}, {"library_size": 49.0, "batch": "a"}):
        with pytest.warns(UserWarning, match=r"'SCVI 1' is held at .*'SCVI 2' at .*library_size=…"):
            lg.agreement([held, lg.from_scvi(trained, **other)], trained.adata, pairs=1, points="mean", check=False)
    condition = lg.from_scvi(_trained(setup=EVERYTHING, **SMOOTH), **HELD).encode.condition
    assert {name: condition[name] for name in ("batch", "donor", "age")} == {
        "batch": "a",
        "donor": "y",
        "age": pytest.approx(0.3),
    }
    assert set(condition) == {"library_size", "batch", "donor", "age"}


def test_the_guide_s_table_of_types_over_trainings(trained):
    guide = GUIDE.read_text(encoding="utf-8")
    code = re.search(r"the spread over trainings says.*?```python\n(.*?)```", guide, re.DOTALL)[1]
    adata = _cells()[:20].copy()
    adata.obs["cell_type"] = adata.obs["type"]
    names = {"adata": adata, "models": [lg.from_scvi(trained), lg.from_scvi(_trained(**SMOOTH))], "lg": lg}
    exec(code, names)
    types, tables = names["types"], names["tables"]
    assert types.index.tolist() == [("B", "B"), ("B", "T"), ("T", "B"), ("T", "T")]
    assert types.loc[("B", "T"), "mean"] == pytest.approx(np.mean([table.loc["B", "T"] for table in tables]))
    assert (types["low"] < types["mean"]).all()
    assert (types["mean"] < types["high"]).all()
    assert adata.obsp["geodesic"].shape == (20, 20)


def test_cells_of_other_genes_are_refused(trained):
    cells, adata = lg.from_scvi(trained), _cells()
    renamed, fewer, turned = adata.copy(), adata[:, :5].copy(), adata[:, ::-1].copy()
    renamed.var_names = [f"X{k}" for k in range(GENES)]
    for other, message in (
        (renamed, r"others such as 'X0'; cells need all of them; if they are the same by other names, rename"),
        (fewer, r"the 12 genes that SCVI was trained on, in their order, got 5; cells need all"),
        (turned, r"got 12; take data\[:, model\.adata\.var_names\]"),
    ):
        with pytest.raises(ValueError, match=message):
            cells.encode(other)
    assert torch.equal(cells.encode(turned[:, adata.var_names].copy()), cells.encode(adata))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dispersion": "gene-cell"}, "dispersion='gene'"),
        ({"dispersion": "gene-cell", "gene_likelihood": "zinb"}, "no closed form"),
        ({"latent_distribution": "ln"}, "latent_distribution='normal'"),
    ],
)
def test_likelihoods_and_codes_without_a_geometry_are_refused(options, message):
    adata = _cells()
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, **({"gene_likelihood": "nb"} | options))
    with pytest.raises(ValueError, match=message):
        lg.from_scvi(model)


def test_models_that_encode_otherwise_are_refused():
    adata = _cells()
    external = scvi.external.MRVI
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        external.setup_anndata(adata, sample_key="donor", batch_key="batch", backend="torch")
        model = external(adata)
        model.train(max_epochs=1, enable_progress_bar=False, logger=False, accelerator="cpu")
    with pytest.raises(TypeError, match=r"its encoder gives no normal posterior 'qz'.*LatentModel"):
        lg.from_scvi(model)


def test_models_of_which_px_is_not_the_likelihood_are_refused():
    model = _trained(of=MODELS.AUTOZI, setup={"batch_key": "batch"}, gene_likelihood="zinb")
    with pytest.raises(TypeError, match=r"got AUTOZI \(a gene .*LatentModel"):
        lg.from_scvi(model)


def test_the_negative_binomial_part_of_zero_inflation_can_be_had():
    model = _trained(gene_likelihood="zinb")
    decoder = lg.from_scvi(model, library_size=10.0, ignore_zero_inflation=True).decoder
    z = torch.randn(4, 2)
    with torch.no_grad():
        p = model.module.generative(z, torch.full((4, 1), 10.0).log(), torch.zeros(4, 1, dtype=torch.long))["px"]
        assert torch.allclose(decoder(z), 2 * p.theta.sqrt() * (p.mu / p.theta).sqrt().asinh(), rtol=1e-4)


def test_what_does_not_fit_is_refused(trained):
    with pytest.raises(TypeError, match=r"scvi\.model\.SCVI, got Linear"):
        lg.from_scvi(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'a', 'b', got 'c'"):
        lg.from_scvi(trained, batch="c")
    with pytest.raises(ValueError, match="positive"):
        lg.from_scvi(trained, library_size=0.0)
    with pytest.raises(ValueError, match=r"shape \(n, 12\)"):
        lg.from_scvi(trained).encode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="log-normalised"):
        lg.from_scvi(trained).encode(-torch.ones(2, GENES))
    with pytest.raises(TypeError, match="AnnData set up like the model's, or a tensor of counts, got list"):
        lg.from_scvi(trained).encode([1, 2])
    with pytest.raises(ValueError, match=r"covariates: expected none, as this model has none, got 'age'"):
        lg.from_scvi(trained, covariates={"age": 1.0})
    adata = _cells()
    scvi.model.SCVI.setup_anndata(adata)
    untrained = scvi.model.SCVI(adata, gene_likelihood="nb")
    with pytest.raises(ValueError, match="train"):
        lg.from_scvi(untrained)


def test_models_without_their_counts_are_refused(tmp_path):
    model = _trained()
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"with the cells it was set up with, got none; load .*adata=adata"):
        lg.from_scvi(scvi.model.SCVI.load(tmp_path / "model", adata=False))
    again = scvi.model.SCVI.load(tmp_path / "model", adata=_cells())
    z = torch.randn(3, 2)
    assert torch.equal(lg.from_scvi(again).decoder(z), lg.from_scvi(model).decoder(z))
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = model.get_latent_representation(
        return_dist=True
    )
    model.minify_adata()
    with pytest.raises(ValueError, match="minified"):
        lg.from_scvi(model)


def test_cells_of_a_mudata_are_taken():
    mudata = pytest.importorskip("mudata")
    genes = _cells()
    both = mudata.MuData({"rna": genes, "protein": anndata.AnnData(genes.obsm["protein"], obs=genes.obs[[]])})
    model = MODELS.TOTALVI
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"}
        model.setup_mudata(both, batch_key="batch", modalities=names)
        model = model(both, n_latent=2)
        quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "reduce_lr_on_plateau": False}
        model.train(max_epochs=1, **quiet)
    cells = lg.from_scvi(model)
    own = torch.from_numpy(model.get_latent_representation())
    torch.testing.assert_close(cells.codes(both), own, atol=1e-6, rtol=1e-6)
    assert cells.name == "TOTALVI"
    with pytest.raises(TypeError, match="encodes proteins beside counts"):
        cells.encode(_counts(_trained()))


@pytest.mark.parametrize(
    "options", [{"gene_likelihood": "nb"}, {"gene_likelihood": "poisson"}, {"gene_likelihood": "zinb"}]
)
def test_the_likelihood_of_a_cell_is_scvis_at_its_own_library_size(options):
    model = _trained(setup={"batch_key": "batch"}, **SMOOTH, **options)
    cells, x = lg.from_scvi(model, batch="a"), _counts(model)[:9]
    z, rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([8, 0, 3, 3])
    found = cells.code_likelihood(x)(z, rows)
    library = x[rows].sum(1, keepdim=True).log()
    p = model.module.eval().generative(z, library, torch.zeros(4, 1, dtype=torch.long))["px"]
    torch.testing.assert_close(found, p.log_prob(x[rows]).sum(1), rtol=1e-4, atol=1e-3)
    own = cells.code_likelihood(model.adata[:9])(z, rows)  # each cell in its own batch
    batches = torch.from_numpy(model.adata.obs["_scvi_batch"].to_numpy()[:9].astype(int))[rows]
    p = model.module.generative(z, library, batches[:, None])["px"]
    torch.testing.assert_close(own, p.log_prob(x[rows]).sum(1), rtol=1e-4, atol=1e-3)


def test_cells_have_nearest_points_and_posteriors(trained):
    cells, x = lg.from_scvi(trained, batch="b"), _counts(trained)
    nearest, posterior = (cells.points(x, points) for points in ("nearest", "posterior"))
    likelihood, rows = cells.code_likelihood(x), torch.arange(CELLS)
    with torch.no_grad():
        better = likelihood(nearest.codes, rows) - likelihood(cells.codes(x), rows)
    assert nearest.converged.all()
    assert (better > -1e-3).all()
    assert posterior.converged.all()
    mean, variance = trained.get_latent_representation(trained.adata, return_dist=True)
    draw = cells.posterior_sampler(trained.adata)
    torch.testing.assert_close(draw(torch.zeros(CELLS, 2)), torch.from_numpy(mean), atol=1e-5, rtol=1e-5)
    one = draw(torch.ones(CELLS, 2)) - draw(torch.zeros(CELLS, 2))
    torch.testing.assert_close(one, torch.from_numpy(variance**0.5), atol=1e-5, rtol=1e-5)
    assert cells.points(trained.adata, "nearest").codes.shape == (CELLS, 2)
