"""What a reader installs: pyproject.toml, environment.yml and the lock say the same."""

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import latentgeo as lg
from latentgeo.paper.paths import project_root

ROOT = project_root()
CONDA_EXTRAS = ("paper", "notebooks", "singlecell", "images", "explorer", "test")
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base", "igraph": "python-igraph"}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def _requirements(project, *extras):
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


def test_the_conda_environment_has_the_ranges_of_the_package(project, conda):
    lines = [line for line in conda["dependencies"] if isinstance(line, str)]
    ranges = dict(re.match(r"([a-z0-9-]+)(.*)", line.replace(" ", "")).groups() for line in lines)
    assert ranges.pop("python") == project["requires-python"]
    assert "pip" in ranges
    ranges.pop("pip")
    wanted = {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in _requirements(project, *CONDA_EXTRAS)}
    assert ranges == wanted


def test_the_conda_environment_is_from_conda_forge_with_the_package_editable(conda):
    assert conda["channels"] == ["conda-forge", "nodefaults"]
    (pip,) = [line["pip"] for line in conda["dependencies"] if isinstance(line, dict)]
    assert pip == ["--editable ."]


CORE = {"torch", "numpy", "scipy", "pandas", "scikit-learn", "tqdm"}
IMPORTED = {"pyyaml": "yaml", "pillow": "PIL", "scvi-tools": "scvi"}  # under another name

ALONE = """
import sys
sys.modules |= dict.fromkeys({missing})  # as if they were not installed
import torch
import latentgeo as lg
from latentgeo.__main__ import main

def said(call, *arguments, **options):
    try:
        return print(call(*arguments, **options))
    except ImportError as error:
        print(error)

f = lambda z: torch.cat([z, z.square()], 1)
x = f(torch.randn(12, 2, generator=torch.Generator().manual_seed(0)))
print(lg.agreement([(lambda x: x[:, :2], f), (lambda x: x[:, :2] + 0.0, f)], x, pairs=3, check=False).names)
print(lg.GeodesicDistance(f).fit_transform([[0.0], [3.0]]).shape, lg.check_assumptions(f, x[:, :2]).shape)
view = lg.explore((lambda x: x[:, :2], f), x)
print(view.select(0, 1).converged, sorted(view._repr_mimebundle_()))
said(view.figure, 0, 1)
said(lambda: view.widget)
said(lg.explore, (lambda x: x[:, :2], f), x, labels=[0, 1] * 6)
said(lg.random_flow, 2)
said(lg.geodesic_neighbors, None, None)
said(lambda: lg.paper)
print(main(["--version"]), main(["report"]))
"""


@pytest.mark.thorough
def test_the_library_needs_little_and_names_the_extra_of_what_is_missing(project):
    assert {r.name for r in _requirements(project)} == CORE
    names = {r.name for r in _requirements(project, *project["optional-dependencies"])} - CORE
    missing = sorted({IMPORTED.get(name, name) for name in names} | {"dask", "jupyter_core", "IPython"})
    run = [sys.executable, "-W", "ignore", "-c", ALONE.format(missing=missing)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "('model 1', 'model 2')",
        "(2, 2) (5, 6)",
        "True ['text/plain']",
        "a picture needs matplotlib and seaborn, which are not installed: pip install 'latentgeo[explorer]'",
        "the widget needs ipywidgets and anywidget, which are not installed: pip install 'latentgeo[explorer]'",
        "a view with labels needs matplotlib and seaborn, which are not installed: pip install 'latentgeo[explorer]'",
        "a neural flow needs zuko, which is not installed: pip install 'latentgeo[flows]'",
        "geodesic_neighbors needs scanpy, which is not installed: pip install 'latentgeo[singlecell]'",
        "latentgeo.paper needs safetensors and filelock and distributed and pooch and psutil, which are not installed: "
        "pip install 'latentgeo[paper]'",
        f"latentgeo {lg.__version__}",
        "0 2",
    ], done.stderr
    assert done.stderr.startswith("latentgeo: latentgeo.paper needs safetensors")
    assert len(done.stderr.splitlines()) == 1


def test_the_lock_pins_everything_within_the_ranges(project):
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines), lines
    pins = {name.lower().replace("_", "-"): Version(pin) for name, pin in (line.split("==") for line in lines)}
    assert str(pins["torch"]) == "2.13.0"
    for requirement in _requirements(project, *project["optional-dependencies"]):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_the_lock_is_made_of_every_extra(project):
    (extras,) = re.findall(r'install --quiet "\.\[([\w,]+)\]"', (ROOT / "Makefile").read_text())
    # Another extra has no others.
    assert {r.name for r in _requirements(project, *project["optional-dependencies"])} == {
        r.name for r in _requirements(project, *extras.split(","))
    }


def test_the_version_and_its_date_are_the_same_everywhere(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert "\n## [Unreleased]\n" in changelog
    assert lg.__version__ == project["version"] == citation["version"] == zenodo["version"] == versions[0][0]
    assert citation["date-released"] == zenodo["publication_date"] == versions[0][1]
    assert [Version(number) for number, _ in versions] == sorted((Version(v) for v, _ in versions), reverse=True)


def test_the_paper_is_cited_alike_everywhere(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    paper, readme = citation["preferred-citation"], (ROOT / "README.md").read_text(encoding="utf-8")
    bibtex = re.search(r"```bibtex\n(.*?)```", readme, re.DOTALL)[1].replace(r"{\o}", "ø")
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in bibtex
        assert f"{author['given-names']} {author['family-names']}" in readme
    assert f"title     = {{{paper['title']}}}" in bibtex
    assert f"pages     = {{{paper['start']}--{paper['end']}}}" in bibtex
    assert paper["identifiers"][0]["value"] == zenodo["related_identifiers"][0]["identifier"]
    assert citation["title"] == zenodo["title"]
    assert citation["license"] == zenodo["license"] == project["license"]
    assert citation["keywords"] == zenodo["keywords"]
    assert {author["name"] for author in citation["authors"]} == {creator["name"] for creator in zenodo["creators"]}


def test_binder_installs_what_the_lock_pins(project):
    lines = (ROOT / ".binder" / "requirements.txt").read_text().splitlines()
    assert "-c ../requirements.lock" in lines
    (extras,) = re.findall(r"-e \.\[([\w,]+)\]", "\n".join(lines))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    python = (ROOT / ".binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert Version(python) in Requirement(f"python{project['requires-python']}").specifier
    assert (ROOT / ".binder" / "postBuild").stat().st_mode & 0o111  # else it is not run


def test_every_public_name_exists_once_and_is_documented():
    assert len(set(lg.__all__)) == len(lg.__all__)
    for name in lg.__all__:
        assert getattr(lg, name).__doc__, name


# From the bottom to the top, as in figures/layout.svg.
LAYERS = (
    {"geometry"},
    {"identifiability"},
    {"adapters"},
    {"agreement"},
    {"explorer"},
    {"paper"},
)
BESIDE = {
    "geometry": {"progress", "warn"},
    "identifiability": {"extras", "warn"},
    "adapters": {"extras", "warn"},
    "agreement": {"style", "extras", "progress", "warn"},
    "explorer": {"style", "extras", "progress"},
    "paper": {"style", "extras", "progress"},
}


def _imported(path):
    """Folders of the package that a file imports from, wherever in it: ``from latentgeo.x import`` and ``lg.x``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name == "latentgeo":
                yield from (alias.name for alias in node.names) if isinstance(node, ast.ImportFrom) else ["latentgeo"]
            elif name.startswith("latentgeo."):
                yield name.split(".")[1]


def test_arrows_between_the_folders_never_point_up():
    below = set()
    for layer in LAYERS:
        for folder in layer:
            targets = {folder} | below | BESIDE.get(folder, set())
            for path in (ROOT / "latentgeo" / folder).rglob("*.py"):
                assert {*_imported(path)} <= targets, path
        below |= layer


def test_an_arrow_that_points_up_is_seen(tmp_path):
    for line in ("from latentgeo.paper.study import Study", "import latentgeo.paper", "from latentgeo import paper"):
        (tmp_path / "a.py").write_text(f"def f():\n    {line}\n")
        assert "paper" in {*_imported(tmp_path / "a.py")}


def test_the_picture_of_the_layout_has_every_folder():
    folders = {path.parent.name for path in (ROOT / "latentgeo").glob("*/__init__.py")}
    drawn = set(re.findall(r">(\w+)/</text>", (ROOT / "figures" / "layout.svg").read_text()))
    assert folders == set.union(*LAYERS) == drawn - {"notebooks"}
