import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import latentgeo as lg
from latentgeo.agreement import pairs
from latentgeo.agreement.pairs import IDENTIFIED, METHODS, draw_pairs, measure_pairs, pair_distances
from latentgeo.geometry import decoder as geometry_decoder
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.surfaces import sphere, sphere_distance
from tests.conftest import mlp


def test_the_pairs_are_the_papers():
    np.random.seed(101)  # the rule as the paper states it, with the global generator
    start, end = np.random.choice(10_000, 100, replace=False), np.random.choice(10_000, 100, replace=False)
    a, b = draw_pairs(10_000, 100)
    assert np.array_equal(a, start)
    assert np.array_equal(b, end)


def test_no_image_is_paired_with_itself():
    for seed in range(20):
        a, b = draw_pairs(12, 12, seed)
        assert (a != b).all()
        assert sorted(a) == sorted(b) == list(range(12))


def test_more_pairs_than_images_are_refused():
    with pytest.raises(ValueError, match="between 1 and 10 pairs"):
        draw_pairs(10, 11)


def test_every_method_measures_what_it_says():
    model = lg.paper.build_vae("mlp", (1, 8, 8), latent_dim=3, decoders=2, seed=0).eval()
    x, y = torch.rand(2, 5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    table = pair_distances(model, x, y, points="mean")
    assert (table["points"] == "mean").all()
    assert table["unique"].all()
    assert table["method"].unique().tolist() == list(METHODS)
    assert table.groupby("method")["pair"].apply(list).map(lambda p: p == list(range(5))).all()
    value = table.pivot(index="pair", columns="method", values="value")
    a, b = model.encode(x), model.encode(y)
    np.testing.assert_allclose(value["euclidean"], (a - b).norm(dim=1))
    np.testing.assert_allclose(value["data"], (x - y).flatten(1).norm(dim=1), rtol=1e-6)
    np.testing.assert_allclose(value["geodesic"], lg.distance(model.decode, a, b), rtol=1e-3)
    np.testing.assert_allclose(value["geodesic_one_decoder"], lg.distance(model.decoders[0], a, b), rtol=1e-3)
    assert (value["ambient_chord"] <= value["geodesic"] * 1.0001).all()
    assert (value["geodesic"] <= value["straight_line"] * 1.001).all()
    assert table["converged"].all()


@pytest.mark.thorough
@pytest.mark.parametrize("points", ["nearest", "posterior"])
def test_between_identified_points_coordinates_do_not_matter_and_between_means_they_do(points):
    model = lg.paper.build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=2, seed=0, activation="tanh").eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2.0  # an untrained decoder is nearly flat
    bent = lg.reparametrise(model, lg.random_flow(2, seed=1))
    codes = torch.randn(2, 10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = (model.decoders[0](z).detach() for z in codes)
    here, there = (pair_distances(m, x, y, points=points).query("method == 'geodesic'") for m in (model, bent))
    sure = here["unique"] & there["unique"] & here["converged"] & there["converged"]
    assert sure.mean() > 0.8
    off = (there["value"] / here["value"] - 1).abs()
    assert (off <= here["error"] + there["error"] + 1e-6)[sure].all()
    # The control: a mean over draws of the posterior is another point in other coordinates.
    noise = torch.randn(300, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws = torch.cat([noise, -noise])
    of = [torch.stack([m.posterior_sampler(x)(e.expand(10, 2)) for e in draws]).mean(0) for m in (model, bent)]
    apart = (model.decode(of[0]) - bent.decode(of[1])).flatten(1).norm(dim=1)
    assert (apart / torch.from_numpy(here["value"].to_numpy())).median() > 1e-2


def _table(decoder, start, end, **options):
    table, _ = measure_pairs(as_decoder(decoder, start), start, end, **options)
    return table.set_index(["method", "pair"])


def test_distances_on_the_circle_are_angles_and_chords():
    angle = torch.tensor([[0.1], [1.0], [2.5]], dtype=torch.float64)
    table = _table(lambda z: 3.0 * torch.cat([z.cos(), z.sin()], -1), 0 * angle, angle, segments=64)
    expected = {"euclidean": angle, "geodesic": 3 * angle, "straight_line": 3 * angle}
    expected["ambient_chord"] = 6 * (angle / 2).sin()
    for method, value in expected.items():
        off = np.abs(table.loc[method, "value"] / value[:, 0].numpy() - 1)
        assert off.max() < 1e-6
        assert (off <= table.loc[method, "error"] + 1e-9).all()
    assert (table.loc["straight_line", "error"] > 0).all()
    assert table["converged"].all()


def test_distances_on_the_sphere_are_great_circles():
    # Stereographic coordinates: a line through the pole is a great circle, others are not.
    start = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    end = torch.tensor([[0.5, 0.0], [0.0, 1.0]], dtype=torch.float64)
    table = _table(sphere, start, end, segments=64, tol=1e-8)
    arc = sphere_distance(start, end).numpy()
    np.testing.assert_allclose(table.loc["geodesic", "value"], arc, rtol=1e-6)
    np.testing.assert_allclose(table.loc["ambient_chord", "value"], 2 * np.sin(arc / 2), rtol=1e-12)
    # The metric is 2 |dz| / (1 + |z|^2), so that the second line is longer: sqrt(2) 2 pi / 3^(3/2) instead of pi / 2.
    lines = [arc[0], 2**0.5 * 2 * np.pi / 3**1.5]
    np.testing.assert_allclose(table.loc["straight_line", "value"], lines, rtol=1e-6)


def test_what_is_identified_survives_other_coordinates_and_nothing_else_does():
    f, A = mlp(0, d=2), lg.random_flow(2, seed=0)
    start, end = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"segments": 64, "tol": 1e-8}
    here = _table(f, start, end, one_decoder=as_decoder(f, start), **options)["value"]
    there = lg.reparametrise(f, A)
    moved = _table(there, A(start), A(end), one_decoder=as_decoder(there, start), **options)["value"]
    off = (moved / here - 1).abs().groupby("method").max()
    assert (off[list(IDENTIFIED)] < 1e-4).all()
    assert (off[off.index.difference(IDENTIFIED)] > 1e-2).all()
    assert set(off.index) == set(METHODS) - {"data"}


def test_a_single_decoder_is_solved_once(monkeypatch):
    model = lg.paper.build_vae("mlp", (1, 8, 8), latent_dim=2, decoders=1, seed=0).eval()
    x, y = torch.rand(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    solved, solve = [], pairs.solve
    monkeypatch.setattr(pairs, "solve", lambda f, *rest: solved.append(f) or solve(f, *rest))
    value = pair_distances(model, x, y).pivot(index="pair", columns="method", values="value")
    assert (value["geodesic_one_decoder"] == value["geodesic"]).all()
    assert len(solved) == 1


def test_equal_points_have_no_distance_and_no_error():
    z = torch.ones(2, 3, dtype=torch.float64)
    table = _table(mlp(0), z, z, ends=(z, z))
    assert (table[["value", "error"]] == 0).all(axis=None)


def test_decoding_in_parts_changes_nothing(monkeypatch):
    f, (start, end) = mlp(0), torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = []

    def counted(z):
        rows.append(len(z))
        return f(z)

    whole = _table(counted, start, end)
    assert 7 * 65 in rows  # points of the straight lines
    rows.clear()
    monkeypatch.setattr(geometry_decoder, "_ENTRIES", 7 * 2 * 65)  # numbers of two lines
    pd.testing.assert_frame_equal(_table(counted, start, end), whole, rtol=1e-12)
    assert 7 * 65 not in rows
    assert 2 * 65 in rows


def test_failure_is_in_the_table_and_not_warned_of():
    z = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = _table(mlp(0), z[:2], z[2:], tol=1e-30, max_iter=1)
    assert not table.loc["geodesic", "converged"].any()
    assert table.drop("geodesic", level="method")["converged"].all()


def test_agreement_study_and_explorer_give_the_same_numbers():
    f, x = mlp(0, d=2), torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decoder = lg.Ensemble([f])
    model = (lambda x: 1.5 * x, decoder)
    other = (lambda x: 2.0 * x, decoder)
    mean = {"points": "mean"}
    of_agreement = lg.agreement({"one": model, "other": other}, x, pairs=([3], [7]), check=False, **mean).distances
    of_agreement = of_agreement[of_agreement["model"] == "one"].set_index("method")
    of_explorer = lg.explore(model, x, **mean).select(3, 7).distances
    namespace = SimpleNamespace(encode=model[0], decode=decoder)
    of_study = pair_distances(namespace, x[[3]], x[[7]], **mean).set_index("method")
    columns = ["value", "converged", "error"]
    pd.testing.assert_frame_equal(of_agreement[columns], of_explorer[columns], check_exact=True)
    # The other two have data at hand, from which they also start.
    of_study, claimed = of_study.loc[of_explorer.index], of_explorer["error"].max()
    pd.testing.assert_frame_equal(of_study[["value", "converged"]], of_explorer[["value", "converged"]], rtol=claimed)
