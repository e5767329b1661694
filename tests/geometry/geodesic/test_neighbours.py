"""Nearest neighbours by geodesic distance, against all pairs."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.geometry.geodesic.neighbours import measure, nearest_neighbours
from tests.surfaces import hill, ring


def brute_force(decoder, z, k, **options):
    matrix = lg.distance_matrix(decoder, z, **options).fill_diagonal_(torch.inf)
    return matrix.topk(k, largest=False)


def horseshoe(z):
    """Most of a circle: its ends are near by the chord, and far along it."""
    return torch.cat([z.cos(), z.sin()], -1)


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_those_of_all_pairs(decoder, random, k):
    z = torch.randn(40, 3, generator=random, dtype=torch.float64)
    found = nearest_neighbours(decoder, z, k)
    distance, index = brute_force(decoder, z, k)
    assert torch.equal(found.index, index)
    assert torch.allclose(found.distance, distance, rtol=1e-6)
    assert found.certified.all()
    assert len(found) == 40
    assert found.pairs < 40 * 39 / 2
    assert found.error.max() < 0.05


def test_the_way_counts_not_the_chord():
    z = torch.linspace(0.0, 5.8, 30, dtype=torch.float64)[:, None]
    found = nearest_neighbours(horseshoe, z, 6)
    assert torch.equal(found.index[0], torch.arange(1, 7))
    assert found.certified.all()
    # The control: by chords the neighbours of one end are at the other.
    x = horseshoe(z)
    chords = torch.cdist(x, x).fill_diagonal_(torch.inf)
    assert not torch.equal(chords.topk(6, largest=False).indices.sort().values, found.index.sort().values)


def test_neighbours_are_identified_and_euclidean_ones_are_not(decoder, random):
    z = torch.randn(40, 3, generator=random, dtype=torch.float64)
    affine = lg.random_affine(3, condition=10.0, generator=random)
    here, there = nearest_neighbours(decoder, z, 3), nearest_neighbours(lg.reparametrise(decoder, affine), affine(z), 3)
    assert (here.index == there.index).double().mean() > 0.98  # near-ties within the tolerance of the solver
    assert torch.allclose(here.distance, there.distance, rtol=1e-3)
    euclidean = [brute_force(lambda z: z, codes, 3).indices for codes in (z, affine(z))]
    assert (euclidean[0] == euclidean[1]).double().mean() < 0.7  # the control


def test_few_candidates_are_not_taken_for_exact():
    z = torch.linspace(0.0, 5.8, 30, dtype=torch.float64)[:, None]
    with pytest.warns(RuntimeWarning, match=r"points have more candidates than were tried \(raise candidates\)"):
        found = nearest_neighbours(horseshoe, z, 6, candidates=6)
    exact = nearest_neighbours(horseshoe, z, 6)
    same = (found.index == exact.index).all(1)
    assert found.pairs < exact.pairs
    assert same[found.certified].all()  # what is certified is right
    assert not found.certified.all()
    assert nearest_neighbours(horseshoe, z, 6, candidates=29).certified.all()


def test_no_pair_is_solved_for_want_of_a_shorter_curve(random):
    z = torch.randn(60, 5, generator=random)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kinked = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of kinks
        found = nearest_neighbours(kinked, z, 5)
        _, index = brute_force(kinked, z, 5)
        i = torch.arange(60).repeat_interleave(5)
        curves = lg.geodesic(kinked, z[i], z[found.index.flatten()])
    assert found.certified.all()
    assert torch.equal(found.index.sort().values, index.sort().values)
    chords = torch.cdist(kinked(z), kinked(z)).fill_diagonal_(torch.inf)

    def needed(bound):
        of_either = chords < bound.unflatten(0, (60, 5)).amax(1, keepdim=True)
        return int((of_either | of_either.mT).triu().sum())

    # What curves may be longer than geodesics does not matter here: no distance is above the length of one.
    assert found.pairs <= 1.02 * needed(curves.upper)
    assert found.pairs < 0.98 * needed(curves.length * (1.0 + curves.error))


@pytest.mark.thorough
def test_points_that_did_not_converge_certify_nobody():
    z = torch.linspace(0.0, 1.0, 8, dtype=torch.float64)[:, None]

    def torn(z):  # no curve crosses the gap with a finite length
        return torch.where((z - 0.5).abs() < 0.02, torch.nan, 1.0) * torch.cat([z, z.square()], -1)

    with pytest.warns(RuntimeWarning, match="geodesics did not converge and were left out"):
        found = nearest_neighbours(torn, z, 2)
    assert found.unconverged > 0
    assert ((found.index < 4) == (torch.arange(8) < 4)[:, None]).all()  # nobody has a neighbour across
    assert not found.certified[3]
    assert found.certified[0]
    assert found.distance.isfinite().all()
    with pytest.raises(ValueError, match=r"8 of 8 points have fewer than 5 others .* \(point 0 has 3\)"):
        nearest_neighbours(torn, z, 5)


def test_pairs_that_do_not_fit_are_refused_as_by_the_solver(decoder):
    with pytest.raises(ValueError, match="start and end: expected the same shape"):
        measure(decoder, torch.zeros(2, 3).double(), torch.zeros(2, 2).double())


def test_twins_are_neighbours_at_distance_zero(decoder, random):
    z = torch.randn(6, 3, generator=random, dtype=torch.float64)
    found = nearest_neighbours(decoder, torch.cat([z, z[:2]]), 2)
    assert found.index[[0, 1, 6, 7], 0].tolist() == [6, 7, 0, 1]
    assert found.distance[[0, 1, 6, 7], 0].tolist() == [0.0] * 4
    assert found.certified.all()
    assert np.isfinite(found.error.numpy()).all()


def test_what_does_not_fit_is_refused_with_the_remedy(decoder, random):
    z = torch.randn(5, 3, generator=random, dtype=torch.float64)
    for wrong in (0, 5):
        with pytest.raises(ValueError, match="neighbours: expected between 1 and n - 1 = 4"):
            nearest_neighbours(decoder, z, wrong)
    with pytest.raises(ValueError, match="candidates: expected at least neighbours = 3, got 2"):
        nearest_neighbours(decoder, z, 3, candidates=2)
    with pytest.raises(TypeError, match="got segmentz"):
        nearest_neighbours(decoder, z, 3, segmentz=8)
    with pytest.raises(ValueError, match="not finite at 2 of 3 points"):
        nearest_neighbours(lambda z: z.log(), torch.tensor([[-1.0], [1.0], [-2.0]]), 1)


def test_neighbours_are_printed_in_a_line(decoder, random):
    found = nearest_neighbours(decoder, torch.randn(9, 3, generator=random, dtype=torch.float64), 2)
    assert repr(found) == f"Neighbours(9 points, k = 2, 9 certified, {found.pairs} pairs solved, 0 unconverged)"


@pytest.mark.parametrize("candidates", [None, 6])
def test_a_bar_counts_points_whose_neighbours_are_found(capsys, candidates):
    z = torch.linspace(0.0, 5.8, 30, dtype=torch.float64)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found = nearest_neighbours(horseshoe, z, 6, candidates=candidates, progress=True)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1  # one bar, not one for each round of the search
    assert f"{int(found.certified.sum())}/30" in shown
    nearest_neighbours(horseshoe, z, 6)
    assert capsys.readouterr().err == ""


def test_the_warning_points_to_the_callers_line():
    z = torch.linspace(0.0, 5.8, 30, dtype=torch.float64)[:, None]
    with pytest.warns(RuntimeWarning, match="not certified") as seen:
        nearest_neighbours(horseshoe, z, 6, candidates=6)
    assert seen[0].filename == __file__


def test_with_data_the_way_round_a_hill_counts_where_it_is_shorter():
    z = ring(12)
    over, round_it = nearest_neighbours(hill, z, 11), nearest_neighbours(hill, z, 11, data=z)
    assert torch.equal(round_it.index[0, -1], over.index[0, -1])  # the opposite point
    assert (round_it.distance[:, -1] < 0.95 * over.distance[:, -1]).all()
    torch.testing.assert_close(round_it.distance[:, :2], over.distance[:, :2], rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="data: expected codes of data"):
        nearest_neighbours(hill, z, 11, data=z[:, :1])
