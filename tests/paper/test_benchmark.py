import pandas as pd
import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.paper import benchmark


class _Curved(nn.Module):
    """A parabolic cylinder over the plane."""

    def forward(self, z):
        return torch.cat([z, z[:, :1].square()], 1)


@pytest.fixture
def pairs():
    return torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:stochman is missing")
def test_every_solver_meets_the_same_truth(pairs, monkeypatch):
    monkeypatch.setitem(benchmark.OTHERS, "wrong", (_twice_as_long, [{}], []))
    table = benchmark.error_against_time(_Curved(), *pairs, repeats=1).set_index("solver")
    assert table["mean_error"].drop(["wrong", "GEORCE", "spline, Adam (paper)"]).max() < 0.01
    assert table["failed"].drop(["wrong", "GEORCE", "spline, Adam (paper)"]).max() == 0
    assert table.loc["wrong", ["failed", "unfinished"]].tolist() == [1, 1]
    assert table.loc["wrong", "mean_error"] == pytest.approx(1, abs=1e-3)
    ours = table.loc["ours"]
    assert ours["ratio"].tolist()[1] == 1
    assert (ours["mean_error"] < 1e-3).all()


def _twice_as_long(decoder, start, end):
    found = lg.geodesic(decoder, start, end)
    none = torch.zeros(len(start), dtype=torch.bool)
    return benchmark.BaselineCurves(found.points, 1, none, 2 * found.length)


def test_what_none_of_ours_reaches_is_not_called_slower():
    runs = pd.DataFrame({"solver": ["ours", "a", "b"], "seconds": [1.0, 5.0, 5.0], "mean_error": [1e-3, 1e-4, 1e-2]})
    assert benchmark.at_equal_error(runs).tolist() == [1.0, 0.0, 5.0]


def test_more_pairs_than_data_are_refused(trained):
    with pytest.raises(ValueError, match="half of the test data"):
        benchmark.problem(trained, 10_000)
