"""Points of the image that belong to data: closed forms, other coordinates, what cannot be found, and bad input."""

import copy
import math
import warnings

import pytest
import scipy.optimize
import torch
from torch import distributions as dist
from torch import nn

import latentgeo as lg
from latentgeo.identifiability.points import project


def parabola(z):
    return torch.cat([z, z.square()], 1)


def network(d=3, D=40, seed=0, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, D)).to(dtype).requires_grad_(False)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(f, z, scale=0.3, seed=1):
    x = f(z)
    return x + scale * normal(*x.shape, seed=seed)


def test_linear_decoder_has_the_least_squares_code():
    f = network().double()[0]
    x, start = normal(20, 32), normal(20, 3, seed=1)
    found = project(f, x, start)
    expected = torch.linalg.lstsq(f.weight, (x - f.bias).T).solution.T
    torch.testing.assert_close(found.codes, expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(found.residual, (x - f(expected)).norm(dim=1), atol=1e-12, rtol=0)
    assert found.converged.all()
    assert found.unique.all()


def test_data_on_the_image_are_found_exactly():
    f, z = network(), 0.5 * normal(30, 3)
    found = project(f, f(z), z + 0.1 * normal(30, 3, seed=2))
    assert found.converged.all()
    assert found.residual.max() < 1e-6
    again = project(f, f(z), z)  # from the solution itself
    torch.testing.assert_close(again.codes, z, atol=1e-6, rtol=0)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_points_on_kinks_are_found(dtype):
    """The least misfit of a decoder with ReLU often lies on a kink, where no gradient vanishes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 12)]
    f = nn.Sequential(*layers).double().requires_grad_(False)
    z = normal(100, 3)
    x = noisy(f, z, 0.5)
    found = project(copy.deepcopy(f).to(dtype), x.to(dtype), z.to(dtype))
    assert found.converged.float().mean() > 0.9
    f.double()
    for k in torch.nonzero(found.converged).flatten()[:8]:

        def away(u, x=x[k]):
            return (f(torch.as_tensor(u)[None]) - x).norm().item()

        nearby = [found.codes[k].double() + 0.01 * i * normal(3, seed=i) for i in range(3)]
        options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000}
        least = min(scipy.optimize.minimize(away, z, method="Nelder-Mead", options=options).fun for z in nearby)
        assert found.residual[k] < (1 + 1e-5) * least


@pytest.mark.parametrize(
    "transform",
    [lg.RadialTwist(0.5), lg.CoordinateWarp(), lg.random_affine(3), lg.random_flow(3, seed=1)],
    ids=["twist", "warp", "affine", "flow"],
)
def test_the_same_point_in_other_coordinates(transform):
    f, z = network(), normal(60, 3)
    x = noisy(f, z)
    found = project(f, x, z)
    moved = project(lg.reparametrise(f, transform), x, transform(z))
    apart = (f(found.codes) - f(transform.inv(moved.codes))).norm(dim=1)
    sure = found.unique & moved.unique
    assert sure.double().mean() > 0.9
    assert apart[sure].max() < 1e-6
    # The control: the mean of codes is another point in other coordinates, unless they are affine.
    mean, of_moved = z.mean(0, keepdim=True), transform.inv(transform(z).mean(0, keepdim=True))
    if not isinstance(transform, lg.LinearTransform):
        assert (f(mean) - f(of_moved)).norm() > 1e-2


def test_of_two_nearest_points_neither_is_called_unique():
    x = torch.tensor([[0.0, 2.0], [0.0, 2.0], [0.0, 0.4]]).double()
    found = project(parabola, x, torch.tensor([[0.5], [-0.5], [0.3]]).double(), torch.tensor([[-0.6], [0.6]]).double())
    expected = torch.tensor([1.5**0.5, 1.5**0.5, 0.0]).double()
    torch.testing.assert_close(found.codes.abs().flatten(), expected, atol=1e-6, rtol=0)
    assert found.unique.tolist() == [False, False, True]
    z = torch.linspace(-(1.5**0.5), 1.5**0.5, 10_001, dtype=torch.float64)[:, None]
    arc = (parabola(z[1:]) - parabola(z[:-1])).norm(dim=1).sum()
    torch.testing.assert_close(found.apart, torch.stack([arc, arc, 0.0 * arc]), atol=0, rtol=1e-2)


def test_points_that_no_finite_line_joins_are_infinitely_far_apart():
    def branches(z):  # two, with nothing between them
        return torch.cat([z.square(), 0.1 * z, (z.square() - 0.25).sqrt()], 1)

    x = torch.tensor([[1.0, 0.0, 0.75**0.5]]).double()
    found = project(branches, x, torch.tensor([[0.9]]).double(), torch.tensor([[-0.9], [0.9]]).double())
    assert found.apart.item() == math.inf


def test_grey_images_are_told_how_a_bernoulli_decoder_takes_them():
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x > 0\.5.*torch\.sigmoid\(logits\)"):
        project(lambda z: dist.Bernoulli(logits=z), x, torch.zeros(1, 2).double())


def test_the_nearer_of_two_points_is_found_from_the_other_side():
    x = torch.tensor([[0.3, 3.0]]).double()  # nearer to the right branch
    start, others = torch.tensor([[-1.5]]).double(), torch.tensor([[-1.0], [1.0]]).double()
    found = project(parabola, x, start, others)
    grid = torch.linspace(-3, 3, 600_001).double()[:, None]
    best = grid[(parabola(grid) - x).norm(dim=1).argmin()]
    assert not found.unique.item()
    assert found.apart.item() == 0  # the other one is farther
    torch.testing.assert_close(found.codes[0], best, atol=1e-5, rtol=0)
    assert project(parabola, x, start).codes.item() < 0  # nothing else to start from, and said so:
    assert not project(parabola, x, start).unique.item()


def test_an_image_that_misses_the_data_by_more_than_their_mean_is_told_of():
    logits = network(2, 20)
    z = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    x = (4.0 * logits(z)).sigmoid().detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        project(lambda z: (4.0 * logits(z)).sigmoid(), x, z)
        project(logits, x[:7] + 9.0, z[:7])  # of so few data nothing is known
    with pytest.warns(UserWarning, match=r"misses the data by .*more than their own mean.*torch\.sigmoid"):
        project(lambda z: 4.0 * logits(z), x + 0.5, z)


def test_noise_that_no_point_explains_is_flagged_or_found():
    f, z = network(seed=3), normal(50, 3)
    x = 30.0 * normal(50, 40, seed=4)
    found = project(f, x, z)
    assert torch.isfinite(found.codes).all()
    assert torch.isfinite(found.residual).all()
    start = (x - f(z)).norm(dim=1)
    assert (found.residual <= start).all()
    assert not found.unique.all()


def test_rounding_of_large_values_ends_the_search():
    """Single precision leaves of values about 1000 the fourth decimal place, and points are found to its root."""
    f, z = network(dtype=torch.float32), 0.5 * normal(40, 3).float()
    x = (1000.0 + noisy(f, z, scale=0.1)).float()
    found = project(lambda z: 1000.0 + f(z), x, 0.5 * normal(40, 3, seed=3).float())
    assert found.converged.all()
    precise = copy.deepcopy(f).double()
    exact = project(lambda z: 1000.0 + precise(z), x.double(), found.codes.double())
    assert (precise(exact.codes) - precise(found.codes.double())).norm(dim=1).max() < 0.05


def test_a_direction_that_the_decoder_ignores_stays():
    f = network(d=2)
    z = normal(20, 3)
    found = project(lambda z: f(z[:, :2]), noisy(f, z[:, :2]), z)
    torch.testing.assert_close(found.codes[:, 2], z[:, 2], atol=1e-9, rtol=0)


def test_decoders_of_an_ensemble_count_alike():
    first, second = network(seed=1), network(seed=2)
    z = normal(20, 3)
    x = noisy(first, z)
    together = project(lg.Ensemble([first, second]), x, z)
    stacked = project(lambda z: torch.cat([first(z), second(z)], 1), torch.cat([x, x], 1), z)
    both = together.unique & stacked.unique
    torch.testing.assert_close(together.codes[both], stacked.codes[both], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.residual, stacked.residual / math.sqrt(2), atol=1e-7, rtol=0)
    chunked = project(lg.Chunked(lg.Ensemble([first, second]), 7), x, z)
    torch.testing.assert_close(chunked.codes, together.codes, atol=1e-6, rtol=0)


LIKELIHOODS = {
    "poisson": (lambda eta: dist.Poisson(eta.exp()), {"likelihood": "poisson", "log": True}),
    "bernoulli": (lambda eta: dist.Bernoulli(logits=eta), {"likelihood": "bernoulli", "logits": True}),
    "negative_binomial": (
        lambda eta: dist.NegativeBinomial(torch.tensor(2.0).double(), logits=eta - math.log(2.0)),
        {"likelihood": "negative_binomial", "dispersion": 2.0, "log": True},
    ),
    "categorical": (
        lambda eta: dist.Multinomial(600, logits=eta),
        {"likelihood": "categorical", "logits": True, "trials": 600},
    ),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_maximum_likelihood_codes(name):
    family, embedding = LIKELIHOODS[name]
    f, z = network(d=2, D=400), 0.7 * normal(15, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        x = family(f(z)).sample()
    found = project(lambda z: family(f(z)), x, z)
    assert found.converged.all()
    # Independently: Newton's method on the log-likelihood of each datum. Far out the network saturates.
    code = found.codes.clone()
    assert found.unique.double().mean() >= 0.7
    for i in found.unique.nonzero().flatten().tolist():

        def of(point, x=x[i : i + 1]):
            return -family(f(point[None])).log_prob(x).sum()

        gradient = torch.func.grad(of)(code[i])
        hessian = torch.autograd.functional.hessian(of, code[i])
        assert torch.linalg.eigvalsh(hessian).min() > 0
        assert torch.linalg.solve(hessian, gradient).norm() < 1e-6
        torch.testing.assert_close(found.residual[i], of(code[i]))
    embedded = project(lg.fisher_rao(f, **embedding), x, z)  # the likelihood is known, though the decoder returns φ(μ)
    sure = found.unique & embedded.unique
    assert sure.double().mean() >= 0.7
    torch.testing.assert_close(embedded.codes[sure], found.codes[sure], atol=1e-5, rtol=0)


def test_a_normal_likelihood_with_a_variance_of_its_own():
    f, z = network(d=2, D=40), normal(15, 2)

    def decoder(z):
        mean, log_sigma = f(z).chunk(2, 1)
        return dist.Normal(mean, (0.3 * log_sigma).exp())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        x = decoder(z).sample()
    found = project(decoder, x, z)
    assert found.converged.all()
    better = -decoder(z).log_prob(x).sum(1) - found.residual
    assert (better >= -1e-9).all()

    def scaled(z):
        return dist.Normal(1e-4 * decoder(z).loc, 1e-4 * decoder(z).scale)

    again = project(scaled, 1e-4 * x, z)  # the same in other units
    torch.testing.assert_close(again.codes[found.unique], found.codes[found.unique], atol=1e-4, rtol=0)


def test_counts_that_say_nothing_run_away_and_are_flagged_or_finite():
    def decoder(z):
        return dist.Poisson(z.exp().expand(-1, 3))

    found = project(decoder, torch.zeros(2, 3).double(), torch.zeros(2, 1).double())  # the best rate is zero
    assert torch.isfinite(found.codes).all()
    assert (found.codes < -5).all()
    assert (found.residual < 1e-1).all()


def test_a_row_does_not_depend_on_its_company():
    f, z = network(), normal(20, 3)
    x = noisy(f, z)
    together, alone = project(f, x, z), project(f, x[7:8], z[7:8])
    torch.testing.assert_close(together.codes[7:8], alone.codes, atol=1e-9, rtol=0)


def test_the_dtype_is_kept_and_nothing_of_the_callers_is_changed():
    f = network(dtype=torch.float32)
    z = normal(10, 3).float().requires_grad_()
    x = noisy(network(), normal(10, 3)).float()
    before = z.detach().clone(), x.clone()
    found = project(f, x, z)
    assert found.codes.dtype == found.residual.dtype == torch.float32
    assert not found.codes.requires_grad
    assert torch.equal(z, before[0])
    assert torch.equal(x, before[1])
    double = project(network(), x.double(), z.detach().double())
    apart = (network()(found.codes.double()) - network()(double.codes)).norm(dim=1)
    assert apart[double.unique].max() < 1e-2
    with torch.inference_mode():
        inside = project(f, x.clone(), z.detach().clone())
    torch.testing.assert_close(inside.codes, found.codes)


def test_no_data():
    found = project(network(), torch.zeros(0, 40).double(), torch.zeros(0, 3).double())
    assert found.codes.shape == (0, 3)
    assert found.unique.shape == (0,)


@pytest.mark.parametrize(
    ("x", "start", "error", "message"),
    [
        (torch.full((2, 40), torch.nan).double(), torch.zeros(2, 3).double(), ValueError, "x: expected finite"),
        (torch.zeros(2, 40).double(), torch.full((2, 3), torch.inf).double(), ValueError, "start: expected finite"),
        (torch.zeros(2, 39).double(), torch.zeros(2, 3).double(), ValueError, r"40 values each.*\(2, 39\)"),
        (
            torch.zeros(3, 40).double(),
            torch.zeros(2, 3).double(),
            ValueError,
            "a row of each for each datum, got 3 and 2",
        ),
        (torch.zeros(2, 40), torch.zeros(2, 3).double(), TypeError, "dtype of start, torch.float64"),
        (torch.zeros(2, 40).double(), torch.zeros(2, 3), TypeError, "parameters are torch.float64"),
        (torch.zeros(2, 40).double(), torch.zeros(2, 4).double(), ValueError, "could not decode"),
        ({"x": torch.zeros(2, 40)}, torch.zeros(2, 3).double(), TypeError, "torch.as_tensor"),
        (torch.zeros(2, 40).long(), torch.zeros(2, 3).double(), TypeError, "got torch.int64"),
    ],
)
def test_what_does_not_fit_is_refused(x, start, error, message):
    with pytest.raises(error, match=message):
        project(network(), x, start)


def test_data_outside_the_support_are_refused():
    with pytest.raises(ValueError, match="support of Poisson"):
        project(lambda z: dist.Poisson(network()(z).exp()), -torch.ones(2, 40).double(), torch.zeros(2, 3).double())
    with pytest.raises(ValueError, match=r"rows of shape \(40,\)"):
        project(lambda z: dist.Poisson(network()(z).exp()), torch.ones(2, 1).double(), torch.zeros(2, 3).double())


def test_a_decoder_that_is_not_finite_at_the_start_gives_no_silent_code():
    found = project(lambda z: parabola(z).log(), torch.zeros(2, 2).double(), torch.tensor([[-1.0], [0.5]]).double())
    assert found.converged.tolist() == [False, True]
    assert not found.unique[0]
