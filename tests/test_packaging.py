"""What a reader installs: pyproject.toml, environment.yml and the lock say the same."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import latentgeo as lg
from latentgeo.paths import project_root

ROOT = project_root()
CONDA_EXTRAS = ("notebooks", "singlecell", "explorer", "test")
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}


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


def test_the_lock_pins_everything_within_the_ranges(project):
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines), lines
    pins = {name.lower().replace("_", "-"): Version(pin) for name, pin in (line.split("==") for line in lines)}
    assert str(pins["torch"]) == "2.13.0"
    for requirement in _requirements(project, *CONDA_EXTRAS, "benchmark"):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_the_version_is_the_same_everywhere(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert lg.__version__ == project["version"] == citation["version"]


def test_every_public_name_exists_once_and_is_documented():
    assert len(set(lg.__all__)) == len(lg.__all__)
    for name in lg.__all__:
        assert getattr(lg, name).__doc__, name


def test_arrows_between_the_folders_never_point_up():
    allowed = {
        "geometry": {"geometry"},
        "identifiability": {"geometry", "identifiability", "models"},
        "models": {"geometry", "models"},
        "adapters": {"geometry", "models", "adapters"},
        "experiments": {"adapters", "geometry", "identifiability", "models", "experiments", "paths", "provenance"},
    }
    for folder, targets in allowed.items():
        for path in (ROOT / "latentgeo" / folder).glob("*.py"):
            for imported in re.findall(r"^\s*from latentgeo\.([\w.]+) import", path.read_text(), re.MULTILINE):
                assert any(imported == t or imported.startswith(f"{t}.") for t in targets), (path, imported)
