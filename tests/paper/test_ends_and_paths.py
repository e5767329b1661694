import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

import latentgeo as lg
from latentgeo.agreement.reliability import moments, split_into_ends_and_path
from latentgeo.geometry.surfaces import cylinder
from latentgeo.paper import ends_and_paths, figures
from latentgeo.paper.ends_and_paths import (
    APART,
    BASE,
    RECIPES,
    Bridge,
    Followed,
    NearData,
    NoisyVAE,
    Recipe,
    bridge,
    bridge_distances,
    exponents,
    follow,
    summarise,
    trial,
    what_helps,
    where,
)
from latentgeo.paper.models.vae import VAE, build_vae


def made_table(ends, path, **columns):
    """Geodesics and chords with given logarithms of chord and stretch, arrays (S, P)."""
    values = {"geodesic": np.exp(ends + path), "ambient_chord": np.exp(ends)}
    parts = [pd.DataFrame(of).stack().rename("value").reset_index().assign(method=m) for m, of in values.items()]
    table = pd.concat(parts).rename(columns={"level_0": "seed", "level_1": "pair"})
    return table.assign(**columns)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_ends_and_paths_are_the_parts_that_the_table_was_made_of():
    ends, path = 0.03 * normal(0, 400, 50), 0.3 + 0.05 * normal(1, 400, 50)
    table, truth = made_table(ends, path), np.exp(0.25) * np.linspace(1, 2, 50)
    found = summarise(table, base=made_table(ends, path / 2))
    assert found["ends"] == pytest.approx(0.03, rel=0.02)
    assert found["path"] == pytest.approx(0.05, rel=0.02)
    assert found["path_ratio"] == pytest.approx(2, rel=1e-9)
    few, other = (made_table(normal(s, 6, 40) / 50, normal(s + 1, 6, 40) / 20) for s in (0, 2))
    same = summarise(few, base=other)
    assert (same["path_p"] < 0.05) == (not same["path_ratio_low"] < 1 < same["path_ratio_high"])
    split = split_into_ends_and_path(table)
    assert found["path"] ** 2 / split["variance"] == pytest.approx(split["path"], rel=1e-9)
    longer = made_table(ends + np.log(truth) - 0.25, path)
    assert summarise(longer, truth)["error"] == pytest.approx(0.05, abs=0.002)
    assert summarise(longer, truth)["r"] > summarise(table, truth)["r"]


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(60):
        found = summarise(made_table(normal(2 * seed, 6, 40) / 30, normal(2 * seed + 1, 6, 40) / 20), resamples=200)
        held.append(found["path_low"] < 1 / 20 < found["path_high"])
    assert np.mean(held) > 0.85


def test_variance_of_models_that_are_the_same_is_none():
    assert moments(np.ones((3, 4)), None)[1].tolist() == [0.0] * 4
    logs = normal(0, 5, 7)
    np.testing.assert_allclose(moments(logs, None)[1], logs.var(0, ddof=1))
    np.testing.assert_allclose(moments(logs, np.ones((1, 5)))[1][0], logs.var(0, ddof=1) * 5 / 4)
    one_alone = moments(logs, 5.0 * np.eye(5))[1]
    assert (one_alone == 0).all()  # whose logarithm says so, as that of rounding would not


@pytest.mark.parametrize(("b", "c"), [(1.0, 1.0), (0.0, 1.0), (0.5, 0.0)])
def test_exponents_are_those_by_which_the_variances_fall(b, c):
    cells = []
    for share in (0.0, 0.01, 0.1):
        for n in (500, 2000):
            size = 0.05 if share == 0 else 0.05 * (share / 0.1) ** (-b / 2) * (n / 500) ** (-c / 2)
            # The same deviations, scaled, so that the fit is exact.
            cells.append(made_table(0.01 * normal(0, 5, 30), 0.2 + size * normal(1, 5, 30), share=share, n=n))
    found = exponents(pd.concat(cells), np.ones(30), resamples=100)
    assert found.loc["path", ["share", "n"]].tolist() == pytest.approx([b, c], abs=1e-6)
    assert found.loc["ends", ["share", "n"]].tolist() == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(ValueError, match="at least two shares"):
        exponents(cells[0], np.ones(30))


def arcs(S, bend, gap):
    """Curves of images that leave their chords as half waves of given heights, (S, P), with gaps (P,) in the middle."""
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    P = bend.shape[1]
    line = torch.stack([t, torch.zeros(9), torch.zeros(9)], 1).expand(P, 9, 3)
    hump = torch.sin(math.pi * t)
    followed = []
    for s in range(S):
        images = line.clone()
        images[..., 1] = bend[s][:, None] * hump
        length = (images.diff(dim=1)).norm(dim=-1).sum(1)
        gaps = 1 + gap[:, None] * hump
        followed.append(Followed(images, gaps, length, torch.ones(P, dtype=torch.bool)))
    return followed


def test_models_that_bend_differently_where_there_are_no_data_are_seen_to():
    gap = torch.linspace(0, 2, 40, dtype=torch.float64)
    bend = torch.from_numpy(0.5 + 0.1 * normal(0, 8, 40)) * (0.2 + gap)
    found = where(arcs(8, bend, gap), resamples=100)
    middle = found.profile.iloc[4]
    assert middle["t"] == 0.5
    assert found.profile["ends"].max() < 1e-9  # all have the same ends
    assert found.profile["path"].iloc[[0, -1]].max() < 1e-9
    assert middle["path"] == pytest.approx(bend.var(0).mean().sqrt().item(), rel=1e-6)
    assert found.relation["rho"] > 0.7
    assert found.relation["p"] < 0.05
    assert middle["gap"] == pytest.approx((1 + gap).square().mean().sqrt().item(), rel=1e-6)


def test_bends_that_have_nothing_to_do_with_the_data_are_not():
    gap = torch.linspace(0, 2, 40, dtype=torch.float64)
    drawn = [where(arcs(6, torch.from_numpy(0.5 + 0.1 * normal(s, 6, 40)), gap), resamples=60) for s in range(10)]
    assert np.mean([of.relation["p"] < 0.05 for of in drawn]) <= 0.3
    assert abs(np.mean([of.relation["rho"] for of in drawn])) < 0.2


def test_the_relation_is_not_that_of_longer_chords():
    """Where long pairs lead far from the data and vary more, but for no other reason, only the plain one sees it."""
    P = 200
    size = torch.linspace(0.5, 2, P, dtype=torch.float64)
    followed = arcs(6, torch.from_numpy(0.5 + 0.1 * normal(0, 6, P)), size + torch.from_numpy(0.3 * normal(1, P)))
    scaled = [of._replace(images=of.images * size[:, None, None]) for of in followed]
    scaled = [
        of._replace(length=size * torch.exp(size * torch.from_numpy(0.1 * normal(9 + s, P))))
        for s, of in enumerate(scaled)
    ]
    found = where(scaled, resamples=100).relation
    assert found["rho"] > 0.3
    assert abs(found["partial"]) < 0.25


def test_a_model_without_a_gap_is_followed_along_its_surface():
    """A perfect model of the cylinder: the length is the arc, and the gap is that of the data along it."""

    class Cylinder(torch.nn.Module):
        def forward(self, z):
            return cylinder(z)

    class Perfect(VAE):
        def posterior(self, x):
            z = torch.stack([torch.atan2(x[:, 1], x[:, 0]), x[:, 2]], 1)
            return z, torch.zeros_like(z)

    model = Perfect(torch.nn.Identity(), [Cylinder()]).eval()
    u = torch.tensor([[-1.0, 0.0], [1.0, 0.3]], dtype=torch.float64)
    x = cylinder(u)
    found = follow(model, x[:1], x[1:], x, times=5)
    assert found.length.item() == pytest.approx(math.hypot(2, 0.3), rel=1e-4)
    torch.testing.assert_close(found.images[0, [0, -1]], x, atol=1e-5, rtol=0)
    middle = cylinder(u.mean(0))
    assert found.gap[0, 2].item() == pytest.approx((middle - x[0]).norm().item(), rel=1e-3)
    assert found.converged.all()
    with pytest.raises(ValueError, match="3, 5, 9 or 17"):
        follow(model, x[:1], x[1:], x, times=4)


def test_the_weight_of_the_variance_is_that_of_the_metric():
    torch.manual_seed(0)
    decoders = [torch.nn.Linear(2, 5).double() for _ in range(3)]
    J = torch.stack([f.weight.detach() for f in decoders])
    z = torch.zeros(1, 2, dtype=torch.float64)
    for weight in (0.0, 1.0, 10.0):
        mean, left = J.mean(0), J - J.mean(0)
        expected = mean.T @ mean + weight * torch.einsum("kij,kil->jl", left, left) / 3
        torch.testing.assert_close(lg.pullback_metric(NearData(decoders, weight), z)[0], expected)
    expected = lg.pullback_metric(lg.Ensemble(decoders), z)
    torch.testing.assert_close(lg.pullback_metric(NearData(decoders, 1.0), z), expected)
    with pytest.raises(ValueError, match="weight of at least 0"):
        NearData(decoders, -1.0)


def test_latent_noise_widens_the_posterior_and_none_changes_nothing():
    made = build_vae("mlp", (3,), 2, 1, seed=0)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    plain = made.posterior(x)
    none, some = (NoisyVAE(made.encoder, list(made.decoders), 1.0, of) for of in (0.0, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(none.posterior(x), plain, strict=True))
    torch.testing.assert_close(some.posterior(x)[1].exp(), plain[1].exp() + 0.25)
    with pytest.raises(ValueError, match="latent_noise"):
        NoisyVAE(made.encoder, list(made.decoders), 1.0, -1.0)
    with pytest.raises(ValueError, match="got both"):
        Recipe(isometry=1.0, latent_noise=0.1)


def test_the_bridge_has_the_share_that_it_says_and_its_distances_are_those_of_the_cylinder():
    data = bridge(2000, 0.1, 0, pairs=5)
    angle = torch.atan2(data.train[:, 1], data.train[:, 0])
    assert (angle.abs() < 0.5).double().mean().item() == pytest.approx(0.1 / (2 * APART), abs=0.015)
    empty = torch.atan2(*bridge(2000, 0.0, 0, pairs=5).train.T[[1, 0]])
    assert (empty.abs() < 0.3).sum() == 0
    start, end = ends_and_paths._bridge_pairs(5)
    x = data.test.double()
    u = torch.stack([torch.atan2(x[:, 1], x[:, 0]), x[:, 2]], 1)
    truth = bridge_distances(5)
    np.testing.assert_allclose((u[start] - u[end]).norm(dim=1).numpy(), truth, atol=1e-6)
    exact = lg.geodesic(cylinder, u[start], u[end], tol=1e-8).length
    np.testing.assert_allclose(exact.numpy(), truth, rtol=1e-4)
    assert truth[:5].min() > 1.5
    assert truth[5:].max() < 1.5
    assert data.sha256 != bridge(2000, 0.1, 1, pairs=5).sha256
    with pytest.raises(ValueError, match="share from 0 to 1"):
        bridge(100, 1.5, 0, pairs=5)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    study = Bridge((0.01, 0.2), (200,), 3, pairs=2, steps=150, store=tmp_path_factory.mktemp("runs"))
    return study, study.run(workers=0)


@pytest.mark.thorough
def test_models_of_bridges_are_kept_and_measured_across_and_within(crossed):
    study, table = crossed
    assert set(study.numbers) <= set(table)
    assert table.groupby("across")["pair"].nunique().to_dict() == {False: 2, True: 2}
    again = dataclasses.replace(study).run(workers=0)
    pd.testing.assert_frame_equal(table, again)
    found = exponents(table[table["across"]], bridge_distances(2)[:2], resamples=50)
    assert list(found.index) == ["ends", "path", "error"]
    assert list(found) == ["share", "share_low", "share_high"]
    with pytest.raises(ValueError, match="shares"):
        Bridge((2.0,), (200,), 3)


def test_recipes_are_tried_on_the_same_pairs(crossed):
    recipes = {BASE: Recipe(), "2 decoders": Recipe(2, variances=(1.0, 10.0)), "noise": Recipe(latent_noise=0.1)}
    table = what_helps(["bridge"], recipes, range(2), 3, steps=40, workers=0)
    names = [BASE, "2 decoders", "2 decoders, variance × 10", "noise"]
    assert list(table["recipe"].unique()) == names
    assert len(table) == len(names) * 2 * 3 * table["method"].nunique()
    assert np.isfinite(table["loss"]).all()
    ends = table[table["method"] == "ambient_chord"].pivot_table(
        index=["seed", "pair"], columns="recipe", values="value"
    )
    assert (ends["2 decoders, variance × 10"] >= ends["2 decoders"] - 1e-6).all()  # dearer, never cheaper
    assert not np.allclose(ends[BASE], ends["noise"])
    with pytest.raises(ValueError, match="expected a trial"):
        trial("nothing", 3)
    assert set(RECIPES) == {"quick", "evidence", "paper"}


def test_the_loss_that_is_told_is_that_of_data_that_no_model_has_seen():
    of = trial("position", 3)
    assert of.held_out.shape == (1000, 1, 16, 16)
    assert not (of.held_out[:300] == of.data.train).all(dim=(1, 2, 3)).any()
    assert of.held_out.std().item() == pytest.approx(of.data.train.std().item(), rel=0.05)
    digits = trial("digits", 3)
    assert digits.truth is None
    assert len(digits.data.test) == 6


def test_the_figure_shows_every_recipe(crossed):
    _, table = crossed
    across = table[table["across"]]
    cells = pd.DataFrame({key: summarise(of) for key, of in across.groupby("share")}).T.rename_axis("share")
    gap = torch.linspace(0, 2, 10, dtype=torch.float64)
    found = where(arcs(4, torch.from_numpy(0.5 + 0.1 * normal(0, 4, 10)), gap), resamples=20)
    base = summarise(across[across["share"] == 0.2], base=across[across["share"] == 0.2])
    recipes = pd.DataFrame([base | {"trial": "bridge", "recipe": of} for of in ("one", "two")])
    figure = figures.ends_and_paths({"short": found, "long": found}, cells, recipes)
    texts = {text.get_text() for ax in figure.axes for text in ax.get_yticklabels()}
    assert {"one", "two"} <= texts


def test_samples_of_less_than_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"sizes: expected some of at least a batch of 64, got \(50,\)"):
        ends_and_paths.Bridge((0.1,), (50,), 3)
