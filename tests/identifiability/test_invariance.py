import dataclasses

import pytest
import torch
from torch import distributions as dist
from torch import nn
from torch.distributions.transforms import ComposeTransform

import latentgeo as lg
from latentgeo.geometry.surfaces import sphere, torus
from latentgeo.identifiability import invariance
from latentgeo.identifiability.invariance import QUANTITIES, check_identifiability
from latentgeo.identifiability.points import nearest

# What a transformation leaves alone although theory does not protect it.
INTACT = {
    "rotation": set(invariance._CONTROLS) - {"codes"},
    "affine": {"volume element at a code", "length of the straight line", "latent mean", "posterior mean"},
    "twist": {"volume element at a code"},
    "warp": set(),
}


def _points(n, d, scale=0.4, seed=0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _transforms(d):
    random = torch.Generator().manual_seed(1)
    return {
        "rotation": lg.random_rotation(d, generator=random),
        "affine": lg.random_affine(d, condition=4.0, generator=random),
        "twist": lg.RadialTwist(0.4),
        "warp": lg.CoordinateWarp(),
    }


def _network(d=3, D=9):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(d, 24), nn.Tanh(), nn.Linear(24, D)).double()


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["rotation", "affine", "twist", pytest.param("warp", marks=pytest.mark.slow)])
def test_what_is_identified_agrees_and_what_is_not_does_not(family):
    d = 2
    slow = {"exponential", "Fréchet mean"} if family in ("rotation", "affine") else set()
    quantities = [name for name in QUANTITIES if name not in slow]
    table = check_identifiability(torus, _transforms(d)[family], _points(40, d), quantities, pairs=2)
    table = table.set_index("quantity")
    identified = table[table["kind"] == "identified"]
    assert (identified["verdict"] == "agrees").all(), identified[identified["verdict"] != "agrees"]
    assert identified["tolerance"].max() < 1e-4
    assert identified["difference"].max() < 1e-5
    controls = table[table["kind"] == "not identified"]
    untouched = set(controls.index[controls["verdict"] == "agrees"])
    assert untouched <= INTACT[family] | {"length of the straight line"}  # which a warp bends only a little
    assert controls.loc["codes", "verdict"] == "differs"


@pytest.mark.slow
def test_a_trained_shape_of_decoder_under_a_composition():
    transform = ComposeTransform([lg.random_flow(3, seed=0), lg.RadialTwist(0.2)])
    table = check_identifiability(_network(), transform, _points(8, 3), pairs=2).set_index("quantity")
    assert set(table.index) == set(QUANTITIES)
    assert (table.loc[table["kind"] == "identified", "verdict"] == "agrees").all()
    assert (table.loc[["codes", "Euclidean distance", "volume element at a code"], "verdict"] == "differs").all()


def test_a_wrong_metric_is_noticed_by_many_quantities(monkeypatch):
    """The negative control of the checks themselves: a model that is not the same differs."""
    transform, z = _transforms(2)["affine"], _points(8, 2)

    def other(decoder, transform):
        moved = lg.reparametrise(decoder, transform)
        return lambda z: moved(z) * z.new_tensor([1.0, 1.0, 1.1])

    monkeypatch.setattr(invariance, "reparametrise", other)
    quantities = [name for name in QUANTITIES if name != "Fréchet mean"]
    table = check_identifiability(sphere, transform, z, quantities, pairs=2)
    wrong = table[(table["kind"] == "identified") & (table["verdict"] == "differs")]
    assert len(wrong) >= 13
    assert "nearest point" in set(wrong["quantity"])


POINTS = ["nearest point", "posterior mean"]


@pytest.mark.parametrize("returns", ["data", "an ensemble's data", "a distribution", "coordinates of Fisher and Rao"])
@pytest.mark.parametrize("family", ["affine", "twist", "warp", "flow"])
def test_the_nearest_point_is_identified_and_the_posterior_mean_where_coordinates_are_affine(family, returns):
    f, z = _network(d=2, D=60), _points(10, 2, scale=0.6)
    decoder = {
        "data": f,
        "an ensemble's data": lg.Ensemble([f, lambda z: f(1.1 * z)]),
        "a distribution": lambda z: dist.Poisson(f(z).exp()),
        "coordinates of Fisher and Rao": lg.fisher_rao(f, "poisson", log=True),
    }[returns]
    A = (_transforms(2) | {"flow": lg.random_flow(2, seed=0)})[family]
    state = torch.random.get_rng_state()
    table = check_identifiability(decoder, A, z, POINTS).set_index("quantity")
    assert (torch.random.get_rng_state() == state).all()
    assert table["kind"].tolist() == ["identified", "not identified"]
    assert table.loc["nearest point", "verdict"] == "agrees"
    assert table.loc["nearest point", "tolerance"] < 1e-5
    shift = table.loc["posterior mean", "difference"]
    assert shift < 1e-12 if family == "affine" else shift > 2e-2


def test_the_posterior_mean_of_a_twist_is_that_of_the_closed_form():
    z, rate = _points(8, 2), 0.4
    table = check_identifiability(lambda z: 1.0 * z, lg.RadialTwist(rate), z, ["posterior mean"])
    # E[w exp(iω|w|²)] with w ~ N(z, σ² I) as a complex number: the exponential makes another Gaussian of it.
    w, variance = torch.view_as_complex(z), z.var(0).mean()
    shrunk = 1.0 - 2j * rate * variance
    mean = torch.view_as_real(w / shrunk**2 * (1j * rate * w.abs().square() / shrunk).exp())
    shift = (lg.RadialTwist(rate).inv(mean) - z).norm(dim=1).max() / (z - z.mean(0)).norm(dim=1).mean()
    assert shift > 0.1
    assert table["difference"].item() == pytest.approx(shift.item(), rel=0.05)  # of 4096 pairs of draws


@pytest.mark.parametrize(("sure", "verdict"), [(8, "differs"), (7, "agrees"), (0, "not measured")])
def test_data_whose_nearest_point_is_not_unique_are_left_out(monkeypatch, sure, verdict):
    """The last datum's points are moved, to different places under the two models."""
    moves = iter([0.0, 1.0])

    def search(*arguments):
        found = nearest(*arguments)
        codes = torch.cat([found.codes[:-1], found.codes[-1:] + next(moves)])
        return dataclasses.replace(found, codes=codes, unique=torch.arange(8) < sure)

    monkeypatch.setattr(invariance, "nearest", search)
    table = check_identifiability(sphere, lg.RadialTwist(0.3), _points(8, 2), ["nearest point"])
    assert table["verdict"].tolist() == [verdict]


def test_only_what_is_asked_for_is_measured_and_what_fails_is_not_called_agreement():
    z, A = _points(8, 2), lg.RadialTwist(0.3)
    names = ["geodesic distance", "Euclidean distance"]
    assert check_identifiability(sphere, A, z, names)["quantity"].tolist() == names

    def pierced(z):
        return torch.cat([z, (z.square().sum(1, keepdim=True) - 0.9).sqrt()], 1)  # not a number in the middle

    table = check_identifiability(pierced, A, z / z.norm(dim=1, keepdim=True), ["metric tensor", "geodesic distance"])
    assert table["verdict"].tolist() == ["agrees", "not measured"]


def test_what_does_not_fit_is_refused():
    z, A = _points(8, 2), lg.RadialTwist(0.3)
    with pytest.raises(ValueError, match="at least 8 points for 4 pairs, got 6"):
        check_identifiability(sphere, A, z[:6])
    with pytest.raises(ValueError, match="got distances"):
        check_identifiability(sphere, A, z, ["distances"])
    with pytest.raises(ValueError, match='expected "all"'):
        check_identifiability(sphere, A, z, "some")
    with pytest.raises(TypeError, match="transform"):
        check_identifiability(sphere, torch.sin, z)


@pytest.mark.parametrize(
    ("decoder", "problem"),
    [
        (lambda z: z.log(), "not finite at 2 of 8 points"),
        (lambda z: z.relu().square(), "zero or not a number at 2 of 8 points"),
    ],
)
def test_points_without_an_image_or_directions_are_named(decoder, problem):
    z = torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    z[:2] *= -1.0
    with pytest.raises(ValueError, match=problem):
        lg.check_identifiability(decoder, lg.LinearTransform(torch.eye(2).double()), z, pairs=2)
