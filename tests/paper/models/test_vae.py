import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, kl_divergence

import latentgeo as lg
from latentgeo.paper.models.networks import ConvDecoder, ConvEncoder, UpsampledConv2d

FASHION, DIGIT = (1, 28, 28), (1, 8, 8)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("event_shape", [FASHION, DIGIT])
def test_shapes(architecture, event_shape):
    model = lg.paper.build_vae(architecture, event_shape, latent_dim=5, decoders=3, seed=0)
    x = torch.rand(7, *event_shape)
    mean, log_variance = model.posterior(x)
    assert mean.shape == log_variance.shape == (7, 5)
    assert model.decode(mean).shape == (7, 3, *event_shape)
    assert model.encode(x, batch_size=3).shape == (7, 5)
    torch.testing.assert_close(model.encode(x, batch_size=3), mean.detach())


def test_the_convolutional_networks_are_the_papers():
    encoder, decoder = ConvEncoder(FASHION, 16), ConvDecoder(FASHION, 16)
    assert [m.out_channels for m in encoder if hasattr(m, "out_channels")] == [16, 32, 64, 128, 256]
    convolutions = [m for m in decoder.layers if hasattr(m, "out_channels")]
    assert [m.out_channels for m in convolutions] == [128, 64, 32, 16, 1]
    assert decoder.linear.out_features == 2 * 2 * 256
    assert decoder.layers[:-1](decoder.linear(torch.zeros(1, 16))).shape == (1, 1, 32, 32)


def test_upsampling_and_convolution_in_one_are_the_two_after_each_other():
    layer = UpsampledConv2d(3, 5, 3, padding=1).double()
    x = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    both = layer(x)
    one_by_one = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(both, one_by_one)
    inputs = [x, layer.weight, layer.bias]
    for first, second in zip(
        torch.autograd.grad(both.sin().sum(), inputs), torch.autograd.grad(one_by_one.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(first, second)


def test_the_loss_is_the_negative_elbo_with_each_decoder_on_its_own_share():
    model = lg.paper.build_vae("mlp", DIGIT, latent_dim=3, decoders=2, seed=0, noise=0.5).double()
    x = torch.rand(6, *DIGIT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squared_error, divergence = model.loss_terms(x, torch.Generator().manual_seed(1))
    mean, log_variance = model.posterior(x)
    q = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    p = Independent(Normal(torch.zeros_like(mean), 1.0), 1)
    torch.testing.assert_close(divergence, kl_divergence(q, p))
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = mean + noise * (0.5 * log_variance).exp()
    for k, share in enumerate((slice(0, 3), slice(3, 6))):
        likelihood = Independent(Normal(model.decoders[k](z[share]), 0.5), 3)
        constant = likelihood.log_prob(model.decoders[k](z[share]))
        torch.testing.assert_close(squared_error[share], constant - likelihood.log_prob(x[share]))


def test_a_decoder_gets_no_gradient_from_the_others_share():
    model = lg.paper.build_vae("mlp", DIGIT, latent_dim=2, decoders=2, seed=0)
    squared_error, _ = model.loss_terms(torch.rand(4, *DIGIT), torch.Generator().manual_seed(0))
    squared_error[:2].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.decoders[0].parameters())
    assert all(p.grad is None or p.grad.eq(0).all() for p in model.decoders[1].parameters())


def test_the_seed_determines_the_weights_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, same, other = (lg.paper.build_vae("mlp", DIGIT, 2, 2, seed=s).decoders[1][0].weight for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_rest_smaller_than_the_number_of_decoders_is_evaluated_too():
    model = lg.paper.build_vae("mlp", DIGIT, latent_dim=2, decoders=8, seed=0)
    assert model.evaluate(torch.rand(35, *DIGIT), batch_size=16) > 0


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="architecture among conv, mlp"):
        lg.paper.build_vae("transformer", DIGIT, 2, 2, seed=0)
    with pytest.raises(ValueError, match="positive sizes"):
        lg.paper.build_vae("mlp", DIGIT, 0, 2, seed=0)
    with pytest.raises(ValueError, match="positive standard deviation"):
        lg.paper.build_vae("mlp", DIGIT, 2, 2, seed=0, noise=0.0)
    with pytest.raises(ValueError, match="each of the 4 decoders, got 3"):
        lg.paper.build_vae("mlp", DIGIT, 2, 4, seed=0).loss_terms(torch.rand(3, *DIGIT))
