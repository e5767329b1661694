import numpy as np
import pandas as pd
import pytest
import scipy.stats

import latentgeo as lg
from latentgeo.agreement.reliability import (
    cv_over_models,
    false_positive_rates,
    power_curve,
    resampled,
    split_into_ends_and_path,
)


def _table(**methods):
    """A tidy table from arrays (S, P)."""
    rows = [
        pd.DataFrame({"seed": s, "pair": np.arange(values.shape[1]), "method": method, "value": values[s]})
        for method, values in methods.items()
        for s in range(len(values))
    ]
    return pd.concat(rows, ignore_index=True)


def _models(S, noise, P=40, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(1, 3, P) * (1 + noise * random.standard_normal((S, P)))


def test_the_coefficient_of_variation_is_numpys():
    values = _models(5, 0.1)
    cv = lg.coefficient_of_variation(_table(geodesic=values, euclidean=2 * values))
    np.testing.assert_allclose(cv["geodesic"], values.std(0, ddof=1) / values.mean(0))
    np.testing.assert_allclose(cv["euclidean"], cv["geodesic"])
    assert cv.index.name == "pair"


def test_resampling_by_counts_is_resampling_by_repetition():
    values = _models(5, 0.1)
    counts = np.array([[2, 0, 1, 1, 1], [0, 5, 0, 0, 0]])
    for row, cv in zip(counts, cv_over_models(values, counts), strict=True):
        repeated = np.repeat(values, row, axis=0)
        expected = repeated.std(0, ddof=1) / repeated.mean(0) * np.sqrt(5 / 4)
        np.testing.assert_allclose(cv, expected, atol=1e-7)


def test_the_t_test_is_the_papers():
    good, bad = _models(6, 0.03), _models(6, 0.06, seed=1)
    result = lg.compare_reliability(_table(euclidean=bad, geodesic=good)).loc["geodesic"]
    cvs = [v.std(0, ddof=1) / v.mean(0) for v in (good, bad)]
    expected = scipy.stats.ttest_rel(*cvs, alternative="less")
    assert (result.t, result.p, result.df) == pytest.approx((expected.statistic, expected.pvalue, 39))
    assert result.difference == pytest.approx((cvs[0] - cvs[1]).mean())
    assert result.difference_low < result.difference < result.difference_high < 0


def test_a_method_that_is_no_better_is_not_called_better():
    result = lg.compare_reliability(_table(euclidean=_models(6, 0.03), geodesic=_models(6, 0.06, seed=1)))
    assert result.loc["geodesic", "p"] > 0.99
    assert result.loc["geodesic", "difference_low"] > 0
    assert np.isnan(result.loc["euclidean", "p"])
    assert result.loc["euclidean", "difference"] == 0


def test_a_mere_difference_of_scale_between_models_does_not_count_when_scale_free():
    values = _models(5, 0.0)
    scaled = values * np.linspace(0.8, 1.2, 5)[:, None]
    result = lg.compare_reliability(_table(euclidean=_models(5, 0.02, seed=1), geodesic=scaled)).loc["geodesic"]
    assert result.mean_cv > 0.1
    assert result.scale_free_cv == pytest.approx(0, abs=1e-12)
    assert result.spearman == pytest.approx(1)


def test_the_rank_agreement_is_scipys():
    values = _models(3, 0.3)
    result = lg.compare_reliability(_table(euclidean=values))
    expected = np.mean([scipy.stats.spearmanr(values[i], values[j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))])
    assert result.loc["euclidean", "spearman"] == pytest.approx(expected)


def test_what_is_not_finite_is_left_out_for_every_method_and_counted():
    good, bad = _models(4, 0.1), _models(4, 0.1, seed=1)
    broken = good.copy()
    broken[2, 7] = np.nan
    result = lg.compare_reliability(_table(euclidean=bad, geodesic=broken))
    expected = lg.compare_reliability(_table(euclidean=np.delete(bad, 7, 1), geodesic=np.delete(good, 7, 1)))
    assert result["dropped_pairs"].tolist() == [1, 1]
    assert result["pairs"].tolist() == [39, 39]
    pd.testing.assert_frame_equal(result.drop(columns="dropped_pairs"), expected.drop(columns="dropped_pairs"))


def test_a_pair_at_distance_zero_is_left_out_and_counted():
    values = _models(4, 0.1)
    values[:, 3] = 0.0
    result = lg.compare_reliability(_table(euclidean=_models(4, 0.1), geodesic=values))
    assert result["dropped_pairs"].tolist() == [1, 1]
    assert np.isfinite(result[["mean_cv", "difference", "difference_high"]]).all(axis=None)


def test_failures_of_the_solver_are_counted():
    table = _table(euclidean=_models(4, 0.1), geodesic=_models(4, 0.1))
    table["converged"] = True
    table.loc[table.index[-4:], "converged"] = False
    assert lg.compare_reliability(table)["unconverged"].tolist() == pytest.approx([0.0, 4 / 160])


def test_the_methods_come_in_the_order_of_the_table():
    methods = {name: _models(3, 0.1) for name in ("z", "euclidean", "a")}
    assert lg.compare_reliability(_table(**methods)).index.tolist() == ["z", "euclidean", "a"]


@pytest.mark.slow
@pytest.mark.parametrize("S", [5, 10])
def test_intervals_contain_the_truth_about_as_often_as_they_say(S):
    """Models with shared factors, as trained networks have; the truth from very many models."""
    random = np.random.default_rng(0)
    loadings = random.normal(size=(60, 4)) / 2

    def draw(models, factor, own):
        return 1 + 0.05 * (
            factor * random.normal(size=(models, 4)) @ loadings.T + own * random.normal(size=(models, 60))
        )

    mean_cv = [cv_over_models(draw(100_000, *strength)).mean() for strength in ((0.5, 0.4), (0.7, 0.6))]
    truth, hits, tries = mean_cv[0] - mean_cv[1], 0, 200
    for _ in range(tries):
        table = _table(euclidean=draw(S, 0.7, 0.6), geodesic=draw(S, 0.5, 0.4))
        result = lg.compare_reliability(table, resamples=200).loc["geodesic"]
        hits += result.difference_low <= truth <= result.difference_high
    assert 0.88 <= hits / tries <= 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="value"), "'value'.* are missing"),
        (lambda t: t[t["seed"] == 0], "at least two models"),
        (lambda t: t[~((t["seed"] == 1) & (t["method"] == "geodesic"))], "every method for every model"),
        (lambda t: pd.concat([t, t]), "duplicate"),
        (lambda t: t.assign(value=np.nan), "at least one pair"),
        (lambda t: t.assign(method="geodesic2").iloc[:80], "baseline: expected a method among .*, got 'euclidean'"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        lg.compare_reliability(change(_table(euclidean=_models(2, 0.1), geodesic=_models(2, 0.1))))


def test_the_effect_size_and_the_bootstrap_test_say_what_was_simulated():
    table = _table(euclidean=_models(8, 0.06, seed=1), geodesic=_models(8, 0.03))
    result = lg.compare_reliability(table).loc["geodesic"]
    assert result.ratio == pytest.approx(result.mean_cv / (result.mean_cv - result.difference))
    assert result.ratio_low < result.ratio < result.ratio_high < 1
    assert result.ratio == pytest.approx(0.5, abs=0.1)
    assert result.p_models < 0.001
    assert result.scale_free_p_models < 0.001
    assert result.scale_free_t < -5
    worse = lg.compare_reliability(table, "geodesic").loc["euclidean"]
    assert worse.p_models > 0.999
    assert worse.ratio == pytest.approx(1 / result.ratio)


@pytest.mark.parametrize("S", [3, 4, 5])
def test_a_draw_of_one_model_alone_does_not_cost_the_effect_size(S):
    counts = resampled(S, 2000, np.random.default_rng(0))
    assert (counts.max(1) == S).any()
    bad, good = _models(S, 0.06, seed=1), _models(S, 0.03)
    assert (cv_over_models(good, counts)[counts.max(1) == S] == 0).all()
    result = lg.compare_reliability(_table(euclidean=bad, geodesic=good)).loc["geodesic"]
    assert result.ratio == pytest.approx(cv_over_models(good).mean() / cv_over_models(bad).mean())
    varied = counts[counts.max(1) < S]
    logs = np.log(cv_over_models(good, varied).mean(1) / cv_over_models(bad, varied).mean(1))
    reach = np.exp(scipy.stats.t.ppf(0.975, S - 1) * logs.std())
    assert result.ratio_low == pytest.approx(result.ratio / reach)
    assert result.ratio_high == pytest.approx(result.ratio * reach)


@pytest.mark.parametrize("S", [2, 3, 4, 5])
def test_effect_sizes_have_positive_limits_however_few_the_models(S):
    """Very unequal pairs, so that an interval around the mean CV itself would reach below zero."""
    values = _models(S, 0.05)
    values[0] *= 2
    result = lg.compare_reliability(_table(euclidean=_models(S, 0.06, seed=1), geodesic=values))
    names = ["mean_cv", "ratio", "signal_to_noise", "signal_ratio"]
    estimates, low, high = (result[[name + end for name in names]].to_numpy() for end in ("", "_low", "_high"))
    assert np.isfinite(high).all()
    assert (low > 0).all()
    assert (low <= estimates).all()
    assert (estimates <= high).all()
    assert (result.loc["euclidean", ["ratio_low", "ratio_high", "signal_ratio_low", "signal_ratio_high"]] == 1).all()


@pytest.mark.slow
def test_the_limits_of_two_models_are_those_of_normal_distributions_with_one_degree_of_freedom():
    result = lg.compare_reliability(_table(euclidean=_models(2, 0.06, seed=1), geodesic=_models(2, 0.03)))
    geodesic = result.loc["geodesic"]
    # |x| of a normal x has its 2.5 % point at 0.0313; the tangent, which has the law of x / y, at 87.75 degrees 25.45.
    assert geodesic["mean_cv_high"] == pytest.approx(geodesic["mean_cv"] / scipy.stats.norm.ppf(0.5125))
    assert geodesic["ratio_high"] == pytest.approx(geodesic["ratio"] * np.tan(np.radians(87.75)))
    hits, tries, random = 0, 400, np.random.default_rng(0)
    for _ in range(tries):  # one pair, and two methods that are as steady
        values = {name: 1 + 0.01 * random.standard_normal((2, 1)) for name in ("euclidean", "geodesic")}
        row = lg.compare_reliability(_table(**values), resamples=100).loc["geodesic"]
        hits += row["ratio_low"] <= 1 <= row["ratio_high"]
    assert 0.92 <= hits / tries <= 0.98


def test_probabilities_are_adjusted_for_the_family_of_methods():
    noise = {"euclidean": 0.06, "geodesic": 0.03, "chord": 0.045, "line": 0.058}
    table = _table(**{name: _models(8, of, seed=i) for i, (name, of) in enumerate(noise.items())})
    result = lg.compare_reliability(table)
    for name in ("p_models", "scale_free_p_models", "p", "scale_free_p"):
        p = result[name].drop("euclidean").sort_values()
        expected = np.maximum.accumulate(np.minimum([3, 2, 1] * p, 1))  # Holm's by hand
        np.testing.assert_allclose(result.loc[p.index, f"{name}_holm"], expected)
        assert np.isnan(result.loc["euclidean", f"{name}_holm"])


def test_the_distance_of_the_data_is_not_compared():
    table = _table(euclidean=_models(4, 0.06, seed=1), geodesic=_models(4, 0.03), data=_models(4, 0.0))
    without = lg.compare_reliability(table[table["method"] != "data"])
    pd.testing.assert_frame_equal(lg.compare_reliability(table), without)
    with pytest.raises(ValueError, match="baseline: expected a method among euclidean, geodesic, got 'data'"):
        lg.compare_reliability(table, "data")


def _opposed(signal, noise):
    """Two models, four pairs: log distances ±signal, moved by ±noise, one half of the pairs against the other."""
    half = np.array([1, 1, -1, -1])
    return np.exp(signal * np.array([1, -1, 1, -1]) + noise * np.array([half, -half]))


def test_signal_to_noise_is_what_was_put_in_whatever_the_scale_of_a_model():
    values = _opposed(0.6, 0.1)  # over two models, ±0.1 has the standard deviation 0.1·√2
    scaled = values * [[3.0], [0.2]]
    result = lg.compare_reliability(_table(euclidean=values, geodesic=scaled, rough=_opposed(0.6, 0.2)))
    assert result["signal_to_noise"].tolist() == pytest.approx([0.6 / 0.1 / 2**0.5] * 2 + [0.3 / 0.1 / 2**0.5])
    assert result["signal_ratio"].tolist() == pytest.approx([1, 1, 0.5])


def test_signal_to_noise_and_its_interval_are_those_of_repeated_models():
    good, bad, counts = _models(5, 0.03), _models(5, 0.06, seed=1), resampled(5, 300, np.random.default_rng(0))

    def repeated(values, row):
        y = np.log(np.repeat(values, row, axis=0))
        y -= y.mean(1, keepdims=True)
        return y.mean(0).std() / np.sqrt(y.var(0, ddof=1).mean())

    result = lg.compare_reliability(_table(euclidean=bad, geodesic=good), resamples=300).loc["geodesic"]
    estimates = [repeated(values, np.ones(5, int)) for values in (good, bad)]
    logs = np.log([[repeated(values, row) for values in (good, bad)] for row in counts if row.max() < 5])
    reach = scipy.stats.t.ppf(0.975, 4) * np.array([logs[:, 0].std(), np.diff(logs).std()])
    for name, estimate, half in zip(
        ("signal_to_noise", "signal_ratio"), (estimates[0], estimates[0] / estimates[1]), reach, strict=True
    ):
        expected = estimate * np.exp([0, -half, half])
        np.testing.assert_allclose(result[[name, f"{name}_low", f"{name}_high"]].tolist(), expected)
    assert result.signal_ratio_low > 1


def test_what_varies_least_because_it_says_nothing_has_the_least_signal():
    steady = np.full((5, 40), 3.0) * np.linspace(0.999, 1.001, 5)[:, None]
    result = lg.compare_reliability(_table(euclidean=_models(5, 0.05), constant=steady, exact=_models(5, 0.0)))
    assert result.loc["constant", "mean_cv_high"] < result.loc["euclidean", "mean_cv_low"]
    names = ["signal_to_noise", "signal_to_noise_low", "signal_to_noise_high"]
    assert result.loc["constant", names].tolist() == [0, 0, 0]
    assert result.loc["exact", names].tolist() == [np.inf] * 3
    assert np.isfinite(result.loc["euclidean", [*names, "signal_ratio_low"]]).all()
    assert np.isnan(result.loc[["constant", "exact"], ["signal_ratio", "signal_ratio_low"]]).all(axis=None)


def test_pairs_without_a_logarithm_are_left_out_of_signal_to_noise_for_every_method():
    good, bad = _models(4, 0.1), _models(4, 0.1, seed=1)
    broken = good.copy()
    broken[2, 7] = 0.0
    result = lg.compare_reliability(_table(euclidean=bad, geodesic=broken))
    expected = lg.compare_reliability(_table(euclidean=np.delete(bad, 7, 1), geodesic=np.delete(good, 7, 1)))
    names = ["signal_to_noise", "signal_to_noise_low", "signal_ratio", "signal_ratio_high"]
    pd.testing.assert_frame_equal(result[names], expected[names])
    alone = lg.compare_reliability(_table(euclidean=bad[:, :1], geodesic=good[:, :1]))
    assert np.isnan(alone[names]).all(axis=None)


def test_several_baselines_are_those_one_by_one():
    table = _table(euclidean=_models(5, 0.1), geodesic=_models(5, 0.05, seed=1), chord=_models(5, 0.02, seed=2))
    both = lg.compare_reliability(table, ["euclidean", "chord"])
    assert both.index.names == ["baseline", "method"]
    for name in ("euclidean", "chord"):
        pd.testing.assert_frame_equal(both.loc[name], lg.compare_reliability(table, name))
    with pytest.raises(ValueError, match="at least one method"):
        lg.compare_reliability(table, [])


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
    tables = [_table(euclidean=_shared(10, 0.05, 2 * i), geodesic=_shared(10, 0.05, 2 * i + 1)) for i in range(20)]
    rates = pd.DataFrame([false_positive_rates(table, draws=60) for table in tables])
    assert rates["t_test"].mean() > 0.2
    assert rates["models"].mean() < 0.09
    assert 0.3 < rates["p"].mean() < 0.7
    effect = _table(euclidean=_shared(10, 0.06, 0), geodesic=_shared(10, 0.03, 1))
    assert false_positive_rates(effect, draws=60)["p"] < 0.05
    assert false_positive_rates(effect, method="euclidean", baseline="geodesic", draws=60)["p"] > 0.95


def test_the_null_is_paired():
    """Both methods vary alike, so that whatever is exchanged between them leaves the paired difference zero."""
    values = _shared(6, 0.05, 0)
    rates = false_positive_rates(_table(euclidean=values, geodesic=2 * values), draws=20)
    assert rates == {"t_test": 0, "models": 0, "p": 1}


def test_what_cannot_be_drawn_is_refused():
    table = _table(euclidean=_shared(3, 0.05, 0), geodesic=_shared(3, 0.05, 1))
    with pytest.raises(ValueError, match="between 2 and the 3 models"):
        power_curve(table, [2, 4])
    with pytest.raises(ValueError, match="expected a method among euclidean, geodesic, got 'chord'"):
        power_curve(table, [2], method="chord")
    with pytest.raises(ValueError, match="expected a method among"):
        false_positive_rates(table, method="chord")


PARTS = ["ends", "path", "covariance"]


def _split(log_chord, log_stretch, **others):
    chord = np.exp(log_chord)
    return split_into_ends_and_path(_table(geodesic=chord * np.exp(log_stretch), ambient_chord=chord, **others))


def test_ends_and_path_have_the_shares_that_were_put_in():
    """Orthogonal over four models, then the same up to sign: variances 3² and 1² in units of one another."""
    ends, path = np.array([[1.0, 1, -1, -1], [1, -1, 1, -1]])[:, :, None] * [1.0, 2.0]
    apart, along, against = (
        _split(0.3 * ends, 0.1 * path),
        _split(0.3 * ends, 0.1 * ends),
        _split(0.3 * ends, -0.1 * ends),
    )
    np.testing.assert_allclose(apart[PARTS], [0.9, 0.1, 0], atol=1e-12)
    np.testing.assert_allclose(along[PARTS], np.array([9, 1, 6]) / 16)
    np.testing.assert_allclose(against[PARTS], np.array([9, 1, -6]) / 4)
    assert apart["variance"] == pytest.approx(0.1 * 4 / 3 * (1 + 4) / 2)
    assert apart["stretch"] == pytest.approx((np.cosh(0.1) + np.cosh(0.2)) / 2)
    assert (apart["models"], apart["pairs"], apart["dropped_pairs"]) == (4, 2, 0)


def test_a_distance_that_is_its_chord_has_no_path_and_a_chord_that_all_agree_on_no_ends():
    ends, same = np.log(_models(5, 0.1)), np.log(_models(5, 0.0))
    straight, fixed = _split(ends, 0 * ends), _split(same, ends)
    stretched = _split(ends, 0 * ends + np.log(1.1))
    for result, expected in ((straight, [1, 0, 0]), (stretched, [1, 0, 0]), (fixed, [0, 1, 0])):
        for end in ("", "_low", "_high"):
            np.testing.assert_allclose(result[[part + end for part in PARTS]], expected, atol=1e-12)
    assert straight[["stretch", "stretch_low", "stretch_high"]].tolist() == [1, 1, 1]
    assert stretched["stretch"] == pytest.approx(1.1)
    agreed = _split(same, 0 * same)
    assert np.isnan(agreed[PARTS]).all()
    assert agreed["variance"] == 0


def test_ends_and_path_and_their_intervals_are_those_of_repeated_models():
    log_chord, log_stretch = np.log(_models(6, 0.05)), 0.1 + np.log(_models(6, 0.03, seed=1))
    result, counts = _split(log_chord, log_stretch), resampled(6, 2000, np.random.default_rng(0))

    def repeated(row):
        c, r = np.repeat(log_chord, row, axis=0), np.repeat(log_stretch, row, axis=0)
        cross = ((c - c.mean(0)) * (r - r.mean(0))).sum(0).mean() / 5
        parts = np.array([c.var(0, ddof=1).mean(), r.var(0, ddof=1).mean(), 2 * cross])
        return *parts / (c + r).var(0, ddof=1).mean(), np.exp(r).mean()

    draws = np.array([repeated(row) for row in counts if row.max() < 6])
    estimate, reach = repeated(np.ones(6, int)), scipy.stats.t.ppf(0.975, 5) * draws.std(0)
    assert result["spread"] == pytest.approx(log_stretch.mean(0).std(ddof=1))
    for name, value, half in zip([*PARTS, "stretch"], estimate, reach, strict=True):
        found = result[[name, f"{name}_low", f"{name}_high"]]
        np.testing.assert_allclose(found, value + half * np.array([0, -1, 1]), rtol=1e-3 if name == "stretch" else 1e-9)
    assert result[PARTS].sum() == pytest.approx(1)


def test_pairs_that_cannot_be_split_are_left_out_and_counted():
    ends, path = np.log(_models(4, 0.1)), np.log(_models(4, 0.1, seed=1))
    whole, broken = _split(ends[:, 2:], path[:, 2:]), np.ones_like(ends)
    broken[1, 0] = np.nan  # in another method
    ends[2, 1] = -np.inf  # a chord of length zero
    result = _split(ends, path, straight_line=broken)
    assert result["dropped_pairs"] == 2
    pd.testing.assert_series_equal(result.drop("dropped_pairs"), whole.drop("dropped_pairs"))


def test_what_cannot_be_split_is_refused():
    values = _models(3, 0.1)
    table = _table(geodesic=values, ambient_chord=np.where(np.arange(3)[:, None] == 1, 0.0, values))
    with pytest.raises(ValueError, match="positive geodesic and ambient_chord distance under every model"):
        split_into_ends_and_path(table)
    with pytest.raises(ValueError, match="expected a method among ambient_chord, geodesic, got 'straight'"):
        split_into_ends_and_path(table, chord="straight")
    with pytest.raises(ValueError, match="0 < level < 1, got 2000 and 95"):
        split_into_ends_and_path(table, level=95)


def test_levels_and_draws_out_of_range_are_no_power_of_zero():
    table = _table(euclidean=_shared(4, 0.05, 0), geodesic=_shared(4, 0.05, 1))
    for wrong in ({"level": 95}, {"draws": 0}):
        with pytest.raises(ValueError, match="at least one draw or resample, and 0 < level < 1"):
            power_curve(table, [2], **wrong)
        with pytest.raises(ValueError, match="at least one draw or resample, and 0 < level < 1"):
            false_positive_rates(table, **wrong)
    with pytest.raises(ValueError, match="expected columns"):
        lg.compare_reliability(pd.DataFrame({"seed": [0]}))
