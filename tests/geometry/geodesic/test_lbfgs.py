import pytest
import torch

from latentgeo.geometry.geodesic.lbfgs import _tail, minimise


def _quadratic(P=5, n=12, condition=100.0):
    random = torch.Generator().manual_seed(1)
    eigenvalues = torch.logspace(0, torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(P, n, n, generator=random, dtype=torch.float64)).Q
    H = Q @ torch.diag(eigenvalues) @ Q.mT
    centre = torch.randn(P, n, generator=random, dtype=torch.float64)

    def objective(x, rows):
        r = x - centre[rows]
        Hr = torch.einsum("pij,pj->pi", H[rows], r)
        return 1.0 + 0.5 * (r * Hr).sum(1), Hr

    return objective, centre


def _rosenbrock(x, rows):
    x = x.detach().requires_grad_()
    value = 1.0 + ((1 - x[:, 0]).square() + 100.0 * (x[:, 1] - x[:, 0].square()).square())
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def test_a_quadratic_is_solved():
    objective, centre = _quadratic()
    result = minimise(objective, torch.zeros_like(centre), tol=1e-14)
    assert result.converged.all()
    torch.testing.assert_close(result.x, centre, rtol=0, atol=1e-5)


def test_a_curved_valley_is_followed():
    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    result = minimise(lambda x, rows: _rosenbrock(x.requires_grad_(), rows), start, tol=1e-14)
    assert result.converged.all()
    torch.testing.assert_close(result.x, torch.ones_like(start), rtol=0, atol=1e-5)
    assert result.iterations[2] == 0  # already there
    assert torch.equal(start[0], torch.tensor([-1.2, 1.0], dtype=torch.float64))


def test_a_row_does_not_depend_on_the_others():
    objective, centre = _quadratic()
    together = minimise(objective, torch.zeros_like(centre), tol=1e-10)
    for p in range(len(centre)):
        alone = minimise(lambda x, rows, p=p: objective(x, rows + p), torch.zeros_like(centre[:1]), tol=1e-10)
        torch.testing.assert_close(alone.x[0], together.x[p], rtol=0, atol=1e-12)
        assert alone.iterations[0] == together.iterations[p]


def test_running_out_of_iterations_is_reported():
    objective, centre = _quadratic(condition=1e6)
    result = minimise(objective, torch.zeros_like(centre), tol=1e-14, max_iter=2)
    assert not result.converged.any()
    assert (result.gain > 1e-14).all()
    assert (result.iterations == 2).all()


def test_the_gain_is_about_what_is_left_to_gain():
    objective, centre = _quadratic()
    for max_iter in (2, 4, 6):
        result = minimise(objective, torch.zeros_like(centre), tol=1e-14, max_iter=max_iter)
        left = (result.value - 1.0) / result.value
        assert (result.gain > 0.3 * left).all()


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_a_row_that_creeps_at_a_constant_rate_knows_how_far_it_has_to_go(rate):
    steps = torch.tensor([2, 7, 40])
    history = 1.0 + rate ** (steps[:, None] + torch.arange(-20, 1, dtype=torch.float64))
    start = 1.0 + rate ** torch.zeros(3, 1, dtype=torch.float64)
    history = torch.where(torch.arange(-20, 1) < -steps[:, None], start, history)
    torch.testing.assert_close(_tail(history, steps, torch.zeros(3)), rate ** steps.double())
    assert not _tail(history, steps, torch.ones(3)).any()  # nothing that rounding explains is progress


def test_a_row_that_is_not_finite_fails_alone():
    objective, centre = _quadratic()

    def broken(x, rows):
        value, gradient = objective(x, rows)
        return value.masked_fill(rows == 2, float("nan")), gradient

    result = minimise(broken, torch.zeros_like(centre), tol=1e-10)
    assert result.converged.tolist() == [True, True, False, True, True]
    assert result.gain[2] == torch.inf


def test_a_step_into_the_undefined_is_shortened():
    def objective(x, rows):  # log barrier: undefined from 1 on, minimum at 1 - 1/8
        value = 10.0 - 8.0 * x[:, 0] - torch.log(1.0 - x[:, 0])
        return value, -8.0 + 1.0 / (1.0 - x)

    result = minimise(objective, torch.zeros(1, 1, dtype=torch.float64), tol=1e-12)
    assert result.converged.item()
    assert abs(result.x.item() - 0.875) < 1e-5
