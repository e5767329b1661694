"""The runner of notebooks, on small notebooks in real kernels."""

import re
from html import unescape

import nbformat
import pytest

import latentgeo as lg
from latentgeo.paper import cli, environment
from latentgeo.paper.reproduction import evidence
from latentgeo.paper.reproduction import notebooks as module

pytestmark = pytest.mark.thorough

PARAMETERS = 'profile: str = "quick"\nn: int = 1'
VERDICT = """\
from latentgeo.paper.reproduction.record import record, verified
record("any", profile=profile, claim="It holds.", status=verified(n > 0), headline=f"n = {n}, {profile}")"""


def _notebook(folder, name, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (PARAMETERS, *cells)])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    monkeypatch.setattr(cli, "project_root", lambda: tmp_path)
    monkeypatch.setattr(evidence, "project_root", lambda: tmp_path)
    for variable in ("LATENTGEO_FIGURES", "LATENTGEO_RESULTS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "data" / "results").mkdir(parents=True)
    page = tmp_path / "data" / "results" / "README.md"
    page.write_text(f"{evidence.BEGIN}\n{evidence.END}\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_verdict_of_a_notebook_is_found(notebooks, tmp_path):
    path = _notebook(notebooks, "00_ok", VERDICT)
    outcome = module.run_notebook(path, tmp_path / "out", {"n": 3, "profile": "paper"})
    assert (outcome.status, outcome.headline, outcome.claim) == ("verified", "n = 3, paper", "It holds.")
    outcome = module.run_notebook(path, tmp_path / "out", {"n": -1})
    assert (outcome.status, outcome.headline) == ("not verified", "n = -1, quick")
    assert (tmp_path / "out" / "00_ok.ipynb").is_file()


def test_all_notebooks_are_run_and_a_failure_makes_the_command_fail(notebooks, tmp_path, capsys):
    _notebook(notebooks, "00_ok", VERDICT)
    _notebook(notebooks, "01_data", "import latentgeo as lg", "raise lg.paper.MissingDataError('no faces. Three ways')")
    assert cli.main(["reproduce"]) == 0  # needing data is not a failure
    shown = nbformat.read(tmp_path / "build" / "reproduce" / "01_data.ipynb", 4).cells[-1].outputs
    assert [output.traceback for output in shown] == [["no faces. Three ways"]]
    _notebook(notebooks, "02_broken", "assert n > 1, 'n is too small'")
    _notebook(notebooks, "03_silent", "n")
    _notebook(notebooks, "04_dead", "import os", "os._exit(9)")
    assert cli.main(["reproduce", "--keep-going"]) == 1
    table = capsys.readouterr().out.rsplit("\n\n", 2)[-2]
    statuses = dict(re.split("  +", line)[:2] for line in table.splitlines() if line[:2].isdigit())
    assert statuses == {
        "00_ok": "verified",
        "01_data": "needs data",
        "02_broken": "failed",
        "03_silent": "failed",
        "04_dead": "failed",
    }
    assert "AssertionError: n is too small" in table
    assert "no verdict" in table


@pytest.mark.slow
def test_a_failure_ends_the_run_unless_it_is_to_go_on(notebooks, tmp_path):
    _notebook(notebooks, "00_ok", VERDICT)
    _notebook(notebooks, "01_broken", "print('before')", "assert n > 1")
    _notebook(notebooks, "02_later", VERDICT)
    output = tmp_path / "out"
    found = module.reproduce(output=output)
    assert [outcome.status for outcome in found] == ["verified", "failed", "not run"]
    log = (output / "01_broken.log").read_text()
    assert "before" in log
    assert "AssertionError" in log
    assert found[0].memory > 2**25  # a kernel takes more than 32 MiB
    found = module.reproduce(output=output, first="02")
    assert [outcome.notebook for outcome in found] == ["02_later"]
    known = {outcome.notebook: outcome.status for outcome in module.read_outcomes(output)}
    assert known == {"00_ok": "verified", "01_broken": "failed", "02_later": "verified"}


def test_the_report_is_rendered_without_running_anything(notebooks, tmp_path, capsys):
    draw = "import matplotlib.pyplot as plt\nfigure, ax = plt.subplots()\nax.plot([1, 2])\nplt.close(figure)\nfigure"
    path = _notebook(notebooks, "00_ok", draw, VERDICT.replace("n = {n}", "n < {n}"))
    notebook = nbformat.read(path, 4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Lines\n\nBoth *grow*."))
    nbformat.write(notebook, path)
    output = tmp_path / "build" / "reproduce"
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out == f"{evidence.evidence_page()}\n"  # nothing was run yet
    assert "- *verified*" in evidence.evidence_page().read_text(encoding="utf-8")
    assert cli.main(["reproduce"]) == 0
    index = output / "html" / "index.html"
    page = index.read_text()
    assert "n &lt; 1, quick" in page
    assert page.count("<img") == 1
    shown = (output / "html" / "00_ok.html").read_text()
    assert re.search(r'<img alt="Lines. Both grow."[^>]*src="data:image/png', shown)
    assert '<a href="index.html">' in shown
    loaded = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"?]*)', shown)
    assert loaded == ["mathjax/MathJax.js"]  # nothing from elsewhere
    assert (output / "html" / loaded[0]).is_file()
    index.unlink()
    (notebooks / "00_ok.ipynb").unlink()
    assert cli.main(["report"]) == 0
    assert index.read_text() == page


def test_outputs_are_shown_in_the_notebook_whose_code_they_are_of(notebooks, tmp_path, capsys):
    path = _notebook(notebooks, "00_ok", "n", VERDICT)
    output, before = tmp_path / "build", nbformat.read(path, 4)
    failed = _notebook(notebooks, "01_broken", "n", "1 / 0").read_bytes()
    run = ["reproduce", "--profile", "evidence", "--keep-going", "--output", str(output)]
    assert cli.main(run) == 1
    assert cli.main(["report", "--output", str(output)]) == 0
    assert nbformat.read(path, 4) == before
    capsys.readouterr()
    assert cli.main(["report", "--in-place", "--output", str(output)]) == 0
    assert f"{path}\n" in capsys.readouterr().out
    after = nbformat.read(path, 4)
    assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
    assert [cell.metadata for cell in after.cells] == [cell.metadata for cell in before.cells]
    assert [cell.execution_count for cell in after.cells] == [1, 2, 3]
    assert [output.execution_count for output in after.cells[2].outputs] == [3]
    assert "evidence scale" in after.cells[2].outputs[0].data["text/plain"]
    assert (notebooks / "01_broken.ipynb").read_bytes() == failed
    after.cells[1].source = "n + 1"
    nbformat.write(after, path)
    changed = path.read_bytes()
    assert cli.main(["report", "--in-place", "--output", str(output)]) == 2
    assert "expected a copy of" in capsys.readouterr().err
    assert path.read_bytes() == changed


@pytest.mark.slow
def test_several_notebooks_run_at_the_same_time(notebooks, tmp_path, capsys):
    meet = (
        "import pathlib, time\n"
        "mine, other = (pathlib.Path(f'{{name}}.met') for name in {names})\n"
        "mine.touch()\n"
        "deadline = time.monotonic() + 60\n"
        "while not other.exists():\n    assert time.monotonic() < deadline\n    time.sleep(0.1)"
    )
    _notebook(notebooks, "00_a", meet.format(names=("a", "b")), VERDICT)
    _notebook(notebooks, "01_b", meet.format(names=("b", "a")), VERDICT)
    _notebook(notebooks, "02_broken", "assert n > 1, 'n is too small'")
    _notebook(notebooks, "03_slow", "import time", "time.sleep(3)", VERDICT)
    _notebook(notebooks, "04_later", VERDICT)
    assert cli.main(["reproduce", "--jobs", "2"]) == 1
    outcomes = {outcome.notebook: outcome for outcome in module.read_outcomes(tmp_path / "build" / "reproduce")}
    assert list(outcomes) == ["00_a", "01_b", "02_broken", "03_slow", "04_later"]
    assert [o.status for o in outcomes.values()] == ["verified", "verified", "failed", "verified", "not run"]
    assert min(outcomes[name].memory for name in ("00_a", "01_b")) > 0
    assert cli.main(["reproduce", "--jobs", "0"]) == 2
    assert "at least one notebook at a time" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_that_dies_costs_its_notebook_alone(notebooks, tmp_path):
    for name in ("00_a", "02_b", "03_c"):
        _notebook(notebooks, name, VERDICT)
    _notebook(notebooks, "01_kills", "import os, signal", "os.kill(os.getppid(), signal.SIGKILL)")
    found = module.reproduce(output=tmp_path / "out", keep_going=True, jobs=2)
    assert [outcome.status for outcome in found] == ["verified", "failed", "verified", "verified"]
    assert "BrokenProcessPool" in found[1].headline


@pytest.mark.slow
def test_an_interruption_keeps_what_was_found(notebooks, tmp_path, monkeypatch):
    import papermill

    _notebook(notebooks, "00_ok", VERDICT)
    _notebook(notebooks, "01_later", VERDICT)
    execute = papermill.execute_notebook

    def interrupted(path, *arguments, **options):
        if "01" in path:
            raise KeyboardInterrupt
        return execute(path, *arguments, **options)

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    found = module.reproduce(output=tmp_path / "out")
    assert [outcome.status for outcome in found] == ["verified", "interrupted"]
    assert module.read_outcomes(tmp_path / "out") == found


def test_unknown_notebooks_and_parameters_are_refused_before_anything_runs(notebooks, tmp_path, capsys):
    _notebook(notebooks, "00_ok", VERDICT)
    file = tmp_path / "parameters.yml"
    file.write_text("n: 2\nm: 3\n")
    assert cli.main(["reproduce", "--parameters", str(file)]) == 2
    assert "00_ok has no parameter m; it has: n, profile" in capsys.readouterr().err
    assert cli.main(["reproduce", "--only", "07"]) == 2
    assert "there are: 00_ok" in capsys.readouterr().err
    for value in ("many", "-1", "0", "2.5", "true", "[1]"):
        file.write_text(f"n: {value}\n")
        assert cli.main(["reproduce", "--parameters", str(file)]) == 2
        assert "00_ok: expected a whole number of at least 1 as n, got" in capsys.readouterr().err
    for content, message in (
        ("- 1", "map names to values"),
        ("profile: paper", "--profile"),
        ("a: [", "cannot be read"),
    ):
        file.write_text(content)
        assert cli.main(["reproduce", "--parameters", str(file)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize(
    ("value", "annotation", "words", "wanted"),
    [
        ("cnn", "None", ["mlp", "conv"], "'mlp' or 'conv'"),
        ("conv", "None", ["mlp", "conv"], ""),
        (None, "None", ["mlp", "conv"], ""),
        (3, "str", [], "a word"),
        (3, "list", [], "a list"),
        ([0, 30], "list", [], ""),
        ([0, 7, 6], "tuple[int, int, int]", [], ""),
        ("ten", "None", [], "a number or a list"),
        ([5, 5, 3], "None", [], ""),
    ],
)
def test_values_of_parameters_are_looked_at_too(value, annotation, words, wanted):
    assert module._wanted(value, annotation, words) == wanted


def test_outside_a_clone_a_sentence_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evidence, "project_root", lambda: tmp_path)
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    for command in (["report"], ["reproduce"]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert "clone" in said or "checkout" in said
    page = evidence.evidence_page()
    page.parent.mkdir(parents=True)
    page.write_text("Another project's.")
    assert cli.main(["report"]) == 2
    assert "expected a clone of latentgeo, whose data/results/README.md has the lines" in capsys.readouterr().err
    assert page.read_text() == "Another project's."
    page.unlink()
    page.mkdir()  # what cannot be read
    assert cli.main(["report"]) == 2


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"latentgeo {lg.__version__}\n"


def test_committed_folders_are_refused_before_anything_runs(notebooks, tmp_path, monkeypatch, capsys):
    _notebook(notebooks, "00_ok", VERDICT)
    monkeypatch.setattr(environment, "project_root", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))  # so that there is no commit
    monkeypatch.setenv("LATENTGEO_FIGURES", str(tmp_path / "figures"))
    assert cli.main(["reproduce"]) == 2
    assert "expected sources without uncommitted changes" in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_parameters_from_a_file_reach_the_notebook(notebooks, tmp_path, capsys):
    _notebook(notebooks, "00_ok", VERDICT)
    file = tmp_path / "parameters.yml"
    file.write_text("n: 5\n")
    assert cli.main(["reproduce", "--parameters", str(file), "--only", "00", "--output", str(tmp_path / "out")]) == 0
    assert "n = 5, quick" in capsys.readouterr().out


def test_every_notebook_of_the_project_has_a_profile_and_is_executed():
    paths = module.find_notebooks()
    assert [path.name[:2] for path in paths][:1] == ["00"]
    module.check_parameters(paths, {"profile": "quick"})
    settings = {"profile": "paper", "seeds": 2, "pairs": 20, "model": "conv"}
    module.check_parameters([path for path in paths if path.name.startswith("07")], settings)
    for path in paths:
        notebook = nbformat.read(path, 4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert notebook.metadata.kernelspec.name == "python3"
        assert "papermill" not in notebook.metadata
        if path.name.startswith("09"):  # CelebA may not be had by a script; without its data nothing is shown
            assert notebook.metadata.latentgeo.data == "celeba"
            assert not any(cell.execution_count or cell.outputs for cell in code)
            continue
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), path
        assert not [o.text for cell in code for o in cell.outputs if o.get("name") == "stderr"], path


_CHARACTER, _COLUMN, _ROOM = 6.6, 13.0, 860.0  # pixels, in JupyterLab in a window of 1,280


def _width(table: str) -> float:
    """About how many pixels wide a table in HTML is in JupyterLab."""
    rows = [
        [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    ]
    columns = zip(*[row for row in rows if len(row) == max(map(len, rows))], strict=True)
    return sum(_CHARACTER * max(map(len, column)) + _COLUMN for column in columns)


def test_notebooks_speak_in_small_cells_and_record_in_the_last():
    for path in module.find_notebooks():
        code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        long = [
            cell.source
            for cell in code
            if len([line for line in cell.source.splitlines() if line.strip()]) > 12 and "nn.Module" not in cell.source
        ]
        assert long == [], path
        assert re.search(r"^(\w+ = )?record\(", code[-1].source, re.MULTILINE), path
        recorded = [cell for cell in code if "record(" in cell.source and "NEEDS_DATA" not in cell.source]
        assert len(recorded) == 1, path
        assert any("assert " in cell.source for cell in code), path
        for cell in code:
            shown = [output.get("data", {}) for output in cell.outputs]
            assert sum("image/png" in data for data in shown) <= 1, (path, cell.source)
            said = "".join("".join(data.get(kind, "")) for data in shown for kind in ("text/html", "text/markdown"))
            assert not re.search(r"\bnan\b", said, re.IGNORECASE), (path, cell.source)
            wide = [_width(table) for table in re.findall(r"<table.*?</table>", said, re.DOTALL)]
            assert all(width <= _ROOM for width in wide), (path, cell.source, wide)
