import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions.transforms import ComposeTransform

import latentgeo as lg
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.surfaces import sphere
from latentgeo.paper import figures
from latentgeo.paper.angles_and_volumes import (
    draw_corners,
    heron,
    in_other_coordinates,
    measure_simplices,
    simplices,
    worth,
)
from latentgeo.paper.models.vae import build_vae


def _values(f, z, rank, **options):
    table = measure_simplices(as_decoder(f, z[0]), z, rank=rank, **options)
    assert table["converged"].all()
    return table.set_index(["method", "pair"])["value"].unstack()


def _normal(z):
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


def test_an_octant_of_the_sphere_has_its_angles_areas_and_excess():
    z = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    found = _values(sphere, z, rank=2, tol=1e-12, segments=32)[0]
    quarter = math.pi / 2
    expected = {
        "angle: geodesic": 90.0,
        "excess: geodesic": 90.0,
        "area: geodesic": math.sqrt(3) / 4 * quarter**2,  # of the flat triangle with the same sides
        "enclosed area: geodesic": quarter,
        "volume 1: geodesic": quarter,
        "volume 2: geodesic": quarter**2 / 2,  # of the triangle of the logarithms
        "volume 2: ambient_chord": math.sqrt(3) / 2,
        "volume element: geodesic": math.log(4.0),  # of stereographic coordinates at the pole
        "density: geodesic": -math.log(2 * math.pi) - math.log(4.0),
        "angle: ambient_chord": 60.0,
        "angle: euclidean": 90.0,
        "area: euclidean": 0.5,
        "density: euclidean": -math.log(2 * math.pi),
    }
    assert found[list(expected)].to_dict() == pytest.approx(expected, rel=1e-5)


def test_on_a_plane_every_volume_is_that_of_linear_algebra():
    random = torch.Generator().manual_seed(0)
    M = torch.randn(7, 4, dtype=torch.float64, generator=random)
    z = torch.randn(5, 6, 4, dtype=torch.float64, generator=random)
    found = _values(lambda z: z @ M.T, z, rank=4)
    sides = (z[1:] - z[0]).movedim(0, -1)  # [P, d, k]
    for k in range(1, 5):
        gram = (M @ sides[..., :k]).mT @ (M @ sides[..., :k])
        expected = torch.linalg.det(gram).sqrt() / math.factorial(k)
        for method in ("geodesic", "ambient_chord"):
            np.testing.assert_allclose(found.loc[f"volume {k}: {method}"], expected, rtol=1e-6)
        np.testing.assert_allclose(
            found.loc[f"volume {k}: euclidean"],
            torch.linalg.det(sides[..., :k].mT @ sides[..., :k]).sqrt() / math.factorial(k),
            rtol=1e-6,
        )
    np.testing.assert_allclose(found.loc["excess: geodesic"], 0.0, atol=1e-4)
    np.testing.assert_allclose(found.loc["angle: geodesic"], found.loc["angle: ambient_chord"], atol=1e-4)
    np.testing.assert_allclose(found.loc["area: geodesic"], found.loc["volume 2: geodesic"], rtol=1e-6)
    np.testing.assert_allclose(
        found.loc["density: geodesic"], _normal(z[0]) - 0.5 * torch.linalg.slogdet(M.T @ M).logabsdet, rtol=1e-9
    )


def test_dimensions_that_the_decoder_ignores_change_nothing_on_the_active_subspace():
    random = torch.Generator().manual_seed(0)
    z = 0.5 * torch.randn(3, 2, 2, dtype=torch.float64, generator=random)
    junk = torch.randn(3, 2, 3, dtype=torch.float64, generator=random)
    alone = _values(sphere, z, rank=2)
    beside = _values(lambda z: sphere(z[:, 1:3]), torch.cat([junk[..., :1], z, junk[..., 1:]], -1), rank=2)
    shared = [of for of in beside.index if not of.endswith("euclidean") and of in alone.index]
    np.testing.assert_allclose(beside.loc[shared], alone.loc[shared], rtol=2e-3, atol=1e-2)
    np.testing.assert_allclose(beside.loc["density: euclidean"], alone.loc["density: euclidean"], rtol=1e-9)
    for control in ("angle", "area", "volume 2"):
        assert not np.allclose(beside.loc[f"{control}: euclidean"], alone.loc[f"{control}: euclidean"], rtol=0.01)


def test_identified_quantities_survive_other_coordinates_and_no_others_do():
    model = build_vae("mlp", (1, 4, 4), latent_dim=2, decoders=1, seed=0, activation="tanh").eval()
    codes = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    data = model.decoders[0](codes).detach().unflatten(0, (3, 2))  # near the image, or no nearest points would be
    transform = ComposeTransform([lg.RadialTwist(0.3), lg.CoordinateWarp(1.5, 0.3)])
    table = in_other_coordinates(model, transform, *data)
    identified = table[table["identified"]]
    assert (identified["within"] == 1.0).all()
    assert (identified["unconverged"] == 0.0).all()
    assert (identified["difference"] < 0.05).all()
    assert (table.loc[~table["identified"], "difference"] > 0.01).all()
    assert len(identified) == 11


def test_corners_are_different_data_and_too_few_data_are_refused():
    corners = np.array(draw_corners(20, 20, 6))
    assert all(len(set(of)) == 6 for of in corners.T)
    assert all(len(set(of)) == 20 for of in corners)
    with pytest.raises(ValueError, match="expected data for 21 simplices of 3 corners, got 20"):
        draw_corners(20, 21, 3)
    z = torch.zeros(3, 1, 2).double()
    with pytest.raises(ValueError, match="at least three corners"):
        measure_simplices(as_decoder(sphere, z[0]), z[:2], rank=2)
    with pytest.raises(ValueError, match="none for an active subspace"):
        measure_simplices(as_decoder(sphere, z[0]), z, rank=1, log_prior=_normal)


def test_needles_have_no_area():
    sides = torch.tensor([[2.0, 5.0], [1.0, 1.0], [1.0, 1.0]])
    assert heron(sides).tolist() == [0.0, 0.0]


def test_a_model_is_measured_between_points_and_posterior_means():
    model = build_vae("mlp", (1, 8, 8), latent_dim=3, decoders=2, seed=0, activation="tanh").eval()
    data = torch.rand(4, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    table = simplices(model, *data, rank=3, points="mean")
    value = table.set_index(["method", "pair"])["value"].unstack()
    for quantity in ("angle", "area", "density", "volume 3"):
        np.testing.assert_allclose(value.loc[f"{quantity}: euclidean"], value.loc[f"{quantity}: euclidean_means"])
    assert not np.allclose(value.loc["angle: euclidean"], value.loc["angle: geodesic"], rtol=0.01)


def _synthetic(noise, S=40, P=50):
    """Angles and areas of S models, with a known spread over models, and signals of one radian or log unit."""
    random, rows = np.random.default_rng(0), []
    signal = random.standard_normal(P)
    for method, of in noise.items():
        y = signal + of * random.standard_normal((S, P)) + 0.3 * random.standard_normal((S, 1))
        for quantity, value in {"angle": np.degrees(y), "area": np.exp(y), "volume element": y}.items():
            if quantity == "volume element" and method != "geodesic":
                continue
            seed, pair = np.indices(y.shape)
            columns = {"seed": seed.ravel(), "pair": pair.ravel(), "value": value.ravel()}
            rows.append(pd.DataFrame(columns).assign(quantity=quantity, method=method, converged=True))
    return pd.concat(rows, ignore_index=True)


def test_noise_and_signal_are_those_that_were_put_in_and_figures_show_them():
    noise = {"geodesic": 0.1, "ambient_chord": 0.05, "euclidean": 0.3, "euclidean_means": 0.2}
    found = worth(_synthetic(noise), resamples=200)
    for method, of in noise.items():
        assert found.loc[("angle", method), "noise_free"] == pytest.approx(np.degrees(of), rel=0.05)
        assert found.loc[("area", method), "noise_free"] == pytest.approx(of, rel=0.05)
        assert found.loc[("area", method), "noise"] == pytest.approx(math.hypot(of, 0.3), rel=0.25)
        assert found.loc[("area", method), "signal_to_noise"] == pytest.approx(0.95 / of, rel=0.15)
    ratio = found.loc[("area", "geodesic"), ["signal_ratio_low", "signal_ratio", "signal_ratio_high"]]
    assert ratio.is_monotonic_increasing
    assert ratio["signal_ratio"] == pytest.approx(2.0, rel=0.1)
    assert np.isnan(found.loc[("angle", "geodesic"), "mean_cv"])
    assert np.isnan(found.loc[("volume element", "geodesic"), "signal_ratio"])
    assert found.loc[("volume element", "geodesic"), "noise_free"] == pytest.approx(0.1, rel=0.05)
    figure = figures.angles_and_volumes({"one": found, "two": found})
    assert figure.legends[0].get_texts()[0].get_text() == "geodesic, nearest points"
