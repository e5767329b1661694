import numpy as np
import pytest
import torch

import latentgeo as lg
from latentgeo.agreement.pairs import METHODS, draw_pairs, pair_distances


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
    table = pair_distances(model, x, y)
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
