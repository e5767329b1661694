import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.paper.models.isometry import IsometricVAE, isometry_penalty
from tests.conftest import mlp

DIGIT = (1, 8, 8)


def linear(matrix):
    return lambda z: z @ matrix.T


def conformal(z):
    return z[:, :1].exp() * torch.stack([z[:, 1].cos(), z[:, 1].sin()], 1)


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected_penalty(decoder, z):
    """The average over directions, from the full metric."""
    G = lg.pullback_metric(decoder, z)
    trace, square, d = G.diagonal(dim1=1, dim2=2).sum(1), (G @ G).diagonal(dim1=1, dim2=2).sum(1), z.shape[1]
    return d / (d + 2) * (2 * square + trace.square()).mean() / trace.mean().square() - 1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_it_vanishes_for_every_draw_if_and_only_if_the_metric_is_a_constant_times_the_identity(scale):
    orthonormal = torch.linalg.qr(points(7, 3)).Q
    assert isometry_penalty(linear(scale * orthonormal), points(20, 3)) < 1e-24
    skewed = orthonormal * torch.tensor([1.0, 1.0, 1.2], dtype=torch.float64)
    assert isometry_penalty(linear(scale * skewed), points(20, 3)) > 1e-3  # constant, not isotropic
    assert isometry_penalty(lambda z: scale * z.square().sum(1, keepdim=True), points(20, 1)) > 1e-3  # not constant
    assert isometry_penalty(lambda z: scale * conformal(z), points(20, 2)) > 1e-3  # isotropic, not constant


@pytest.mark.parametrize("d", [1, 2, 3])
def test_its_mean_over_directions_is_the_closed_form(d):
    decoder = mlp(0, d=d)
    z = points(50, d)
    estimate = isometry_penalty(decoder, z.repeat(4000, 1), torch.Generator().manual_seed(1))
    torch.testing.assert_close(estimate, expected_penalty(decoder, z), rtol=0.03, atol=0)
    assert estimate > 0.01


def test_a_constant_factor_changes_nothing():
    decoder, z = mlp(1), points(30, 3)
    first, second = (
        isometry_penalty(lambda y, c=c: c * decoder(y), z, torch.Generator().manual_seed(0)) for c in (1.0, 50.0)
    )
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("decoder", [mlp(2), lg.paper.build_vae("mlp", DIGIT, 3, 2, seed=0).double().decode])
def test_the_gradient_with_respect_to_parameters_and_points_is_that_of_finite_differences(decoder):
    z = points(8, 3).requires_grad_()
    parameter = next(decoder.parameters())

    def value():
        return isometry_penalty(decoder, z, torch.Generator().manual_seed(3))

    gradients = torch.autograd.grad(value(), (parameter, z))
    with torch.no_grad():
        for tensor, gradient in zip((parameter, z), gradients, strict=True):
            step = 1e-5 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
            tensor += step
            above = value()
            tensor -= 2 * step
            below = value()
            tensor += step
            slope = (gradient * step).sum()
            torch.testing.assert_close(0.5 * (above - below), slope, rtol=1e-4, atol=1e-12)
            assert slope.abs() > 1e-9


def test_minimising_it_makes_a_decoder_an_isometry():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = nn.Linear(2, 5).double()
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    before = isometry_penalty(decoder, points(100, 2), generator).item()
    for _ in range(300):
        optimiser.zero_grad()
        isometry_penalty(decoder, points(16, 2), generator).backward()
        optimiser.step()
    G = decoder.weight.detach().T @ decoder.weight.detach()
    assert before > 1e-2
    torch.testing.assert_close(G / G.trace(), 0.5 * torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-3)


def test_points_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least two latent points"):
        isometry_penalty(mlp(0), points(1, 3))
    with pytest.raises(ValueError, match="finite"):
        isometry_penalty(mlp(0), points(4, 3) * torch.nan)
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        isometry_penalty(mlp(0), [[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="depends on z"):
        isometry_penalty(lambda z: 0.0 * z, points(4, 3))


def test_without_weight_it_is_the_plain_vae_and_with_weight_the_penalty_comes_on_top():
    plain = lg.paper.build_vae("mlp", DIGIT, 2, 2, seed=0)
    x = torch.rand(10, *DIGIT, generator=torch.Generator().manual_seed(0))
    terms = {
        weight: IsometricVAE.from_vae(plain, weight).loss_terms(x, torch.Generator().manual_seed(1))
        for weight in (0.0, 1.0, 10.0)
    }
    expected = plain.loss_terms(x, torch.Generator().manual_seed(1))
    for term, other in zip(terms[0.0], expected, strict=True):
        assert torch.equal(term, other)
    assert torch.equal(terms[10.0][0], expected[0])
    added, ten_times = ((terms[weight][1] - expected[1]) for weight in (1.0, 10.0))
    assert (added > 0).all()
    torch.testing.assert_close(ten_times, 10.0 * added, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(added, added.mean().expand(10), rtol=1e-3, atol=1e-5)  # the same for every image


def test_an_image_left_over_is_evaluated_too():
    model = IsometricVAE.from_vae(lg.paper.build_vae("mlp", DIGIT, 2, 1, seed=0), weight=1.0).eval()
    assert model.evaluate(torch.rand(5, *DIGIT, generator=torch.Generator().manual_seed(0)), batch_size=2) > 0


def test_a_bad_weight_is_refused():
    plain = lg.paper.build_vae("mlp", DIGIT, 2, 1, seed=0)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight"):
            IsometricVAE.from_vae(plain, weight)


def test_training_with_the_penalty_lowers_it_and_is_repeatable():
    data = lg.paper.load_dataset("digits")
    config = lg.paper.TrainingConfig(epochs=4, batch_size=64, learning_rate=4e-3, warmup_steps=20, half_life=1000)

    def trained(weight):
        model = IsometricVAE.from_vae(lg.paper.build_vae("mlp", DIGIT, 4, 1, seed=0, noise=0.25), weight)
        return lg.paper.train(model, data.train[:640], data.validation, config, seed=0)

    plain, first, second = trained(0.0), trained(100.0), trained(100.0)
    left = [
        isometry_penalty(m.decode, m.encode(data.test), torch.Generator().manual_seed(0)).item() for m in (plain, first)
    ]
    assert left[1] < 0.3 * left[0]
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
