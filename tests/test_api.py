"""The public names: cheap to import, documented, and none of them lost unnoticed.

``tests/api.txt`` holds every public name with its kind and its parameters. After a change that is meant, write it anew
with ``python -m tests.test_api``.
"""

import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import latentgeo as lg

SNAPSHOT = Path(__file__).with_name("api.txt")
UPDATE = "python -m tests.test_api"
HEAVY = [  # what no one should wait for who only wants a distance
    *("PIL", "anndata", "anywidget", "dask", "diffusers", "distributed", "ipywidgets", "matplotlib", "pandas"),
    *("papermill", "pooch", "safetensors", "scanpy", "scipy.stats", "scvi", "seaborn", "sklearn", "zuko"),
]
LIMIT = 1.5  # seconds of process time beyond torch


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def stages() -> dict[str, tuple[float, set[str]]]:
    """Seconds of process time, and heavy modules imported, at three stages of using the package after torch."""
    stages = {"package": "import latentgeo", "agreement": "from latentgeo import agreement"}
    printed = _run(
        "import sys, time, torch, numpy\n"
        "loaded = set(sys.modules)\n"
        f"for stage in {[*stages.values()]}:\n"
        "    began = time.process_time()\n"
        "    exec(stage)\n"
        f"    print(time.process_time() - began, *({{*{HEAVY}}} & {{*sys.modules}} - loaded))"
    )
    rows = [line.split() for line in printed.splitlines()]
    return {stage: (float(seconds), {*heavy}) for stage, (seconds, *heavy) in zip(stages, rows, strict=True)}


@pytest.mark.thorough
def test_the_package_and_its_geometry_cost_little_beyond_torch(stages):
    seconds, heavy = stages["package"]
    assert seconds < LIMIT
    assert heavy == set()


@pytest.mark.thorough
def test_what_needs_pandas_is_seen_to_import_it(stages):  # else the test above would see nothing
    assert "pandas" in stages["agreement"][1]


def test_names_are_few_written_once_and_complete_in_a_shell():
    assert len(lg.__all__) <= 45
    text = inspect.getsource(lg).replace("import agreement\n", "")  # the folder
    assert [name for name in lg.__all__ if len(re.findall(rf"(?<![`.\w]){name}(?=[,\n\"])", text)) != 1] == []
    assert {*lg.__all__, "metric", "paper", "reliability", "__version__"} <= {*dir(lg)}
    assert lg.paper.Study.__module__ == "latentgeo.paper.study"
    with pytest.raises(AttributeError, match="no attribute 'geodesics'"):
        _ = lg.geodesics


@pytest.mark.thorough
def test_agreement_stays_the_function_whatever_is_imported_first():
    for first in ("latentgeo.agreement.reliability", "latentgeo.paper"):
        assert _run(f"import {first}, latentgeo; print(callable(latentgeo.agreement))") == "True"


def _signature(thing: object) -> str:
    """Parameter names in order; ``=`` after those with a default, ``*`` before those given by keyword alone."""
    words: list[str] = []
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        words.append(stars + parameter.name + ("" if parameter.default is parameter.empty else "="))
    return " ".join(words)


def public_interface() -> dict[str, str]:
    """Every public name, and public method or property of a public class, with its kind and parameters."""
    interface = {}
    for name in lg.__all__:
        thing = getattr(lg, name)
        if not isinstance(thing, type):
            interface[name] = f"function {_signature(thing)}"
        elif issubclass(thing, Exception):
            interface[name] = "exception"
        else:
            interface[name] = f"class {_signature(thing)}"
            for member, value in inspect.getmembers(thing):
                owner = next(base for base in thing.__mro__ if member in base.__dict__)
                if member.startswith("_") or not owner.__module__.startswith("latentgeo"):
                    continue
                if isinstance(value, property | functools.cached_property):
                    interface[f"{name}.{member}"] = "property"
                elif inspect.isroutine(value):
                    interface[f"{name}.{member}"] = f"method {_signature(value)}"
    return {name: line.strip() for name, line in interface.items()}


def _breaks(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What a program written for the interface ``before`` could no longer rely on."""
    found = []
    for name, line in before.items():
        if name not in after:
            found.append(f"{name} is gone")
            continue
        (kind, *old), (now, *new) = line.split(), after[name].split()
        if kind != now:
            found.append(f"{name} was a {kind}, is a {now}")
        positional = old[: old.index("*")] if "*" in old else old
        for place, parameter in enumerate(old):
            wanted = parameter.rstrip("=")
            if parameter != "*" and not {wanted, wanted + "="} & {*new}:
                found.append(f"{name} has no parameter {wanted} any more")
            elif parameter.endswith("=") and parameter not in new:
                found.append(f"{name} asks for the parameter {wanted}, which had a default")
            elif place < len(positional) and new[place].rstrip("=") != wanted:
                found.append(f"{name} takes {wanted} at another place")
        known = {parameter.rstrip("=") for parameter in old}
        found += [
            f"{name} asks for a new parameter {p}" for p in new if p[0] != "*" and p[-1] != "=" and p not in known
        ]
    return found


def _read(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


def test_no_public_name_or_parameter_is_lost():
    broken = _breaks(_read(SNAPSHOT.read_text(encoding="utf-8")), public_interface())
    assert not broken, (
        f"programs that use latentgeo would break: {'; '.join(broken)}. If that is meant, say so under [Unreleased] in "
        f"CHANGELOG.md (Changed or Removed) and run `{UPDATE}`"
    )


def test_new_names_and_parameters_are_in_the_snapshot():
    assert _read(SNAPSHOT.read_text(encoding="utf-8")) == public_interface(), f"run `{UPDATE}` and commit tests/api.txt"


@pytest.mark.parametrize(
    ("after", "complaint"),
    [
        ({}, "f is gone"),
        ({"f": "class a b= * c="}, "f was a function, is a class"),
        ({"f": "function a * c="}, "f has no parameter b any more"),
        ({"f": "function a beta= * c="}, "f has no parameter b any more"),
        ({"f": "function a * b= c="}, "f takes b at another place"),
        ({"f": "function b= a * c="}, "f takes a at another place"),
        ({"f": "function a b= * c"}, "f asks for the parameter c, which had a default"),
        ({"f": "function a b= * c= d"}, "f asks for a new parameter d"),
    ],
)
def test_a_break_is_noticed(after, complaint):
    assert complaint in _breaks({"f": "function a b= * c="}, after)


@pytest.mark.parametrize("after", ["function a b= * c=", "function a b= d= * c= e=", "function a= b= c="])
def test_an_addition_is_none(after):
    assert _breaks({"f": "function a b= * c="}, {"f": after, "g": "function"}) == []


def _missing_documentation(thing: object) -> list[str]:
    """What the docstring of a public name does not say: its purpose, a parameter, what it returns."""
    text = inspect.getdoc(thing) or ""
    missing = [] if text else ["a docstring"]
    if isinstance(thing, type) and issubclass(thing, Exception):
        return missing
    for parameter in inspect.signature(thing).parameters:
        if not re.search(rf"^    (\w+, )*\**{parameter}(, \w+)*:", text, re.MULTILINE):
            missing.append(parameter)
    if not isinstance(thing, type) and not re.search(r"^(Returns|Yields):$", text, re.MULTILINE):
        missing.append("Returns")
    return missing


@pytest.mark.parametrize("name", lg.__all__)
def test_every_public_name_says_what_it_takes_and_returns(name):
    assert _missing_documentation(getattr(lg, name)) == []


def test_a_missing_line_of_a_docstring_is_noticed():
    def thing(a, b):
        """Do something.

        Args:
            a: told.
        """

    assert _missing_documentation(thing) == ["b", "Returns"]
    assert _missing_documentation(lambda: 0) == ["a docstring", "Returns"]


if __name__ == "__main__":
    SNAPSHOT.write_text("".join(f"{name} {line}\n" for name, line in public_interface().items()), encoding="utf-8")
