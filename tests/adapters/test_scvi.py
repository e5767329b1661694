import warnings

import numpy as np
import pytest
import torch
from torch import nn

import latentgeo as lg

anndata = pytest.importorskip("anndata")
scvi = pytest.importorskip("scvi")
GENES, CELLS = 12, 64
SMOOTH = {"extra_decoder_kwargs": {"activation_fn": nn.Softplus}}


def _cells():
    random = np.random.default_rng(0)
    rates = np.where(np.arange(CELLS)[:, None] % 2, np.linspace(1, 8, GENES), np.linspace(8, 1, GENES))
    adata = anndata.AnnData(random.poisson(rates).astype(np.float32))
    adata.obs["batch"] = ["b", "a", "b", "b"] * (CELLS // 4)
    adata.obs["size"] = random.uniform(5.0, 9.0, CELLS)
    return adata


def _trained(adata=None, setup=None, **options):
    adata = _cells() if adata is None else adata
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(2)
        scvi.model.SCVI.setup_anndata(adata, **(setup or {}))
        model = scvi.model.SCVI(adata, n_latent=2, n_hidden=8, **({"gene_likelihood": "nb"} | options))
        quiet = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu"}
        model.train(max_epochs=1, **quiet)
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


@pytest.mark.parametrize(
    "options",
    [
        {"gene_likelihood": "nb"},
        {"gene_likelihood": "nb", "dispersion": "gene-batch"},
        {"gene_likelihood": "poisson", "use_layer_norm": "both", "use_batch_norm": "none"},
    ],
)
def test_the_metric_is_fishers_of_what_the_model_generates(options):
    model = _trained(setup={"batch_key": "batch"}, n_layers=2, **SMOOTH, **options)
    # scvi itself looks dispersions of batches up in single precision.
    dtype = torch.float32 if "dispersion" in options else torch.float64
    cells = lg.from_scvi(model, batch="a", library_size=40.0, dtype=dtype)
    z = cells.encode(_counts(model)[:6])
    module = model.module.to(dtype)

    def likelihood(z):
        library = torch.full((len(z), 1), 40.0, dtype=z.dtype).log()
        p = module.generative(z, library, torch.zeros(len(z), 1, dtype=torch.long))["px"]
        if options["gene_likelihood"] == "poisson":
            return torch.distributions.Poisson(p.rate)
        # scvi has the variance μ + μ²/θ, torch total_count r and the odds μ/r.
        return torch.distributions.NegativeBinomial(p.theta.detach(), logits=(p.mu / p.theta.detach()).log())

    expected = lg.pullback_metric(likelihood, z)
    found = lg.pullback_metric(cells.decoder, z)
    assert torch.allclose(found, expected, rtol=1e-3 if dtype == torch.float32 else 1e-6)
    assert torch.linalg.eigvalsh(found).min() > 0


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


def test_kinks_are_found(trained):
    models = {"smooth": lg.from_scvi(trained), "ReLU": lg.from_scvi(_trained(setup={"batch_key": "batch"}))}
    z = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    for name, verdict in (("smooth", "holds"), ("ReLU", "fails")):
        table = lg.check_assumptions(models[name].decoder, z, pairs=4, points=16).set_index("assumption")
        assert table.loc["smooth", "verdict"] == verdict


def test_models_are_compared_on_counts_and_on_cells(trained):
    models = {batch: lg.from_scvi(trained, batch=batch) for batch in "ab"}
    options = {"pairs": 4, "segments": 8, "tol": 1e-2, "check": False}
    report = lg.agreement(models, _counts(trained), **options)
    with pytest.warns(UserWarning, match="same codes"):  # an AnnData's cells keep their own batch
        own = lg.agreement(models, trained.adata, **options)
    for found in (report, own):
        assert found.names == ("a", "b")
        assert np.isfinite(found.distances["value"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gene_likelihood": "zinb"}, "gene_likelihood='nb'"),
        ({"gene_likelihood": "normal"}, "'nb' or 'poisson'"),
        ({"dispersion": "gene-cell"}, "dispersion='gene'"),
        ({"dispersion": "gene-label"}, "dispersion='gene'"),
        ({"latent_distribution": "ln"}, "latent_distribution='normal'"),
    ],
)
def test_likelihoods_without_an_embedding_are_refused(options, message):
    adata = _cells()
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, **({"gene_likelihood": "nb"} | options))
    with pytest.raises(ValueError, match=message):
        lg.from_scvi(model)


def test_the_negative_binomial_part_of_zero_inflation_can_be_had():
    model = _trained(gene_likelihood="zinb")
    decoder = lg.from_scvi(model, library_size=10.0, ignore_zero_inflation=True).decoder
    z = torch.randn(4, 2)
    with torch.no_grad():
        p = model.module.generative(z, torch.full((4, 1), 10.0).log(), torch.zeros(4, 1, dtype=torch.long))["px"]
        assert torch.allclose(decoder(z), 2 * p.theta.sqrt() * (p.mu / p.theta).sqrt().asinh(), rtol=1e-4)


def test_what_does_not_fit_is_refused(trained):
    with pytest.raises(TypeError, match=r"scvi\.model\.SCVI"):
        lg.from_scvi(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'a', 'b', got 'c'"):
        lg.from_scvi(trained, batch="c")
    with pytest.raises(ValueError, match="positive"):
        lg.from_scvi(trained, library_size=0.0)
    with pytest.raises(ValueError, match=r"shape \(n, 12\)"):
        lg.from_scvi(trained).encode(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="log-normalised"):
        lg.from_scvi(trained).encode(-torch.ones(2, GENES))
    adata = _cells()
    scvi.model.SCVI.setup_anndata(adata, continuous_covariate_keys=["size"])
    with pytest.raises(ValueError, match="covariates"):
        lg.from_scvi(scvi.model.SCVI(adata, gene_likelihood="nb"))
    scvi.model.SCVI.setup_anndata(adata)
    untrained = scvi.model.SCVI(adata, gene_likelihood="nb")
    with pytest.raises(ValueError, match="train"):
        lg.from_scvi(untrained)


@pytest.mark.parametrize("options", [{"gene_likelihood": "nb"}, {"gene_likelihood": "poisson"}])
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
