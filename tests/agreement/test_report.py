import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import nn
from torch.utils.data import TensorDataset

import latentgeo as lg
from latentgeo.agreement.report import _indices
from tests.conftest import mlp
from tests.surfaces import hill, ring

METHODS = ["euclidean", "geodesic", "straight_line", "ambient_chord"]


class _Model(nn.Module):
    """A plain module: a smooth decoder, and as encoder its left inverse on data that it made."""

    def __init__(self, d=2, D=6, seed=0, dtype=torch.float64, noise=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.bend = mlp(3, d, D).to(dtype)
        for parameter in self.bend.parameters():
            parameter.data += noise * torch.randn(parameter.shape, generator=generator, dtype=dtype)
        self.scale = 1.0 + seed / 8

    def encode(self, x):
        return self.scale * x[:, : self.bend[0].in_features]

    def decode(self, z):
        z = z / self.scale
        return torch.cat([z, self.bend(z)], 1)


def _data(n=60, dtype=torch.float64, d=2):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(5), dtype=dtype)
    with torch.no_grad():
        return _Model(d, dtype=dtype).decode(z)


def _in_other_coordinates(model, transform, name="model"):
    decoder = lg.reparametrise(model.decode, transform)
    return lg.LatentModel(lambda x: transform(model.encode(x)), decoder, name)


def _affine(seed):
    return lg.random_affine(2, generator=torch.Generator().manual_seed(seed))


def _reasons(report):
    return report.pairs["reason"].tolist()


@pytest.fixture(scope="module")
def alike():
    """Agreement of three models that differ a little."""
    models = {f"seed {seed}": _Model(seed=seed, noise=0.02) for seed in range(3)}
    bent = _in_other_coordinates(_Model(seed=7, noise=0.02), lg.CoordinateWarp())
    return lg.agreement(models | {"other chart": bent}, _data(), pairs=12, labels=list("abc" * 20))


@pytest.mark.parametrize("kind", ["affine", "flow"])
def test_models_that_differ_in_coordinates_alone_agree_in_geodesics_and_not_in_codes(kind):
    charts = [_affine(seed) if kind == "affine" else lg.random_flow(2, seed=seed) for seed in (1, 2)]
    model = _Model()
    models = [model, *(_in_other_coordinates(model, chart) for chart in charts)]
    report = lg.agreement(models, _data(), pairs=8, tol=1e-6, check=False)
    cv = report.methods["mean_cv"]
    assert cv["geodesic"] < 1e-3
    assert cv["ambient_chord"] < 1e-10
    assert cv["euclidean"] > 0.05
    assert report.pairs["reliable"].all()
    assert (report.pairs["gap"] < 2).all()
    assert report.methods.loc["geodesic", "difference"] < -0.05


def test_a_different_model_shows():
    same = [_Model(), _in_other_coordinates(_Model(), _affine(1))]
    other = _Model(seed=3)
    other.bend = mlp(9, 2, 6)  # another surface altogether
    with torch.no_grad():
        other.bend[2].weight *= 3
    kept = lg.agreement(same, _data(), pairs=10, check=False)
    report = lg.agreement([*same, other], _data(), pairs=10, check=False)
    assert kept.methods.loc["geodesic", "mean_cv"] < 1e-3
    assert report.methods.loc["geodesic", "mean_cv"] > 0.1
    assert kept.pairs["reliable"].all()
    assert sum("varies more than 10 % between models" in reason for reason in _reasons(report)) >= 8


def test_points_that_are_not_found_or_not_the_only_ones_are_a_reason():
    def folded(z):  # a circle, of whose middle every point is as near
        return torch.cat([z.cos(), z.sin()], 1)

    angle = torch.linspace(0, 6, 30, dtype=torch.float64)[:, None]
    data = folded(angle)
    data[3] = 1e-9 * data[3]
    models = [
        lg.LatentModel(lambda x, k=k: k * torch.atan2(x[:, 1:], x[:, :1]), lambda z, k=k: folded(z / k), f"{k}")
        for k in (1.0, 2.0)
    ]
    report = lg.agreement(models, data, pairs=([3, 4], [8, 9]), check=False)
    assert "an end has other points as near in 2 of 2 models" in report.pairs.loc[0, "reason"]
    assert report.pairs.loc[1, "reason"] == ""
    assert "other points as near" in report.summary()


class _Tied(lg.LatentModel):
    """A model that finds other points as near, so far apart."""

    def points(self, data, points="nearest", others=None):
        found = super().points(data, points, others)
        return found._replace(apart=torch.full_like(found.apart, self.decoder.apart))


def test_other_points_as_near_are_a_reason_where_they_can_change_the_distance():
    def tied(apart):
        model = _Model()
        decoder = model.decode.__func__.__get__(model)
        wrapped = lambda z: decoder(z)  # noqa: E731
        wrapped.apart = apart
        return _Tied(model.encode, wrapped, str(apart))

    options = {"pairs": 12, "check": False, "max_cv": 0.1}
    length = lg.agreement([tied(0.0), _Model()], _data(), **options).pairs["geodesic"].to_numpy(float)
    half = float(np.median(length))
    report = lg.agreement([tied(0.05 * half), _Model()], _data(), **options)
    reasons = np.array(["other points as near in 1 of 2" in reason for reason in _reasons(report)])
    assert np.array_equal(reasons, 2 * 0.05 * half > 0.1 * length)
    assert 0 < reasons.sum() < len(reasons)


def test_models_at_different_conditions_are_told_of():
    def circle(z, r):
        return r[:, None] * torch.cat([z.cos(), z.sin()], 1)

    at = {r: lg.latent_model((lambda x, r: x[:, 1:].atan2(x[:, :1]), circle), condition=r) for r in (1.0, 2.0)}
    data = circle(torch.linspace(0, 2, 9, dtype=torch.float64)[:, None], torch.ones(9).double())
    with pytest.warns(UserWarning, match=r"'model 1' is held at 1\.0 and 'model 2' at 2\.0"):
        lg.agreement([at[1.0], at[2.0]], data, pairs=2, points="mean", check=False)


def test_codes_are_said_to_be_not_identified():
    options = {"pairs": 4, "check": False}
    models = [_Model(), _Model(seed=1)]
    said = {of: lg.agreement(models, _data(), points=of, **options).summary() for of in ("mean", "nearest")}
    assert "not identified" in said["mean"]
    assert "not identified" not in said["nearest"]


def test_what_the_decoder_gives_must_be_the_data():
    model = (lambda x: x[:, :2], lambda z: torch.cat([z, z.square(), z], 1))
    with pytest.raises(ValueError, match="points='mean'"):
        lg.agreement([model, model], torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), check=False)
    with pytest.raises(ValueError, match="one of nearest, posterior, mean, got 'modes'"):
        lg.agreement([model, model], torch.zeros(9, 3), points="modes", check=False)
    with pytest.raises(ValueError, match="no posterior_sampler"):
        lg.agreement([model, model], torch.zeros(9, 3), points="posterior", check=False)


@pytest.mark.thorough
def test_tables_are_complete_and_match_each_other(alike):
    S, P = 4, 12
    table = alike.distances
    assert list(table.columns) == ["model", "pair", "method", "value", "converged", "error", "unique", "tied"]
    assert table.groupby(["model", "pair", "method"]).ngroups == len(table) == S * P * len(METHODS)
    assert alike.names == ("seed 0", "seed 1", "seed 2", "other chart")
    geodesics = table[table["method"] == "geodesic"].pivot(index="model", columns="pair", values="value")
    pairs = alike.pairs
    assert np.allclose(pairs["geodesic"].to_numpy(float), geodesics.mean())
    assert np.allclose(pairs["cv_geodesic"].to_numpy(float), geodesics.std() / geodesics.mean())
    low, high = scipy.stats.t.interval(0.95, S - 1, geodesics.mean(), geodesics.std() / S**0.5)
    assert np.allclose(pairs["geodesic_low"].to_numpy(float), np.maximum(low, 0))
    assert np.allclose(pairs["geodesic_high"].to_numpy(float), high)
    assert not pairs.isna().any(axis=None)
    assert list(alike.methods.index) == METHODS
    wide = table.pivot(index=["model", "pair"], columns="method", values="value")
    assert (wide["ambient_chord"] <= wide["geodesic"] * (1 + 1e-6)).all()
    assert (wide["geodesic"] <= wide["straight_line"] * (1 + 1e-3)).all()
    labels = np.array(list("abc" * 20))
    assert (pairs["first_label"] == labels[pairs["first"]]).all()
    assert (pairs["second_label"] == labels[pairs["second"]]).all()


def _sphere(scale, noise=0.0):
    """A chart of the unit sphere, whose chords are short of the way by up to a third, as a model in its own units."""

    def decode(z):
        a, b = (z / scale).unbind(1)
        return torch.stack([a.cos() * b.cos(), a.sin() * b.cos(), b.sin()], 1) * (1 + noise * (2 * a).sin()[:, None])

    def encode(x):
        return scale * torch.stack([torch.atan2(x[:, 1], x[:, 0]), torch.asin(x[:, 2] / x.norm(dim=1))], 1)

    return lg.LatentModel(encode, decode, f"{scale}")


def test_the_advice_is_geodesics_where_chords_cut_bends_off():
    angles = torch.rand(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    data = _sphere(1.0).decoder(angles)
    found = lg.agreement([_sphere(s, n) for s, n in ((1.0, 0.0), (2.0, 0.01))], data, pairs=40, check=False)
    chord = found.distances.query("method == 'ambient_chord' and model == '1.0'")["value"].to_numpy()
    stretch = np.log(2 * np.arcsin(chord / 2) / chord)  # an arc over its chord
    assert f"{np.exp(stretch.mean()):.3g}" in found.summary()
    assert "use geodesics, as chords cut the bends off" in found.summary()
    assert "Rely on none" not in found.summary()


def test_the_advice_is_chords_where_geodesics_are_straight():
    def model(s):
        def decode(z):
            return torch.cat([z / s, 0.02 * s * (z[:, :1] / s).sin()], 1)

        return lg.LatentModel(lambda x: s * x[:, :2], decode, f"{s}")

    data = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text = lg.agreement([model(1.0), model(2.0)], data, pairs=40, points="mean", check=False).summary()
    assert "Geodesics are 1 times as long as their chords in the mean, give or take" in text
    assert "chords, which cost no solving, will do" in text


def test_the_advice_is_none_where_models_do_not_agree():
    data = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    models = [lg.LatentModel(lambda x, s=s: s * x + 0.1 * x.sin(), lambda z: z, f"{s}") for s in (1.0, 1.5)]
    text = lg.agreement(models, data, pairs=40, points="mean", check=False).summary()
    assert "Rely on none of these distances" in text
    assert "will do" not in text


def test_the_summary_says_it_in_words(alike):
    text = alike.summary()
    assert "4 models (seed 0, seed 1, seed 2, other chart), 12 pairs of data. So few trainings" in text
    assert f"{100 * alike.methods.loc['geodesic', 'mean_cv']:.2g} %" in text
    assert "geodesic distances are reliable" in text
    assert "Compare no codes between trainings." in text
    assert "nan" not in text.lower()
    assert repr(alike) == f"Agreement(4 models, 12 pairs, {alike.pairs['reliable'].sum()} reliable)"
    assert "<table" in alike._repr_html_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_data_of_either_precision_go_to_models_of_either(dtype):
    models = [_Model(dtype=dtype, seed=seed, noise=0.02) for seed in range(2)]
    expected = lg.agreement(models, _data(dtype=dtype), pairs=5, check=False)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    array = _data(dtype=dtype).numpy()
    for data in (array, array.astype(str(other)[6:]), _data(dtype=dtype).to(other), pd.DataFrame(array)):
        found = lg.agreement(models, data, pairs=5, check=False)
        assert np.allclose(found.distances["value"], expected.distances["value"], rtol=1e-3)


def test_models_may_differ_in_latent_dimension_and_carry_float32():
    flat = nn.Linear(3, 6, bias=False)
    pad = lg.LatentModel(lambda x: x[:, :2], lambda z: flat(nn.functional.pad(z, (0, 1))), "two")
    full = lg.LatentModel(lambda x: x[:, :3], flat, "three")
    data = nn.functional.pad(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), (0, 1))
    data = data + 1e-3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    report = lg.agreement([pad, full], data, pairs=8, points="mean")
    assert report.methods.loc["geodesic", "mean_cv"] < 0.01
    assert report.names == ("two", "three")


def test_pairs_are_drawn_without_repetition_or_taken_as_given():
    models, data = [_Model(seed=seed, noise=0.02) for seed in range(2)], _data(8)
    drawn = lg.agreement(models, data, check=False).pairs  # 100 asked for, 28 there are
    assert len({frozenset(pair) for pair in drawn[["first", "second"]].itertuples(index=False)}) == len(drawn) == 28
    for pairs in (([0, 2], [1, 3]), np.array([[0, 1], [2, 3]])):
        given = lg.agreement(models, data, pairs=pairs, check=False).pairs
        assert given[["first", "second"]].to_numpy().tolist() == [[0, 1], [2, 3]]


def test_as_many_pairs_are_drawn_as_are_asked_for_however_many_data():
    first, second = _indices(5000, 3000, seed=0)
    assert len({frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}) == 5000
    assert (first < second).all()
    every = np.stack(np.triu_indices(60, 1), 1)
    drawn = np.stack(_indices(10**9, 60, seed=0), 1)
    np.testing.assert_array_equal(drawn[np.lexsort(drawn.T[::-1])], every)


def test_pairs_of_which_none_can_be_compared_leave_an_empty_table():
    """One has geodesic distance zero, as the decoder forgets what differs; the other's codes are the same."""
    data = torch.tensor([[0.0, 1.0], [0.0, -1.0], [3.0, 5.0], [6.0, 5.0]], dtype=torch.float64)
    models = [
        lg.LatentModel(lambda x, c=c: c * x[:, 1:], lambda z, c=c: torch.cat([z / c, 0 * z], 1).abs(), f"{c}")
        for c in (1.0, 2.0)
    ]
    report = lg.agreement(models, data, pairs=[(0, 1), (2, 3)], points="mean", check=False)
    assert report.methods.empty


def test_unconverged_geodesics_are_a_reason_and_no_number_is_made_up():
    def wild(z):  # bends far faster than the segments follow
        return torch.cat([z, torch.sin(40.0 * z)], 1)

    plain = [lg.LatentModel(lambda x: x[:, :2], _Model(seed=s, noise=0.02).decode, f"seed {s}") for s in range(2)]
    with pytest.warns(UserWarning, match="same codes"):
        report = lg.agreement(
            [plain[0], lg.LatentModel(lambda x: x[:, :2], wild, "wild")], _data(), pairs=6, points="mean", check=False
        )
    failed = report.distances.query("model == 'wild' and method == 'geodesic' and not converged")["pair"]
    assert len(failed)
    for pair in failed:
        row = report.pairs.loc[pair]
        assert "not converged in 1 of 2 models" in row["reason"]
        assert row["models"] == 1
        assert row["geodesic_low"] is pd.NA
        assert row["cv_geodesic"] is pd.NA
    assert "not converged" in report.summary()


def test_a_decoder_that_is_not_finite_is_a_reason_and_not_an_exception():
    def hole(z):
        return torch.cat([z, (z[:, :1] * 0).where(z[:, :1] < 10, torch.nan)], 1)

    models = [lg.LatentModel(lambda x, k=k: k * x[:, :2], hole, f"{k}") for k in (1.0, 1e3)]
    report = lg.agreement(models, _data(), pairs=6, points="mean")
    assert not report.pairs["reliable"].any()
    assert report.pairs["reason"].str.contains("not converged in 1 of 2 models").any()
    assert report.pairs["reason"].str.contains("out of the data's support in 1 of 2 models").any()
    assert "nan %" not in report.summary().lower()


def test_a_geodesic_across_a_hole_in_the_data_is_a_reason():
    angle = torch.linspace(0, 6.2, 80, dtype=torch.float64)
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    models = [lg.LatentModel(lambda x, k=k: k * x, lambda z, k=k: z / k * (1 + 0.01 * k), f"{k}") for k in (1.0, 2.0)]
    report = lg.agreement(models, ring, pairs=([0, 0], [1, 40]), check=False)
    assert report.pairs["reliable"].tolist() == [True, False]
    assert report.pairs.loc[1, "reason"] == "out of the data's support in 2 of 2 models"
    filled = torch.cat([ring * r for r in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)])
    filled = torch.cat([filled[80:], filled[:1]])  # the last ring first, its rows as before
    order = torch.cat([torch.arange(320, 400), torch.arange(0, 320), torch.tensor([400])])
    report = lg.agreement(models, filled[order], pairs=([0, 0], [1, 40]), check=False)
    assert report.pairs["reliable"].all()


@pytest.mark.parametrize(
    ("decoder", "assumption"),
    [
        (lambda z: torch.cat([z[:, :1], z[:, :1].sin(), z[:, :1].cos()], 1), "full rank"),
        (lambda z: torch.cat([z[:, :1].square(), z[:, 1:], z[:, 1:].square()], 1), "injective"),
    ],
)
def test_broken_assumptions_are_a_reason_for_every_pair(decoder, assumption):
    models = [lg.LatentModel(lambda x, k=k: k * x[:, :2], lambda z, k=k: decoder(z / k), f"{k}") for k in (1.0, 1.1)]
    report = lg.agreement(models, _data(), pairs=4, points="mean")
    assert all(f"assumption: {assumption} fails in 2 of 2 models" in reason for reason in _reasons(report))
    assert not report.pairs["reliable"].any()
    assert f"{assumption} fails" in report.summary()
    unchecked = lg.agreement(models, _data(), pairs=4, points="mean", check=False)
    assert not any("assumption" in reason for reason in _reasons(unchecked))
    assert "not checked" in unchecked.summary()


def test_a_collapsed_encoder_is_found():
    models = [lg.LatentModel(lambda x: 0 * x[:, :2], _Model().decode, "collapsed"), _Model()]
    report = lg.agreement(models, _data(), pairs=4, points="mean")
    assert "different codes fails" in report.summary()
    assert not report.pairs["reliable"].any()
    assert report.methods.empty
    assert "cannot be compared" in report.summary()


def test_copies_are_found_and_kinks_alone_are_not_a_reason():
    relu = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 6)).double()
    model = lg.LatentModel(lambda x: x[:, :2], lambda z: torch.cat([z, 0.1 * relu(z)], 1), "kinked")
    with pytest.warns(UserWarning, match="exactly the same codes"):
        report = lg.agreement([model, model], _data(), pairs=4, tol=1e-3)
    assert (report.assumptions.query("assumption == 'smooth'")["verdict"] == "fails").all()
    assert report.names == ("kinked 1", "kinked 2")
    assert not any("smooth" in reason for reason in _reasons(report))
    assert "the decoder has kinks" in report.summary()


def test_nothing_is_changed():
    models, data = [_Model(seed=seed, noise=0.02).train() for seed in range(2)], _data()
    before = [parameter.clone() for model in models for parameter in model.parameters()]
    copy, state = data.clone(), torch.get_rng_state()
    lg.agreement(models, data, pairs=4)
    assert torch.equal(data, copy)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(model.training for model in models)
    now = [parameter for model in models for parameter in model.parameters()]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, now, strict=True))


_TWO = [_Model(seed=seed, noise=0.02) for seed in range(2)]


@pytest.mark.parametrize(
    ("models", "data", "options", "error", "message"),
    [
        (_TWO[:1], _data(), {}, ValueError, "at least two"),
        (_TWO[0], _data(), {}, TypeError, r"at least two models, got \w+ alone"),
        ((lambda x: x, lambda z: z), _data(), {}, TypeError, r"got functions; .*\[\(encode_1, decode_1\)"),
        ([nn.Linear(2, 2)] * 2, _data(), {}, TypeError, "LatentModel"),
        (_TWO, _data() * torch.nan, {}, ValueError, "finite"),
        (_TWO, _data().numpy() * np.inf, {}, ValueError, "finite"),
        (_TWO, _data()[:2], {}, ValueError, "three rows"),
        (_TWO, _data()[0], {}, ValueError, "event"),
        (_TWO, tuple(_data()), {}, TypeError, "asarray"),
        (_TWO, TensorDataset(_data()), {}, TypeError, r"torch.stack"),
        (_TWO, np.array([["a"]] * 9), {}, TypeError, "numbers"),
        (_TWO, _data(), {"labels": [1, 2]}, ValueError, "labels"),
        (_TWO, _data(), {"pairs": 0}, ValueError, "at least 1"),
        (_TWO, _data(), {"pairs": ([0], [1, 2])}, ValueError, r"\(P, 2\)"),
        (_TWO, _data(), {"pairs": "all"}, ValueError, r"got 'all'; all pairs of the \d+ data are pairs="),
        (_TWO, _data(), {"pairs": [1, 2]}, ValueError, r"got \[\(2,\)\]"),
        (_TWO, _data(), {"pairs": 2.5}, ValueError, r"got \[\(\)\]"),
        (_TWO, _data(), {"pairs": ([0], [60])}, ValueError, "outside"),
        (_TWO, _data(), {"pairs": ([0], [0])}, ValueError, "itself"),
        (_TWO, _data(), {"pairs": ([0.0], [1.0])}, TypeError, "integer"),
        (_TWO, _data(), {"max_cv": 0.0}, ValueError, "max_cv"),
        (_TWO, _data(), {"segments": 3}, ValueError, "segments"),
    ],
)
def test_what_does_not_fit_is_refused(models, data, options, error, message):
    with pytest.raises(error, match=message):
        lg.agreement(models, data, check=False, **options)


@pytest.mark.thorough
def test_decoders_that_return_distributions_are_compared_by_fisher_rao_distances():
    z = torch.tensor([1.0, 0.4], dtype=torch.float64) * torch.randn(
        60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )

    def normal(z):
        return torch.distributions.Normal(z[:, :1], z[:, 1:].exp())

    twist = lg.RadialTwist(0.7)
    models = {"plain": (lambda x: x, normal), "twisted": (twist, lambda z: normal(twist.inv(z)))}
    report = lg.agreement(models, z, pairs=8, points="mean", segments=64, tol=1e-8)
    first, second = (z[report.pairs[end].to_numpy()] for end in ("first", "second"))
    s, t = first[:, 1].exp(), second[:, 1].exp()
    u = (0.5 * (first[:, 0] - second[:, 0]).square() + (s - t).square()) / (2.0 * s * t)
    truth = math.sqrt(2.0) * torch.acosh(1.0 + u)
    wide = report.distances.pivot(index="method", columns=["model", "pair"], values="value")
    for name in models:
        geodesic, chord = (torch.from_numpy(wide.loc[m, name].to_numpy()) for m in ("geodesic", "ambient_chord"))
        torch.testing.assert_close(geodesic, truth, rtol=1e-4, atol=0)
        torch.testing.assert_close(chord, truth)  # the image fills the half plane, so that its chord is the distance
    assert report.pairs["cv_geodesic"].max() < 1e-4 < report.pairs["cv_euclidean"].min()
    assert set(report.assumptions.loc[report.assumptions["verdict"] == "fails", "assumption"]) <= {"noise dimension"}


def test_models_do_not_differ_for_one_having_missed_the_shorter_geodesic():
    """In one chart the straight line leads over the top of the hill, which is a geodesic, in the other beside it."""
    plain = lg.LatentModel(lambda x: x[:, :2], hill, "plain")
    flow = lg.random_flow(2, seed=3)
    bent = lg.LatentModel(lambda x: flow(x[:, :2]), lg.reparametrise(hill, flow), "bent")
    z = ring(12)
    options = {"pairs": ([0], [6]), "points": "mean", "check": False}
    assert lg.agreement([plain, bent], hill(z), **options).pairs["cv_geodesic"].item() < 1e-3
    lines = [lg.distance(model.decoder, *model.codes(hill(z))[[0, 6]].split(1)).item() for model in (plain, bent)]
    assert lines[0] > 1.05 * lines[1]  # the control: from straight lines alone they differ
