import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from latentgeo.geometry.surfaces import sphere_distance
from latentgeo.identifiability.charts import align, isometric_embedding, scale_fit


def plane(n=25, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def cap(radius, n=30):
    """Distances between points of a spherical cap of a given geodesic radius."""
    random = np.random.default_rng(0)
    r, angle = np.sqrt(random.uniform(size=n)), random.uniform(0, 2 * np.pi, n)
    z = torch.as_tensor(np.tan(radius * r / 2) * np.stack([np.cos(angle), np.sin(angle)])).T
    return sphere_distance(z[:, None], z[None])


@pytest.mark.parametrize("d", [1, 2, 5])
def test_euclidean_distances_are_embedded_exactly_up_to_a_rigid_motion(d):
    points = 30.0 * plane(d=d) + 7.0
    result = isometric_embedding(squareform(pdist(points)), d)
    assert result.stress < 1e-12
    assert result.negative_share == 0
    assert result.coordinates.shape == points.shape
    assert align(result.coordinates, points)[1] < 1e-10


def test_a_dimension_too_few_leaves_stress():
    distances = squareform(pdist(plane(d=3)))
    assert isometric_embedding(distances, 3).stress < 1e-12
    assert isometric_embedding(distances, 2).stress > 0.05
    assert isometric_embedding(distances, 2).negative_share == 0  # but no curvature


def test_three_points_on_a_line_have_the_stress_of_the_closed_form():
    # The middle point lies x and y from the others: least squares of x - 3, y - 4 and x + y - 5.
    x, y, residual = 3 - 2 / 3, 4 - 2 / 3, 2 / 3
    expected = math.sqrt(3 * residual**2 / (x**2 + y**2 + (x + y) ** 2))
    result = isometric_embedding([[0, 3, 4], [3, 0, 5], [4, 5, 0]], 1)
    assert result.stress == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(np.sort(pdist(result.coordinates)), [x, y, x + y], rtol=1e-4)


def test_four_points_of_a_star_embed_in_no_euclidean_space():
    star = np.full((4, 4), 2.0)  # three leaves at distance 1 from a hub, 2 from each other
    star[0] = star[:, 0] = 1.0
    np.fill_diagonal(star, 0.0)
    # B has the eigenvalues 2, 2, 0 and -1/4.
    assert isometric_embedding(star, 3).negative_share == pytest.approx(0.25 / 4.25)
    assert isometric_embedding(star, 3).stress > 0.01


def test_a_spherical_cap_leaves_stress_that_grows_as_the_square_of_its_radius():
    small, large = (isometric_embedding(cap(r), 2) for r in (0.1, 0.2))
    assert 1e-4 < small.stress < large.stress
    assert math.log2(large.stress / small.stress) == pytest.approx(2.0, abs=0.05)
    assert large.negative_share > small.negative_share > 1e-5
    assert isometric_embedding(cap(1.0), 20).stress > 1e-3  # and no number of dimensions will do


def test_stress_has_no_unit_and_coordinates_have_that_of_the_distances():
    first, second = (isometric_embedding(c * cap(0.5), 2) for c in (1.0, 1000.0))
    assert second.stress == pytest.approx(first.stress, rel=1e-9)
    np.testing.assert_allclose(second.coordinates, 1000.0 * first.coordinates, rtol=1e-6)


def test_smacof_improves_on_classical_scaling():
    best, start = (isometric_embedding(cap(1.2), 2, max_iter=steps).stress for steps in (3000, 1))
    assert best < start


@pytest.mark.parametrize(
    ("distances", "dim", "message"),
    [
        (np.ones((3, 4)), 1, "square matrix"),
        (np.zeros((1, 1)), 1, "at least two points"),
        ([[0, np.nan], [np.nan, 0]], 1, "finite"),
        ([[0, -1], [-1, 0]], 1, "at least 0"),
        (np.zeros((3, 3)), 1, "not all zero"),
        ([[0, 1], [2, 0]], 1, "symmetric"),
        ([[1, 1], [1, 1]], 1, "zero diagonal"),
        ([[0, 1], [1, 0]], 2, "between 1 and n - 1 = 1"),
        ([[0, 1], [1, 0]], 0, "between 1 and"),
    ],
)
def test_what_is_not_a_matrix_of_distances_is_refused(distances, dim, message):
    with pytest.raises(ValueError, match=message):
        isometric_embedding(distances, dim)


def test_alignment_undoes_rigid_motions_only():
    points = plane()
    c, s = math.cos(1.0), math.sin(1.0)
    moved = points @ np.array([[c, s], [s, -c]]) + [3.0, -1.0]  # a reflection
    aligned, left = align(moved, points)
    assert left < 1e-12
    np.testing.assert_allclose(aligned, points, atol=1e-12)
    assert align(2.0 * moved, points)[1] == pytest.approx(1.0)  # twice the size, no rigid motion
    with pytest.raises(ValueError, match="same shape"):
        align(points, points[:-1])
    with pytest.raises(ValueError, match="finite"):
        align(points * np.nan, points)
    with pytest.raises(ValueError, match="two different points"):
        align(points, np.zeros_like(points))


def test_the_best_factor_is_that_of_least_squares():
    random = np.random.default_rng(0)
    e, g = random.uniform(1, 2, (2, 50))
    scale, deviation = scale_fit(torch.as_tensor(e), g)
    (expected,), (residual,) = np.linalg.lstsq((e / g)[:, None], np.ones(50))[:2]
    assert scale == pytest.approx(expected)
    assert deviation == pytest.approx(math.sqrt(residual / 50))
    assert scale_fit(e, 3.0 * e) == pytest.approx((3.0, 0.0))
    assert deviation > 0.1
    for bad in (e[:-1], np.full(50, np.nan), np.zeros(50), -e):
        with pytest.raises(ValueError, match="expected"):
            scale_fit(bad, g)
    with pytest.raises(ValueError, match="positive references"):
        scale_fit(e, np.zeros(50))


def test_an_embedding_is_printed_in_a_line():
    line = isometric_embedding(np.array([[0.0, 3.0, 4.0], [3.0, 0.0, 5.0], [4.0, 5.0, 0.0]]), 1)
    assert repr(line) == "Embedding(3 points, dim = 1, stress 0.17, negative share 0)"
