import pytest

from tests.benchmarks.calibration import measure


@pytest.mark.slow
def test_claims_are_true_and_not_too_wide_on_fifteen_decoders():
    table = measure(pairs=50)
    smooth = table[table["smooth"]]
    assert (smooth["converged"] >= 0.95 * smooth["pairs"]).all()
    assert table["judged"].sum() >= 0.5 * table["pairs"].sum()
    assert table["wrong"].sum() <= 0.005 * table["judged"].sum()
    assert table["worst"].max() <= 3.0
    assert smooth["claim / true"].median() <= 6.0
