import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

import latentgeo as lg
from latentgeo.paper import figures, known_factors
from latentgeo.paper.known_factors import (
    RENDERERS,
    SETTINGS,
    KnownFactors,
    Setting,
    against_truth,
    graph_distances,
    judge,
    rendered,
    true_geodesics,
)

FLAT = math.pi / 2 * 8**2  # squared data units by the squared units of position: pixels are 1/8 apart


def test_position_and_scale_are_flat_with_the_metric_that_is_stated():
    u = torch.tensor([[0.1, -0.2, 1.0], [0.0, 0.13, 0.6]], dtype=torch.float64)
    G = lg.pullback_metric(RENDERERS["position_and_scale"].decoder(0.25), u)
    expected = FLAT * torch.tensor([1.0, 1.0, 4 * 0.25**2]).double().diag()
    torch.testing.assert_close(G, expected.expand(2, 3, 3), rtol=2e-3, atol=0.05)
    G = lg.pullback_metric(RENDERERS["position"].decoder(0.25), u[:, :2])
    torch.testing.assert_close(G, expected[:2, :2].expand(2, 2, 2), rtol=2e-3, atol=0.05)


@pytest.mark.parametrize("width", [0.1, 0.2])
def test_the_true_distances_of_positions_are_those_of_the_plane(width):
    of = RENDERERS["position"]
    a, b = of.factors(24, 1).split(12)
    length, points = true_geodesics("position", width, 12)
    torch.testing.assert_close(length, math.sqrt(FLAT) * (a - b).norm(dim=1), rtol=0.01, atol=0)
    assert points.abs().max() < 0.71  # not out of the picture


def test_the_true_distances_of_angles_are_those_of_the_shorter_way_round():
    of, P = RENDERERS["rotation"], 12
    a, b = of.factors(2 * P, 1).split(P)
    turn = torch.remainder(b - a, 2 * math.pi).squeeze(1)
    assert (turn > math.pi).any()
    found = true_geodesics("rotation", 0.25, P)[0] / torch.minimum(turn, 2 * math.pi - turn)
    assert found.std() / found.mean() < 0.03  # pixels are square, a rod's speed is nearly constant


@pytest.mark.slow
def test_no_other_lift_of_an_arm_is_nearer():
    of, P = RENDERERS["arm"], 5
    a, b = of.factors(2 * P, 1).split(P)
    length, _ = true_geodesics("arm", 0.18, P)
    for turn in itertools.product((0, 1, -1), repeat=2):
        lift = b + 2 * math.pi * b.new_tensor(turn)
        line = lg.curve.straight_line(a, lift, 64)
        near = (lift - a).abs().amax(1) < 1.5 * math.pi
        other = lg.geodesic(of.decoder(0.18), a[near], lift[near], initial=line[near], segments=64)
        assert (other.length >= length[near] * (1 - 1e-3)).all()


def test_images_have_the_noise_that_they_say_and_pairs_are_ends_of_true_geodesics():
    setting = Setting("bent_arm", 0.18, 2, noise=0.2, images=400)
    data, exact = rendered(setting, 6), rendered(dataclasses.replace(setting, noise=0.0), 6)
    assert (data.train - exact.train).std().item() == pytest.approx(0.2, rel=0.02)
    assert data.sha256 != exact.sha256
    _, points = true_geodesics("bent_arm", 0.18, 6)
    ends = torch.cat([points[:, 0], points[:, -1]])
    torch.testing.assert_close(RENDERERS["bent_arm"].decoder(0.18)(ends).float(), exact.test)


def test_the_graph_of_points_on_a_circle_has_the_length_of_its_arcs():
    t = torch.cat([torch.tensor([0.0, 0.0, 1.0, 3.0]), 2 * math.pi * torch.arange(500) / 500]).double()
    truth = np.array([1.0, 3.0])
    found = graph_distances(torch.stack([t.cos(), t.sin()], 1), 2, truth)
    np.testing.assert_allclose(found, truth, rtol=2e-3)


def _distances(**methods):
    """Distances of three models and ten pairs of one setting, from arrays (3, 10)."""
    truth = np.linspace(1, 4, 10)
    rows = [
        {"setting": "one", "seed": s, "pair": p, "method": method, "value": values[s, p], "truth": truth[p]}
        for method, values in methods.items()
        for s in range(3)
        for p in range(10)
    ]
    return pd.DataFrame(rows), truth


def test_correlation_scale_and_bias_are_those_that_were_put_in():
    truth, sign = np.linspace(1, 4, 10), np.tile([1, -1], 5)
    scales = np.array([[0.5], [2.0], [8.0]])
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal((3, 10)))
    exact, bent = scales * truth, scales * truth * np.exp(0.05 * sign)
    constant = np.ones((3, 10)) + 1e-3 * noise
    distances, _ = _distances(geodesic=exact, euclidean=bent, constant=constant, graph=np.tile(truth**2, (3, 1)))
    worth = against_truth(distances, resamples=200).loc["one"]
    assert worth.loc["geodesic", ["r", "r_far", "scale"]].tolist() == pytest.approx([1, 1, 2])
    assert worth.loc["geodesic", "bias"] == pytest.approx(0, abs=1e-12)
    assert worth.loc["euclidean", "bias"] == pytest.approx(0.05)
    assert worth.loc["euclidean", "r"] == pytest.approx(np.corrcoef(bent[0], truth)[0, 1])
    assert worth.loc["constant", "mean_cv"] < 0.001  # the control: what is steadiest says nothing
    assert abs(worth.loc["constant", "r"]) < 0.9
    assert worth.loc["constant", "r_low"] < worth.loc["constant", "r"] < worth.loc["constant", "r_high"] <= 1
    assert worth.loc["graph", "r"] == pytest.approx(np.corrcoef(truth**2, truth)[0, 1])
    assert worth.loc["graph", ["r_low", "bias_high", "mean_cv"]].isna().all()


@pytest.mark.parametrize(
    ("torn", "lost", "chart", "kind"),
    [
        (0.2, 0.1, True, "folded"),
        (0.1, 0.2, True, "flattened"),
        (0.0, 0.0, True, "sound"),
        (0.0, 0.0, False, "no chart"),
    ],
)
def test_settings_are_of_the_kind_that_their_true_paths_say(torn, lost, chart, kind):
    truth = np.linspace(1, 4, 10)
    varied = truth * np.array([[1.0], [1.5], [2.0]])
    distances, _ = _distances(geodesic=varied, euclidean=varied, ambient_chord=varied, graph=varied)
    length = 2 * truth
    length[3] *= 1.5
    reliable = np.arange(10) != 3
    pairs = pd.DataFrame({"setting": "one", "truth": truth, "geodesic": length, "reliable": reliable, "misfit": 1.0})
    setting = Setting("position", 0.35, 2 if chart else 3)
    worth = against_truth(distances, resamples=50)
    row = judge({"one": setting}, pairs.assign(torn=torn, lost=lost), worth).loc["one"]
    assert (row["kind"], row["reliable"], row["wrong"], row["seen"]) == (kind, 0.9, 0.1, 1.0)
    assert row["flagged"]  # by the coefficient of variation alone


@pytest.mark.slow
def test_a_study_is_measured_and_drawn(tmp_path, monkeypatch):
    quick = {
        "position": Setting("position", 0.35, 2, images=300),
        "bent arm, d = 1": Setting("bent_arm", 0.18, 1, images=300),
    }
    monkeypatch.setitem(SETTINGS, "quick", quick)
    monkeypatch.setattr(known_factors, "_STEPS", 200)
    monkeypatch.setenv("LATENTGEO_FIGURES", str(tmp_path))
    study = KnownFactors(seeds=2, pairs=6, store=tmp_path)
    distances, pairs = study.run(workers=0)
    sizes = distances.groupby(["setting", "method"]).size()
    assert (sizes == 2 * 6).all()
    assert len(sizes) == 2 * 7
    assert np.isfinite(distances["value"]).all()
    worth = against_truth(distances)
    judged = judge(quick, pairs, worth)
    assert judged["misfit"].between(0.8, 3).all()
    assert worth.loc[("position", "geodesic"), "r"] > 0.98
    shuffled = distances.assign(truth=distances.groupby(["setting", "method", "seed"])["truth"].transform(np.roll, 3))
    assert against_truth(shuffled).loc[("position", "geodesic"), "r"] < 0.9  # the control fails
    figure = figures.known_factors({"position": rendered(quick["position"], 6).test[:3, 0].numpy()}, worth, judged)
    figures.save(figure, "figure", [study])
    assert (tmp_path / "figure.png").stat().st_size > 1000
    again, _ = study.run(workers=0)
    pd.testing.assert_frame_equal(distances, again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "fast"}, "profile: expected one of quick"),
        ({"settings": ("nothing",)}, "settings: expected some of position, .*, got nothing"),
        ({"seeds": 1}, "seeds: expected at least 2"),
    ],
)
def test_what_cannot_be_run_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KnownFactors(**options)
