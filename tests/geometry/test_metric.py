import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import latentgeo as lg
from latentgeo.geometry.surfaces import cylinder, sphere
from tests.conftest import mlp


def _finite_differences(f, z, step=1e-6):
    basis = torch.eye(z.shape[-1], dtype=z.dtype) * step
    return torch.stack([(f(z + e) - f(z - e)) / (2 * step) for e in basis], -1)


def test_the_jacobian_agrees_with_finite_differences(decoder, ends):
    torch.testing.assert_close(
        lg.metric.jacobian(decoder, ends[0]), _finite_differences(decoder, ends[0]), rtol=1e-6, atol=1e-8
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), d=st.integers(1, 4), batch=st.lists(st.integers(1, 3), max_size=2))
def test_all_measurements_at_a_point_are_those_of_the_metric_tensor(seed, d, batch):
    f, random = mlp(seed, d=d), torch.Generator().manual_seed(seed)
    z, u, v = torch.randn(3, *batch, d, generator=random, dtype=torch.float64)
    G = lg.pullback_metric(f, z)
    assert G.shape == (*batch, d, d)
    uGv, uGu, vGv = (torch.einsum("...i,...ij,...j->...", s, G, t) for s, t in ((u, v), (u, u), (v, v)))
    torch.testing.assert_close(lg.metric.inner(f, z, u, v), uGv)
    torch.testing.assert_close(lg.metric.norm(f, z, u), uGu.sqrt())
    torch.testing.assert_close(lg.angle(f, z, u, v).cos(), uGv / (uGu * vGv).sqrt())
    torch.testing.assert_close(lg.volume_element(f, z), torch.linalg.det(G).sqrt(), rtol=1e-5, atol=1e-8)


def test_the_sphere_is_conformal(random):
    z = torch.randn(5, 3, generator=random, dtype=torch.float64)
    scale = 4.0 / (1.0 + z.square().sum(-1)) ** 2
    expected = scale[:, None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(lg.pullback_metric(sphere, z), expected)


def test_the_metric_of_an_ensemble_is_the_mean_of_its_members_metrics(ensemble, ends):
    mean = torch.stack([lg.pullback_metric(ensemble[k], ends[0]) for k in range(len(ensemble))]).mean(0)
    torch.testing.assert_close(lg.pullback_metric(ensemble, ends[0]), mean)


def test_angles_stay_accurate_near_zero():
    z, u = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert lg.angle(lambda z: z, z, u, u + torch.tensor([0.0, 1e-9]).double()).item() == pytest.approx(1e-9, rel=1e-6)


def test_an_angle_with_a_direction_of_no_length_is_refused():
    with pytest.raises(ValueError, match="length zero"):
        lg.angle(lambda z: z, torch.zeros(2), torch.zeros(2), torch.ones(2))


def test_a_decoder_into_fewer_dimensions_has_no_volume():
    assert lg.volume_element(lambda z: z[:, :1], torch.zeros(4, 2)).eq(0).all()


def test_the_volume_of_half_a_sphere_and_of_a_cylinder():
    def disc(t):  # unit square → unit disc, the lower hemisphere in the stereographic chart
        r, phi = t[:, :1], 2 * math.pi * t[:, 1:]
        return torch.cat([r * phi.cos(), r * phi.sin()], 1)

    assert lg.volume(sphere, (2, disc)).item() == pytest.approx(2 * math.pi, rel=1e-10)
    box = torch.tensor([[0.0, -1.0], [2 * math.pi, 2.0]], dtype=torch.float64)
    assert lg.volume(cylinder, box).item() == pytest.approx(6 * math.pi, rel=1e-10)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "lower corner below upper"),
        (torch.zeros(3, 2), "lower corner below upper"),
        (torch.stack([torch.zeros(9), torch.ones(9)]), "lower nodes"),
    ],
)
def test_what_is_not_a_region_is_refused(region, message):
    with pytest.raises(ValueError, match=message):
        lg.volume(lambda z: z, region)


def test_directions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"of the points, .* and of their dtype"):
        lg.metric.norm(lambda z: z, torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="broadcasts"):
        lg.metric.norm(lambda z: z, torch.zeros(4, 2), torch.zeros(3, 2))


def test_expanded_points_and_directions_are_taken(decoder):
    z, v = torch.zeros(3).double(), torch.ones(3).double()
    torch.testing.assert_close(lg.metric.norm(decoder, z.expand(4, 3), v), lg.metric.norm(decoder, z, v).expand(4))
    torch.testing.assert_close(
        lg.metric.jacobian(decoder, z.expand(4, 3)), lg.metric.jacobian(decoder, z).expand(4, 7, 3)
    )


def test_neither_decoder_nor_points_are_touched(decoder, ends):
    z, before = ends[0].clone().requires_grad_(), ends[0].clone()
    assert not lg.pullback_metric(decoder, z).requires_grad
    assert not lg.metric.norm(decoder, z, ends[1]).requires_grad
    assert all(p.grad is None for p in decoder.parameters())
    assert torch.equal(z.detach(), before)
    assert z.grad is None


def test_outside_of_the_decoders_domain_nothing_passes_as_a_number():
    f = lambda z: torch.cat([z, z[:, :1].log()], 1)  # noqa: E731
    z = torch.tensor([[-1.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    v = torch.ones_like(z)
    for values in (
        lg.pullback_metric(f, z).sum((1, 2)),
        lg.metric.norm(f, z, v),
        lg.metric.inner(f, z, v, v),
        lg.volume_element(f, z),
        lg.scalar_curvature(f, z),
        lg.curvature.sectional_curvature(
            f, z, z.new_tensor([1.0, 0.0]).expand_as(z), z.new_tensor([0.0, 1.0]).expand_as(z)
        ),
    ):
        assert torch.isnan(values).tolist() == [True, False]
