import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import latentgeo as lg
from latentgeo.agreement.pairs import METHODS
from latentgeo.geometry.surfaces import torus as torus_surface
from latentgeo.paper import sample_size, torus
from latentgeo.paper.figures.sample_size import sample_size as draw
from latentgeo.paper.sample_size import SampleSizeStudy, expected_overlap, profile_studies, subset
from latentgeo.paper.scaling import bias_and_spread, final_slope, power_law, root_n_law, scaling

TINY = {"seeds": 2, "pairs": 4, "steps": 20, "epochs": 2, "batch_size": 16, "warmup_steps": 5}


# --- the synthetic data


def test_the_true_decoder_is_a_bent_torus():
    decoder = torus.TorusDecoder()
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bent = torch.tanh(torus_surface(0.6 * z) @ decoder.inner + decoder.bias) @ decoder.outer
    assert torch.allclose(decoder(z), (bent - decoder.mean) / decoder.scale)
    # An immersion of full rank, with period 2π / 0.6 in each coordinate.
    assert (torch.linalg.svdvals(lg.metric.jacobian(decoder, z))[:, 1] > 0.5).all()
    assert torch.allclose(decoder(z), decoder(z + 2 * torch.pi / 0.6))
    assert not torch.allclose(decoder(z), decoder(z + torch.pi / 0.6))  # half a period is another point


def test_the_data_are_standardised_and_have_the_noise_they_say(monkeypatch):
    data = torus.torus_dataset(4000, seed=1, pairs=5)
    assert data.train.mean(0).abs().max() < 0.15
    assert data.train.var(0).mean().item() == pytest.approx(1.0 + torus.NOISE**2, rel=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(torus, "NOISE", 0.0)
        noise = data.train - torus.torus_dataset(4000, seed=1, pairs=5).train
    assert noise.std().item() == pytest.approx(torus.NOISE, rel=0.02)
    decoder = torus.TorusDecoder()
    start, end = torus.pair_latents(5)
    assert torch.allclose(data.test, decoder(torch.cat([start, end])).float())  # without noise


def test_samples_are_independent_but_for_the_validation_data():
    first, again = torus.torus_dataset(100, 0, pairs=3), torus.torus_dataset(100, 0, pairs=3)
    other, larger = torus.torus_dataset(100, 1, pairs=3), torus.torus_dataset(200, 0, pairs=3)
    assert torch.equal(first.train, again.train)
    assert first.sha256 == again.sha256
    for different in (other, larger):
        assert torch.equal(first.validation, different.validation)
        assert torch.equal(first.test, different.test)
        assert first.sha256 != different.sha256
        assert torch.cdist(first.train, different.train).min() > 0.5
    assert torch.equal(torus.pair_latents(3)[0], torus.pair_latents(7)[0][:3])  # more pairs: the same and others


def test_halves_have_different_marginals():
    whole = [torus.torus_dataset(3000, seed, pairs=1).train.mean(0) for seed in (0, 1)]
    halves = [torus.torus_dataset(3000, seed, pairs=1, half=seed).train.mean(0) for seed in (0, 1)]
    assert (whole[0] - whole[1]).norm() < 0.4
    assert (halves[0] - halves[1]).norm() > 2.0


def test_true_distances_are_those_of_a_dense_reference():
    truth = torus.true_distances(6)
    decoder = torus.TorusDecoder()
    a, b = torus.pair_latents(6)
    # No curve may be shorter than the geodesic, nor the geodesic shorter than its chord.
    line = lg.curve.chord_length(decoder, lg.curve.straight_line(a, b, 2000))
    length = torch.from_numpy(truth["geodesic"].to_numpy())
    assert (length <= line * (1 + 1e-6)).all()
    assert (truth["geodesic"] > truth["ambient_chord"]).all()
    assert (truth["gap"].abs() < 1e-6).all()
    assert (truth["error"] < 1e-5).all()
    coarse = lg.geodesic(decoder, a, b, segments=64, tol=1e-10, max_iter=2000)
    assert torch.allclose(coarse.length, length, rtol=1e-5)
    assert not torch.allclose(line, length, rtol=1e-3)  # the straight line is not good enough


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torus.torus_dataset(0, 0), "n of at least 1"),
        (lambda: torus.torus_dataset(10, -1), "seed of at least 0"),
        (lambda: torus.pair_latents(0), "at least 1"),
    ],
)
def test_the_torus_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- subsets


@pytest.fixture(scope="module")
def digits():
    return lg.paper.load_dataset("digits")


def test_subsets_share_nothing_until_all_images_are_dealt_out(digits):
    total, n = len(digits.train), 400  # three blocks of 1257
    numbered = dataclasses.replace(digits, train_labels=torch.arange(total))
    parts = [set(subset(numbered, n, seed, 50).train_labels.tolist()) for seed in range(6)]
    assert all(len(part) == n for part in parts)
    shared = np.array([[len(a & b) for a in parts] for b in parts])
    off = ~np.eye(3, dtype=bool)
    assert (shared[:3, :3][off] == 0).all()
    assert (shared[3:, 3:][off] == 0).all()
    between = shared[:3, 3:] / n  # of different rounds: hypergeometric around n/N
    assert between.mean() == pytest.approx(n / total, abs=0.03)
    seen = shared[np.triu_indices(6, 1)].mean() / n
    assert seen == pytest.approx(expected_overlap(total, n, range(6)), abs=0.02)
    assert len(subset(numbered, n, 0, 50).validation) == 50


def test_subsets_have_checksums_of_their_own(digits):
    sums = [subset(digits, n, seed, 50).sha256["subset"] for n, seed in ((100, 0), (100, 1), (200, 0))]
    assert len(set(sums)) == 3
    whole = [subset(digits, len(digits.train), seed, 50) for seed in (0, 1)]
    assert expected_overlap(len(digits.train), len(digits.train), (0, 1)) == 1.0
    assert set(map(float, whole[0].train.sum((1, 2, 3)))) == set(map(float, whole[1].train.sum((1, 2, 3))))


def test_a_subset_refuses_more_than_there_is(digits):
    with pytest.raises(ValueError, match="n from 1 to 1257"):
        subset(digits, 1258, 0, 50)
    with pytest.raises(ValueError, match="validation from 1 to 180"):
        subset(digits, 100, 0, 181)
    with pytest.raises(ValueError, match="at least two"):
        expected_overlap(100, 10, [0])


# --- the study


def test_every_size_gets_the_same_number_of_steps(tmp_path):
    study = SampleSizeStudy("torus", (16, 32, 160), store=tmp_path, **TINY)
    for n in study.sizes:
        repeats, epochs = study.schedule(n)
        assert epochs * (repeats * n // study.batch_size) == 20
        assert len(study.data(n, 0).train) == repeats * n
        assert study.config(n, 0).training.patience == epochs
    for profile in sample_size.SETTINGS:
        for of in profile_studies(profile, store=tmp_path).values():
            steps = [
                epochs * (repeats * n // of.batch_size)
                for n, (repeats, epochs) in zip(of.sizes, map(of.schedule, of.sizes), strict=True)
            ]
            assert max(steps) / min(steps) < 1.05
            assert of.profile == profile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "mnist"}, "dataset: expected one of torus, fashion_mnist"),
        ({"sizes": (160, 16)}, "increasing"),
        ({"sizes": ()}, "increasing"),
        ({"sizes": (100,)}, "choose sizes that divide"),
        ({"seeds": 1}, "at least 2"),
        ({"seeds": (0, 0)}, "all different"),
        ({"epochs": 30}, "epochs"),
        ({"series": "thirds"}, "series"),
        ({"dataset": "fashion_mnist", "series": "halves"}, "halves for the torus only"),
    ],
)
def test_a_study_refuses(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        SampleSizeStudy(**({"dataset": "torus", "sizes": (16, 160), "store": tmp_path} | TINY | change))
    with pytest.raises(ValueError, match="profile"):
        profile_studies("fast")


@pytest.mark.thorough
def test_a_study_trains_measures_and_finds_everything_again(tmp_path, monkeypatch):
    study = SampleSizeStudy("torus", (16, 160), store=tmp_path, **TINY)
    with pytest.raises(ValueError, match="expected a trained model"):
        _ = study.runs
    table = study.run(workers=0)
    assert study.runs.keys() == {path.name for path in tmp_path.glob("torus-*")}
    methods = [*METHODS, sample_size.TWISTED]
    assert len(table) == 2 * 2 * 4 * len(methods)
    assert np.isfinite(table["value"]).all()
    wide = table.pivot(index=["n", "seed", "pair"], columns="method", values="value")
    assert np.allclose(wide["geodesic"], wide["geodesic_one_decoder"])  # K = 1
    assert wide["data"].groupby("pair").std().max() < 1e-6
    assert (wide[sample_size.TWISTED] - wide["euclidean"]).abs().max() > 1e-2
    curves = study.curves()
    assert (curves.groupby(["n", "seed"])["step"].max() == 20).all()
    assert set(final_slope(curves)["n"]) == {16, 160}
    with monkeypatch.context() as patch:
        patch.setattr("latentgeo.paper.study.run_jobs", lambda *_, **__: pytest.fail("computed again"))
        assert study.run(workers=0).equals(table)
    shared = dataclasses.replace(study, series="shared")
    assert torch.equal(shared.data(16, 0).train, shared.data(16, 1).train)
    assert not torch.equal(study.data(16, 0).train, study.data(16, 1).train)


# --- how the spread falls


def test_exponent_and_floor_of_exact_curves():
    n = np.array([100.0, 1000.0, 10_000.0, 100_000.0])
    curves = np.stack([0.3 * n**-0.5, np.full(4, 0.1), 2.0 * n**-0.25])
    assert np.allclose(power_law(n, curves), [0.5, 0.0, 0.25])
    assert np.allclose(root_n_law(n, np.sqrt(4.0 / n + 0.05**2)), [2.0, 0.05])
    assert np.allclose(root_n_law(n, curves[:2]), [[0.3, 0.0], [0.0, 0.1]])
    rises, falls = root_n_law(n, 1e-3 * n**0.2), root_n_law(n, 1.0 / n)
    assert rises[0] == 0.0 < rises[1]  # a curve that rises is all floor
    assert falls[1] == 0.0 < falls[0]  # one that falls faster has none


def _table(spread, sizes=(100, 1000, 10_000), models=12, pairs=40, seed=0):
    """Distances around 1 + pair with a relative spread that depends on method and size."""
    random = np.random.default_rng(seed)
    rows = []
    for method, of in spread.items():
        for n in sizes:
            for model in range(models):
                value = (1 + np.arange(pairs)) * (1 + of(n) * random.standard_normal(pairs))
                rows.append(
                    pd.DataFrame({"n": n, "seed": model, "pair": range(pairs), "method": method, "value": value})
                )
    return pd.concat(rows, ignore_index=True)


def test_scaling_distinguishes_what_fades_from_what_does_not():
    table = _table({"geodesic": lambda n: 0.5 * n**-0.5, "euclidean": lambda _: 0.05})
    of = scaling(table, resamples=500)
    fades, stays = of.fits.loc["geodesic"], of.fits.loc["euclidean"]
    assert fades["exponent_low"] < 0.5 < fades["exponent_high"]
    assert fades["exponent_low"] > 0.3
    assert stays["exponent_low"] < 0.0 < stays["exponent_high"]
    assert fades["less_baseline_low"] > 0.3
    assert stays["floor_low"] < 0.05 < stays["floor_high"]
    assert stays["floor_low"] > 0.03
    assert fades["floor"] < 0.005
    assert (of.curves["cv_low"] < of.curves["cv"]).all()
    # The control: shuffled among pairs, an identified distance agrees as badly at every size.
    shuffled = table[table["method"] == "geodesic"].copy()
    random = np.random.default_rng(1)
    shuffled["value"] = shuffled.groupby(["n", "seed"])["value"].transform(random.permutation)
    control = scaling(shuffled, baseline="geodesic", resamples=200)
    assert abs(control.fits.loc["geodesic", "exponent"]) < 0.05
    assert control.curves["cv"].min() > 0.3


def test_scaling_without_the_models_scales():
    table = _table({"euclidean": lambda n: 0.5 * n**-0.5})
    table["value"] *= 1.0 + 0.2 * (table["seed"] % 3)  # a factor of each model's, at every size
    plain, free = (scaling(table, scale_free=flag, resamples=100).fits.loc["euclidean"] for flag in (False, True))
    assert plain["exponent"] < 0.1
    assert free["exponent"] == pytest.approx(0.5, abs=0.05)


def test_scaling_refuses():
    table = _table({"euclidean": lambda _: 0.1}, models=3, pairs=4)
    with pytest.raises(ValueError, match="at least two sizes"):
        scaling(table[table["n"] == 100])
    with pytest.raises(ValueError, match="the same seeds"):
        scaling(table[(table["n"] > 100) | (table["seed"] > 0)])
    with pytest.raises(ValueError, match="at least three"):
        scaling(table[table["seed"] < 2])
    with pytest.raises(ValueError, match="baseline"):
        scaling(table, baseline="geodesic")
    with pytest.raises(ValueError, match="level"):
        scaling(table, level=1.0)


def test_bias_and_spread_are_distinguished():
    truth = pd.DataFrame({"pair": range(40), "geodesic": 1.0 + np.arange(40)})
    table = _table({"geodesic": lambda n: 0.5 * n**-0.5}, models=10)
    table["value"] *= 0.97
    of = bias_and_spread(table, truth, resamples=500).set_index("n")
    assert of.loc[10_000, "bias"] == pytest.approx(-np.log(0.97), rel=0.05)
    assert of.loc[10_000, "mean_error"] == pytest.approx(np.log(0.97), rel=0.05)
    assert np.allclose(of["spread"], 0.5 * of.index.to_numpy() ** -0.5, rtol=0.1)
    unbiased = bias_and_spread(_table({"geodesic": lambda _: 0.05}, models=10), truth, resamples=100)
    assert (unbiased["bias"] < 0.01).all()  # the spread that a mean of ten still has, 1.6 %, is taken out
    with pytest.raises(ValueError, match="expected a column"):
        bias_and_spread(table, truth.drop(columns="geodesic"))


# --- the figure


def test_the_figure_shows_every_curve_and_the_control():
    tables = [_table({m: lambda n: n**-0.5 for m in METHODS if m != "data"}, seed=seed) for seed in (0, 1)]
    of, means = (scaling(table, resamples=50) for table in tables)
    truth = pd.DataFrame({"pair": range(40), "geodesic": 1.0 + np.arange(40)})
    errors, others = (bias_and_spread(table, truth, resamples=50) for table in tables)
    figure = draw({"A": (of, means), "B": (of, means)}, (errors, others), of.curves)
    first, second, last = figure.axes
    assert len(first.lines) == len(second.lines) + 1  # the control

    def shows(ax, values):
        drawn = [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines]
        return any(len(y) == len(values) and np.allclose(y, 100 * values) for y in drawn)

    for method in ("geodesic", "euclidean", "ambient_chord"):
        assert all(shows(second, each.curves.loc[each.curves["method"] == method, "cv"]) for each in (of, means))
    for part in ("bias", "spread"):
        assert all(shows(last, each[part]) for each in (errors, others))
    assert not shows(second, errors["bias"])
    assert first.get_ylim() == last.get_ylim()
