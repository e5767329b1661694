"""The run store: checkpoints, locks and what a crash leaves behind."""

import dataclasses
import json
import multiprocessing
import os
import time

import pandas as pd
import pytest
import torch

import latentgeo as lg
from latentgeo.paper import store as store_module
from latentgeo.paper.data import load_dataset
from latentgeo.paper.models import training
from latentgeo.paper.store import Run

pytestmark = pytest.mark.thorough

TRAINING = lg.paper.TrainingConfig(epochs=4, batch_size=64, learning_rate=4e-3, warmup_steps=10)


class Killed(BaseException):
    """Stands for a process that ends between two epochs."""


@pytest.fixture(autouse=True)
def _checkpoint_after_each_epoch(monkeypatch):
    monkeypatch.setenv("LATENTGEO_CHECKPOINT_SECONDS", "0")


@pytest.fixture
def config():
    return lg.paper.Study("digits", "mlp", seeds=1, latent_dim=2, decoders=2, training=TRAINING).config(0)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def _weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def _interrupt(monkeypatch, after):
    """Let a training end after this many epochs."""
    run_epoch = training._Training.run_epoch

    def limited(self, *arguments):
        if self.epoch == after:
            raise Killed
        return run_epoch(self, *arguments)

    monkeypatch.setattr(training._Training, "run_epoch", limited)


def test_a_checkpoint_of_another_device_is_not_gone_on_from(config, digits, tmp_path, monkeypatch):
    def of_a_gpu(state, metadata=None):
        return save(state, metadata and metadata | {"device": "cuda"})

    save = store_module.save
    run = Run(tmp_path / "parts", config, digits)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "save", of_a_gpu)
        _interrupt(patch, 2)
        with pytest.raises(Killed):
            run.train()
    assert torch.equal(_weights(run.train()), _weights(Run(tmp_path / "whole", config, digits).train()))
    assert len(list(run.folder.glob("*.damaged0"))) == 2


def test_a_device_that_is_not_there_is_an_error_and_no_model(config, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_DEVICE", "abacus")
    with pytest.raises(RuntimeError, match="device type"):
        Run(tmp_path, config, digits).train()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_training_goes_on_bit_for_bit(config, digits, tmp_path, monkeypatch, after):
    whole = Run(tmp_path / "whole", config, digits).train()
    run = Run(tmp_path / "parts", config, digits)
    with monkeypatch.context() as patch:
        _interrupt(patch, after)
        with pytest.raises(Killed):
            run.train()
    assert run.marker is None
    resumed = run.train()
    assert torch.equal(_weights(resumed), _weights(whole))
    folder = run.folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert f"going on after {after} epochs, lost 0 epochs" in (folder / "log.txt").read_text()
    assert not list(folder.glob("checkpoint-*"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_checkpoint_is_not_trusted(config, digits, tmp_path, monkeypatch, damage):
    whole = Run(tmp_path / "whole", config, digits).train()
    run = Run(tmp_path / "parts", config, digits)
    with monkeypatch.context() as patch:
        _interrupt(patch, 3)
        with pytest.raises(Killed):
            run.train()
    folder = run.folder
    newest, _ = sorted(folder.glob("checkpoint-*"), reverse=True)
    content = newest.read_bytes()
    newest.write_bytes(
        {"flip": content[:-1] + bytes([content[-1] ^ 4]), "truncate": content[:-9], "empty": b""}[damage]
    )
    assert torch.equal(_weights(run.train()), _weights(whole))
    assert "going on after 2 epochs, lost 1 epochs" in (folder / "log.txt").read_text()  # from the one before
    assert list(folder.glob("*.damaged0"))


def test_without_a_checkpoint_a_training_begins_again(config, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGEO_CHECKPOINT_SECONDS", "3600")
    run = Run(tmp_path, config, digits)
    with monkeypatch.context() as patch:
        _interrupt(patch, 3)
        with pytest.raises(Killed):
            run.train()
    run.train()
    rows = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [0, 1, 2, 3]


def test_a_full_disk_costs_checkpoints_but_no_training(config, digits, tmp_path, monkeypatch):
    write = store_module.write_atomically

    def full(path, content):
        if path.name.startswith("checkpoint"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(store_module, "write_atomically", full)
    run = Run(tmp_path, config, digits)
    run.train()
    assert run.marker is not None
    assert "no checkpoint after epoch 0: [Errno 28] No space left" in (run.folder / "log.txt").read_text()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    store_module.write_atomically(path, b"old")

    def broken(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="No space"):
        store_module.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def _train_and_report(root, config, queue):
    torch.set_num_threads(1)
    began = time.monotonic()
    Run(root, config, load_dataset("digits")).train()
    queue.put(time.monotonic() - began)


def test_of_two_processes_one_trains_and_the_other_waits(config, digits, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    longer = dataclasses.replace(config, training=dataclasses.replace(TRAINING, epochs=12))
    processes = [context.Process(target=_train_and_report, args=(tmp_path, longer, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    log = (Run(tmp_path, longer, digits).folder / "log.txt").read_text()
    assert log.count("starting") == log.count("finished after 12 epochs") == 1


def test_the_store_itself_costs_little_time(config, digits, tmp_path, monkeypatch):
    """Everything but the epochs, against the epochs, of a training that writes no checkpoint."""
    monkeypatch.delenv("LATENTGEO_CHECKPOINT_SECONDS")
    longer = dataclasses.replace(config, training=dataclasses.replace(TRAINING, epochs=40))
    began = time.perf_counter()
    Run(tmp_path, longer, digits).train()
    whole = time.perf_counter() - began
    (marker,) = tmp_path.glob("*/SUCCESS.json")
    epochs = json.loads(marker.read_text())["seconds"]
    assert whole - epochs < 0.02 * 60.0  # two per cent of a minute


def test_a_log_that_cannot_be_written_ends_no_training_and_hides_no_error(config, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_LOG", "nowhere/log.txt")
    run = Run(tmp_path, config, digits)
    with monkeypatch.context() as patched:
        _interrupt(patched, 2)
        with pytest.raises(Killed):
            run.train()
    assert torch.equal(_weights(run.train()), _weights(Run(tmp_path / "whole", config, digits).train()))
    assert not list(tmp_path.rglob("log.txt"))


def test_a_table_comes_back_whole_whatever_its_words(config, digits, tmp_path):
    run = Run(tmp_path, config, digits)
    run.train()
    table = pd.DataFrame({"method": ["a#b", "# c"], "value": [1.0, 2.0]})
    run.write_table("t", table)
    pd.testing.assert_frame_equal(*run.read_tables("t"), table)


def test_two_writers_of_one_file_do_not_meet(tmp_path, monkeypatch):
    """As two machines whose processes have the same number, on one folder: the first is in the middle of it."""
    path, fsync = tmp_path / "file", os.fsync

    def other(descriptor):
        monkeypatch.setattr("os.fsync", fsync)
        store_module.write_atomically(path, b"other")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", other)
    monkeypatch.setattr("os.getpid", lambda: 1)
    store_module.write_atomically(path, b"one")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
