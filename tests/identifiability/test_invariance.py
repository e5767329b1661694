import pytest
import torch
from torch import nn
from torch.distributions.transforms import ComposeTransform

import latentgeo as lg
from latentgeo.geometry.surfaces import sphere, torus
from latentgeo.identifiability import invariance
from latentgeo.identifiability.invariance import QUANTITIES, check_identifiability

# What a transformation leaves alone although theory does not protect it.
INTACT = {
    "rotation": set(invariance._CONTROLS) - {"codes"},
    "affine": {"volume element at a code", "length of the straight line", "latent mean"},
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
@pytest.mark.parametrize("family", ["rotation", "affine", "twist", "warp"])
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
    assert len(wrong) >= 12


def test_only_what_is_asked_for_is_measured_and_what_fails_is_not_called_agreement():
    z, A = _points(8, 2), lg.RadialTwist(0.3)
    names = ["geodesic distance", "Euclidean distance"]
    assert check_identifiability(sphere, A, z, names)["quantity"].tolist() == names

    def broken(z):
        return torch.cat([z, z.sum(1, keepdim=True).sqrt()], 1)  # not a number on half of the plane

    table = check_identifiability(broken, A, z, ["metric tensor", "geodesic distance"])
    assert table["verdict"].tolist() == ["not measured"] * 2


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
