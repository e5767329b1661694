import hashlib
import itertools

import pytest
import torch
import torch.nn.functional as F

import latentgeo as lg
from latentgeo.paper.models.networks import ConvDecoder, ConvEncoder

FASHION, DIGIT, CIFAR, CELEBA = (1, 28, 28), (1, 8, 8), (3, 32, 32), (3, 64, 64)


def _weights_checksum(model):
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    ("event_shape", "encoder", "width", "decoder", "parameters"),
    [
        (CIFAR, [16, 32, 64, 128, 512], 256, [64, 32, 16, 8, 3], 156_627),
        (CELEBA, [32, 64, 128, 256, 512], 512, [256, 128, 64, 32, 16, 8, 3], 1_706_323),
    ],
)
def test_the_convolutional_networks_of_colour_images_are_the_papers(event_shape, encoder, width, decoder, parameters):
    made = ConvEncoder(event_shape, 64)
    assert [m.out_channels for m in made if hasattr(m, "out_channels")] == encoder
    assert all(m.stride == (2, 2) and m.kernel_size == (3, 3) for m in made if hasattr(m, "stride"))
    made = ConvDecoder(event_shape, 64)
    convolutions = [m for m in made.layers if hasattr(m, "out_channels")]
    assert [m.out_channels for m in convolutions] == decoder
    assert convolutions[0].kernel_size == ((2, 2) if event_shape == CIFAR else (3, 3))
    assert made.linear.out_features == 4 * width
    assert made.layers[-1] is convolutions[-1]  # the output is linear
    assert made(torch.zeros(2, 64)).shape == (2, *event_shape)
    sizes = [64 * 4 * width + 4 * width]
    for kernel, (incoming, outgoing) in zip(
        [m.kernel_size[0] for m in convolutions], itertools.pairwise([width, *decoder]), strict=True
    ):
        sizes.append(kernel**2 * incoming * outgoing + outgoing)
    assert sum(p.numel() for p in made.parameters()) == sum(sizes) == parameters


def test_the_first_kernel_is_padded_as_the_released_code_pads_it():
    """Flax's "SAME" padding of an even kernel puts the odd pixel below and right, as PyTorch's "same" does."""
    decoder = ConvDecoder(CIFAR, 3)
    convolution = next(m for m in decoder.layers if hasattr(m, "out_channels"))
    x = torch.randn(2, 256, 2, 2, generator=torch.Generator().manual_seed(0))
    position = list(decoder.layers).index(convolution)
    found = decoder.layers[position - 1 : position + 1](x)
    same = F.conv2d(F.pad(x, (0, 1, 0, 1)), convolution.weight, convolution.bias)
    other_side = F.conv2d(F.pad(x, (1, 0, 1, 0)), convolution.weight, convolution.bias)
    torch.testing.assert_close(found, same)
    assert (found - other_side).abs().max() > 1e-2  # the control: the other side would be another network


@pytest.mark.parametrize(
    ("event_shape", "latent_dim", "checksum"),
    [
        (FASHION, 16, "099fc1f014da0afaa771727f2fe390fc6de711414e28d8d61313b6c2d28291bc"),
        (DIGIT, 8, "4653ccfd21c424158871caa08cb3480fe6e5649762951bfdca5e9906449efb66"),
    ],
)
def test_the_weights_of_a_seed_are_what_they_were(event_shape, latent_dim, checksum):
    """Stored models are keyed by configuration and seed; whoever changes what these draw must raise the schema."""
    assert _weights_checksum(lg.paper.build_vae("conv", event_shape, latent_dim, 2, seed=3)) == checksum
    assert _weights_checksum(lg.paper.build_vae("conv", event_shape, latent_dim, 2, seed=4)) != checksum


def test_images_that_are_too_large_are_refused():
    with pytest.raises(ValueError, match="at most 32 pixels a side"):
        ConvDecoder((3, 96, 96), 2)
