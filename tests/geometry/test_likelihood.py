import math
import warnings

import numpy as np
import pytest
import torch
from torch import distributions as dist
from torch import nn
from torch.func import hessian, jacfwd, vmap

import latentgeo as lg
from latentgeo.geometry.curve import chord_energy
from latentgeo.geometry.decoder import as_decoder
from latentgeo.geometry.likelihood import fisher_rao
from tests.conftest import mlp

SIGMA = torch.tensor([0.5, 1.0, 2.0, 0.3, 1.5, 0.7, 1.1], dtype=torch.float64)
DISPERSION = torch.tensor([0.5, 1.0, 2.0, 5.0, 10.0, 3.0, 0.8], dtype=torch.float64)
TRIALS = 5
net = mlp(0)


def positive_mean(z):
    """Positive means, from about 0.5 to 4."""
    return torch.exp(1.5 * net(z))


def _probabilities(z):
    return (2.0 * net(z)).softmax(-1)


# likelihood and parameters, the decoder of the mean, and what torch.distributions calls the same.
CASES = {
    "gaussian": ("gaussian", {"sigma": SIGMA}, net, lambda z: dist.Normal(net(z), SIGMA)),
    "bernoulli": ("bernoulli", {}, lambda z: net(z).sigmoid(), lambda z: dist.Bernoulli(net(z).sigmoid())),
    "bernoulli, logits": ("bernoulli", {"logits": True}, net, lambda z: dist.Bernoulli(logits=net(z))),
    "poisson": ("poisson", {}, positive_mean, lambda z: dist.Poisson(positive_mean(z))),
    "poisson, log": ("poisson", {"log": True}, lambda z: 1.5 * net(z), lambda z: dist.Poisson(positive_mean(z))),
    "negative binomial": (
        "negative_binomial",
        {"dispersion": DISPERSION},
        positive_mean,
        lambda z: dist.NegativeBinomial(DISPERSION, logits=positive_mean(z).log() - DISPERSION.log()),
    ),
    "negative binomial, log": (
        "negative_binomial",
        {"dispersion": DISPERSION, "log": True},
        lambda z: 1.5 * net(z),
        lambda z: dist.NegativeBinomial(DISPERSION, logits=1.5 * net(z) - DISPERSION.log()),
    ),
    "categorical": ("categorical", {}, _probabilities, lambda z: dist.Categorical(_probabilities(z))),
    "multinomial, logits": (
        "categorical",
        {"trials": TRIALS, "logits": True},
        lambda z: 2.0 * net(z),
        lambda z: dist.Multinomial(TRIALS, logits=2.0 * net(z)),
    ),
}
# The decoder of the mean, for what the identified distance is compared with.
MEANS = {
    "bernoulli, logits": lambda z: net(z).sigmoid(),
    "poisson, log": positive_mean,
    "negative binomial, log": positive_mean,
    "multinomial, logits": _probabilities,
}


def _expected_information(likelihood, p, z):
    """Sum over outcomes of probability times the outer product of scores, or E over a Gaussian by quadrature."""
    if likelihood == "gaussian":
        nodes, weights = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(20))
        outcomes = net(z)[:, None] + SIGMA * nodes[:, None, None]
        probability = (weights / weights.sum())[:, None, None].expand_as(outcomes)
    else:
        top = {"bernoulli": 2, "categorical": 7}.get(likelihood, 1500)
        outcomes = torch.arange(top, dtype=torch.float64)
        outcomes = outcomes[:, None] if likelihood == "categorical" else outcomes[:, None, None]
        outcomes = outcomes.expand(top, *p(z).batch_shape)
        probability = p(z).log_prob(outcomes).exp()
    scores = vmap(jacfwd(lambda row: p(row[None]).log_prob(outcomes[:, :1]).squeeze(1)))(z[:1])[0]
    scores = scores.flatten(0, -2)
    return torch.einsum("x,xi,xj->ij", probability[:, 0].flatten(), scores, scores)


def without_validation(decoder):
    """Under vmap, distributions cannot look at their arguments."""

    def decode(z):
        before = dist.Distribution._validate_args
        dist.Distribution.set_default_validate_args(False)
        try:
            return decoder(z)
        finally:
            dist.Distribution.set_default_validate_args(before)

    return decode


def expected_information(case, z):
    """Fisher information (d, d) of a case at one latent point, shape (1, d), from its definition."""
    likelihood, _, _, distribution = CASES[case]
    if case.startswith("multinomial"):  # n independent trials have n times the information of one
        one = without_validation(lambda z: dist.Categorical(logits=2.0 * net(z)))
        return TRIALS * _expected_information(likelihood, one, z)
    return _expected_information(likelihood, without_validation(distribution), z)


@pytest.mark.parametrize("case", CASES)
def test_the_metric_is_the_expected_outer_product_of_scores(case, ends):
    likelihood, parameters, decoder, _ = CASES[case]
    for z in ends[0][:3]:
        expected = expected_information(case, z[None])
        metric = lg.pullback_metric(fisher_rao(decoder, likelihood, **parameters), z)
        torch.testing.assert_close(metric, expected, rtol=1e-8, atol=1e-8 * expected.norm().item())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.split(",")[0] not in ("negative binomial", "multinomial")]
)
def test_the_metric_is_the_second_derivative_of_the_kl_divergence(case, ends):
    likelihood, parameters, decoder, distribution = CASES[case]
    p = without_validation(distribution)
    for z in ends[0][:3]:
        fixed = p(z[None])
        expected = hessian(lambda u, fixed=fixed: dist.kl_divergence(fixed, p(u[None])).sum())(z)
        metric = lg.pullback_metric(fisher_rao(decoder, likelihood, **parameters), z)
        torch.testing.assert_close(metric, expected, rtol=1e-8, atol=1e-8 * expected.norm().item())


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["gaussian", *MEANS])
def test_fisher_rao_distances_are_identified_and_are_not_those_of_the_mean(case, ends):
    likelihood, parameters, decoder, _ = CASES[case]
    a, b = ends
    A, options = lg.RadialTwist(0.2), {"segments": 32, "tol": 1e-9}
    f = fisher_rao(decoder, likelihood, **parameters)
    here = lg.distance(f, a, b, **options)
    there = lg.distance(lg.reparametrise(f, A), A(a), A(b), **options)
    assert (there / here - 1).abs().max() < 1e-6
    euclidean = (A(a) - A(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert (euclidean - 1).abs().max() > 1e-2  # codes' distances are not identified
    plain = lg.distance(MEANS.get(case, decoder), a, b, **options)
    scale = (plain / here).median()
    assert (plain / here / scale - 1).abs().max() > 1e-2  # not even up to a unit are they the same


def test_saturated_probabilities_and_tiny_means_keep_their_digits():
    logit = torch.tensor([[-60.0], [-30.0], [0.0], [1e-9], [30.0], [60.0]], dtype=torch.float64)
    f = fisher_rao(lambda z: z, "bernoulli", logits=True)
    slope = torch.autograd.functional.jvp(f, logit, torch.ones_like(logit))[1]
    torch.testing.assert_close(slope, 0.5 / (0.5 * logit).cosh(), rtol=1e-12, atol=0)
    assert torch.isfinite(lg.metric.jacobian(f, torch.tensor([[-1e4], [1e4]]))).all()
    slope = lg.metric.jacobian(
        fisher_rao(lambda z: z, "poisson", log=True), torch.tensor([[-60.0]], dtype=torch.float64)
    )
    torch.testing.assert_close(
        slope.flatten(), torch.tensor([math.exp(-30.0)], dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 1e37), (torch.float64, 1e300)])
@pytest.mark.parametrize("r", [0.1, 1.0, 30.0])
def test_the_map_of_negative_binomials_keeps_its_digits_at_means_of_any_size(dtype, largest, r):
    logs = torch.linspace(-math.log10(largest), math.log10(largest), 501, dtype=torch.float64)
    means = torch.cat([torch.zeros(1, dtype=dtype), (10.0**logs).to(dtype)])[:, None]
    f = fisher_rao(lambda mean: mean, "negative_binomial", dispersion=r)
    exact = np.longdouble(means.numpy())
    phi = 2.0 * np.sqrt(r) * np.arcsinh(np.sqrt(exact / r))
    slope = 1.0 / np.sqrt(exact + exact**2 / r, where=exact > 0, out=np.ones_like(exact))
    z = means.clone().requires_grad_()
    (by_reverse,) = torch.autograd.grad(f(z).sum(), z)
    for value in (f(means), vmap(f)(means)):
        least = 2.2 * math.sqrt(r * torch.finfo(dtype).tiny)
        np.testing.assert_allclose(value, phi.astype(float), rtol=4.0 * torch.finfo(dtype).eps, atol=least)
    ordinary = ((means > 1e-30) & (means < 1e15)).squeeze(1)  # beyond, a derivative adds nothing that numbers keep
    for derivative in (by_reverse[:, 0], vmap(jacfwd(f))(means)[:, 0, 0]):
        assert torch.isfinite(derivative).all()
        np.testing.assert_allclose(derivative[ordinary], slope[ordinary, 0].astype(float), rtol=1e-6)
    assert torch.isnan(fisher_rao(lambda z: -z, "negative_binomial", dispersion=r)(z)[1:]).all()


def test_large_dispersion_is_poisson(ends):
    metric = lg.pullback_metric(fisher_rao(positive_mean, "negative_binomial", dispersion=1e9), ends[0])
    torch.testing.assert_close(
        metric, lg.pullback_metric(fisher_rao(positive_mean, "poisson"), ends[0]), rtol=1e-6, atol=0
    )


def test_ensembles_are_mapped_member_by_member(ends):
    members = [nn.Sequential(mlp(seed), nn.Softplus()) for seed in range(3)]
    metric = lg.pullback_metric(fisher_rao(lg.Ensemble(members), "poisson"), ends[0])
    expected = sum(lg.pullback_metric(fisher_rao(f, "poisson"), ends[0]) for f in members) / 3.0
    torch.testing.assert_close(metric, expected)


def test_float32_and_modules(ends):
    module = nn.Sequential(mlp(0).float(), nn.Dropout(0.5), nn.Softplus()).train()
    f = fisher_rao(module, "negative_binomial", dispersion=2.0)
    z = ends[0].float()
    with pytest.raises(ValueError, match="training mode"):
        lg.pullback_metric(f, z)
    assert f.eval()(z).dtype == torch.float32
    assert lg.distance(f, z, ends[1].float(), tol=1e-6).dtype == torch.float32
    bound = fisher_rao(module.train().forward, "poisson")
    with pytest.raises(ValueError, match="training mode"):
        lg.pullback_metric(bound, z)


def test_means_outside_their_domain(ends):
    z = ends[0]
    for likelihood, parameters, remedy in (
        ("poisson", {}, "log=True"),
        ("negative_binomial", {"dispersion": 1.0}, "softplus"),
        ("bernoulli", {}, "logits=True"),
        ("categorical", {}, "logits=True"),
    ):
        f = fisher_rao(net, likelihood, **parameters)
        with pytest.raises(ValueError, match=remedy):
            f(z)
        if likelihood != "categorical":
            assert torch.isnan(vmap(lambda row, f=f: f(row[None])[0])(z)).any()
    with pytest.raises(ValueError, match="sum to 1"):
        fisher_rao(lambda z: net(z).sigmoid(), "categorical")(z)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fisher_rao(net, "cauchy"), ValueError, "expected one of gaussian"),
        (lambda: fisher_rao(3, "poisson"), TypeError, "callable"),
        (lambda: fisher_rao(net, "gaussian"), ValueError, "torch.distributions.Normal"),
        (lambda: fisher_rao(net, "negative_binomial"), ValueError, "μ²/r"),
        (lambda: fisher_rao(net, "poisson", sigma=1.0), TypeError, "among log, got sigma"),
        (lambda: fisher_rao(net, sigma=1.0), TypeError, "beside sigma"),
        (lambda: fisher_rao(net, "gaussian", sigma=0.0), ValueError, "positive"),
        (lambda: fisher_rao(net, "gaussian", sigma="1"), TypeError, "number"),
        (lambda: fisher_rao(net, "poisson", log=1), TypeError, "True or False"),
    ],
)
def test_errors_name_the_remedy(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_solvers_steps_outside_the_domain_are_not_an_error():
    """A decoder whose mean is only positive near the data: the solver steps back from where it is not."""
    f = fisher_rao(lambda z: torch.cat([z, 4.0 - z.square().sum(1, keepdim=True)], 1) + 1.0, "poisson")
    a, b = torch.tensor([[-0.5, 0.0]]).double(), torch.tensor([[1.0, 1.0]]).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert torch.isfinite(lg.distance(f, a, b)).all()


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
def test_the_metric_of_a_distribution_is_the_expected_outer_product_of_scores(case, ends):
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
def test_the_energy_of_distributions_tends_to_that_of_the_embedding(case, ends):
    likelihood, parameters, decoder, distribution = CASES[case]
    f = fisher_rao(decoder, likelihood, **parameters)
    error = []
    for N in (32, 64):
        curve = lg.curve.straight_line(*ends, N)
        truth = chord_energy(f, lg.curve.straight_line(*ends, 2048))
        error.append((chord_energy(distribution, curve) / truth - 1).abs().max())
    assert error[1] < 1e-3
    if likelihood != "gaussian":
        assert 3.0 < error[0] / error[1] < 5.0  # second order


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("negative", "multinomial"))])
def test_the_energy_of_distributions_is_that_of_torchs_divergences(case, ends):
    distribution = CASES[case][3]
    curve = lg.curve.straight_line(*ends, 4)
    p = [distribution(curve[:, i]) for i in range(5)]
    terms = [dist.kl_divergence(p[i], p[i + 1]) + dist.kl_divergence(p[i + 1], p[i]) for i in range(4)]
    expected = 4.0 * sum(term.reshape(6, -1).sum(1) for term in terms)
    torch.testing.assert_close(chord_energy(distribution, curve), expected, rtol=1e-9, atol=1e-12)


def test_a_negative_binomials_divergence_is_the_sum_over_counts(ends):
    distribution = CASES["negative binomial"][3]
    p, q = (distribution(z[:1]) for z in ends)
    counts = torch.arange(3000, dtype=torch.float64)[:, None, None].expand(3000, 1, 7)
    log_p, log_q = p.log_prob(counts), q.log_prob(counts)
    expected = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()
    energy = chord_energy(distribution, torch.stack([ends[0][0], ends[1][0]]))
    torch.testing.assert_close(energy, expected, rtol=1e-9, atol=0)


class _Counts(dist.Distribution):
    """Negative binomials by mean and dispersion, zero-inflated where logits of extra zeros are given, as scvi's."""

    def __init__(self, mu, theta, zi_logits=None):
        super().__init__(validate_args=False)
        self.mu, self.theta = torch.broadcast_tensors(mu, theta)
        if zi_logits is not None:
            self.zi_logits = zi_logits


zeros = mlp(1)


def _inflated(z):
    return _Counts(positive_mean(z), DISPERSION, zi_logits=2.0 * zeros(z))


def _complete_log_probabilities(z):
    """Of an extra zero, and of the counts 0 … 1499 that are none: shape (1 + 1500, B, 7)."""
    counts = CASES["negative binomial, log"][3](z)
    x = torch.arange(1500.0, dtype=torch.float64)[:, None, None].expand(1500, len(z), 7)
    logits = 2.0 * zeros(z)
    log_p = nn.functional.logsigmoid(-logits) + counts.log_prob(x)
    return torch.cat([nn.functional.logsigmoid(logits)[None], log_p])


def test_zero_inflated_counts_have_the_information_of_complete_data_and_no_less_than_that_of_counts(ends):
    for z in ends[0][:3]:

        def complete(u):
            return without_validation(_complete_log_probabilities)(u[None])[:, 0]

        def counts(u):
            log_p = complete(u)
            return torch.cat([torch.logaddexp(log_p[:1], log_p[1:2]), log_p[2:]])

        expected, least = (
            torch.einsum("xg,xgi,xgj->ij", log_p(z).exp(), *(2 * [jacfwd(log_p)(z)])) for log_p in (complete, counts)
        )
        for decoder in (_inflated, fisher_rao(_inflated)):
            torch.testing.assert_close(lg.pullback_metric(decoder, z), expected, rtol=1e-8, atol=1e-8)
        gap = torch.linalg.eigvalsh(expected - least)
        assert gap.min() > 1e-3 * gap.max()
    plain = lg.pullback_metric(lambda z: _Counts(positive_mean(z), DISPERSION), ends[0])
    torch.testing.assert_close(plain, lg.pullback_metric(CASES["negative binomial"][3], ends[0]))
    without = lg.pullback_metric(lambda z: _Counts(positive_mean(z), DISPERSION, net(z) - 80.0), ends[0])
    torch.testing.assert_close(without, plain)


def test_zero_inflated_counts_have_the_divergence_of_complete_data_and_geodesics_of_their_spheres(ends):
    a, b = ends
    log_p, log_q = (_complete_log_probabilities(z[:1]) for z in ends)
    energy = chord_energy(_inflated, torch.stack([a[0], b[0]]))
    torch.testing.assert_close(energy, ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(), rtol=1e-9, atol=0)
    found = lg.geodesic(_inflated, a, b, segments=32, tol=1e-10, max_iter=1000)
    flat = lg.geodesic(fisher_rao(_inflated), a, b, segments=32, tol=1e-10)
    torch.testing.assert_close(found.length, flat.length, rtol=1e-5, atol=0)
    assert found.converged.all()
    alone = lg.distance(fisher_rao(positive_mean, "negative_binomial", dispersion=DISPERSION), a, b)
    assert (alone / found.length - 1).abs().max() > 0.1  # the negative binomial by itself says something else


def test_zero_inflated_counts_lie_on_spheres(random):
    """All of one coordinate's parameters as a surface: chords give great circles, and farther ones pass the pole."""
    r = torch.tensor([3.0], dtype=torch.float64)
    z = torch.randn(2, 40, 2, generator=random, dtype=torch.float64)

    def surface(z):
        return _Counts(2.0 * z[:, 1:].exp(), r, z[:, :1])

    a, b = z
    x, y = (fisher_rao(surface)(of) for of in (a, b))
    assert torch.allclose(x.norm(dim=1), torch.tensor(2.0).double())
    f = as_decoder(surface, a)
    apart = f.chord(f(a), f(b))
    torch.testing.assert_close(apart, 4.0 * torch.asin((x - y).norm(dim=1) / 4.0), rtol=1e-10, atol=0)
    length = lg.distance(surface, a, b, segments=32, tol=1e-10)
    torch.testing.assert_close(length, apart, rtol=1e-6, atol=0)
    far = torch.tensor([[0.3, -8.0], [-0.5, 8.0]]).double()  # more than half a turn apart
    latitude = far[:, 0].sigmoid().sqrt().asin()
    torch.testing.assert_close(f.chord(f(far[:1]), f(far[1:])).item(), 2.0 * (math.pi - latitude.sum()).item())


@pytest.mark.thorough
@pytest.mark.parametrize("case", [case for case in CASES if case != "categorical"])
def test_decoders_of_distributions_have_the_embedding_of_their_likelihood(case, ends):
    likelihood, parameters, decoder, distribution = CASES[case]
    found, expected = fisher_rao(distribution), fisher_rao(decoder, likelihood, **parameters)
    torch.testing.assert_close(found(ends[0]), expected(ends[0]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.distribution(ends[0]).mean, distribution(ends[0]).mean)
    a, b = (z[:2] for z in ends)
    there = lg.exp_map(found, a, lg.log_map(found, a, b, segments=32, tol=1e-9))
    torch.testing.assert_close(there, b, rtol=1e-3, atol=1e-3)


def test_means_that_vanish_are_no_nan():
    z = torch.tensor([[-2000.0, 1.0]])
    for decoder in (lambda z: dist.Poisson(z.exp()), lambda z: _Counts(z.exp(), torch.ones(2))):
        assert torch.isfinite(lg.metric.jacobian(fisher_rao(decoder), z)).all()


@pytest.mark.parametrize(
    ("decoder", "error", "message"),
    [
        (lambda z: dist.Normal(z, z.exp()), ValueError, "without fisher_rao"),
        (lambda z: _Counts(z.exp(), z.exp()), ValueError, "total_count does not depend on z"),
        (lambda z: z, TypeError, "name the likelihood"),
    ],
)
def test_decoders_without_an_embedding_are_refused(decoder, error, message):
    with pytest.raises(error, match=message):
        lg.pullback_metric(fisher_rao(decoder), torch.zeros(2, 3))


def test_other_families_are_refused(ends):
    with pytest.raises(TypeError, match="got Gamma, whose Fisher metric is not known"):
        lg.pullback_metric(lambda z: dist.Gamma(positive_mean(z), 1.0), ends[0])


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
    straight = chord_energy(_half_plane, lg.curve.straight_line(a, b, 512)).sqrt()
    assert (straight / truth - 1).max() > 1e-2  # the straight line is not a geodesic


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
    energy = chord_energy(lambda z: dist.Bernoulli(logits=z), torch.stack([logit - 1e-3, logit], 1))
    torch.testing.assert_close(energy, 1e-6 * torch.exp(-logit[0]), rtol=2e-3, atol=0)


def test_float32(ends):
    ends = [z.float() for z in ends]
    curve = lg.curve.straight_line(*ends, 4).requires_grad_()
    chord_energy(lambda z: dist.Normal(z, z.exp()), curve).sum().backward()
    assert torch.isfinite(curve.grad).all()
    result = lg.geodesic(lambda z: dist.Normal(z, z.exp()), *ends)
    assert result.length.dtype == torch.float32
    assert result.converged.all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lg.pullback_metric(lambda z: dist.Normal(z.sum(), 1.0), torch.zeros(2, 3)), ValueError, "one row"),
        (
            lambda: lg.pullback_metric(lambda z: dist.NegativeBinomial(z.exp(), logits=z), torch.zeros(2, 3)),
            ValueError,
            "total_count",
        ),
        (lambda: chord_energy(_half_plane, torch.zeros(1, 2)), ValueError, "N ≥ 1"),
        (
            lambda: lg.exp_map(_half_plane, torch.zeros(1, 2), torch.ones(1, 2)),
            TypeError,
            "returns distributions",
        ),
        (lambda: lg.geodesic(_half_plane, torch.zeros(1, 2), torch.ones(2, 2)), ValueError, "same"),
    ],
)
def test_errors_of_distributions_name_the_remedy(make, error, message):
    with pytest.raises(error, match=message):
        make()
