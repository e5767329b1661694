import dataclasses

import pytest
import torch

import latentgeo as lg

SMALL = lg.paper.TrainingConfig(epochs=4, batch_size=64, learning_rate=4e-3, warmup_steps=10)


def _model(seed=0):
    return lg.paper.build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=2, seed=seed, noise=0.25)


@pytest.fixture(scope="module")
def digits():
    return lg.paper.load_dataset("digits")


def test_the_loss_falls_and_the_model_is_left_ready_to_use(digits):
    rows = []
    model = lg.paper.train(
        _model(), digits.train, digits.validation, SMALL, seed=0, on_epoch=lambda row, _: rows.append(row)
    )
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["validation_loss"] < 0.8 * rows[0]["validation_loss"]
    assert not model.training
    assert model.evaluate(digits.validation) == pytest.approx(min(row["validation_loss"] for row in rows), rel=1e-5)


def test_training_is_determined_by_its_seed(digits):
    def weight(seed):
        config = dataclasses.replace(SMALL, epochs=1)
        return lg.paper.train(_model(), digits.train, digits.validation, config, seed=seed).decoders[0][0].weight

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_training_stops_when_validation_no_longer_improves_and_keeps_the_best_weights(digits):
    rows = []
    config = dataclasses.replace(SMALL, epochs=200, learning_rate=0.03, patience=2, clip_norm=1e6)
    model = lg.paper.train(
        _model(), digits.train, digits.validation, config, seed=0, on_epoch=lambda row, _: rows.append(row)
    )
    losses = [row["validation_loss"] for row in rows]
    best = losses.index(min(losses))
    assert len(rows) == best + 1 + 2 < 200
    assert model.evaluate(digits.validation) == pytest.approx(losses[best], rel=1e-5)


def test_the_learning_rate_warms_up_and_halves():
    config = lg.paper.TrainingConfig()
    assert config.rate(0) == pytest.approx(1e-6)
    assert config.rate(499) == pytest.approx(0.5e-3, rel=0.01)
    assert config.rate(100_000) == pytest.approx(0.5e-3)
    assert config.rate(200_000) == pytest.approx(0.25e-3)


def test_a_loss_that_is_not_finite_is_an_error(digits):
    config = dataclasses.replace(SMALL, epochs=1)
    broken = digits.train.clone()
    broken[0] = float("nan")
    with pytest.raises(FloatingPointError, match="no longer finite in epoch 0"):
        lg.paper.train(_model(), broken, digits.validation, config, seed=0)


def test_bad_settings_are_refused(digits):
    with pytest.raises(ValueError, match="one batch of 64 training images, got 10"):
        lg.paper.train(_model(), digits.train[:10], digits.validation, SMALL, seed=0)
    for name in ("epochs", "learning_rate", "clip_norm"):
        with pytest.raises(ValueError, match=f"{name} expects a positive finite number"):
            dataclasses.replace(SMALL, **{name: 0})
