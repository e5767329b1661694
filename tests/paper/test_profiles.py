import dataclasses

import pytest

import latentgeo as lg
from latentgeo.paper.profiles import RunConfig, digest, training_preset

RUN = RunConfig("digits", "mlp", 2, 4, 0.25, "tanh", 0, lg.paper.TrainingConfig())
SHA = {"images": "a", "labels": "b"}


def test_the_key_depends_on_everything_that_determines_the_model(tmp_path):
    (tmp_path / "vgg16.safetensors").write_bytes(b"weights")
    keys = {RUN.key(SHA), RUN.key({**SHA, "labels": "c"})}
    for change in (
        {"dataset": "fashion_mnist"},
        {"architecture": "conv"},
        {"latent_dim": 3},
        {"decoders": 5},
        {"noise": 1.0},
        {"activation": "elu"},
        {"seed": 1},
        {"training": lg.paper.TrainingConfig(epochs=1)},
        {"perceptual": str(tmp_path / "vgg16.safetensors")},
    ):
        keys.add(dataclasses.replace(RUN, **change).key(SHA))
    assert len(keys) == 2 + len(dataclasses.fields(RUN))


def test_the_plain_loss_leaves_no_trace_and_the_perceptual_one_that_of_the_files_content(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.write_bytes(b"weights")
    one, other = (dataclasses.replace(RUN, perceptual=str(path)).as_dict(SHA) for path in (first, second))
    assert one == other
    assert set(one) - set(RUN.as_dict(SHA)) == {"perceptual_sha256"}


def test_the_key_does_not_depend_on_the_order_of_names():
    assert RUN.key(SHA) == RUN.key(dict(reversed(SHA.items())))
    assert digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})


def test_what_is_not_a_number_has_no_key():
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_the_papers_training_is_the_papers():
    config = training_preset("fashion_mnist", "conv", "paper")
    assert (config.epochs, config.batch_size, config.learning_rate) == (500, 256, 1e-3)
    assert (config.warmup_steps, config.half_life, config.clip_norm, config.patience) == (1000, 100_000, 1.0, 10)


@pytest.mark.parametrize(
    "arguments", [("mnist", "mlp", "quick"), ("digits", "rnn", "quick"), ("digits", "mlp", "fast")]
)
def test_unknown_presets_are_refused(arguments):
    with pytest.raises(ValueError, match=r"expected (a|one of)"):
        training_preset(*arguments)


def test_presets_of_cells():
    assert training_preset("pbmc68k", "mlp", "evidence").epochs > training_preset("pbmc68k", "mlp", "quick").epochs
    paper = training_preset("pbmc68k_counts", "counts", "paper")
    assert paper.epochs == 3 * training_preset("pbmc68k_counts", "counts", "evidence").epochs
    with pytest.raises(ValueError, match="expected an architecture among counts for pbmc68k_counts, got 'mlp'"):
        training_preset("pbmc68k_counts", "mlp", "quick")
