"""The run store: checkpoints, locks and what a crash leaves behind."""

import dataclasses
import json
import multiprocessing
import time

import pytest
import torch

import latentgeo as lg
from latentgeo.paper import store as store_module
from latentgeo.paper.data import load_dataset
from latentgeo.paper.models import training
from latentgeo.paper.store import RunStore

pytestmark = pytest.mark.thorough

TRAINING = lg.paper.TrainingConfig(epochs=4, batch_size=64, learning_rate=4e-3, warmup_steps=10)


class Killed(BaseException):
    """Stands for a process that ends between two epochs."""


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


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_training_goes_on_bit_for_bit(config, digits, tmp_path, monkeypatch, after):
    whole = RunStore(tmp_path / "whole").train(config, digits)
    store = RunStore(tmp_path / "parts", checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        _interrupt(patch, after)
        with pytest.raises(Killed):
            store.train(config, digits)
    assert store.find(config, digits) is None
    resumed = store.train(config, digits)
    assert torch.equal(_weights(resumed), _weights(whole))
    folder = store.folder(config, digits)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert f"going on after {after} epochs, lost 0 epochs" in (folder / "log.txt").read_text()
    assert not list(folder.glob("checkpoint-*"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_checkpoint_is_not_trusted(config, digits, tmp_path, monkeypatch, damage):
    whole = RunStore(tmp_path / "whole").train(config, digits)
    store = RunStore(tmp_path / "parts", checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        _interrupt(patch, 3)
        with pytest.raises(Killed):
            store.train(config, digits)
    folder = store.folder(config, digits)
    newest, _ = sorted(folder.glob("checkpoint-*"), reverse=True)
    content = newest.read_bytes()
    newest.write_bytes(
        {"flip": content[:-1] + bytes([content[-1] ^ 4]), "truncate": content[:-9], "empty": b""}[damage]
    )
    assert torch.equal(_weights(store.train(config, digits)), _weights(whole))
    assert "going on after 2 epochs, lost 1 epochs" in (folder / "log.txt").read_text()  # from the one before
    assert list(folder.glob("*.damaged0"))


def test_without_a_checkpoint_a_training_begins_again(config, digits, tmp_path, monkeypatch):
    store = RunStore(tmp_path, checkpoint_seconds=3600.0)
    with monkeypatch.context() as patch:
        _interrupt(patch, 3)
        with pytest.raises(Killed):
            store.train(config, digits)
    store.train(config, digits)
    rows = (store.folder(config, digits) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [0, 1, 2, 3]


def test_a_full_disk_costs_checkpoints_but_no_training(config, digits, tmp_path, monkeypatch):
    write = store_module.write_atomically

    def full(path, content):
        if path.name.startswith("checkpoint"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(store_module, "write_atomically", full)
    store = RunStore(tmp_path, checkpoint_seconds=0.0)
    store.train(config, digits)
    assert store.find(config, digits) is not None
    assert (
        "no checkpoint after epoch 0: [Errno 28] No space left"
        in (store.folder(config, digits) / "log.txt").read_text()
    )


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
    RunStore(root, checkpoint_seconds=0.0).train(config, load_dataset("digits"))
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
    log = (RunStore(tmp_path).folder(longer, digits) / "log.txt").read_text()
    assert log.count("starting") == log.count("finished after 12 epochs") == 1


def test_the_store_itself_costs_little_time(config, digits, tmp_path):
    """Everything but the epochs, against the epochs, of a training that writes no checkpoint."""
    store = RunStore(tmp_path)
    began = time.perf_counter()
    store.train(dataclasses.replace(config, training=dataclasses.replace(TRAINING, epochs=40)), digits)
    whole = time.perf_counter() - began
    (marker,) = tmp_path.glob("*/SUCCESS.json")
    epochs = json.loads(marker.read_text())["seconds"]
    assert whole - epochs < 0.02 * 60.0  # two per cent of a minute
