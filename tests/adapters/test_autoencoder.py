import subprocess
import sys
import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import latentgeo as lg
from latentgeo.geometry.curve import resample
from latentgeo.paper.paths import project_root

diffusers = pytest.importorskip("diffusers")


def _autoencoder(blocks=(8, 16), seed=0):
    """Random weights; latent images of 32 x 32 for images of 64 x 64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return diffusers.AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * len(blocks),
            up_block_types=["UpDecoderBlock2D"] * len(blocks),
            block_out_channels=blocks,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32 * 2 ** (len(blocks) - 1),
        ).eval()


@pytest.fixture(scope="module")
def autoencoder():
    return _autoencoder()


@pytest.fixture(scope="module")
def images():
    x = torch.from_numpy(load_digits().images[:3]).float().unsqueeze(1) / 8.0 - 1.0
    return nn.functional.interpolate(x, 64, mode="bilinear").expand(-1, 3, -1, -1)


def test_codes_are_flat_modes_and_images_come_back(autoencoder, images):
    model = lg.from_autoencoder_kl(autoencoder, rows=2)
    z = model.codes(images)
    with torch.no_grad():
        posterior = autoencoder.encode(images).latent_dist
        torch.testing.assert_close(z, posterior.mode().flatten(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.decoder(z), autoencoder.decode(posterior.mode()).sample, rtol=1e-4, atol=1e-5)
    assert z.shape == (3, 4096)
    assert model.name == "AutoencoderKL"
    assert lg.from_autoencoder_kl(autoencoder, name="mine").name == "mine"


def test_gradients_in_float64_are_those_of_the_whole_batch():
    model = lg.from_autoencoder_kl(_autoencoder().double(), image_size=16, rows=2)
    z = torch.randn(3, 4 * 8 * 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    whole, chunked = model.decoder.decoder(z), model.decoder(z)
    torch.testing.assert_close(chunked, whole, rtol=1e-11, atol=1e-12)
    found, expected = (torch.autograd.grad(x.square().sum(), z)[0] for x in (chunked, whole))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_directions_are_measured_in_spite_of_the_attention(autoencoder):
    model = lg.from_autoencoder_kl(autoencoder, image_size=(16, 32))
    z, v = torch.randn(2, 1, 4 * 8 * 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (model.decoder(z + 1e-2 * v) - model.decoder(z - 1e-2 * v)).norm() / 2e-2
    assert lg.metric.norm(model.decoder, z, v).item() == pytest.approx(difference.item(), rel=1e-2)


def test_what_does_not_fit_is_refused_with_the_remedy(autoencoder, images):
    with pytest.raises(TypeError, match=r"expected a diffusers\.AutoencoderKL, got Linear"):
        lg.from_autoencoder_kl(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"call .eval\(\)"):
        lg.from_autoencoder_kl(_autoencoder((8,)).train())
    tiled = _autoencoder((8,))
    tiled.enable_tiling()
    with pytest.raises(ValueError, match=r"disable_tiling\(\)"):
        lg.from_autoencoder_kl(tiled)
    with pytest.raises(ValueError, match="multiples of 2"):
        lg.from_autoencoder_kl(autoencoder, image_size=17)
    with pytest.raises(ValueError, match="rows"):
        lg.from_autoencoder_kl(autoencoder, rows=0)
    model = lg.from_autoencoder_kl(autoencoder)
    with pytest.raises(ValueError, match=r"\(B, 4096\).*got \(1, 1024\)"):
        model.decoder(torch.zeros(1, 1024))
    with pytest.raises(ValueError, match=r"\(B, C, 64, 64\), got \(1, 3, 32, 32\)"):
        model.codes(images[:, :, :32, :32])


@pytest.mark.thorough
def test_the_distance_of_two_codes_of_4096_dimensions_is_certified(autoencoder, images):
    model = lg.from_autoencoder_kl(autoencoder, rows=4)
    a, b = model.codes(images[:2]).unsqueeze(1)
    found = lg.geodesic(model.decoder, a, b, segments=8, tol=1e-2)
    with torch.no_grad():
        straight, chord = (lg.curve.chord_length(model.decoder, lg.curve.straight_line(a, b, N)) for N in (32, 1))
    assert found.converged.all()
    assert (chord < found.length).all()
    assert (found.length < straight).all()
    assert all(p.grad is None for p in autoencoder.parameters())


@pytest.mark.slow
def test_the_claimed_error_leaves_room_for_the_shortest_curve_known(autoencoder, images):
    model = lg.from_autoencoder_kl(autoencoder, rows=8)
    a, b = model.codes(images[:2]).unsqueeze(1)
    coarse = lg.geodesic(model.decoder, a, b, segments=8, tol=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        finer = lg.geodesic(model.decoder, a, b, segments=16, tol=1e-3, max_iter=100, initial=coarse.points)
    with torch.no_grad():
        shortest = lg.curve.chord_length(model.decoder, resample(finer.points, 64))
    assert coarse.converged.all()
    assert (coarse.length * (1.0 - coarse.error) <= shortest).all()
    assert (shortest < 0.99 * coarse.length).all()  # so that the claim is put to the test


_PEAK = """
import pathlib, re, torch
import latentgeo as lg
from tests.adapters.test_autoencoder import _autoencoder

def peak():  # of this process, in MiB
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
model = lg.from_autoencoder_kl(_autoencoder((16, 32)), rows=1)
line = lg.curve.straight_line(torch.zeros(1, 4096), torch.ones(1, 4096), 15)[0].requires_grad_()
for decoder in (model.decoder, model.decoder.decoder):
    torch.autograd.grad(decoder(line[:2]).square().sum(), line)
    before = peak()
    torch.autograd.grad(decoder(line).diff(dim=0).square().sum(), line)
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
def test_a_curve_takes_the_memory_of_one_image():
    run = subprocess.run([sys.executable, "-c", _PEAK], check=True, capture_output=True, text=True, cwd=project_root())
    chunked, whole = map(float, run.stdout.split())
    assert chunked < 50  # MiB beyond two images' own
    assert whole > 4 * chunked
