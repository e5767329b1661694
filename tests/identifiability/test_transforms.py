import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions.transforms import AbsTransform
from torch.func import jacrev, vmap

import latentgeo as lg


def _transforms(d, seed=0):
    M = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    twist = [lg.RadialTwist(0.3)] if d > 1 else []
    return [*twist, lg.LinearTransform(M + 3 * torch.eye(d).double(), shift=torch.arange(d).double())]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), d=st.integers(1, 5))
def test_inverses_and_log_determinants_are_exact(seed, d):
    z = torch.randn(4, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for A in _transforms(d, seed):
        y = A(z)
        torch.testing.assert_close(A.inv(y), z, rtol=1e-9, atol=1e-9)
        expected = torch.linalg.slogdet(vmap(jacrev(A))(z)).logabsdet
        torch.testing.assert_close(A.log_abs_det_jacobian(z, y), expected, rtol=1e-8, atol=1e-8)


def test_the_twist_preserves_the_prior_and_is_not_linear():
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = torch.distributions.Normal(0.0, 1.0)
    A = lg.RadialTwist(1.0)
    torch.testing.assert_close(prior.log_prob(A(z)).sum(1), prior.log_prob(z).sum(1))
    assert (A(2 * z) - 2 * A(z)).norm() > 0.1 * z.norm()


def test_a_reparametrised_decoder_gives_the_same_data_and_the_same_metric(ensemble, ends):
    z = ends[0]
    for A in _transforms(3):
        f = lg.reparametrise(ensemble, A)
        torch.testing.assert_close(f(A(z)), ensemble(z))
        J = vmap(jacrev(A))(z)
        torch.testing.assert_close(J.mT @ lg.pullback_metric(f, A(z)) @ J, lg.pullback_metric(ensemble, z))


def test_angles_and_volume_survive_but_their_euclidean_counterparts_do_not(ensemble, ends):
    z, A = ends[0], _transforms(3)[1]
    u, v = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    f, J = lg.reparametrise(ensemble, A), vmap(jacrev(A))(z)
    Ju, Jv = (J @ w.unsqueeze(-1) for w in (u, v))
    torch.testing.assert_close(lg.angle(f, A(z), Ju[..., 0], Jv[..., 0]), lg.angle(ensemble, z, u, v))
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 0.5, 1.0]], dtype=torch.float64)
    chart = (3, lambda t: A(box[0] + t * (box[1] - box[0])))
    torch.testing.assert_close(lg.volume(f, chart, nodes=10), lg.volume(ensemble, box, nodes=10))
    cosine = torch.cosine_similarity
    assert (cosine(Ju[..., 0], Jv[..., 0]) - cosine(u, v)).abs().max() > 1e-2  # the controls fail
    assert (lg.volume_element(f, A(z)) / lg.volume_element(ensemble, z) - 1).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lg.LinearTransform(torch.zeros(2, 2)), ValueError, "singular"),
        (lambda: lg.LinearTransform(torch.zeros(2, 3)), ValueError, r"\(d, d\)"),
        (lambda: lg.RadialTwist()(torch.zeros(3, 1)), ValueError, "d ≥ 2"),
        (lambda: lg.reparametrise(3, lg.RadialTwist()), TypeError, "callable"),
        (lambda: lg.reparametrise(abs, abs), TypeError, "Transform"),
        (lambda: lg.reparametrise(abs, AbsTransform()), ValueError, "bijective"),
    ],
)
def test_what_is_no_change_of_coordinates_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
