"""Random weights in the layout of VGG16 stand for the trained ones: the loss is the same function of them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import latentgeo as lg
from latentgeo.paper.models.perceptual import VGG16_LAYERS, PerceptualVAE, load_vgg16, vgg16_features
from latentgeo.paper.store import Run

EVENT = (3, 16, 16)


@pytest.fixture(scope="session")
def weights():
    random = torch.Generator().manual_seed(0)
    tensors = {"classifier.0.weight": torch.zeros(2)}  # a whole file has more than is used
    incoming = 3
    for number, outgoing in VGG16_LAYERS.items():
        scale = (2 / (9 * incoming)) ** 0.5
        tensors[f"features.{number}.weight"] = scale * torch.randn(outgoing, incoming, 3, 3, generator=random)
        tensors[f"features.{number}.bias"] = 0.1 * torch.randn(outgoing, generator=random)
        incoming = outgoing
    return tensors


@pytest.fixture(scope="session")
def path(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture
def images():
    return torch.rand(6, *EVENT, generator=torch.Generator().manual_seed(1))


def _model(seed=0):
    return lg.paper.build_vae("mlp", EVENT, latent_dim=2, decoders=2, seed=seed, noise=0.5)


def test_features_are_those_of_the_sequential_network(weights, images):
    layers, pool = [], nn.MaxPool2d(2, 2)
    for outgoing in (64, 64, pool, 128, 128, pool, 256, 256, 256):
        if outgoing is pool:
            layers.append(pool)
            continue
        incoming = next((layer.out_channels for layer in reversed(layers) if isinstance(layer, nn.Conv2d)), 3)
        layers += [nn.Conv2d(incoming, outgoing, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers)
    network.load_state_dict({k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, expected = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), []
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            expected.append(x)
    found = vgg16_features(weights, images)
    assert [feature.shape[1] for feature in found] == [64, 64, 128, 128, 256, 256, 256]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_loss_is_the_plain_one_with_features_and_a_lighter_divergence(path, images):
    plain, model = _model(), PerceptualVAE(_model(), path)
    error, divergence = plain.loss_terms(images, torch.Generator().manual_seed(2))
    with_features, lighter = model.loss_terms(images, torch.Generator().manual_seed(2))
    torch.testing.assert_close(lighter, 0.9 * divergence)
    mean, log_variance = plain.posterior(images)
    epsilon = torch.randn(6, 2, generator=torch.Generator().manual_seed(2))
    z = mean + epsilon * (0.5 * log_variance).exp()
    made = torch.cat([plain.decoders[0](z[:3]), plain.decoders[1](z[3:])])
    pairs = zip(vgg16_features(load_vgg16(path), images), vgg16_features(load_vgg16(path), made), strict=True)
    expected = sum(((a - b) ** 2).mean(dim=(1, 2, 3)) / 2 for a, b in pairs)
    assert (expected > 0).all()
    torch.testing.assert_close(with_features, error + expected)
    assert (with_features > error).all()  # the control: without features it would be the plain loss


def test_what_is_learnt_is_the_model_alone(path, images):
    model = PerceptualVAE(_model(), path)
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder", "decoders"}
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in _model().parameters())
    before = {name: value.clone() for name, value in load_vgg16(path).items()}
    start = model.evaluate(images)
    config = lg.paper.TrainingConfig(epochs=8, batch_size=6, learning_rate=1e-3, warmup_steps=1)
    lg.paper.train(model, images, images, config, seed=0)
    assert model.evaluate(images) < start
    assert all(torch.equal(value, before[name]) for name, value in model._vgg16.items())


def test_bytes_are_images_too(path, images):
    model, pixels = PerceptualVAE(_model(), path), (255 * images).byte()
    assert model.evaluate(pixels) == model.evaluate(pixels.float() / 255)


def test_a_state_dict_is_read_without_unpickling_anything_else(path, weights, tmp_path):
    torch.save(weights, tmp_path / "vgg16.pth")
    found = load_vgg16(tmp_path / "vgg16.pth")
    assert all(torch.equal(found[name], value) for name, value in load_vgg16(path).items())
    torch.save({"features.0.weight": np.random.RandomState}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth cannot be read as weights"):
        load_vgg16(tmp_path / "evil.pth")


def test_without_the_file_the_message_says_where_weights_come_from(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needs weights of VGG16; .*vgg16-397923af\.pth"):
        PerceptualVAE(_model(), tmp_path / "nothing.pth")
    with pytest.raises(lg.paper.MissingDataError, match=r"nothing\.pth is not there; .*vgg16-397923af\.pth"):
        lg.paper.Study("digits", perceptual=tmp_path / "nothing.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.5.weight": None}, "features.5.weight to be finite numbers of shape .*, got NoneType"),
        ({"features.0.bias": torch.zeros(63)}, r"features.0.bias .* shape \(64,\), got \(63,\)"),
        ({"features.2.bias": torch.full((64,), float("nan"))}, "features.2.bias to be finite"),
    ],
)
def test_other_weights_are_refused(weights, tmp_path, change, message):
    changed = {name: value for name, value in {**weights, **change}.items() if value is not None}
    save_file(changed, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=message):
        load_vgg16(tmp_path / "w.safetensors")


def test_damaged_files_are_refused(path, tmp_path):
    (tmp_path / "half.safetensors").write_bytes(path.read_bytes()[:5000])
    (tmp_path / "half.pth").write_bytes(b"no weights")
    for name in ("half.safetensors", "half.pth"):
        with pytest.raises(ValueError, match="cannot be read as weights"):
            load_vgg16(tmp_path / name)
    torch.save([1.0], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="expected a state dict, got list"):
        load_vgg16(tmp_path / "list.pth")


def test_a_study_trains_stores_and_finds_it(path, tmp_path, images):
    """The data set is made here, of the size of a small colour image, and goes through the store as any other."""
    data = lg.paper.load_dataset("digits")
    colour = {part: getattr(data, part)[:12].expand(-1, 3, -1, -1).contiguous() for part in ("train", "validation")}
    data = type(data)(**{**vars(data), **colour, "test": colour["train"]})
    study = lg.paper.Study(
        "digits", seeds=1, decoders=2, training=lg.paper.TrainingConfig(epochs=1, batch_size=6), perceptual=path
    )
    run = Run(tmp_path, study.config(0), data)
    model = run.train()
    assert isinstance(model, PerceptualVAE)
    again = run.load()
    assert isinstance(again, PerceptualVAE)
    assert again.evaluate(data.validation) == model.evaluate(data.validation)
    plain = lg.paper.Study("digits", seeds=1, decoders=2, training=study.training)
    assert Run(tmp_path, plain.config(0), data).marker is None
