"""What every change of latent coordinates leaves alone, and what it does not."""

import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.func import jacrev, vmap

import latentgeo as lg
from latentgeo.identifiability import invariance
from tests.properties.strategies import (
    PROPERTY,
    SEEDS,
    apply,
    assert_close,
    cases,
    differs,
    immersion,
    normal,
    transform,
    transforms,
    uniform,
)

pytestmark = pytest.mark.thorough


class Moved:
    """A case in other latent coordinates: the same points z and y = A(z), with the same directions, in both."""

    def __init__(self, case, A, n=3):
        self.f, self.g, self.A = case.decoder, lg.reparametrise(case.decoder, A), A
        self.z, self.u, self.v = case.points(n), case.directions(n), case.directions(n, stream=12)
        self.J = vmap(jacrev(A))(self.z)
        self.y, self.Ju, self.Jv = A(self.z), apply(self.J, self.u), apply(self.J, self.v)


@PROPERTY
@given(d=st.integers(1, 5), data=st.data(), seed=SEEDS)
def test_transformations_are_undone_by_their_inverse_and_know_their_determinant(d, data, seed):
    A, z = data.draw(transforms(d)), uniform(seed, 5, d)
    y = A(z)
    assert_close(A.inv(y), z, 1e-10)
    assert_close(A(A.inv(z)), z, 1e-10)
    # Reverse mode: jacfwd of torch.linalg.solve with one matrix for all is wrong under a second vmap (PyTorch 2.13).
    J = vmap(jacrev(A))(z)
    assert_close(lg.metric.jacobian(A, z), J, 1e-10)
    assert_close(A.log_abs_det_jacobian(z, y), torch.linalg.slogdet(J).logabsdet, 1e-9, scale=1.0)
    assert_close(A.inv.log_abs_det_jacobian(y, z), -A.log_abs_det_jacobian(z, y), 1e-9, scale=1.0)
    assert_close(vmap(jacrev(A.inv))(y), torch.linalg.inv(J), 1e-8)
    assert_close(A(z[2:3]), y[2:3], 1e-13)


@PROPERTY
@given(d=st.integers(1, 4), data=st.data(), seed=SEEDS)
def test_the_prior_is_preserved_if_that_is_said_and_only_then(d, data, seed):
    A, z = data.draw(transforms(d)), normal(seed, 20, d)
    prior = Independent(Normal(z.new_zeros(d), 1.0), 1)
    before, after = prior.log_prob(z), TransformedDistribution(prior, A).log_prob(z)
    if lg.coordinates.preserves_prior(A):
        assert_close(after, before, 1e-9, scale=1.0)
    else:
        assert (after - before).abs().max() > 1e-2


@PROPERTY
@given(data=st.data(), case=cases())
def test_metric_angles_and_volume_are_pulled_back(data, case):
    m = Moved(case, data.draw(transforms(case.d)))
    G, G_A = lg.pullback_metric(m.f, m.z), lg.pullback_metric(m.g, m.y)
    assert_close(m.g(m.y), m.f(m.z), 1e-9, scale=1.0)
    assert_close(m.J.mT @ G_A @ m.J, G, 1e-8)
    assert_close(lg.metric.inner(m.g, m.y, m.Ju, m.Jv), lg.metric.inner(m.f, m.z, m.u, m.v), 1e-8, scale=1.0)
    assert_close(lg.metric.norm(m.g, m.y, m.Ju), lg.metric.norm(m.f, m.z, m.u), 1e-9)
    assert_close(lg.angle(m.g, m.y, m.Ju, m.Jv), lg.angle(m.f, m.z, m.u, m.v), 1e-6, scale=1.0)
    stretch = m.A.log_abs_det_jacobian(m.z, m.y).exp()
    assert_close(lg.volume_element(m.g, m.y) * stretch, lg.volume_element(m.f, m.z), 1e-8)


@PROPERTY
@given(data=st.data(), case=cases())
def test_a_curve_keeps_length_energy_speed_and_transport(data, case):
    m = Moved(case, data.draw(transforms(case.d)))
    line = lg.curve.straight_line(m.z, case.points(3, stream=2), 12)
    curve = m.A(line)
    assert_close(lg.curve.chord_length(m.g, curve), lg.curve.chord_length(m.f, line), 1e-9)
    assert_close(lg.curve.chord_energy(m.g, curve), lg.curve.chord_energy(m.f, line), 1e-9)
    assert (lg.curve.chord_energy(m.f, line) >= lg.curve.chord_length(m.f, line).square() * (1 - 1e-12)).all()
    assert_close(lg.curve.speed_variation(m.g, curve), lg.curve.speed_variation(m.f, line), 1e-7, scale=1.0)
    carried, carried_A = lg.parallel_transport(m.f, line, m.v), lg.parallel_transport(m.g, curve, m.Jv)
    assert_close(carried_A, apply(vmap(jacrev(m.A))(line[:, -1]), carried), 1e-7)


@PROPERTY
@given(data=st.data(), case=cases())
def test_geodesic_distances_agree_within_their_certificates(data, case):
    m = Moved(case, data.draw(transforms(case.d)))
    b = case.points(3, stream=2)
    options = {"tol": 1e-7, "max_iter": 2000}
    here = lg.geodesic(m.f, m.z, b, **options)
    there = lg.geodesic(m.g, m.y, m.A(b), initial=[None, m.A(lg.curve.straight_line(m.z, b, 16))], **options)
    assert here.converged.all()
    # Compositions may twist space so that a curve is not found in it; it is flagged then, and claims nothing.
    found = there.converged
    assert found.sum() >= 2
    claimed = here.error + there.error + 1e-12  # rounding of the change of coordinates
    assert ((there.length / here.length - 1).abs() <= claimed)[found].all()
    excess = here.excess + there.excess + 1e-12
    apart = (m.f(here.points.flatten(0, 1)) - m.g(there.points.flatten(0, 1))).flatten(1).norm(dim=1)
    assert (apart.unflatten(0, (3, -1)).amax(1) <= 4.0 * excess.sqrt() * here.length)[found].all()


@settings(PROPERTY, max_examples=5)
@given(data=st.data(), case=cases())
def test_the_exponential_map_commutes_with_the_change_of_coordinates(data, case):
    m = Moved(case, data.draw(transforms(case.d, parts=1)), n=2)
    short = 0.2 / lg.metric.norm(m.f, m.z, m.v).unsqueeze(1)
    here, there = lg.exp_map(m.f, m.z, short * m.v, steps=8), lg.exp_map(m.g, m.y, short * m.Jv, steps=8)
    assert_close(m.g(there), m.f(here), 1e-5, scale=1.0)


@settings(PROPERTY, max_examples=12)
@given(data=st.data(), case=cases(dimensions=(2, 3)))
def test_curvature_is_pulled_back(data, case):
    m = Moved(case, data.draw(transforms(case.d, parts=2)))
    tolerance = {"tolerance": 1e-5, "scale": 1e-2}
    assert_close(lg.scalar_curvature(m.g, m.y), lg.scalar_curvature(m.f, m.z), **tolerance)
    sectional = lg.curvature.sectional_curvature(m.f, m.z, m.u, m.v)
    assert_close(lg.curvature.sectional_curvature(m.g, m.y, m.Ju, m.Jv), sectional, **tolerance)
    ricci = m.J.mT @ lg.curvature.ricci_curvature(m.g, m.y) @ m.J
    assert_close(ricci, lg.curvature.ricci_curvature(m.f, m.z), **tolerance)
    J = m.J
    R = torch.einsum("bijkl,bip,bjq,bkr,bls->bpqrs", lg.curvature.riemann(m.g, m.y), J, J, J, J)
    assert_close(R, lg.curvature.riemann(m.f, m.z), **tolerance)
    second = torch.einsum("bDij,bip,bjq->bDpq", lg.curvature.second_fundamental_form(m.g, m.y), J, J)
    assert_close(second, lg.curvature.second_fundamental_form(m.f, m.z), **tolerance)


def _control_points(d):
    """The origin and points along each axis, so that the controls are bound to fail.

    A twist turns the first axis by different angles at different radii; of the images of d orthonormal vectors under
    an affine map of determinant one and condition two, one is longer than they are; a warp stretches about the origin.
    """
    return torch.cat([torch.zeros(1, d), 0.5 * torch.eye(d)[:1], torch.eye(d)]).double()


@settings(PROPERTY, max_examples=12)
@pytest.mark.parametrize("family", ["affine", "twist", "warp"])
@given(d=st.integers(2, 3), seed=SEEDS, data=st.data())
def test_codes_and_euclidean_distances_do_change(family, d, seed, data):
    A, z = transform(family, d, seed), _control_points(d)
    y = A(z)
    assert (y - z).norm(dim=1).max() > 1e-2
    before, after = torch.pdist(z), torch.pdist(y)
    assert ((after - before).abs() / before).max() > 1e-2
    case = data.draw(cases(dimensions=(d,)))
    g, z = lg.reparametrise(case.decoder, A), 0.5 * z
    y = A(z)
    assert differs(lg.pullback_metric(g, y), lg.pullback_metric(case.decoder, z))
    volumes = lg.volume_element(case.decoder, z), lg.volume_element(g, y)
    # Affine maps of determinant one and twists keep volume, warps do not.
    assert differs(*volumes) == (family == "warp")


@PROPERTY
@given(d=st.integers(2, 4), seed=SEEDS)
def test_rotations_keep_euclidean_distances_and_flows_do_not(d, seed):
    z = normal(seed, 12, d)
    assert_close(torch.pdist(transform("rotation", d, seed)(z)), torch.pdist(z), 1e-12)
    assert differs(torch.pdist(transform("flow", d, seed)(z)), torch.pdist(z))


@settings(PROPERTY, max_examples=5)
@given(case=cases(dimensions=(2, 3)), data=st.data())
def test_the_table_of_checks_says_that_the_identified_agrees_and_another_model_differs(case, data):
    A = data.draw(transforms(case.d, parts=1))
    names = ["metric tensor", "length of a curve", "energy of a curve", "angle", "volume of a region", "holonomy"]
    names += ["parallel transport", "sectional curvature", "scalar curvature", "Ricci curvature", "curvature tensor"]
    table = lg.check_identifiability(case.decoder, A, case.points(8), names, pairs=2)
    assert (table["verdict"] == "agrees").all(), table.to_string()
    assert (table["tolerance"] < 1e-3).all()

    def larger(decoder, A):
        g = lg.reparametrise(decoder, A)
        return lambda z: 1.02 * g(z)

    with mock.patch.object(invariance, "reparametrise", larger):
        table = lg.check_identifiability(case.decoder, A, case.points(8), names, pairs=2).set_index("quantity")
    scaled = ["metric tensor", "length of a curve", "energy of a curve", "volume of a region"]
    assert (table.loc[scaled, "verdict"] == "differs").all()
    assert (table.loc[["angle", "holonomy", "parallel transport"], "verdict"] == "agrees").all()


@settings(PROPERTY, max_examples=10)
@given(d=st.integers(2, 3), seed=SEEDS, half=st.floats(0.2, 0.8))
def test_the_volume_of_a_ball_of_latent_space_is_that_of_its_image(d, seed, half):
    """Which a twist maps to itself, so that both integrals are over the same set."""

    def ball(t):
        r, phi = half * t[:, :1], 2 * math.pi * t[:, 1:2]
        height = 2.0 * t[:, 2:] - 1.0 if d == 3 else t[:, :0]
        across = (1.0 - height.square()).sqrt() if d == 3 else 1.0
        return r * torch.cat([across * phi.cos(), across * phi.sin(), height], 1)

    f, A = immersion(seed, d, 2, torch.sin), transform("twist", d, seed)
    g = lg.reparametrise(f, A)
    nodes = 24 if d == 2 else 14
    assert_close(lg.volume(g, (d, ball), nodes=nodes), lg.volume(f, (d, ball), nodes=nodes), 1e-4)


def test_a_difference_that_is_not_a_number_is_neither_agreement_nor_a_difference():
    def pierced(z):  # not defined in the middle of the points, which nothing at them shows
        return torch.cat([z, (z.square().sum(1, keepdim=True) - 0.9).sqrt()], 1)

    z, A = normal(0, 8, 2), lg.RadialTwist(0.3)
    z /= z.norm(dim=1, keepdim=True)
    table = lg.check_identifiability(pierced, A, z, ["length of a curve", "energy of a curve"])
    assert table["difference"].isna().all()
    assert table["tolerance"].notna().all()
    assert (table["verdict"] == "not measured").all()
