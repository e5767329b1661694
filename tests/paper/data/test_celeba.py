"""JPEGs in the official layout, drawn here: smooth colours with a mark where the crop must be."""

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import latentgeo as lg
from latentgeo.agreement.pairs import draw_pairs
from latentgeo.paper import data as datasets
from latentgeo.paper.data import celeba
from latentgeo.paper.paths import project_root
from latentgeo.paper.profiles import training_preset

COUNTS = {0: 140, 1: 32, 2: 28}


def _picture(random: np.random.Generator) -> Image.Image:
    coarse = random.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """200 images whose parts are dealt out in turns, so that none is a block of the list."""
    root = tmp_path_factory.mktemp("official")
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    parts = random.permutation(np.repeat(list(COUNTS), list(COUNTS.values())))
    for number in range(1, len(parts) + 1):
        _picture(random).save(folder / f"{number:06d}.jpg", quality=95)
    lines = [f"{number:06d}.jpg {part}" for number, part in enumerate(parts, start=1)]
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def place(official, place, monkeypatch):
    """The images are the reader's own; the cache is made in an empty folder."""
    monkeypatch.setenv("LATENTGEO_DATA", str(official))
    return place


@pytest.fixture
def few(place, monkeypatch):
    """Three images of a folder that tests may damage."""
    folder = place / "own" / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(3):
        _picture(random).save(folder / f"{number}.jpg")
    (folder.parent / "list_eval_partition.txt").write_text("0.jpg 0\n1.jpg 1\n2.jpg 2\n")
    monkeypatch.setenv("LATENTGEO_DATA", str(place / "own"))
    return folder


def _cache(place):
    (path,) = (place / "celeba-64").glob("*.npy")
    return path


def test_images_stay_bytes_on_the_disk_in_the_official_parts(place, official):
    data = lg.paper.load_dataset("celeba")
    assert [len(part) for part in (data.train, data.validation, data.test)] == list(COUNTS.values())
    assert data.event_shape == (3, 64, 64)
    assert data.train.dtype == torch.uint8
    lines = (official / "celeba" / "list_eval_partition.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines if line.endswith(" 2")]
    with Image.open(official / "celeba" / "img_align_celeba" / names[3]) as image:
        whole = np.asarray(image.convert("RGB"), float)
    # The pictures are smooth, so the mean of the middle 148x148 pixels survives the reduction to 64x64.
    crop = whole[35:183, 15:163]
    assert abs(data.test[3].float().mean((1, 2)).numpy() - crop.mean((0, 1))).max() < 0.5
    assert abs(crop.mean((0, 1)) - whole.mean((0, 1))).max() > 0.5  # the whole image would not do
    corner = crop[:2, :2].mean((0, 1))
    assert abs(data.test[3, :, 0, 0].numpy() - corner).max() < 4


def test_reduction_is_antialiased():
    stripes = np.zeros((218, 178, 3), np.uint8)
    stripes[:, ::2] = 255
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "JPEG", quality=100)
    pixels = celeba._pixels(Path("stripes.jpg"), file.getvalue())
    assert pixels.shape == (3, 64, 64)
    assert abs(pixels.astype(float) - 127.5).max() < 20
    # The negative control: the nearest pixels alone, stripes alias.
    aliased = F.interpolate(torch.from_numpy(stripes[35:183, 15:163].transpose(2, 0, 1).copy())[None].float(), 64)
    assert (aliased - 127.5).abs().max() > 100


def test_the_cache_is_made_once_and_only_when_whole(place, monkeypatch):
    data = celeba.load()
    made = _cache(place).stat().st_mtime_ns
    monkeypatch.setattr(celeba, "_make", lambda *arguments: pytest.fail("made again"))
    again = celeba.load()
    assert _cache(place).stat().st_mtime_ns == made
    assert torch.equal(again.train, data.train)
    assert again.sha256 == data.sha256
    assert {path.suffix for path in (place / "celeba-64").iterdir()} == {".npy", ".json", ".lock"}


@pytest.mark.parametrize("damage", ["half", "flip", "no record", "other record", "killed"])
def test_a_damaged_cache_is_made_again(place, damage):
    data, path = celeba.load(), _cache(place)
    content, record = path.read_bytes(), path.with_suffix(".json")
    expected = data.train.clone()
    del data
    path.unlink()
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "killed":
        path.with_suffix(".partial").write_bytes(content[:1000])
    else:
        path.write_bytes(content)
        text = json.loads(record.read_text()) | {"processing": "another"}
        record.write_text(json.dumps(text))
        if damage == "no record":
            record.unlink()
    assert torch.equal(celeba.load().train, expected)
    assert path.read_bytes() == content


def test_writing_to_a_tensor_does_not_change_the_cache(place):
    data = celeba.load()
    before = _cache(place).read_bytes()
    data.train[0] = 0
    assert _cache(place).read_bytes() == before


def test_other_files_get_a_cache_of_their_own(few, place):
    first = celeba.load()
    _picture(np.random.default_rng(5)).save(few / "1.jpg", quality=30)
    second = celeba.load()
    assert first.sha256["img_align_celeba"] != second.sha256["img_align_celeba"]
    assert len(list((place / "celeba-64").glob("*.npy"))) == 2


def test_without_the_files_the_official_site_is_named(place, monkeypatch):
    monkeypatch.delenv("LATENTGEO_DATA")
    for get in (lg.paper.load_dataset, datasets.fetch_dataset):
        with pytest.raises(lg.paper.MissingDataError, match=r"img_align_celeba was not found") as caught:
            get("celeba")
        for word in ("mmlab.ie.cuhk.edu.hk/projects/CelebA.html", "non-commercial", "by hand", "LATENTGEO_DATA"):
            assert word in str(caught.value)


def test_every_listed_image_must_be_there(few):
    (few / "1.jpg").unlink()
    with pytest.raises(lg.paper.MissingDataError, match=r"1 of the 3 images .* 1\.jpg"):
        celeba.load()


def test_images_of_another_size_are_refused(few):
    with Image.open(few / "2.jpg") as image:
        image.resize((64, 64)).save(few / "2.jpg")
    with pytest.raises(lg.paper.DataError, match=r"2\.jpg: expected \(178, 218\) pixels, got \(64, 64\)"):
        celeba.load()


@pytest.mark.parametrize("content", [b"", b"no JPEG", None])
def test_damaged_images_are_named_and_no_cache_is_left(few, place, content):
    whole = (few / "0.jpg").read_bytes()
    (few / "0.jpg").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(lg.paper.DataError, match=r"0\.jpg cannot be read"):
        celeba.load()
    assert not list((place / "celeba-64").glob("*.npy"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.jpg 0\n1.jpg 3\n", "line 2: expected a file name and 0, 1 or 2"),
        ("../0.jpg 0\n", "line 1"),
        ("0.jpg 0\n0.jpg 1\n2.jpg 2\n", "2 different images"),
        ("0.jpg 0\n1.jpg 0\n", "in all of the three parts"),
        ("", "got 0 lines"),
    ],
)
def test_a_damaged_partition_is_refused(few, text, message):
    (few.parent / "list_eval_partition.txt").write_text(text)
    with pytest.raises(lg.paper.DataError, match=message):
        celeba.load()


def test_the_papers_settings():
    config = training_preset("celeba", "conv", "paper")
    assert (config.epochs, config.batch_size, config.learning_rate, config.patience) == (500, 64, 1e-3, 10)
    study = lg.paper.Study("celeba", profile="paper")
    assert (study.model, study.latent_dim, study.decoders, study.config(0).noise) == ("conv", 64, 8, 1.0)


@pytest.mark.thorough
def test_a_whole_study_of_it(place):
    """Loader, cache, training, distances: everything but the number of images and of steps."""
    training = lg.paper.TrainingConfig(epochs=1, batch_size=64)
    study = lg.paper.Study("celeba", "conv", 1, 2, latent_dim=2, decoders=1, training=training, store=place / "runs")
    table = study.run(workers=0)
    assert len(table) == 2 * table["method"].nunique()
    assert np.isfinite(table["value"]).all()
    data = lg.paper.load_dataset("celeba")
    pixels = data.test.double() / 255
    start, end = draw_pairs(len(data.test), 2)
    distances = (pixels[start] - pixels[end]).flatten(1).norm(dim=1)  # bytes would have wrapped around
    np.testing.assert_allclose(table.loc[table["method"] == "data", "value"], distances, rtol=1e-5)


@pytest.mark.thorough
def test_bytes_are_the_same_images_as_floats(place):
    data = lg.paper.load_dataset("celeba")
    model = lg.paper.build_vae("mlp", data.event_shape, 2, 2, seed=0)
    floats = data.test.float() / 255
    assert torch.equal(model.encode(data.test), model.encode(floats))
    assert model.evaluate(data.test) == model.evaluate(floats)
    settings = lg.paper.TrainingConfig(epochs=1, batch_size=14)
    trained = []
    for images in (data.test, floats):
        trained.append(lg.paper.build_vae("mlp", data.event_shape, 2, 2, seed=0))
        lg.paper.train(trained[-1], images, images, settings, seed=0)
    for one, other in zip(*(model.parameters() for model in trained), strict=True):
        assert torch.equal(one, other)


def test_notebooks_whose_data_are_missing_are_skipped_by_name(place, monkeypatch):
    path = project_root() / "notebooks" / "conftest.py"
    spec = importlib.util.spec_from_file_location("notebooks_conftest", path)
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    notebook, other = place / "faces.ipynb", place / "other.ipynb"
    notebook.write_text(json.dumps({"metadata": {"latentgeo": {"data": "celeba"}}}))
    other.write_text(json.dumps({"metadata": {}}))
    assert conftest._missing(str(notebook)) is None  # the images are there
    conftest._missing.cache_clear()
    monkeypatch.delenv("LATENTGEO_DATA")
    assert conftest._missing(str(notebook)).startswith("needs data: img_align_celeba was not found")
    assert conftest._missing(str(other)) is None
    metadata = json.loads((path.parent / "09_celeba.ipynb").read_text())["metadata"]
    assert metadata["latentgeo"] == {"data": "celeba"}
