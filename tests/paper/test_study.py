"""The study and its store, on real digits with short training."""

import dataclasses
import json
import shutil
import time

import numpy as np
import pandas as pd
import pytest

import latentgeo as lg
from latentgeo.agreement.pairs import METHODS, pair_distances, tidy
from latentgeo.paper import store as store_module
from latentgeo.paper.data import load_dataset
from latentgeo.paper.jobs import JobsFailedError
from latentgeo.paper.paths import checksum
from latentgeo.paper.study import _status

pytestmark = pytest.mark.thorough

SHORT = lg.paper.TrainingConfig(epochs=2, batch_size=64, learning_rate=4e-3, warmup_steps=10)


def _study(store, **changes):
    options = {"seeds": 3, "pairs": 8, "latent_dim": 2, "decoders": 2, "training": SHORT} | changes
    return lg.paper.Study("digits", "mlp", store=store, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study, run by two worker processes; tests copy it before they damage it."""
    store = tmp_path_factory.mktemp("store")
    return _study(store), _study(store).run(workers=2)


@pytest.fixture
def copied(finished, tmp_path):
    study, table = finished
    shutil.copytree(study.store, tmp_path / "store")
    return _study(tmp_path / "store"), table


def _folder(study, seed):
    return study.stored(seed).folder


def _written(study):
    return {seed: (_folder(study, seed) / "weights.safetensors").stat().st_mtime_ns for seed in study.seeds}


def test_the_table_is_tidy(finished):
    study, table = finished
    assert table.columns.tolist() == ["seed", "pair", "method", "value", "converged", "error", "unique", "points"]
    assert len(table) == 3 * 8 * len(METHODS)
    assert not table.duplicated(["seed", "pair", "method"]).any()
    assert table["converged"].dtype == bool
    data = table[table["method"] == "data"].pivot(index="pair", columns="seed", values="value")
    assert (data.nunique(axis=1) == 1).all()
    assert study.seeds == (0, 1, 2)


def test_a_run_leaves_a_trail(finished):
    study, _ = finished
    folder = _folder(study, 1)
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 1
    assert config["training"]["epochs"] == 2
    assert config["data_sha256"] == dict(load_dataset("digits").sha256)
    assert json.loads((folder / "environment.json").read_text())["threads"] == 1
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((folder / "environment.json").read_text())["commit"]
    names = {path.name for path in folder.iterdir() if path.suffix != ".csv"}
    assert names == {
        "config.json",
        "environment.json",
        "log.txt",
        "metrics.jsonl",
        "weights.safetensors",
        "SUCCESS.json",
    }
    assert "finished after 2 epochs" in (folder / "log.txt").read_text()


def test_running_again_trains_nothing_and_gives_the_same_table(copied):
    study, table = copied
    before = _written(study)
    pd.testing.assert_frame_equal(study.run(), table, check_exact=True)
    assert _written(study) == before


def test_another_machine_mode_gives_the_same_table(finished, tmp_path):
    study = _study(tmp_path)
    pd.testing.assert_frame_equal(study.run(workers=0), finished[1], check_exact=True)


def test_deleting_one_models_files_trains_that_one_alone(copied):
    study, table = copied
    before = _written(study)
    shutil.rmtree(_folder(study, 1))
    pd.testing.assert_frame_equal(study.run(workers=0), table, check_exact=True)
    after = _written(study)
    assert after[1] != before[1]
    assert (after[0], after[2]) == (before[0], before[2])


def test_more_pairs_measure_only_those(copied, monkeypatch):
    study, table = copied
    before, measured = _written(study), []

    def counted(model, first, second, **options):
        measured.append(len(first))
        return pair_distances(model, first, second, **options)

    monkeypatch.setattr("latentgeo.paper.study.pair_distances", counted)
    more = dataclasses.replace(study, pairs=70).run(workers=0)
    assert measured == 3 * [50, 12]  # 62 more pairs of each model, in blocks
    assert len(more) == 3 * 70 * len(METHODS)
    assert _written(study) == before
    few = more[more["pair"] < 8].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, table, check_exact=True)


def _between_codes(model, start, end, power=1):
    value = (model.encode(start) - model.encode(end)).norm(dim=1)
    return tidy({"power": (value**power, value > 0), "plain": (value, value > 0)})


def test_any_function_of_a_model_and_pairs_is_measured_once(copied, monkeypatch):
    study, _ = copied
    before, pairs = _written(study), ([0, 1600, 0], [1, 3, 2])
    options = {"part": "everything", "power": 2}
    table = study.measure("codes", _between_codes, pairs, workers=0, **options)
    assert table.columns.tolist() == ["seed", "pair", "method", "value", "converged"]
    assert table["method"].unique().tolist() == ["power", "plain"]
    assert _written(study) == before
    codes = study.trained(1).encode(load_dataset("digits").everything)
    found = table.query("seed == 1").pivot(index="pair", columns="method", values="value")
    expected = (codes[pairs[0]] - codes[pairs[1]]).norm(dim=1)
    np.testing.assert_allclose(found["plain"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["power"], expected**2, rtol=1e-5)
    with pytest.raises(JobsFailedError, match="IndexError"):  # the control: other images
        study.measure("codes", _between_codes, pairs, workers=0, **options | {"part": "test"})
    with monkeypatch.context() as patch:
        patch.setattr("latentgeo.paper.study.run_jobs", None)
        pd.testing.assert_frame_equal(study.measure("codes", _between_codes, pairs, **options), table)
        with pytest.raises(TypeError):  # another option is another table
            study.measure("codes", _between_codes, pairs, **options | {"power": 3})


def _perimeter(model, *corners):
    codes = [model.encode(of) for of in corners]
    value = sum((a - b).norm(dim=1) for a, b in zip(codes, [*codes[1:], codes[0]], strict=True))
    return tidy({"perimeter": (value, value > 0)})


def test_triangles_are_measured_as_pairs_are(copied):
    study, _ = copied
    corners = [0, 1], [2, 3], [4, 5]
    table = study.measure("perimeters", _perimeter, corners, workers=0)
    assert table.columns.tolist() == ["seed", "pair", "method", "value", "converged"]
    test = load_dataset("digits").test
    expected = _perimeter(study.trained(1), *(test[of] for of in corners))["value"]
    np.testing.assert_allclose(table.query("seed == 1")["value"], expected, rtol=1e-5)
    assert not np.allclose(table.query("seed == 0")["value"], expected, rtol=0.01)  # the control: another model
    more = study.measure("perimeters", _perimeter, [[*of, 7 + i] for i, of in enumerate(corners)], workers=0)
    pd.testing.assert_frame_equal(more[more["pair"] < 2].reset_index(drop=True), table, check_exact=True)


def test_a_damaged_table_is_moved_aside_and_measured_again(copied):
    study, table = copied
    (path,) = _folder(study, 1).glob("distances-*.csv")
    content = path.read_text()
    path.write_text(content.replace("euclidean,0", "euclidean,9", 1).replace("euclidean,1", "euclidean,8", 1))
    assert path.read_text() != content
    pd.testing.assert_frame_equal(study.run(workers=0), table, check_exact=True)
    assert path.read_text() == content
    assert path.with_name(f"{path.name}.damaged0").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "no marker", "broken marker", "no weights", "other config"])
def test_a_damaged_run_is_trained_again_and_never_trusted(copied, damage):
    study, table = copied
    folder = _folder(study, 2)
    weights, marker, config = (folder / name for name in ("weights.safetensors", "SUCCESS.json", "config.json"))
    good = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "truncate":
        weights.write_bytes(good[:-100])
    elif damage == "no marker":
        marker.unlink()
    elif damage == "broken marker":
        marker.write_text("{")
    elif damage == "no weights":
        weights.unlink()
    else:
        config.write_text(config.read_text().replace('"schema": ', '"schema": 9'))
    run, dataset = study.stored(2), load_dataset("digits")
    assert run.load() is None
    model = study.trained(2)
    assert run.marker is not None
    assert weights.read_bytes() == good  # the same training gives the same weights
    assert model.evaluate(dataset.validation) == study.trained(2).evaluate(dataset.validation)
    if damage != "no marker":
        assert (folder.with_name(f"{folder.name}.damaged0") / "metrics.jsonl").exists()
    pd.testing.assert_frame_equal(study.run(workers=0), table, check_exact=True)


def test_a_failing_seed_does_not_stop_the_others(tmp_path, monkeypatch):
    study, build = _study(tmp_path), store_module.build_vae

    def failing(*arguments, seed, **options):
        if seed == 0:
            raise ArithmeticError("seed 0 cannot be built")
        return build(*arguments, seed=seed, **options)

    monkeypatch.setattr(store_module, "build_vae", failing)
    with pytest.raises(JobsFailedError, match=r"2 of 6 jobs failed and 4 finished; .*seed 0 cannot be built"):
        study.run(workers=0)
    found = [study.stored(seed).marker is not None for seed in study.seeds]
    assert found == [False, True, True]
    assert "ArithmeticError" in (_folder(study, 0) / "log.txt").read_text()


def test_what_is_going_on_is_shown_by_epoch(tmp_path):
    study = _study(tmp_path, seeds=2)
    _folder(study, 1).mkdir()
    (_folder(study, 1) / "metrics.jsonl").write_text("{}\n")
    assert _status([(f"seed {seed}", _folder(study, seed), 2) for seed in study.seeds]) == "seed 1: epoch 1/2"
    (_folder(study, 1) / "SUCCESS.json").touch()
    assert _status([("seed 1", _folder(study, 1), 2)]) == ""


def test_a_trained_model_is_the_stored_one(copied):
    study, _ = copied
    model = study.trained(0)
    data = load_dataset("digits")
    assert not model.training
    assert model.evaluate(data.validation) < lg.paper.build_vae("mlp", (1, 8, 8), 2, 2, seed=0, noise=0.25).evaluate(
        data.validation
    )
    with pytest.raises(ValueError, match=r"expected a seed among \(0, 1, 2\), got 7"):
        study.trained(7)


def test_the_profile_chooses_what_is_not_said():
    quick, paper = lg.paper.Study(), lg.paper.Study(profile="paper")
    assert (quick.model, len(quick.seeds), quick.latent_dim, quick.decoders) == ("mlp", 5, 16, 8)
    assert (paper.model, len(paper.seeds), paper.training.epochs) == ("conv", 30, 500)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds: expected at least 1"),
        ({"seeds": [1, 1]}, "all different"),
        ({"seeds": [-1]}, "at least 0"),
        ({"pairs": 0}, "at least 1"),
        ({"decoders": 0}, "at least 1"),
        ({"profile": "fast"}, "profile: expected one of quick, evidence, paper"),
        ({"model": "rnn"}, "architecture among"),
        ({"dataset": "mnist"}, "data set among"),
    ],
)
def test_bad_studies_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lg.paper.Study(**options)


def test_too_many_pairs_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="between 1 and 360 pairs"):
        _study(tmp_path, pairs=361).run(workers=0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_do_over_three_hundred_models_takes_no_time(copied):
    study, _ = copied
    many = dataclasses.replace(study, seeds=300)
    source = _folder(study, 0)
    for seed in many.seeds[3:]:
        folder = _folder(many, seed)
        shutil.copytree(source, folder)
        config = json.loads((folder / "config.json").read_text()) | {"seed": seed}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        marker = json.loads((folder / "SUCCESS.json").read_text())
        marker["files"]["config.json"] = checksum((folder / "config.json").read_bytes())
        (folder / "SUCCESS.json").write_text(json.dumps(marker))
    began = time.process_time()
    table = many.run(workers=0)
    taken, began = time.process_time() - began, time.process_time()
    for seed in many.seeds:
        pd.read_csv(next(_folder(many, seed).glob("distances-*.csv")))
    assert taken < 6.0 * (time.process_time() - began)  # or models were loaded
    assert len(table) == 300 * 8 * len(METHODS)
