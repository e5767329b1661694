import numpy as np
import pytest
import torch

import latentgeo as lg
from latentgeo.paper.ensembles import ensemble_distances
from latentgeo.paper.models.training import TrainingConfig


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    training = TrainingConfig(epochs=2, batch_size=64, learning_rate=4e-3, warmup_steps=10)
    store = tmp_path_factory.mktemp("runs")
    return lg.paper.Study(
        "digits", "mlp", seeds=2, pairs=6, latent_dim=2, decoders=4, training=training, store=store, points="mean"
    )


OPTIONS = {"sizes": (1, 4), "points": (8, 32), "audited": 3, "workers": 0}


@pytest.mark.thorough
def test_tables_hold_what_they_say_and_come_from_the_store(study, monkeypatch):
    table = ensemble_distances(study, **OPTIONS)
    wide = table.pivot(index=["seed", "pair"], columns="method", values="value")
    reference = study.run(workers=0).pivot(index=["seed", "pair"], columns="method", values="value")
    np.testing.assert_allclose(wide["geodesic_4"], reference["geodesic"], rtol=1e-4)
    np.testing.assert_allclose(wide["geodesic_1"], reference["geodesic_one_decoder"], rtol=1e-4)
    audited = wide.loc[(slice(None), slice(0, 2)), :]
    assert audited.notna().all(axis=None)
    assert wide["draws_8"].notna().sum() == 2 * 3
    # Energy is the sum of both parts, and a length is at most the root of the energy.
    for N in (8, 32):
        root = np.hypot(audited[f"draws_{N}_chords"], audited[f"draws_{N}_disagreement"])
        assert (audited[f"draws_{N}"] <= root * (1 + 1e-6)).all()
    assert (audited["draws_32"] > 2 * audited["draws_8"]).all()  # no limit
    np.testing.assert_allclose(audited["draws_32_chords"], audited["draws_8_chords"], rtol=0.1)  # a limit
    monkeypatch.setattr("latentgeo.paper.study.run_jobs", None)
    assert ensemble_distances(study, **OPTIONS).equals(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (8,)}, "between 1 and the 4 decoders"),
        ({"points": (0,)}, "N ≥ 1"),
        ({"audited": 7}, "between 1 and the 6 pairs"),
    ],
)
def test_what_cannot_be_measured_is_refused(study, change, message):
    with pytest.raises(ValueError, match=message):
        ensemble_distances(study, **(OPTIONS | change))


def test_independent_draws_are_the_mean_over_all_draws():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    decoders = [lambda z, w=w: torch.tanh(z @ w) for w in weights]
    curves = torch.randn(4, 7, 2, generator=generator, dtype=torch.float64)
    draws = lg.paper.IndependentDraws(decoders)
    chords, disagreement = draws.terms(curves)
    images = torch.stack([decoder(curves) for decoder in decoders])  # [K, P, N + 1, D]
    squared = torch.stack([(a[:, 1:] - b[:, :-1]).square().sum(-1) for a in images for b in images])
    torch.testing.assert_close(chords + disagreement, squared.mean(0))
    torch.testing.assert_close(draws.length(curves), squared.sqrt().mean(0).sum(1))
    same = lg.paper.IndependentDraws([decoders[0]] * 2)
    torch.testing.assert_close(same.length(curves), lg.geometry.curve.chord_length(decoders[0], curves))


def test_independent_draws_refuse_what_they_cannot_draw_from():
    with pytest.raises(ValueError, match="at least two decoders, got 1"):
        lg.paper.IndependentDraws([torch.tanh])
    with pytest.raises(ValueError, match=r"curves of shape \(P, N \+ 1, d\)"):
        lg.paper.IndependentDraws([torch.tanh, torch.sin]).length(torch.zeros(3, 2))
