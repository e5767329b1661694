"""Timings that are kept: `python -m pytest -m slow tests/benchmarks/test_speed.py --benchmark-json=speed.json`."""

import warnings

import pytest

import latentgeo as lg
from latentgeo.paper.benchmark import FAILED, error_against_time, problem
from latentgeo.paper.jobs import single_thread

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return lg.paper.Study("fashion_mnist", "mlp", profile="evidence").trained(0)


@pytest.fixture(scope="module")
def codes(model):
    return model.encode(lg.paper.load_dataset("fashion_mnist").test[:2000])


@pytest.mark.parametrize(("decoders", "pairs"), [(1, 20), (8, 20), (8, 100)])
def test_geodesics_of_mlp_decoders(benchmark, model, codes, decoders, pairs):
    decoder = model.decoders[0] if decoders == 1 else model.decode
    found = benchmark.pedantic(
        lg.geodesic, (decoder, codes[:pairs], codes[1000 : 1000 + pairs]), rounds=5, warmup_rounds=1
    )
    assert found.converged.all()
    assert found.decoder_rows / pairs / 15 <= 20  # passes for each inner point of the curve
    assert benchmark.stats.stats.median <= 0.03 * pairs * decoders  # seconds; a third of this on two quiet cores


def test_geodesics_of_the_papers_convolutional_decoders(benchmark):
    model = lg.paper.Study("fashion_mnist", "conv").trained(0)
    z = model.encode(lg.paper.load_dataset("fashion_mnist").test[:2000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = benchmark.pedantic(lg.geodesic, (model.decode, z[:20], z[1000:1020]), rounds=3, warmup_rounds=1)
    assert found.converged.double().mean() >= 0.95
    assert benchmark.stats.stats.median <= 15.0


def test_no_other_solver_is_as_fast_at_equal_error_where_dimensions_collapsed():
    study = lg.paper.Study("fashion_mnist", "mlp", seeds=1, profile="evidence")
    with single_thread():  # so that the solvers compare by their work
        table = error_against_time(*problem(study, 20), repeats=5)
    others = table[(table["solver"] != "ours") & (table["mean_error"] <= FAILED)]
    assert {"Gauss-Newton", "torch L-BFGS", "torch Adam"} <= set(others["solver"])
    assert others["at_equal_error"].min() > 1.0
