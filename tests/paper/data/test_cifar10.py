"""Files in the official layout, made here: random pixels, with labels that are known."""

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading

import numpy as np
import pytest
import torch

import latentgeo as lg
from latentgeo.paper import data as datasets
from latentgeo.paper.data import cifar10
from latentgeo.paper.profiles import training_preset

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _batch(n: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.uint8)[:, None] % 10
    return np.hstack([labels, random.integers(0, 256, (n, 3072), dtype=np.uint8)]).tobytes()


def _files(batches: int = 5) -> dict[str, bytes]:
    files = {f"data_batch_{i}.bin": _batch(40, i) for i in range(1, batches + 1)}
    return files | {"test_batch.bin": _batch(30, 9), "batches.meta.txt": ("\n".join(NAMES) + "\n\n").encode()}


def _write(root, files):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_records_are_labels_and_planes_of_colour(place):
    files = _files()
    _write(place, files)
    data = lg.paper.load_dataset("cifar10")
    assert (len(data.train), len(data.validation), len(data.test)) == (180, 20, 30)
    assert data.event_shape == (3, 32, 32)
    assert data.class_names == tuple(NAMES)
    assert data.train.dtype == torch.float32
    assert data.test_labels.tolist() == [i % 10 for i in range(30)]
    record = np.frombuffer(files["test_batch.bin"], np.uint8)[7 * 3073 + 1 : 8 * 3073]
    for channel in range(3):  # red, green and blue planes of rows
        plane = record[1024 * channel : 1024 * (channel + 1)].reshape(32, 32)
        assert np.array_equal((255 * data.test[7, channel]).round().numpy(), plane)


def test_the_parts_share_no_image_and_are_always_the_same(place):
    _write(place, _files())
    data = lg.paper.load_dataset("cifar10")
    parts = [{image.numpy().tobytes() for image in part} for part in (data.train, data.validation, data.test)]
    assert len(set.union(*parts)) == sum(len(part) for part in parts) == 230
    assert torch.equal(cifar10.load().validation, data.validation)


def test_an_incomplete_copy_says_what_it_is(place, monkeypatch):
    folder = _write(place, _files(batches=2))
    data = lg.paper.load_dataset("cifar10")
    assert "80 training, 30 test images" in data.source
    assert "not checked against the official archive" in data.source
    assert set(data.sha256) == {"data_batch_1.bin", "data_batch_2.bin", "test_batch.bin", "batches.meta.txt"}
    monkeypatch.setitem(cifar10._COPIES, data.sha256["test_batch.bin"], "a JPEG copy")
    assert cifar10.load().source.startswith("a JPEG copy in the official layout")
    (folder / "data_batch_2.bin").unlink()
    assert cifar10.load().sha256 != data.sha256  # other data, other models


def test_a_folder_of_the_readers_own_comes_first(place, tmp_path_factory, monkeypatch):
    own = tmp_path_factory.mktemp("own")
    _write(own, _files(batches=1))
    _write(place, _files())
    monkeypatch.setenv("LATENTGEO_DATA", str(own))
    assert len(lg.paper.load_dataset("cifar10").train) == 36


def test_missing_files_are_named_with_ways_to_get_them(place):
    with pytest.raises(lg.paper.MissingDataError, match=r"test_batch\.bin was not found") as caught:
        lg.paper.load_dataset("cifar10")
    for way in ("latentgeo data cifar10", "cifar-10-binary.tar.gz", "LATENTGEO_DATA"):
        assert way in str(caught.value)
    folder = _write(place, _files())
    (folder / "batches.meta.txt").unlink()
    with pytest.raises(lg.paper.MissingDataError, match=r"batches\.meta\.txt is not there"):
        lg.paper.load_dataset("cifar10")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_2.bin", _batch(40, 2)[:-1], "a multiple of 3073 bytes, got 122,919"),
        ("data_batch_2.bin", b"", "a multiple of 3073 bytes, got 0"),
        ("test_batch.bin", bytes([10]) + _batch(1, 0)[1:], "labels from 0 to 9, got 10"),
        ("batches.meta.txt", b"cat dog", "names of 10 classes, got 2"),
    ],
)
def test_damage_is_named(place, name, content, message):
    folder = _write(place, _files())
    (folder / name).write_bytes(content)
    with pytest.raises(lg.paper.DataError, match=message) as caught:
        lg.paper.load_dataset("cifar10")
    assert not isinstance(caught.value, lg.paper.MissingDataError)
    assert f"Remove the folder {folder}" in str(caught.value)


@pytest.fixture
def served(tmp_path_factory, monkeypatch, place):
    """A server of one small archive that stands for the official one."""
    folder = tmp_path_factory.mktemp("served")
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in {**_files(), "../../evil.txt": b"evil"}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(cifar10, "_URL", f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar10, "_SHA256", hashlib.sha256((folder / archive.name).read_bytes()).hexdigest())
    yield
    server.shutdown()
    server.server_close()


def test_the_archive_is_downloaded_unpacked_and_recorded(served, place, capsys):
    data = datasets.fetch_dataset("cifar10")
    assert data.source == f"{cifar10._URL} (sha256 {cifar10._SHA256})"
    folder = place / "cifar-10-batches-bin"
    record = json.loads((folder / "archive.json").read_text())
    assert record["archive"] == cifar10._SHA256
    assert record["files"] == data.sha256
    assert not list(place.parent.rglob("evil.txt"))  # a path outside of the folder is not followed
    assert {path.name for path in folder.iterdir()} == {*_files(), "archive.json"}
    datasets.fetch_dataset("cifar10")
    assert capsys.readouterr().out.count("downloading") == 1


def test_official_files_that_changed_are_not_taken_for_official(served, place):
    datasets.fetch_dataset("cifar10")
    (place / "cifar-10-batches-bin" / "data_batch_3.bin").write_bytes(_batch(40, 7))  # well formed, but another
    with pytest.raises(lg.paper.DataError, match=r"data_batch_3\.bin is damaged: expected sha256"):
        cifar10.load()
    (place / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(lg.paper.DataError, match="no such file"):
        cifar10.load()


def test_another_archive_is_refused(served, place, monkeypatch):
    monkeypatch.setattr(cifar10, "_SHA256", "0" * 64)
    with pytest.raises(lg.paper.DataError, match=r"could not be downloaded .*does not match"):
        cifar10.fetch()
    assert not (place / "cifar-10-batches-bin").exists()


def test_no_connection_is_missing_data(place, monkeypatch):
    monkeypatch.setattr(cifar10, "_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    with pytest.raises(lg.paper.MissingDataError, match="could not be downloaded"):
        cifar10.fetch()


def test_the_papers_settings():
    config = training_preset("cifar10", "conv", "paper")
    assert (config.epochs, config.batch_size, config.learning_rate, config.patience) == (500, 128, 1e-3, 10)
    study = lg.paper.Study("cifar10", profile="paper")
    assert (study.model, study.latent_dim, study.decoders, study.activation) == ("conv", 64, 8, "elu")
    assert study.config(0).noise == 1.0


@pytest.mark.thorough
def test_a_study_of_it_works(place):
    _write(place, _files(batches=1))
    training = lg.paper.TrainingConfig(epochs=1, batch_size=16)
    study = lg.paper.Study(
        "cifar10", "conv", seeds=1, pairs=2, latent_dim=2, decoders=2, training=training, store=place / "r"
    )
    table = study.run(workers=0)
    assert np.isfinite(table["value"]).all()
    assert len(table) == 2 * table["method"].nunique()
