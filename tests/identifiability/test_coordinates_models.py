import math

import pytest
import torch
from torch.distributions import Independent, Normal
from torch.distributions.transforms import AbsTransform, ComposeTransform

import latentgeo as lg
from latentgeo.identifiability.coordinates import (
    CoordinateWarp,
    elbo,
    elbo_terms,
    preserves_prior,
    random_affine,
    random_flow,
    random_rotation,
    reparametrise,
)

D_LATENT = 4


def _families():
    random = torch.Generator().manual_seed(0)
    families = {
        "rotation": random_rotation(D_LATENT, generator=random),
        "affine": random_affine(D_LATENT, condition=8.0, generator=random),
        "twist": lg.RadialTwist(0.7),
        "warp": CoordinateWarp(2.0, 0.8),
        "flow": random_flow(D_LATENT, seed=1),
    }
    return families | {"composition": ComposeTransform([*families.values(), families["flow"].inv])}


FAMILIES = tuple(_families())


@pytest.fixture(scope="module")
def vae():
    model = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0).double().eval()
    # Untrained, every posterior is close to the prior; spread the codes of different images.
    with torch.no_grad():
        model.encoder[-1].weight[:D_LATENT] *= 20.0
    return model


@pytest.fixture(scope="module")
def x():
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def noise():
    return torch.randn(20, D_LATENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_same_distribution_different_codes(vae, x, noise, name):
    model = reparametrise(vae, _families()[name])
    torch.testing.assert_close(elbo(model, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    assert (model.encode(x) - vae.encode(x)).norm(dim=1).min() > 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_densities_need_their_log_determinants(vae, x, noise, name):
    A = _families()[name]
    before, after = elbo_terms(vae, x, noise), elbo_terms(reparametrise(vae, A), x, noise)
    z = vae.posterior(x)[0] + (0.5 * vae.posterior(x)[1]).exp() * noise
    log_determinant = A.log_abs_det_jacobian(z, A(z))
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-10)
    for i in (1, 2):
        torch.testing.assert_close(after[i], before[i] - log_determinant, rtol=0, atol=1e-10)
    standard_prior = Independent(Normal(torch.zeros(D_LATENT).double(), 1.0), 1).log_prob(A(z))
    if preserves_prior(A):
        torch.testing.assert_close(standard_prior, after[1], rtol=0, atol=1e-10)
    else:  # the controls fail
        naive = after[0] + standard_prior - after[2]
        assert ((naive - elbo(vae, x, noise)).abs() > 1e-2).double().mean() > 0.9
        if name != "affine":  # whose determinant is one
            forgotten = after[0] + before[1] - after[2]  # the prior at A⁻¹(z'), without the log-determinant
            assert ((forgotten - elbo(vae, x, noise)).abs() > 1e-2).double().mean() > 0.9


def test_an_affine_map_that_changes_volume_needs_its_log_determinant(vae, x, noise):
    A = lg.LinearTransform(2.0 * torch.eye(D_LATENT).double())
    model = reparametrise(vae, A)
    log_likelihood, _, log_posterior = elbo_terms(model, x, noise)
    torch.testing.assert_close(elbo(model, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    forgotten = log_likelihood + elbo_terms(vae, x, noise)[1] - log_posterior
    assert ((forgotten - elbo(vae, x, noise)).abs() > 1e-2).all()


def test_on_average_the_elbo_is_the_training_loss(vae, x):
    draws = torch.randn(1000, D_LATENT, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, log_prior, log_posterior = elbo_terms(vae, x[:3].repeat_interleave(1000, 0), draws.repeat(3, 1))
    estimates = (log_posterior - log_prior).reshape(3, 1000)
    divergence = vae.loss_terms(x[:3])[1]
    assert ((estimates.mean(1) - divergence).abs() < 4 * estimates.std(1) / 1000**0.5).all()
    # Without posterior noise the likelihood is the squared error of the decoders, constants included.
    mean = vae.encode(x)
    log_likelihood = elbo_terms(vae, x, torch.zeros_like(mean))[0]
    squared_errors = [(f(mean) - x).square().flatten(1).sum(1) for f in vae.decoders]
    constant = 32.0 * math.log(2 * math.pi)
    torch.testing.assert_close(log_likelihood, -0.5 * torch.stack(squared_errors).mean(0) - constant)


def test_the_likelihood_keeps_its_noise(x, noise):
    vae = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0, noise=0.3).double()
    model = reparametrise(vae, lg.RadialTwist(0.7))
    assert model.noise == vae.noise == 0.3
    torch.testing.assert_close(elbo(model, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    wide = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0).double()  # the same networks, τ = 1
    constant = -32.0 * math.log(2 * math.pi)
    expected = (elbo_terms(wide, x, noise)[0] - constant) / 0.3**2 + constant - 64 * math.log(0.3)
    torch.testing.assert_close(elbo_terms(model, x, noise)[0], expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_transformed_model_stands_in_for_the_original(vae, x, name):
    A = _families()[name]
    model = reparametrise(vae, A)
    code, transformed = vae.encode(x, batch_size=7), model.encode(x, batch_size=7)
    torch.testing.assert_close(transformed, A(code))
    assert not transformed.requires_grad
    torch.testing.assert_close(model.decode(transformed), vae.decode(code))
    assert len(model.decoders) == len(model.decode) == 3
    for f, g in zip(model.decoders, vae.decoders, strict=True):
        torch.testing.assert_close(f(transformed), g(code))
    J = torch.func.vmap(torch.func.jacfwd(A))(code)
    G = lg.pullback_metric(vae.decode, code)
    torch.testing.assert_close(J.mT @ lg.pullback_metric(model.decode, transformed) @ J, G)


def test_the_code_is_the_posterior_mean_for_affine_maps_alone(vae, x):
    for name, equal in (("affine", True), ("twist", False)):
        model = reparametrise(vae, _families()[name])
        draws = model.posterior_distribution(x[:2]).sample((20000,))
        error = draws.std(0) / 20000**0.5
        assert ((draws.mean(0) - model.encode(x[:2])).abs() < 5 * error).all() == equal


def test_transformations_of_transformed_models_are_composed(vae, x, noise):
    A, B = _families()["twist"], _families()["flow"]
    twice = reparametrise(reparametrise(vae, A), B)
    assert twice.model is vae
    torch.testing.assert_close(twice.encode(x), B(A(vae.encode(x))))
    torch.testing.assert_close(elbo(twice, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    back = reparametrise(twice, ComposeTransform([A, B]).inv)
    torch.testing.assert_close(back.encode(x), vae.encode(x))


def test_single_precision_works(x, noise):
    vae = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0)
    model = reparametrise(vae, random_flow(D_LATENT, dtype=torch.float32))
    values = elbo(model, x.float(), noise.float())
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, elbo(vae, x.float(), noise.float()), rtol=1e-5, atol=1e-3)


def test_the_model_shares_the_networks_and_their_state(vae):
    model = reparametrise(vae, lg.RadialTwist())
    assert {id(p) for p in model.parameters()} == {id(p) for p in vae.parameters()}
    assert set(model.state_dict()) == {f"model.{name}" for name in vae.state_dict()}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda vae: reparametrise(3, lg.RadialTwist()), TypeError, "decoder: expected a callable"),
        (lambda vae: reparametrise(vae, abs), TypeError, "Transform"),
        (lambda vae: reparametrise(vae, AbsTransform()), ValueError, "bijective"),
        (
            lambda vae: reparametrise(reparametrise(vae, lg.RadialTwist()), abs),
            TypeError,
            "expected a torch.distributions",
        ),
        (
            lambda vae: elbo(abs, torch.zeros(1, 1, 8, 8), torch.zeros(1, 4)),
            TypeError,
            "model: expected an autoencoder",
        ),
        (
            lambda vae: elbo(vae, torch.zeros(2, 1, 8, 8).double(), torch.zeros(1, 4).double()),
            ValueError,
            r"noise: expected one draw for each latent, shape \(2, 4\)",
        ),
        (
            lambda vae: elbo(vae, torch.zeros(1, 1, 8, 8).double(), torch.zeros(1, 4)),
            ValueError,
            "got .* torch.float32",
        ),
    ],
)
def test_what_is_no_model_or_no_noise_is_refused(vae, make, error, message):
    with pytest.raises(error, match=message):
        make(vae)
