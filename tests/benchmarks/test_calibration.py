import warnings

import pytest
import torch

import latentgeo as lg
from latentgeo.agreement.pairs import draw_pairs
from tests.benchmarks.calibration import calibrate


@pytest.mark.slow
@pytest.mark.parametrize("decoders", [1, 8])
def test_the_certificate_covers_the_error_on_trained_mlp_decoders(decoders):
    test = lg.paper.load_dataset("fashion_mnist").test
    start, end = draw_pairs(len(test), 100)
    model = lg.paper.Study("fashion_mnist", "mlp").trained(0)
    a, b = model.encode(test[start]), model.encode(test[end])
    decoder = model.decoders[0] if decoders == 1 else model.decode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        row = calibrate(decoder, a, b)
    assert row["converged"] >= 0.99
    assert row["covered"] >= 0.99
    assert row["reference converged"] >= 0.99


@pytest.mark.slow
def test_the_certificate_covers_the_error_on_a_single_convolutional_decoder():
    """The hard case: far more curved than an ensemble, and slow to converge."""
    test = lg.paper.load_dataset("fashion_mnist").test
    start, end = draw_pairs(len(test), 40)
    model = lg.paper.Study("fashion_mnist", "conv").trained(0)
    a, b = model.encode(test[start]), model.encode(test[end])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        row = calibrate(model.decoders[0], a, b, segments=32, precision=torch.float32)
    assert row["converged"] >= 0.95
    assert row["covered"] >= 0.97
