import dataclasses

import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.models.batched import pays, train_seeds
from latentgeo.models.isometry import IsometricVAE

SEEDS = (3, 8)
CONFIG = lg.TrainingConfig(
    epochs=2, batch_size=64, learning_rate=4e-3, warmup_steps=5, half_life=8, clip_norm=5.0, patience=10
)


def _models(architecture="mlp", seeds=SEEDS, **options):
    options = {"latent_dim": 3, "decoders": 2, "noise": 0.25, "activation": "tanh"} | options
    return [lg.build_vae(architecture, (1, 8, 8), seed=seed, **options).double() for seed in seeds]


@pytest.fixture(scope="module")
def digits():
    data = lg.load_dataset("digits")
    return data.train[:330].double(), data.validation[:100].double()  # five batches and a rest


def _one_by_one(models, digits, config, seeds=SEEDS):
    """Each seed by ``train``, and its rows."""
    tables = {seed: [] for seed in seeds}
    for model, seed in zip(models, seeds, strict=True):
        lg.train(model, *digits, config, seed=seed, on_epoch=lambda row, _, seed=seed: tables[seed].append(row))
    return models, tables


def _together(models, digits, config, seeds=SEEDS):
    tables = {seed: [] for seed in seeds}
    found = train_seeds(models, *digits, config, seeds=seeds, on_epoch=lambda row, _: tables[row["seed"]].append(row))
    assert all(a is b for a, b in zip(found, models, strict=True))
    return found, tables


def _equal(model, reference, rtol=1e-8):
    """Whether every weight tensor differs by less than a share of its norm."""
    weights, expected = model.state_dict(), reference.state_dict()
    return all((weights[name] - value).norm() < rtol * value.norm() for name, value in expected.items())


def _assert_same_training(found, expected, rtol=1e-8):
    for model, reference in zip(found[0], expected[0], strict=True):
        assert _equal(model, reference, rtol)
        assert not model.training
    for seed, rows in expected[1].items():
        assert len(found[1][seed]) == len(rows)
        for row, reference in zip(found[1][seed], rows, strict=True):
            assert row["epoch"] == reference["epoch"]
            assert row["train_loss"] == pytest.approx(reference["train_loss"], rel=1e-6)  # summed in float32
            assert row["validation_loss"] == pytest.approx(reference["validation_loss"], rel=rtol)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_seeds_trained_together_are_those_trained_one_by_one(digits, architecture):
    few, config = (digits[0][:100], digits[1]), dataclasses.replace(CONFIG, batch_size=32)
    expected = _one_by_one(_models(architecture), few, config)
    found = _together(_models(architecture), few, config)
    _assert_same_training(found, expected)
    first, second = found[0]
    assert not _equal(first, second, rtol=1e-2)
    assert not _equal(first, expected[0][1], rtol=1e-2)  # nor have the seeds changed places


@pytest.mark.parametrize("change", [{"clip_norm": 1e9}, {"half_life": 80_000}, {"warmup_steps": 1}, {"batch_size": 60}])
def test_every_setting_reaches_the_seeds(digits, change):
    changed = dataclasses.replace(CONFIG, epochs=1, **change)
    models, _ = _one_by_one(_models(), digits, changed)
    found, _ = _together(_models(), digits, changed)
    control, _ = _together(_models(), digits, dataclasses.replace(CONFIG, epochs=1))
    for model, reference, other in zip(found, models, control, strict=True):
        assert _equal(model, reference)
        assert not _equal(other, reference, rtol=1e-4)


def test_gradients_are_clipped_for_each_seed_by_itself(digits):
    models = _models()
    with torch.no_grad():
        models[1].decoders[0][0].weight.mul_(30)  # much larger gradients than the other's
    alone = _models()[0]
    train_seeds(models, *digits, CONFIG, seeds=SEEDS)
    assert _equal(models[0], lg.train(alone, *digits, CONFIG, seed=SEEDS[0]))


def test_a_seed_that_stops_early_leaves_the_others_going(digits):
    seeds = (0, 1, 2, 3)
    config = dataclasses.replace(
        CONFIG, epochs=40, learning_rate=0.03, half_life=1000, patience=1, clip_norm=50.0, warmup_steps=1
    )
    expected = _one_by_one(_models(seeds=seeds, latent_dim=2), digits, config, seeds)
    found = _together(_models(seeds=seeds, latent_dim=2), digits, config, seeds)
    epochs = {seed: len(rows) for seed, rows in expected[1].items()}
    assert len(set(epochs.values())) > 1
    assert max(epochs.values()) < 40
    assert {seed: len(rows) for seed, rows in found[1].items()} == epochs
    _assert_same_training(found, expected, rtol=1e-6)  # large steps let rounding grow
    for model, rows in zip(found[0], found[1].values(), strict=True):
        best = min(row["validation_loss"] for row in rows)
        assert model.evaluate(digits[1]) == pytest.approx(best)
        assert rows[-1]["validation_loss"] > 1.0001 * best  # the last weights are not the best ones


def test_a_seed_goes_on_alone_from_the_state_it_had_in_the_batch(digits):
    states = {}

    def keep(row, state):
        if row["epoch"] == 0:
            states[row["seed"]] = state()

    together = train_seeds(_models(), *digits, CONFIG, seeds=SEEDS, on_epoch=keep)
    for model, fresh, seed in zip(together, _models(), SEEDS, strict=True):
        assert states[seed].step == 5
        assert _equal(lg.train(fresh, *digits, CONFIG, seed=seed, resume=states[seed]), model)


def test_a_single_seed_is_a_batch_too(digits):
    found = _together(_models(seeds=(5,)), digits, CONFIG, seeds=(5,))
    _assert_same_training(found, _one_by_one(_models(seeds=(5,)), digits, CONFIG, seeds=(5,)))


def test_a_loss_that_is_not_finite_names_its_seed(digits):
    models = _models()
    with torch.no_grad():
        models[1].encoder[1].bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="loss of seed 8 is no longer finite in epoch 0"):
        train_seeds(models, *digits, CONFIG, seeds=SEEDS)


def test_bad_input_is_refused(digits):
    models = _models()
    with pytest.raises(ValueError, match="at least one model and a seed for each, got 2 and 1"):
        train_seeds(models, *digits, CONFIG, seeds=(0,))
    with pytest.raises(ValueError, match="got 0 and 0"):
        train_seeds([], *digits, CONFIG, seeds=())
    with pytest.raises(ValueError, match="one of them twice"):
        train_seeds([models[0], models[0]], *digits, CONFIG, seeds=SEEDS)
    with pytest.raises(ValueError, match="one batch of 64 training images, got 10"):
        train_seeds(models, digits[0][:10], digits[1], CONFIG, seeds=SEEDS)
    with pytest.raises(TypeError, match="plain VAEs, got IsometricVAE"):
        train_seeds([IsometricVAE.from_vae(model, 1.0) for model in models], *digits, CONFIG, seeds=SEEDS)
    normalised = _models()
    for model in normalised:
        model.encoder.insert(2, nn.BatchNorm1d(256).double())
    with pytest.raises(ValueError, match="without buffers"):
        train_seeds(normalised, *digits, CONFIG, seeds=SEEDS)


@pytest.mark.parametrize(
    "options", [{"noise": 0.5}, {"activation": "elu"}, {"latent_dim": 4}, {"decoders": 3}, {"architecture": "conv"}]
)
def test_models_of_different_configurations_are_refused(digits, options):
    models = [*_models(seeds=(3,)), *_models(seeds=(8,), **options)]
    with pytest.raises(ValueError, match="model 1 differs from model 0"):
        train_seeds(models, *digits, CONFIG, seeds=SEEDS)


def test_noise_that_is_given_is_the_noise_that_is_drawn(digits):
    model, x = _models()[0], digits[0][:10]
    epsilon = torch.randn(10, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    given, drawn = model.loss_terms(x, epsilon=epsilon), model.loss_terms(x, torch.Generator().manual_seed(7))
    other = model.loss_terms(x, torch.Generator().manual_seed(8))
    assert torch.equal(given[0], drawn[0])
    assert not torch.equal(given[0], other[0])
    with pytest.raises(ValueError, match=r"noise of shape \(10, 3\), got \(3,\)"):
        model.loss_terms(x, epsilon=epsilon[0])


def test_whether_batching_pays_is_known_for_every_architecture():
    assert pays("mlp", "cuda")
    assert pays("mlp", torch.device("cuda", 0))
    assert not pays("conv", "cuda")
    assert not any(pays(architecture, "cpu") for architecture in ("mlp", "conv"))
    with pytest.raises(ValueError, match="architecture among conv, mlp, flow, counts, got 'rnn'"):
        pays("rnn", "cpu")
