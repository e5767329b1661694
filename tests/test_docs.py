"""The documentation: its links, the markup of docstrings, the notation, and the README's own code."""

import importlib.util
import json
import re
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.paper.benchmark import FAILED
from latentgeo.paper.paths import project_root

ROOT = project_root()
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "latentgeo" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hooks():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / ".site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_site_builds_without_a_warning_or_a_broken_link(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    command += ["--config-file", ".site/mkdocs.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "CONTRIBUTING.html", "api/metric.html", "notebooks/00_start_here.html"} <= pages
    reference = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "api").glob("*.html"))
    places = {name: f"{getattr(lg, name).__module__}.{getattr(lg, name).__qualname__}" for name in lg.__all__}
    missing = [name for name, place in places.items() if f'id="{place}"' not in reference]
    assert missing == []
    assert not re.search(r":(func|class|meth|mod|math):", reference)
    searched = (tmp_path / "search" / "search_index.js").read_text(encoding="utf-8")
    assert "var __index" in searched
    assert not re.search(r"Copied!|In\s*\[\d+\]", searched)
    told = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "notebooks").glob("*.html"))
    assert "<img alt=" in told
    assert "No description" not in told


def test_broken_links_are_found(hooks, tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "index.html").write_text('<h2 id="metric">Metric</h2><a href="../index.html#end">up</a>')
    good = (
        '<p id="end"></p><a href="api/">A</a><a href="api/index.html#metric">B</a><a href="https://example.org">C</a>'
    )
    (tmp_path / "index.html").write_text(good)
    assert hooks.broken_links(tmp_path) == []
    bad = '<a href="none.html">D</a><a href="api/index.html#nowhere">E</a><img src="f.png">'
    (tmp_path / "index.html").write_text(f'{good}{bad}<script src="//cdn.org/x.js"></script>')
    assert hooks.broken_links(tmp_path) == [
        "index.html fetches //cdn.org/x.js",
        "index.html links to api/index.html#nowhere, which has no such place",
        "index.html links to f.png, which is not there",
        "index.html links to none.html, which is not there",
    ]


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        ("as :func:`latentgeo.geometry.maps.exp_map` does", "as [`exp_map`][latentgeo.geometry.maps.exp_map] does"),
        ("from :meth:`latentgeo.paper.Study.run`", "from [`Study.run`][latentgeo.paper.study.Study.run]"),
        ("see :mod:`latentgeo.geometry.geodesic.preconditioner`", "see `latentgeo.geometry.geodesic.preconditioner`"),
        ("draws :math:`x_a * 2`", "draws $x_a * 2$"),
        ("shape (*batch, d), not ``(*batch)``", r"shape (\*batch, d), not ``(*batch)``"),
        (r"shape (n, \*event)", r"shape (n, \*event)"),
        ("    **options: see below", "    **options: see below"),
        (">>> f(*points, 1)", ">>> f(*points, 1)"),
        ("Sum.\n\n.. math:: a\n    + b\n\nThen.", "Sum.\n\n$$\na\n+ b\n$$\n\nThen."),
        ("Example:\n    >>> 1", "Examples:\n    >>> 1"),
    ],
)
def test_docstrings_become_markdown(hooks, docstring, markdown):
    assert hooks._markdown(docstring) == markdown


def test_the_notation_is_the_same_in_the_guide_and_in_the_package():
    section = GUIDE.partition("\n## Notation\n")[2].partition("\n## ")[0]
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    widths = [len(word) for word in re.search(r"^(=+) (=+) (=+)$", lg.__doc__, re.MULTILINE).groups()]
    begins = [0, widths[0] + 1, widths[0] + widths[1] + 2]
    columns = [*zip(begins, [*begins[1:], None], strict=True)]
    table = lg.__doc__.partition("=\n")[2].partition("=\n")[2].partition("\n=")[0]
    package = [[line[begin:end].strip() for begin, end in columns] for line in table.splitlines()]
    assert told[2:] == package


def test_the_guide_s_word_on_speed_is_the_least_favourable_of_the_results():
    results = pd.read_csv(ROOT / "data" / "results" / "14_solver.csv")
    others = results[(results["solver"] != "ours") & (results["mean_error"] <= FAILED)]
    least = others.groupby("decoder", sort=False)["at_equal_error"].min()
    word = GUIDE.partition("At equal mean error")[2].partition("\n")[0]
    assert re.findall(r"([\d.]+) times", word) == [f"{ratio:.2g}" for ratio in least if ratio > 0]
    assert ("none of our settings came as close" in word) == (least == 0).any()


def _claims_without_a_place(text: str) -> list[str]:
    """Rows of a table *claim, module, test* whose module, test file or test is not there."""
    rows = re.findall(r"^\| (.+) \| `(\S+\.py)` \| `(\S+\.py)::(\w+)` \|$", text, re.MULTILINE)
    assert len(rows) == text.count(".py::")
    found = []
    for claim, module, file, test in rows:
        path = ROOT / "tests" / file
        defined = path.is_file() and re.search(rf"^def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        if not (defined and (ROOT / "latentgeo" / module).is_file()):
            found.append(claim)
    return found


def test_every_claim_has_the_module_and_the_test_that_are_named():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert text.count(".py::") >= 20
    assert _claims_without_a_place(text) == []
    table = "| {} | `{}` | `test_docs.py::{}` |\n"
    here = "test_every_claim_has_the_module_and_the_test_that_are_named"
    rows = [("no test", "__init__.py", "test_gone"), ("no module", "gone.py", here), ("both", "__init__.py", here)]
    assert _claims_without_a_place("".join(table.format(*row) for row in rows)) == ["no test", "no module"]


class _Model(nn.Module):
    """A model as a reader may have it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))

    def encode(self, x):
        return x[:, :2] @ self.weight

    def decode(self, z):
        y = z @ torch.linalg.inv(self.weight)
        return torch.cat([y, y.square().sum(1, keepdim=True)], 1)


def _data() -> dict[str, torch.Tensor]:
    """Data x on the image of such models, and their classes y."""
    plane = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"x": torch.cat([plane, plane.square().sum(1, keepdim=True)], 1), "y": (plane[:, 0] > 0).long()}


def test_the_guide_s_code_for_ones_own_model_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in range(5):
        torch.save(_Model(seed).state_dict(), f"seed_{seed}.pt")
    code = re.search(r"## Your own model\n.*?```python\n(.*?)```", GUIDE, re.DOTALL)[1]
    names = _data() | {"MyVAE": _Model}
    exec(code.replace("lg.agreement(models, x,", "lg.agreement(models, x, pairs=5, check=False,"), names)
    assert "5 pairs of data" in capsys.readouterr().out
    pairs = names["report"].pairs
    assert (pairs["cv_geodesic"].astype(float) < 1e-4).all()
    assert (pairs["cv_euclidean"].astype(float) > 1e-2).any()  # the control: these models differ in their codes
    assert names["view"].select(0, 1).length > 0
    assert (tmp_path / "pair.png").stat().st_size > 1000
    line = re.search(r"# (models\.append\(.*\))\n", code)[1]  # for encoders that return two
    names["model"].encode = lambda x, encode=names["model"].encode: (encode(x), None)
    exec(line, names)
    assert lg.latent_model(names["models"][-1]).codes(names["x"]).shape == (60, 2)


def test_the_guide_s_code_for_a_decoder_alone_runs():
    code = re.search(r"## A decoder alone\n.*?```python\n(.*?)```", GUIDE, re.DOTALL)[1]
    slow = ("scalar_curvature", "geodesic_triangle", "check_")  # their own tests run these
    quick = "\n".join(line for line in code.splitlines() if not line.startswith(tuple(f"lg.{name}" for name in slow)))
    names = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(quick, names)
    assert names["result"].length.shape == (10,)
    assert all(hasattr(lg, name) for name in re.findall(r"\blg\.(\w+)", code))


def _verdict(name: str) -> str | None:
    """What the committed outputs of a notebook end with."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    shown = json.dumps([cell.get("outputs") for cell in cells[-1:]])
    found = re.search(r"([a-z][a-z, ]+) \((?:evidence|quick) scale\)", shown)
    return found and found[1]


def _statuses(name: str) -> set[str]:
    """Of the rows of evidence of a notebook."""
    path = ROOT / "data" / "results" / f"{name}_evidence.csv"
    return set(pd.read_csv(path)["status"]) if path.exists() else set()


def test_the_readme_is_a_front_page_whose_code_runs(capsys):
    assert len(README.encode()) <= 10_000
    linked = set(re.findall(r"notebooks/(\w+)\.ipynb", README))
    assert linked == {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    said = re.findall(r"^\| \[\w+\]\[\d\d\] \| .+ \| (.+) \|$", README, re.MULTILINE)
    assert len(said) == len(linked)
    assert all(status.startswith(("verified", "paper result", "new", "needs data")) for status in said)
    told = dict(re.findall(r"^\| \[(\w+)\]\[\d\d\] \| .+ \| (.+) \|$", README, re.MULTILINE))
    for name, status in told.items():
        backed = [of for of in _statuses(name) if of.startswith("paper result")]
        assert status.startswith((_verdict(name) or "needs data", *backed)), name
    code = re.search(r"## Your own model\n.*?```python\n(.*?)```", README, re.DOTALL)[1]
    names = _data() | {"load": _Model}
    exec(code.replace("lg.agreement(models, x,", "lg.agreement(models, x, pairs=5, check=False,"), names)
    assert "5 pairs of data" in capsys.readouterr().out
    assert (names["report"].pairs["cv_geodesic"].astype(float) < 1e-4).all()


def _between_pairs_and_models(table: pd.DataFrame) -> tuple[float, float]:
    """Length over chord: how much it varies between pairs; and geodesics: how much they vary between models."""
    wide = table[table["method"].isin(["geodesic", "ambient_chord"])].pivot_table(
        index=["seed", "pair"], columns="method", values="value"
    )
    stretch = np.log(wide["geodesic"] / wide["ambient_chord"]).groupby("pair").mean()
    return stretch.std(), lg.coefficient_of_variation(table[table["method"] == "geodesic"])["geodesic"].mean()


def test_each_line_on_which_distance_to_use_says_what_the_results_say():
    box = README.partition("### Which distance should I use?\n")[2].partition("\n#")[0].strip()
    assert len(box.splitlines()) <= 12
    results, said = ROOT / "data" / "results", []
    reliability = pd.read_csv(results / "07_fashion_mnist_reliability.csv").query("network == 'mlp'")
    cv = 100 * reliability.drop_duplicates(["points", "method"]).set_index(["points", "method"])["mean_cv"]
    first = f"{cv['nearest', 'geodesic']:.1f} % between such points, by {cv['mean', 'geodesic']:.1f} % between codes"
    assert f"{first}, and Euclidean distances between codes by {cv['mean', 'euclidean']:.1f} %" in README
    comparison = pd.read_csv(results / "08_cifar10_comparison.csv").query("baseline == 'euclidean'")
    cv = 100 * comparison.set_index(["points", "method"])["mean_cv"]
    second = f"{cv['nearest', 'geodesic']:.1f}, {cv['mean', 'geodesic']:.1f} and {cv['mean', 'euclidean']:.1f} %"
    assert f"on CIFAR-10 by {second}" in README
    tables = {
        "CIFAR-10": pd.read_csv(results / "08_cifar10_distances.csv").query("points == 'nearest'"),
        "SCVI": pd.read_csv(results / "20_your_own_cells_distances.csv")
        .query("points == 'nearest'")
        .rename(columns={"model": "seed"}),
        "Fashion-MNIST": pd.read_csv(results / "07_fashion_mnist_distances.csv").query(
            "network == 'mlp' and points == 'nearest'"
        ),
        "blood cells": pd.read_csv(results / "11_transcriptomics.csv").query(
            "data == 'PBMC, Gaussian' and points == 'nearest'"
        ),
    }
    for name, table in tables.items():
        pairs, models = _between_pairs_and_models(table)
        said.append(f"{name} ({100 * pairs:.2g} against {100 * models:.2g} %")
        assert (pairs < models) == (name in box.partition("**Geodesics")[0])
    errors = (
        pd.read_csv(results / "13_sample_size_errors.csv")
        .query("method == 'geodesic' and points == 'nearest'")
        .set_index("n")
    )
    bias, spread = 100 * errors["bias"], 100 * errors["spread"]
    said.append(f"from {spread[500]:.1f} to {spread[55000]:.1f} %")
    said.append(f"from {bias[500]:.1f} to {bias[55000]:.1f} %")
    settings = pd.read_csv(results / "16_known_factors_settings.csv")
    sound = settings[settings["kind"] == "sound"]
    said += [f"{sound[r].min():.2g} to {sound[r].max():.2g}" for r in ("r_geodesic", "r_ambient_chord")]
    flagged = settings.groupby("kind")["flagged"]
    said += [f"{flagged.sum()[kind]} of {flagged.size()[kind]}" for kind in ("folded", "no chart", "flattened")]
    kept = pd.read_csv(results / "18_conclusions.csv").query("against == 'trainings'").set_index("method")
    mean = kept.groupby("method")["calibrated"].mean()
    said.append("chords {ambient_chord:.2f}, geodesics {geodesic:.2f}, codes {euclidean:.2f}".format(**mean))
    missing = [words for words in said if words not in box]
    assert missing == []
