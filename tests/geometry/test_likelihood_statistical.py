import math

import pytest
import torch
from torch import distributions as dist
from torch.func import hessian

import latentgeo as lg
from latentgeo.geometry.likelihood import fisher_rao, statistical_energy
from tests.geometry.test_likelihood import CASES, expected_information, net, positive_mean, without_validation


def _gaussian(z):
    x = net(z)
    return dist.Independent(dist.Normal(x[:, :4], x[:, :4].mul(2.0).sin().exp()), 1)


def _half_plane(z):
    return dist.Normal(z[:, :1], z[:, 1:].exp())


def _half_plane_distance(a, b):
    s, t = a[:, 1].exp(), b[:, 1].exp()
    ratio = (0.5 * (a[:, 0] - b[:, 0]).square() + (s - t).square()) / (2.0 * s * t)
    return math.sqrt(2.0) * torch.acosh(1.0 + ratio)


@pytest.mark.parametrize("case", CASES)
def test_the_metric_is_the_expected_outer_product_of_scores(case, ends):
    for z in ends[0][:3]:
        expected = expected_information(case, z[None])
        metric = lg.pullback_metric(CASES[case][3], z)
        torch.testing.assert_close(metric, expected, rtol=1e-8, atol=1e-8 * expected.norm().item())


def test_the_metric_of_a_gaussian_with_learned_variance(ends):
    p = without_validation(_gaussian)
    z = ends[0]
    J_mean = lg.metric.jacobian(lambda z: p(z).mean, z)
    J_log = lg.metric.jacobian(lambda z: p(z).stddev.log(), z)
    weight = p(z).variance.reciprocal().unsqueeze(-1)
    expected = J_mean.mT @ (weight * J_mean) + 2.0 * J_log.mT @ J_log
    torch.testing.assert_close(lg.pullback_metric(_gaussian, z), expected)
    second = hessian(lambda u: dist.kl_divergence(p(z[:1]), p(u[None])).sum())(z[0])
    torch.testing.assert_close(lg.pullback_metric(_gaussian, z[0]), second, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_the_statistical_energy_tends_to_the_chord_energy_of_the_embedding(case, ends):
    likelihood, parameters, decoder, distribution = CASES[case]
    f = fisher_rao(decoder, likelihood, **parameters)
    error = []
    for N in (32, 64):
        curve = lg.curve.straight_line(*ends, N)
        truth = lg.curve.chord_energy(f, lg.curve.straight_line(*ends, 2048))
        error.append((statistical_energy(distribution, curve) / truth - 1).abs().max())
    assert error[1] < 1e-3
    if likelihood != "gaussian":
        assert 3.0 < error[0] / error[1] < 5.0  # second order


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("negative", "multinomial"))])
def test_the_statistical_energy_is_that_of_torchs_divergences(case, ends):
    distribution = CASES[case][3]
    curve = lg.curve.straight_line(*ends, 4)
    p = [distribution(curve[:, i]) for i in range(5)]
    terms = [dist.kl_divergence(p[i], p[i + 1]) + dist.kl_divergence(p[i + 1], p[i]) for i in range(4)]
    expected = 4.0 * sum(term.reshape(6, -1).sum(1) for term in terms)
    torch.testing.assert_close(statistical_energy(distribution, curve), expected, rtol=1e-9, atol=1e-12)


def test_a_negative_binomials_divergence_is_the_sum_over_counts(ends):
    distribution = CASES["negative binomial"][3]
    p, q = (distribution(z[:1]) for z in ends)
    counts = torch.arange(3000, dtype=torch.float64)[:, None, None].expand(3000, 1, 7)
    log_p, log_q = p.log_prob(counts), q.log_prob(counts)
    expected = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
    energy = statistical_energy(distribution, torch.stack([ends[0][0], ends[1][0]]))
    torch.testing.assert_close(energy, expected, rtol=1e-9, atol=0)


def test_other_families_are_measured_by_torchs_divergences(ends):
    def gamma(z):
        return dist.Gamma(positive_mean(z), 1.0)

    coarse, fine = (statistical_energy(gamma, lg.curve.straight_line(*ends, N)) for N in (64, 128))
    # Fisher information of the shape is the trigamma function.
    z = lg.curve.straight_line(*ends, 128)
    alpha = positive_mean(z.reshape(-1, 3)).reshape(6, 129, 7)
    middle = torch.polygamma(1, 0.5 * (alpha[:, 1:] + alpha[:, :-1]))
    expected = 128 * (middle * alpha.diff(dim=1).square()).sum((1, 2))
    torch.testing.assert_close((4 * fine - coarse) / 3, expected, rtol=1e-3, atol=0)
    with pytest.raises(TypeError, match="statistical_energy takes any"):
        lg.pullback_metric(gamma, ends[0])
    with pytest.raises(TypeError, match="KL divergence, got StudentT"):
        statistical_energy(lambda z: dist.StudentT(3.0, net(z)), z)


def test_distances_of_gaussians_are_hyperbolic(random):
    scale = torch.tensor([2.0, 0.5], dtype=torch.float64)
    a, b = scale * torch.randn(2, 12, 2, generator=random, dtype=torch.float64)
    truth = _half_plane_distance(a, b)
    result = lg.geodesic(_half_plane, a, b, segments=64, tol=1e-12, max_iter=1000)
    assert result.converged.all()
    assert (result.length / truth - 1).abs().max() < 1e-6
    assert (result.order > 1.8).all()
    default = lg.geodesic(_half_plane, a, b)
    assert default.converged.all()
    assert ((default.length / truth - 1).abs() <= default.error.clamp_min(1e-6)).all()
    straight = statistical_energy(_half_plane, lg.curve.straight_line(a, b, 512)).sqrt()
    assert (straight / truth - 1).max() > 1e-2  # the straight line is no geodesic


def test_energy_minimisation_agrees_with_the_embedding_and_is_identified(ends):
    a, b = ends
    options = {"segments": 32, "tol": 1e-10, "max_iter": 1000}
    for case in ("poisson", "bernoulli, logits", "multinomial, logits"):
        likelihood, parameters, decoder, distribution = CASES[case]
        truth = lg.distance(fisher_rao(decoder, likelihood, **parameters), a, b, segments=32, tol=1e-10)
        result = lg.geodesic(distribution, a, b, **options)
        assert result.converged.all()
        torch.testing.assert_close(result.length, truth, rtol=1e-5, atol=0)
    A = lg.RadialTwist(0.2)
    here = lg.geodesic(_gaussian, a, b, **options)
    there = lg.geodesic(lambda z: _gaussian(A.inv(z)), A(a), A(b), **options)
    assert here.converged.all()
    assert there.converged.all()
    torch.testing.assert_close(there.length, here.length, rtol=1e-6, atol=0)
    mean = lg.distance(lambda z: _gaussian(z).mean, a, b)
    assert (mean / here.length - 1).abs().max() > 1e-2


def test_results_do_not_depend_on_the_batch_nor_change_the_decoder(ends):
    a, b = ends
    together = lg.geodesic(_gaussian, a, b, tol=1e-8)
    alone = lg.geodesic(_gaussian, a[2:3], b[2:3], tol=1e-8)
    torch.testing.assert_close(alone.length, together.length[2:3], rtol=1e-7, atol=0)
    assert all(p.grad is None for p in net.parameters())
    assert len(lg.geodesic(_gaussian, a[:0], b[:0])) == 0
    same = lg.geodesic(_gaussian, a, a)
    assert same.converged.all()
    assert (same.length == 0).all()
    bent = lg.curve.straight_line(a, b, 8)
    bent[:, 1:-1] += 0.1
    again = lg.geodesic(_gaussian, a, b, tol=1e-8, initial=bent)
    torch.testing.assert_close(again.length, together.length, rtol=1e-6, atol=0)


def test_failure_is_data():
    a, b = torch.tensor([[-3.0, -2.0]]).double(), torch.tensor([[3.0, 2.0]]).double()
    with pytest.warns(RuntimeWarning, match="1 of 1 geodesics did not converge"):
        result = lg.geodesic(_half_plane, a, b, tol=1e-12, max_iter=1)
    assert not result.converged.any()
    assert torch.isfinite(result.length).all()


def test_divergences_of_saturated_probabilities_keep_their_digits():
    logit = torch.tensor([[60.0]], dtype=torch.float64)
    energy = statistical_energy(lambda z: dist.Bernoulli(logits=z), torch.stack([logit - 1e-3, logit], 1))
    torch.testing.assert_close(energy, 1e-6 * torch.exp(-logit[0]), rtol=2e-3, atol=0)


def test_float32(ends):
    ends = [z.float() for z in ends]
    curve = lg.curve.straight_line(*ends, 4).requires_grad_()
    statistical_energy(lambda z: dist.Normal(z, z.exp()), curve).sum().backward()
    assert torch.isfinite(curve.grad).all()
    result = lg.geodesic(lambda z: dist.Normal(z, z.exp()), *ends)
    assert result.length.dtype == torch.float32
    assert result.converged.all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: statistical_energy(net, torch.zeros(2, 3).double()), TypeError, "Distribution, got Tensor"),
        (lambda: lg.pullback_metric(lambda z: dist.Normal(z.sum(), 1.0), torch.zeros(2, 3)), ValueError, "one row"),
        (
            lambda: lg.pullback_metric(lambda z: dist.NegativeBinomial(z.exp(), logits=z), torch.zeros(2, 3)),
            ValueError,
            "total_count",
        ),
        (lambda: statistical_energy(_half_plane, torch.zeros(1, 2)), ValueError, "N ≥ 1"),
        (
            lambda: lg.exp_map(_half_plane, torch.zeros(1, 2), torch.ones(1, 2)),
            TypeError,
            "returns distributions",
        ),
        (lambda: lg.geodesic(_half_plane, torch.zeros(1, 2), torch.ones(2, 2)), ValueError, "same"),
    ],
)
def test_errors_name_the_remedy(make, error, message):
    with pytest.raises(error, match=message):
        make()
