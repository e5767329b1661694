import numpy as np
import pytest

from latentgeo.agreement.reliability import false_positive_rates, power_curve
from tests.agreement.test_reliability import _table


def _shared(S, noise, seed, P=60):
    """Models whose pairs vary together, as those of trained networks do."""
    random = np.random.default_rng(seed)
    factors = random.standard_normal((S, 3)) @ random.standard_normal((3, P)) / np.sqrt(3)
    return random.uniform(1, 3, P) * (1 + noise * (0.8 * factors + 0.6 * random.standard_normal((S, P))))


def test_power_grows_with_the_number_of_models_and_with_the_effect():
    strong = power_curve(_table(euclidean=_shared(20, 0.06, 0), geodesic=_shared(20, 0.03, 1)), [3, 6, 12], draws=100)
    weak = power_curve(_table(euclidean=_shared(20, 0.035, 0), geodesic=_shared(20, 0.03, 1)), [6], draws=100)
    assert strong["power"].is_monotonic_increasing
    assert strong["power"].iloc[-1] > 0.9
    assert weak["power"].item() < strong["power"].iloc[1]
    assert strong["half_width"].is_monotonic_decreasing
    assert strong["models"].tolist() == [3, 6, 12]


def test_without_an_effect_power_stays_near_the_level():
    """The sign is that of all models, so that one side of 95 % counts twice at most."""
    rates = [
        power_curve(_table(euclidean=_shared(24, 0.05, 2 * i), geodesic=_shared(24, 0.05, 2 * i + 1)), [6], draws=50)
        for i in range(10)
    ]
    assert np.mean([rate["power"].item() for rate in rates]) < 0.12


def test_the_t_test_over_pairs_is_wrong_far_too_often_and_resampling_models_is_not():
    rates = [false_positive_rates(_table(geodesic=_shared(20, 0.05, i)), draws=60) for i in range(10)]
    assert np.mean([rate["t_test"] for rate in rates]) > 0.2
    assert np.mean([rate["models"] for rate in rates]) < 0.09
    assert rates[0]["halves"] == 10


def test_what_cannot_be_drawn_is_refused():
    table = _table(euclidean=_shared(3, 0.05, 0), geodesic=_shared(3, 0.05, 1))
    with pytest.raises(ValueError, match="between 2 and the 3 models"):
        power_curve(table, [2, 4])
    with pytest.raises(ValueError, match="expected a method among euclidean, geodesic, got 'chord'"):
        power_curve(table, [2], method="chord")
    with pytest.raises(ValueError, match="at least four models"):
        false_positive_rates(table)
    with pytest.raises(ValueError, match="expected a method among"):
        false_positive_rates(table, method="chord")
