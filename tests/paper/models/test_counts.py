"""The negative binomial VAE: its likelihood against SciPy's, its geometry against the Fisher information, training."""

import math

import pytest
import scipy.optimize
import scipy.stats
import torch

import latentgeo as lg
from latentgeo.paper.models.counts import log_negative_binomial

GENES = 12


def _counts(n=160, seed=0):
    """Two types of cells with different proportions, and library sizes that vary fivefold."""
    random = torch.Generator().manual_seed(seed)
    proportions = torch.softmax(torch.randn(2, GENES, generator=random), 1)
    library = 40.0 + 160.0 * torch.rand(n, 1, generator=random)
    return torch.poisson(library * proportions[torch.arange(n) % 2], generator=random).clamp_min(0)


def _model(seed=0, decoders=2):
    model = lg.paper.build_vae("counts", (GENES,), 2, decoders, seed=seed, activation="tanh")
    model.prepare(_counts())
    return model.eval()


@pytest.mark.parametrize(("mean", "dispersion"), [(0.3, 0.5), (7.0, 2.0), (40.0, 1e3)])
def test_the_likelihood_is_scipys(mean, dispersion):
    x = torch.arange(60.0, dtype=torch.float64)
    ours = log_negative_binomial(x, torch.tensor(math.log(mean)).double(), torch.tensor(math.log(dispersion)).double())
    theirs = scipy.stats.nbinom(dispersion, dispersion / (dispersion + mean)).logpmf(x.numpy())
    assert torch.allclose(ours, torch.from_numpy(theirs), rtol=1e-6, atol=1e-6)
    poisson = torch.from_numpy(scipy.stats.poisson(mean).logpmf(x.numpy()))
    near = torch.allclose(ours[:30].exp(), poisson[:30].exp(), atol=2e-3)
    assert near == (dispersion > 100)  # only with a large dispersion is it Poisson's


def test_vanishing_means_stay_finite():
    x, log_mean = torch.tensor([0.0, 5.0]), torch.full((2,), -80.0, requires_grad=True)
    value = log_negative_binomial(x, log_mean, torch.zeros(1)).sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(log_mean.grad).all()


def test_the_metric_is_the_fisher_information():
    model = _model(decoders=1).double()
    z = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    decoder = model.decoders[0]
    mean = lambda z: model.library * decoder(z).exp()  # noqa: E731
    J, mu = lg.metric.jacobian(mean, z), mean(z).detach()
    information = 1.0 / (mu + mu.square() / model.log_dispersion.detach().exp())
    expected = torch.einsum("bgi,bg,bgj->bij", J, information, J)
    assert torch.allclose(lg.pullback_metric(model.decode, z), expected, rtol=1e-8)
    poisson = torch.einsum("bgi,bg,bgj->bij", J, 1.0 / mu, J)
    assert not torch.allclose(expected, poisson, rtol=0.05)  # the control: dispersions matter


def test_decoders_give_proportions_and_the_ensemble_scales_them():
    model = _model(decoders=3)
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.decoders[0](z).exp().sum(1), torch.ones(5), atol=1e-5)
    r = model.log_dispersion.exp()
    phi = 2 * r.sqrt() * torch.asinh((model.library * model.decoders[1](z).exp() / r).sqrt())
    assert torch.allclose(model.decode[1](z), phi, rtol=1e-4)
    assert torch.allclose(model.decode(z)[:, 1], phi / 3**0.5, rtol=1e-4)


def test_lengths_grow_with_the_root_of_the_mean_library_size():
    counts, model = _counts(), _model()
    assert torch.isclose(model.library, counts.sum(1).mean())
    z = torch.zeros(1, 2), torch.ones(1, 2)
    lengths = {}
    for dispersion in (1e6, 0.5):
        model.log_dispersion.data.fill_(math.log(dispersion))
        for depth in (1.0, 4.0):
            model.library.copy_(depth * counts.sum(1).mean())
            lengths[dispersion, depth] = lg.distance(model.decode, *z).item()
    assert lengths[1e6, 4.0] / lengths[1e6, 1.0] == pytest.approx(2.0, rel=1e-3)  # as of Poisson's 2√μ
    assert lengths[0.5, 4.0] / lengths[0.5, 1.0] < 1.5  # the control: overdispersed genes do not


def test_preparing_starts_at_the_mean_expression():
    counts = _counts()
    model = _model()
    z = torch.zeros(1, 2)
    expected = counts.sum(0) / counts.sum()
    assert (model.decoders[0](z).exp()[0] - expected).abs().max() < 0.05
    fresh = lg.paper.build_vae("counts", (GENES,), 2, 2, seed=0).eval()
    assert model.evaluate(counts) < fresh.evaluate(counts)


def test_training_lowers_the_loss_and_survives_saving(tmp_path):
    counts = _counts()
    config = lg.paper.TrainingConfig(epochs=25, batch_size=40, learning_rate=1e-2, warmup_steps=5, half_life=100)
    model = lg.paper.build_vae("counts", (GENES,), 2, 2, seed=0, activation="tanh")
    before = _model().evaluate(counts[120:])
    lg.paper.train(model, counts[:120], counts[120:], config, seed=0)
    assert model.evaluate(counts[120:]) < before - 1.0
    z = model.encode(counts)
    groups = z[::2].mean(0) - z[1::2].mean(0)
    assert groups.norm() > z[::2].std(0).norm()  # the two types are apart
    again = lg.paper.build_vae("counts", (GENES,), 2, 2, seed=1, activation="tanh")
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval().decode(z[:4]), model.decode(z[:4]))


def test_what_are_not_counts_is_refused():
    model = lg.paper.build_vae("counts", (GENES,), 2, 2, seed=0)
    for wrong in (_counts() + 0.5, -_counts() - 1, torch.full((4, GENES), torch.nan)):
        with pytest.raises(ValueError, match="expected counts"):
            model.prepare(wrong)
    empty = _counts()
    empty[3] = 0
    with pytest.raises(ValueError, match="an empty cell"):
        model.prepare(empty)
    with pytest.raises(ValueError, match="expected 1 for counts"):
        lg.paper.build_vae("counts", (GENES,), 2, 2, seed=0, noise=0.5)


def test_the_nearest_point_of_a_cell_is_the_code_of_greatest_likelihood():
    model, x = _model().double(), _counts(12).double()
    found = lg.latent_model(model).points(x, "nearest")
    assert found.converged.all()

    def loss(z, i):
        z = torch.from_numpy(z)[None]
        of = [
            log_negative_binomial(x[i : i + 1], d(z) + x[i].sum().log(), model.log_dispersion) for d in model.decoders
        ]
        return -torch.stack(of).mean(0).sum().item()

    for i in range(6):
        code = found.codes[i].numpy()
        least = min(scipy.optimize.minimize(loss, s, (i,), "Nelder-Mead").fun for s in (code, code + 0.3, code - 0.3))
        assert loss(code, i) <= least + 1e-6
    moved = lg.latent_model(lg.reparametrise(model, lg.random_flow(2, seed=0))).points(x, "nearest")
    sure = found.unique & moved.unique
    assert sure.double().mean() > 0.5
    apart = (
        (model.decode(found.codes) - model.decode(lg.random_flow(2, seed=0).inv(moved.codes))).flatten(1).norm(dim=1)
    )
    assert apart[sure].max() < 1e-5
