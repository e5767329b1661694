"""Models that take a label, a batch or a time beside latent points, and those of other libraries."""

import collections
import copy
import dataclasses

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn import functional

import latentgeo as lg
from tests.conftest import mlp

X = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Z = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ENCODER, DECODER = mlp(0, d=6, D=2), mlp(1, d=2, D=6)


def _sum(c):
    return c.double().reshape(len(c), -1).sum(1, keepdim=True)


class _Conditional(nn.Module):
    """A conditional variational autoencoder in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3).double()
        self.encoder, self.decoder = mlp(3, d=9, D=2), mlp(4, d=5, D=6)

    def encode(self, x, y):
        return self.encoder(torch.cat([x, self.embedding(y)], 1))

    def decode(self, z, y):
        return self.decoder(torch.cat([z, self.embedding(y)], 1))


CVAE = _Conditional()


@pytest.mark.parametrize("label", [0, 3, torch.tensor(4), np.int64(2)])
def test_a_label_is_held_fixed_for_encoder_and_decoder(label):
    held = lg.latent_model(CVAE, condition=label)
    y = torch.full((12,), int(label))
    torch.testing.assert_close(held.codes(X), CVAE.encode(X, y).detach())
    torch.testing.assert_close(held.decoder(Z), CVAE.decode(Z, y[:6]))

    def by_hand(z):
        return CVAE.decode(z, torch.full((len(z),), int(label)))

    torch.testing.assert_close(lg.distance(held.decoder, Z[:3], Z[3:]), lg.distance(by_hand, Z[:3], Z[3:]))
    torch.testing.assert_close(lg.gaussian_curvature(held.decoder, Z), lg.gaussian_curvature(by_hand, Z))
    other = lg.latent_model(CVAE, condition=1)
    assert not torch.allclose(lg.distance(other.decoder, Z[:3], Z[3:]), lg.distance(by_hand, Z[:3], Z[3:]), rtol=1e-3)


@pytest.mark.parametrize(
    ("condition", "shape", "dtype"),
    [
        (0.5, (6,), torch.float64),
        (2, (6,), torch.int64),
        (True, (6,), torch.bool),
        ([1.0, 0.0, 0.0], (6, 3), torch.float64),
        (np.array([1, 2]), (6, 2), torch.int64),
        (torch.zeros(3, 4, dtype=torch.float32), (6, 3, 4), torch.float64),
    ],
)
def test_a_condition_is_repeated_beside_the_rows_in_their_type(condition, shape, dtype):
    seen = []
    held = lg.latent_model((lambda x, c: ENCODER(x), lambda z, c: (seen.append(c), DECODER(z))[1]), condition=condition)
    held.decoder(Z)
    assert (tuple(seen[0].shape), seen[0].dtype) == (shape, dtype)


def test_a_condition_may_be_learned():
    condition = torch.ones(1, requires_grad=True)
    held = lg.latent_model((lambda x, c: ENCODER(x), lambda z, c: c * DECODER(z)), condition=condition)
    assert lg.latent_model(held, condition=condition.detach()).encode is held.encode
    assert lg.distance(held.decoder, Z[:1].detach(), Z[1:2].detach()).isfinite().all()


def test_conditions_by_keyword_and_of_other_kinds():
    def decode(z, *, t, tissue, scale=1.0):
        assert tissue == "brain"
        return scale[:, None] * DECODER(z + t)

    def encode(x, *, t, tissue, scale=1.0):
        return ENCODER(x) - t

    held = lg.latent_model((encode, decode), condition={"t": [0.3], "tissue": "brain", "scale": 2.0})
    torch.testing.assert_close(held.decoder(Z), 2.0 * DECODER(Z + 0.3))
    torch.testing.assert_close(held.codes(X), ENCODER(X).detach() - 0.3)
    named = lg.latent_model(
        (lambda x, c: ENCODER(x), lambda z, c: DECODER(z) if c == "brain" else 0 * z), condition="brain"
    )
    torch.testing.assert_close(named.decoder(Z), DECODER(Z))


def test_models_at_a_condition_go_wherever_models_go():
    def decode(z, t):
        return DECODER(z) + 0.1 * t[:, None] * z.sum(1, keepdim=True).square()

    pair = (lambda x, t: ENCODER(x), decode)
    first, second = lg.latent_model(pair, "first", condition=0.5), lg.latent_model(pair, "second", condition=0.7)
    with pytest.warns(UserWarning, match="held at"):
        report = lg.agreement([first, second], X, pairs=4, points="mean", check=False)
    for name, t in (("first", 0.5), ("second", 0.7)):
        rows = report.distances[(report.distances.model == name) & (report.distances.method == "geodesic")]
        z = ENCODER(X).detach()
        ends = (z[report.pairs["first"].to_numpy()], z[report.pairs["second"].to_numpy()])
        f = lambda z, t=t: DECODER(z) + 0.1 * t * z.sum(1, keepdim=True).square()  # noqa: E731
        np.testing.assert_allclose(rows["value"], lg.distance(f, *ends), rtol=1e-3)
    assert lg.GeodesicDistance(first, points="mean").fit_transform(X.numpy()).shape == (12, 12)
    assert lg.explore(first, X, points="mean").select(0, 1).length > 0
    assert first.points(X).codes.shape == (12, 2)
    assert copy.deepcopy(first).name == "first"


def test_posteriors_and_likelihoods_are_held_at_it_too():
    model = lg.LatentModel(
        lambda x, c: ENCODER(x),
        lambda z, c: DECODER(z) + _sum(c),
        posterior_sampler=lambda x, c: lambda noise: ENCODER(x) + 0.1 * _sum(c) * noise,
        code_likelihood=None,
    )
    held = lg.latent_model(model, condition=[0.5])
    torch.testing.assert_close(held.posterior_sampler(X)(torch.ones(12, 2).double()), ENCODER(X) + 0.05)
    assert held.points(X, "posterior").codes.shape == (12, 2)


def test_encoder_and_decoder_have_to_be_held_at_the_same():
    one, two = (lg.latent_model(CVAE, condition=c) for c in (1, 2))
    with pytest.raises(ValueError, match="encoder and decoder at the same condition, got 1 and 2"):
        lg.LatentModel(one.encode, two.decoder)
    with pytest.raises(ValueError, match="got none and 2"):
        lg.LatentModel(ENCODER, two.decoder)
    with pytest.raises(ValueError, match="got 1 and none"):
        lg.latent_model((one.encode, DECODER))
    with pytest.raises(ValueError, match="expected 1, at which this model is held already, got 2"):
        lg.latent_model(one, condition=2)
    assert lg.latent_model(one, condition=1).encode is one.encode
    assert lg.LatentModel(one.encode, lg.latent_model(CVAE, condition=1).decoder)


@pytest.mark.parametrize("measure", [lg.pullback_metric, lambda f, z: lg.distance(f, z, z + 1.0), lg.distance_matrix])
def test_a_decoder_without_its_condition_is_told_how_to_hold_one(measure):
    with pytest.raises(TypeError, match=r"takes more .*argument: 'y'.*latent_model\(\(encode, decode\), condition=c\)"):
        measure(CVAE.decode, Z)
    with pytest.raises(TypeError, match=r"encode to take data alone.*latent_model\(model, condition=c\)"):
        lg.latent_model(CVAE).codes(X)
    with pytest.raises(ValueError, match="a condition is held fixed"):
        measure(lambda z: DECODER(z) + torch.ones(5, 1), Z)
    with pytest.raises(ValueError, match="could not decode"):
        measure(lambda z: CVAE.decode(z, torch.zeros(5, dtype=torch.long)), Z)


class Output(collections.OrderedDict):
    """What pythae's and HuggingFace's models return: a dictionary whose entries are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


@dataclasses.dataclass
class _Record:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


Named = collections.namedtuple("Named", ["recon", "mu", "logvar"])


class VAE(nn.Module):
    """As pythae's: an encoder and a decoder, each with an output of its own."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = ENCODER, DECODER

    def encoder(self, x):
        return Output(embedding=self.inner(x), log_covariance=self.inner(x))

    def decoder(self, z):
        return Output(reconstruction=self.outer(z))


@pytest.mark.parametrize(
    ("returned", "remedy"),
    [
        (lambda x: Output(reconstruction=x, z=x), r"decode\(z\)\.reconstruction \(it has reconstruction, z\)"),
        (lambda x: {"x_hat": x}, r"decode\(z\)\['x_hat'\]"),
        (lambda x: _Record(x), r"decode\(z\)\.logits"),
        (lambda x: Named(x, x, x), r"decode\(z\)\.recon "),
        (lambda x: (x, x), r"forward of a whole autoencoder\?.*decode\(z\)\[0\]"),
        (lambda x: DecoderOutput(sample=x), r"decode\(z\)\.sample \(it has sample"),
    ],
)
def test_what_libraries_return_is_to_be_taken_out(returned, remedy):
    for measure in (lambda f: lg.pullback_metric(f, Z), lambda f: lg.geodesic(f, Z[:3], Z[3:])):
        with pytest.raises(TypeError, match=remedy):
            measure(lambda z: returned(DECODER(z)))


@pytest.mark.parametrize(
    ("returned", "remedy"),
    [
        (lambda z: Output(embedding=z, log_covariance=z), r"m\.encode\(x\)\.embedding"),
        (lambda z: {"mu": z, "logvar": z}, r"m\.encode\(x\)\['mu'\]"),
        (lambda z: (z, z), r"m\.encode\(x\)\[0\]"),
        (lambda z: torch.distributions.Normal(z, 1.0), r"m\.encode\(x\)\.loc|\.mean"),
        (lambda z: _Latent(z), r"m\.encode\(x\)\.latent_dist\.mean\.flatten\(1\)"),
    ],
)
def test_what_libraries_encode_to_is_to_be_taken_out(returned, remedy):
    with pytest.raises(TypeError, match=remedy):
        lg.latent_model((lambda x: returned(ENCODER(x)), DECODER)).codes(X)


@dataclasses.dataclass
class _Latent:
    latent_dist: object


def test_pythaes_models_are_told_what_to_pass_and_that_works():
    model = VAE()
    with pytest.raises(TypeError, match=r"m\.encoder\(x\)\.embedding and m\.decoder\(z\)\.reconstruction"):
        lg.latent_model(model)
    pair = (lambda x, m=model: m.encoder(x).embedding, lambda z, m=model: m.decoder(z).reconstruction)
    torch.testing.assert_close(lg.latent_model(pair).codes(X), ENCODER(X).detach())
    torch.testing.assert_close(lg.pullback_metric(pair[1], Z), lg.pullback_metric(DECODER, Z))


class _Lightning(LightningModule):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = ENCODER, nn.Sequential(DECODER, nn.Dropout(0.1))
        self.held = {"other": [mlp(3)]}

    def encode(self, x):
        return self.inner(x)

    def decode(self, z):
        return self.outer(z)


def test_lightning_modules_are_models_in_evaluation_mode():
    model = _Lightning()
    with pytest.raises(ValueError, match=r"layer 'outer\.1' is a Dropout in training mode"):
        lg.distance(model.decode, Z[:3], Z[3:])
    model.eval()
    torch.testing.assert_close(lg.distance(model.decode, Z[:3], Z[3:]), lg.distance(DECODER, Z[:3], Z[3:]))
    torch.testing.assert_close(lg.latent_model(model).codes(X), ENCODER(X).detach())


@pytest.mark.thorough
def test_a_diffusers_decoder_as_it_comes_and_as_it_is_to_be_given():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=1).eval()
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))

    def sample(z):
        return model.decode(z.view(-1, 1, 4, 4)).sample

    with pytest.raises(TypeError, match=r"got DecoderOutput; .*\.sample"):
        lg.distance(lambda z: model.decode(z.view(-1, 1, 4, 4)), z[:2], z[2:])
    with pytest.raises(TypeError, match=r"latent_dist\.mean\.flatten\(1\)"):
        lg.latent_model((model.encode, sample)).codes(torch.zeros(2, 3, 4, 4))
    adapted = lg.from_autoencoder_kl(model, image_size=4).decoder
    torch.testing.assert_close(lg.distance(sample, z[:2], z[2:]), lg.distance(adapted, z[:2], z[2:]), rtol=1e-3, atol=0)


class _Quantised(nn.Module):
    """A vector-quantised decoder, with the straight-through gradient of such models."""

    def __init__(self, through):
        super().__init__()
        self.codebook, self.outer, self.through = nn.Embedding(64, 2).double(), DECODER, through

    def quantise(self, z):
        q = self.codebook(torch.cdist(z, self.codebook.weight).argmin(1))
        return z + (q - z).detach() if self.through else q

    def forward(self, z):
        return self.outer(self.quantise(z))


@pytest.mark.parametrize("through", [True, False])
def test_a_vector_quantised_decoder_is_refused_for_what_it_is(through):
    model = _Quantised(through)
    for measure in (lambda f: lg.pullback_metric(f, Z), lambda f: lg.distance(f, Z, Z.flip(0))):
        with pytest.raises(ValueError, match="neither smooth nor injective; measure before"):
            measure(model)
    assert lg.pullback_metric(model.outer, Z).isfinite().all()  # before it is quantised


@pytest.mark.slow
def test_a_model_of_diffusers_with_a_codebook():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=2, num_vq_embeddings=32)
    model = model.eval().double()
    with torch.no_grad():
        model.quantize.embedding.weight.mul_(30.0)
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ValueError, match="neither smooth nor injective"):
        lg.distance(lambda z: model.decode(z.view(-1, 2, 2, 2)).sample, z[:2], z[2:])

    def smooth(z):
        return model.decode(z.view(-1, 2, 2, 2), force_not_quantize=True).sample

    assert lg.distance(smooth, z[:2], z[2:]).isfinite().all()


def test_softmax_over_a_codebook_is_smooth():
    weights = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def soft(z):
        return DECODER(functional.softmax(-torch.cdist(z, weights).square(), 1) @ weights)

    assert lg.distance(soft, Z[:3], Z[3:]).isfinite().all()
