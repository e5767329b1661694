import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.adapters.model import LatentModel, latent_model


class _Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.decoder = nn.Linear(5, 2), nn.Linear(2, 5)

    def encode(self, x):
        return self.down(x)


def test_every_kind_of_model_is_understood():
    vae = lg.paper.build_vae("mlp", (1, 8, 8), 2, decoders=2, seed=0).eval()
    x = torch.rand(3, 1, 8, 8)
    seen = latent_model(vae)
    assert torch.equal(seen.codes(x), vae.encode(x))
    assert isinstance(seen.decoder, lg.Ensemble)
    own = _Autoencoder().eval()
    assert latent_model(own, "mine").name == "mine"
    assert repr(latent_model(own, "mine")) == "LatentModel('mine')"
    assert latent_model(own).codes(torch.rand(4, 5)).shape == (4, 2)
    assert latent_model(latent_model(own), "other").name == "other"
    assert latent_model((own.encode, own.decoder)).decoder is own.decoder


def test_what_is_not_a_model_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match="LatentModel"):
        latent_model(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"OrderedDict; build .*load_state_dict"):
        latent_model(nn.Linear(2, 2).state_dict())
    with pytest.raises(TypeError, match=r"got 'seed_0.pt'; .*torch.load"):
        latent_model("seed_0.pt")
    foreign = type("SCVI", (), {"__module__": "scvi.model._scvi"})
    with pytest.raises(TypeError, match=r"got SCVI; pass lg.from_scvi\(model\)"):
        latent_model(foreign())
    with pytest.raises(TypeError, match="encode: expected a callable"):
        LatentModel(None, nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("encode", "error", "message"),
    [
        (lambda x: x.numpy(), TypeError, "tensor of latent points"),
        (lambda x: (x, x), TypeError, r"got tuple; .* write \(lambda x, m=model: m.encode\(x\)\[0\]"),
        (lambda x: x[:, None], ValueError, "flatten"),
        (lambda x: x / 0, ValueError, "finite"),
        (lambda x: torch.rand(len(x), 2), ValueError, "asked twice"),
        (nn.Linear(5, 2), ValueError, r"could not encode data of shape \(3, 2\) and type torch.float32"),
    ],
)
def test_encoders_that_give_no_codes_are_refused(encode, error, message):
    with pytest.raises(error, match=message):
        latent_model((encode, nn.Identity())).codes(torch.rand(3, 2))


def test_integers_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"type torch.int64.*data.float\(\)"):
        latent_model(_Autoencoder().eval()).codes(torch.ones(3, 5, dtype=torch.long))


def test_data_are_encoded_in_batches_in_the_models_type():
    sizes = []

    class Counting(_Autoencoder):
        def encode(self, x):
            sizes.append(len(x))
            return super().encode(x)

    model = Counting().eval()
    x = torch.rand(3000, 5, dtype=torch.float64)
    codes = latent_model(model).codes(x)
    assert not codes.requires_grad
    assert max(sizes) < 3000
    assert torch.equal(codes, model.down(x.float()))


@pytest.mark.thorough
def test_points_that_stand_for_data():
    vae = lg.paper.build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=2, seed=0, activation="tanh").eval().double()
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = latent_model(vae)
    assert torch.equal(model.points(x, "mean").codes, model.codes(x))
    nearest = lg.project(vae.decode, x, model.codes(x))
    assert torch.equal(model.points(x).codes, nearest.codes)
    assert torch.equal(model.points(x).unique, nearest.unique)
    # The posterior mean of the image from other draws, and the point nearest to it.
    mean, log_variance = vae.posterior(x)
    draws = torch.randn(6_000, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        codes = (mean + (0.5 * log_variance).exp() * draws).flatten(0, 1)
        image = torch.cat([vae.decode(part).unflatten(0, (-1, 6)) for part in codes.split(600)]).mean(0)
        found = vae.decode(model.points(x, "posterior").codes)
        expected = vae.decode(lg.project(vae.decode, image, model.codes(x)).codes)
        spread = vae.decode(mean + (0.5 * log_variance).exp()) - vae.decode(mean)
    assert (found - expected).flatten(1).norm(dim=1).max() < 0.1 * spread.flatten(1).norm(dim=1).min()
    bytes_of, single = (255 * x).round().byte(), latent_model(vae.float())
    torch.testing.assert_close(single.points(bytes_of).codes, single.points(bytes_of.float() / 255).codes)


def test_points_that_cannot_be_had_are_refused():
    model = latent_model((lambda x: x[:, :1], lambda z: torch.cat([z, z.square()], 1)))
    x = torch.rand(4, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="one of nearest, posterior, mean"):
        model.points(x, "median")
    with pytest.raises(ValueError, match="no posterior_sampler"):
        model.points(x, "posterior")
    with pytest.raises(ValueError, match=r"2 values each.*points='mean'"):
        model.points(torch.rand(4, 3), "nearest")
    with pytest.raises(TypeError, match=r"a tensor of data.*code_likelihood"):
        latent_model((lambda x: torch.zeros(len(x), 1), lambda z: z)).points((1.0, 2.0))
