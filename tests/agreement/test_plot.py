import matplotlib.pyplot as plt
import pandas as pd
import pytest

from latentgeo import extras
from latentgeo.agreement.report import Agreement


def test_every_pair_is_drawn_and_what_is_not_known_is_left_out():
    numbers = {
        f"{method}{end}": pd.array([scale * v for v in (1.0, 2.0, 3.0)], dtype="Float64")
        for method in ("geodesic", "euclidean")
        for end, scale in (("", 1.0), ("_low", 0.9), ("_high", 1.2))
    }
    numbers |= {f"cv_{method}": pd.array([0.1, None, 0.2], dtype="Float64") for method in ("geodesic", "euclidean")}
    pairs = pd.DataFrame(numbers | {"reliable": [True, False, True]})
    report = Agreement(pd.DataFrame(), pairs, pd.DataFrame(), pd.DataFrame(), ("a", "b"), 0.95)
    shown = plt.get_fignums()
    figure = report.plot()
    euclidean, geodesic, cv = figure.axes
    assert euclidean.get_ylim() == geodesic.get_ylim()
    assert sum(len(line.get_xdata()) for line in geodesic.lines) == 3
    assert "2 models, 3 pairs" in cv.get_title()
    assert cv.get_xlim() == cv.get_ylim()
    assert plt.get_fignums() == shown


def test_what_draws_is_asked_for_by_name(monkeypatch):
    report = Agreement(*[pd.DataFrame()] * 4, ("a", "b"), 0.95)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"a picture needs matplotlib and seaborn, .*latentgeo\[explorer\]"):
        report.plot()


@pytest.mark.slow  # starts a kernel
def test_a_notebook_shows_the_plot_once():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    made = (
        "import torch, latentgeo as lg\n"
        "f = lambda z: torch.cat([z, z.square()], 1)\n"
        "x = f(torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double())\n"
        "bent = (lambda x: x[:, :2].sinh(), lambda z: f(z.asinh()))\n"
        "report = lg.agreement([(lambda x: x[:, :2], f), bent], x, pairs=5, check=False)"
    )
    cells = [nbformat.v4.new_code_cell(code) for code in (made, "report.plot()", "figure = report.plot()")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    shown = [{*output.get("data", {})} for cell in notebook.cells for output in cell.outputs]
    assert shown == [{"image/png", "text/plain"}]
