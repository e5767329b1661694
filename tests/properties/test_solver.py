"""What every minimisation has, on convex quadratics of which all is known."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from latentgeo.geometry.geodesic.lbfgs import minimise
from tests.properties.strategies import PROPERTY, SEEDS, normal


@PROPERTY
@given(seed=SEEDS, condition=st.floats(5.0, 50.0), P=st.integers(1, 4), n=st.integers(4, 9))
def test_every_step_goes_down_and_the_gain_is_of_the_size_of_what_is_left(seed, condition, P, n):
    eigenvalues = condition ** torch.linspace(-0.5, 0.5, n, dtype=torch.float64)
    Q, centre = torch.linalg.qr(normal(seed, P, n, n)).Q, normal(seed + 1, P, n)
    H = (Q * eigenvalues) @ Q.mT

    def quadratic(x, rows):
        r = x - centre[rows]
        Hr = torch.einsum("pij,pj->pi", H[rows], r)
        return 1.0 + 0.5 * (r * Hr).sum(1), Hr

    before = None
    for steps in range(9):
        found = minimise(quadratic, torch.zeros_like(centre), tol=1e-14, max_iter=steps)
        assert before is None or (found.value <= before * (1 + 1e-14)).all()
        left = (found.value - 1.0) / found.value
        assert steps == 0 or (found.gain >= 0.12 * left - 1e-12).all()
        before = found.value
    solved = minimise(quadratic, torch.zeros_like(centre), tol=1e-14)
    assert solved.converged.all()
    assert (solved.x - centre).abs().max() < 1e-5
