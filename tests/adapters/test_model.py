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
