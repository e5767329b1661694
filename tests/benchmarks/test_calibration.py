import warnings

import pytest

import latentgeo as lg
from latentgeo.experiments.distances import draw_pairs
from tests.benchmarks.calibration import calibrate


@pytest.mark.slow
@pytest.mark.parametrize("decoders", [1, 8])
def test_the_certificate_covers_the_error_on_trained_mlp_decoders(decoders):
    test = lg.load_dataset("fashion_mnist").test
    start, end = draw_pairs(len(test), 100)
    model = lg.Study("fashion_mnist", "mlp").trained(0)
    a, b = model.encode(test[start]), model.encode(test[end])
    decoder = model.decoders[0] if decoders == 1 else model.ensemble
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        row = calibrate(decoder, a, b, segments=64)
    assert row["converged"] >= 0.99
    assert row["covered"] >= 0.99
    assert row["reference converged"] >= 0.99
