"""Real files where they are needed: they come from `make data`, and copies of them are damaged here."""

import functools
import gzip
import hashlib
import http.server
import shutil
import threading

import pytest
import torch

import latentgeo as lg
from latentgeo.paper import data as datasets
from latentgeo.paper.data import fashion_mnist as module

pytestmark = pytest.mark.thorough

TEST_LABELS = "t10k-labels-idx1-ubyte"


@pytest.fixture
def nowhere(published, place, monkeypatch):
    """No Fashion-MNIST anywhere but in an empty folder of our own, and no apt."""
    monkeypatch.setattr(module, "_DEBIAN_FOLDER", place / "debian")
    monkeypatch.setattr(module, "_install_debian_package", lambda: None)
    return place / "fashion-mnist"


@pytest.fixture
def copied(nowhere, published):
    """A whole copy of the files, in our own folder."""
    nowhere.mkdir()
    for name, path in published.items():
        shutil.copy(path, nowhere / f"{name}{path.suffix}")
    return nowhere


@pytest.fixture(scope="session")
def published():
    return {name: module._find(name) for name in module._SHA256}


def test_fashion_mnist_is_the_published_one():
    data = lg.paper.load_dataset("fashion_mnist")
    assert data.train.shape == (55_000, 1, 28, 28)
    assert data.validation.shape == (5_000, 1, 28, 28)
    assert data.test.shape == (10_000, 1, 28, 28)
    assert data.train.dtype == torch.float32
    assert data.train.min() == 0
    assert data.train.max() == 1
    labels = torch.cat([data.train_labels, data.validation_labels])
    assert labels.bincount().tolist() == [6_000] * 10
    assert data.test_labels.bincount().tolist() == [1_000] * 10
    assert data.class_names[data.test_labels[0]] == "Ankle boot"  # the first test image is known to be one
    assert data.sha256["t10k-images-idx3-ubyte"].startswith("5b4141f0")
    assert data.licence == "MIT"


def test_missing_files_are_named_with_three_ways_to_get_them(nowhere):
    with pytest.raises(lg.paper.MissingDataError, match=r"train-images-idx3-ubyte\.gz was not found") as caught:
        lg.paper.load_dataset("fashion_mnist")
    assert isinstance(caught.value, FileNotFoundError)
    for way in ("make data", "apt-get install dataset-fashion-mnist", "LATENTGEO_DATA"):
        assert way in str(caught.value)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def _flip_a_bit(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[500] ^= 1
    path.write_bytes(gzip.compress(bytes(content), 1))


def _shorten(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1], 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "cannot be unpacked"),
        (_flip_a_bit, "is damaged: expected sha256 0402a96d"),
        (_shorten, "10,007 bytes"),
    ],
)
def test_damaged_files_are_named_with_what_was_expected(copied, damage, message):
    damage(copied / f"{TEST_LABELS}.gz")
    with pytest.raises(lg.paper.DataError, match=message) as caught:
        lg.paper.load_dataset("fashion_mnist")
    assert str(copied / TEST_LABELS) in str(caught.value)
    assert module._SHA256[TEST_LABELS] in str(caught.value)
    assert "Three ways to get it" in str(caught.value)
    assert not isinstance(caught.value, lg.paper.MissingDataError)


def test_unpacked_files_in_a_folder_of_ones_own_are_read(copied, monkeypatch, tmp_path):
    own = tmp_path / "own" / "fashion-mnist"
    own.mkdir(parents=True)
    for path in copied.iterdir():
        (own / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    shutil.rmtree(copied)
    monkeypatch.setenv("LATENTGEO_DATA", str(own.parent))
    assert len(lg.paper.load_dataset("fashion_mnist").test) == 10_000


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, published, monkeypatch):
    """The files on a web server of our own, under the checksums of these very copies."""
    folder = tmp_path / "www"
    folder.mkdir()
    for name, path in published.items():
        content = path.read_bytes()
        (folder / f"{name}.gz").write_bytes(content)
        monkeypatch.setitem(module._MD5, name, hashlib.md5(content).hexdigest())
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(module, "_URL", f"http://127.0.0.1:{running.server_port}/")
        yield folder
        running.shutdown()


def test_without_cache_and_package_the_files_are_downloaded(nowhere, server, capsys):
    data = datasets.fetch_dataset("fashion_mnist")
    lines = capsys.readouterr().out.splitlines()
    assert len(data.test) == 10_000
    assert sorted(path.name for path in nowhere.iterdir()) == sorted(f"{name}.gz" for name in module._MD5)
    assert lines == [*(f"downloading {module._URL}{name}.gz" for name in module._MD5), f"{data!r} is here"]
    (server / f"{TEST_LABELS}.gz").unlink()
    datasets.fetch_dataset("fashion_mnist")  # now from the cache


def test_a_damaged_cache_is_moved_aside_and_got_again(copied, server, capsys):
    _flip_a_bit(copied / f"{TEST_LABELS}.gz")
    assert len(datasets.fetch_dataset("fashion_mnist").test) == 10_000
    assert capsys.readouterr().out.startswith("moved aside")
    assert (copied / f"{TEST_LABELS}.gz.damaged0").exists()


def test_a_download_with_another_checksum_is_not_taken(nowhere, server):
    _flip_a_bit(server / f"{TEST_LABELS}.gz")
    with pytest.raises(lg.paper.MissingDataError, match="could not be downloaded"):
        datasets.fetch_dataset("fashion_mnist")
    assert not (nowhere / f"{TEST_LABELS}.gz").exists()
