"""Geodesic distances among scikit-learn's estimators."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import MDS
from sklearn.metrics import adjusted_rand_score, pairwise_distances
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import latentgeo as lg
from latentgeo.adapters.sklearn import GeodesicDistance
from tests.conftest import mlp
from tests.surfaces import hill, ring


def _not_met(estimator):
    return {"check_transformer_n_iter": "fit keeps rows and iterates nothing; max_iter is for geodesics of transform"}


@parametrize_with_checks([GeodesicDistance()], expected_failed_checks=_not_met)
def test_scikit_learn_s_own_checks(estimator, check):
    check(estimator)


def circle(z):
    """Isometric to the line, bent round: distances are differences of angles up to π."""
    return torch.cat([z.cos(), z.sin()], -1)


@pytest.fixture
def codes(random):
    return torch.randn(8, 3, generator=random, dtype=torch.float64).numpy()


def test_the_identity_gives_euclidean_distances(codes):
    found = GeodesicDistance().fit(codes[:5]).transform(codes)
    assert np.allclose(found, pairwise_distances(codes, codes[:5]), rtol=1e-12, atol=1e-12)


def test_distances_are_those_of_the_package(decoder, codes):
    square = GeodesicDistance(decoder, segments=8).fit_transform(codes)
    assert np.array_equal(square, lg.distance_matrix(decoder, codes, segments=8))
    assert np.array_equal(square, square.T)
    assert not square.diagonal().any()
    again, error = GeodesicDistance(decoder, segments=8).fit(codes).transform_with_error(codes[:3])
    assert np.allclose(again, square[:3], rtol=1e-4, atol=1e-12)
    assert error.shape == (3, 8)
    assert error.max() < 1e-2
    assert not np.allclose(square, pairwise_distances(codes), rtol=0.1)  # the control: the decoder matters


def test_distances_are_sought_along_the_reference_rows_on_request():
    codes = ring(12).numpy()
    over, round_it = (GeodesicDistance(hill, along_data=along).fit(codes) for along in (False, True))
    square = GeodesicDistance(hill, along_data=True).fit_transform(codes)
    assert round_it.transform(codes[:1])[0, 6] < 0.95 * over.transform(codes[:1])[0, 6]
    assert np.allclose(round_it.transform(codes[:3]), square[:3], rtol=1e-3)
    assert np.array_equal(square, lg.distance_matrix(hill, codes, data=codes))


def test_a_reparametrised_model_gives_the_same_distances(decoder, codes, random):
    twist = lg.RadialTwist(0.1)
    turned = twist(torch.from_numpy(codes)).numpy()
    here = GeodesicDistance(decoder, segments=16, tol=1e-7).fit_transform(codes)
    there = GeodesicDistance(lg.reparametrise(decoder, twist), segments=16, tol=1e-7).fit_transform(turned)
    assert np.allclose(here, there, rtol=2e-4)
    assert not np.allclose(pairwise_distances(codes), pairwise_distances(turned), rtol=0.05)  # the control


def test_types_go_in_and_out(codes):
    single = codes.astype(np.float32)
    found = {
        "no parameters": GeodesicDistance(circle).fit(single[:, :1]).transform(single[:, :1]),
        "parameters in double": GeodesicDistance(mlp(0), segments=8).fit(single).transform(single[:2]),
    }
    assert {each.dtype for each in found.values()} == {np.dtype("float32")}
    # Computed in the type of the parameters: input in double gives the same to single precision.
    double = GeodesicDistance(mlp(0).float(), segments=8).fit(codes).transform(codes[:2])
    assert double.dtype == np.float64
    assert np.allclose(double, found["parameters in double"], rtol=1e-3, atol=1e-4)
    assert GeodesicDistance().fit_transform([[0], [3]]).tolist() == [[0.0, 3.0], [3.0, 0.0]]
    assert GeodesicDistance().fit(single).codes_.dtype == np.float32


def test_models_encode_their_data_whatever_its_shape():
    vae = lg.paper.build_vae("mlp", (1, 8, 8), 2, decoders=2, seed=0, activation="tanh").eval()
    images = load_digits().images[:6].astype(np.float32) / 16
    flat = images.reshape(6, 64)
    found = GeodesicDistance(vae, points="mean", event_shape=(1, 8, 8), segments=8).fit(flat).transform(flat[:2])
    z = vae.encode(torch.from_numpy(images[:, None]))
    expected = lg.distance(vae.decode, z[[0, 1]], z[[3, 4]], segments=8).numpy()
    assert np.allclose(found[[0, 1], [3, 4]], expected, rtol=1e-3)
    nearest = GeodesicDistance(vae, event_shape=(1, 8, 8), segments=8).fit(flat).transform(flat[:2])
    z = lg.project(vae.decode, torch.from_numpy(images[:, None]), z).codes
    expected = lg.distance(vae.decode, z[[0, 1]], z[[3, 4]], segments=8).numpy()
    assert np.allclose(nearest[[0, 1], [3, 4]], expected, rtol=1e-2)
    assert found[[0, 1], [0, 1]].tolist() == [0.0, 0.0]  # in single precision too
    with pytest.raises(ValueError, match="event_shape: expected 64 values"):
        GeodesicDistance(vae, event_shape=(1, 7, 8)).fit(flat)


def test_clones_and_pickles_are_independent_and_equal(decoder, codes):
    fitted = GeodesicDistance(decoder, segments=8).fit(codes)
    copied = clone(fitted)
    assert not hasattr(copied, "codes_")
    assert copied.get_params()["segments"] == 8
    loaded = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(loaded.transform(codes[:2]), fitted.transform(codes[:2]))
    before = [parameter.clone() for parameter in decoder.parameters()]
    copied.fit_transform(codes)
    assert all(torch.equal(old, new) for old, new in zip(before, decoder.parameters(), strict=True))


def test_columns_are_named_after_the_class(codes):
    distance = GeodesicDistance().set_output(transform="pandas").fit(codes[:3])
    table = distance.transform(codes)
    assert list(table.columns) == ["geodesicdistance0", "geodesicdistance1", "geodesicdistance2"]
    assert list(distance.get_feature_names_out()) == list(table.columns)
    assert list(distance.fit_transform(codes[:2]).columns) == list(table.columns[:2])


def test_estimators_of_precomputed_distances_run_on_it():
    # Two arcs of a circle of unit length each, whose codes a warp has torn apart unequally.
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1], 12)
    codes = np.concatenate([random.uniform(0.0, 1.0, 12), random.uniform(2.0, 3.0, 12)])[:, None]
    square = GeodesicDistance(circle).fit_transform(codes)
    assert adjusted_rand_score(truth, DBSCAN(eps=0.5, min_samples=2, metric="precomputed").fit_predict(square)) == 1
    line = MDS(1, metric="precomputed", init="classical_mds", n_init=1).fit(square)
    assert abs(np.corrcoef(line.embedding_[:, 0], codes[:, 0])[0, 1]) > 0.999
    nearest = make_pipeline(GeodesicDistance(circle), KNeighborsClassifier(3, metric="precomputed"))
    search = GridSearchCV(nearest, {"geodesicdistance__segments": [4, 8]}, cv=2).fit(codes[::-1], truth[::-1])
    assert search.best_score_ == 1
    assert search.predict([[0.4], [2.6]]).tolist() == [0, 1]


def test_digits_are_distinguished_by_a_principal_plane_bent_by_a_decoder():
    X, y = load_digits(n_class=3, return_X_y=True)
    X, y = X[:60], y[:60]
    plane = PCA(2, random_state=0).fit(X)
    linear = nn.Linear(2, 64).double()
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(plane.components_.T))
        linear.bias.copy_(torch.from_numpy(plane.mean_))
    decoder = nn.Sequential(linear, nn.Softplus()).eval()
    nearest = make_pipeline(PCA(2, random_state=0), GeodesicDistance(decoder), KNeighborsClassifier(3))
    nearest.set_params(kneighborsclassifier__metric="precomputed")
    assert nearest.fit(X[:40], y[:40]).score(X[40:], y[40:]) > 0.9


def test_what_did_not_converge_is_said():
    steep = lambda z: torch.cat([z, 3 * (4 * z).sin()], -1)  # noqa: E731
    ends = np.array([[-3.0, 0.2], [3.0, 0.1], [0.4, 2.0]])
    with pytest.warns(RuntimeWarning, match="3 of 3 geodesics did not converge"):
        square = GeodesicDistance(steep, segments=4, max_iter=1).fit_transform(ends)
    assert np.isfinite(square).all()
    with pytest.warns(RuntimeWarning, match="transform_with_error"):
        _, error = GeodesicDistance(steep, segments=4, max_iter=1).fit(ends).transform_with_error(ends[:1])
    assert np.isinf(error[0, 1:]).all()
    with pytest.raises(ValueError, match="unconverged='warn'"):
        GeodesicDistance(steep, segments=4, max_iter=1, unconverged="raise").fit_transform(ends)
    with pytest.raises(ValueError, match="no finite length"):
        GeodesicDistance(lambda z: z.log()).fit_transform(np.array([[-1.0], [2.0]]))


def test_what_does_not_fit_is_refused_with_the_remedy(codes):
    with pytest.raises(ValueError, match="unconverged: expected one of warn, raise, got 'drop'"):
        GeodesicDistance(unconverged="drop").fit(codes)
    with pytest.raises(TypeError, match="LatentModel"):
        GeodesicDistance(3).fit(codes)
    with pytest.raises(ValueError, match="segments: expected an even number"):
        GeodesicDistance(segments=5).fit_transform(codes)
