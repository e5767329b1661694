import math

import torch

from latentgeo.geometry.geodesic.preconditioner import CurvePreconditioner, FlatPreconditioner, MetricFactor


def test_hessians_that_rounding_left_indefinite_are_named_and_decoupled():
    own = torch.eye(2).expand(2, 3, 2, 2).clone()
    cross = torch.zeros(2, 2, 2, 2)
    cross[1] = 4.0 * torch.eye(2)  # no Jacobians have these products
    C = CurvePreconditioner(own, cross, 4, 1e-6)
    assert C.sound.tolist() == [True, False]
    g = torch.randn(2, 3, 2)
    assert torch.isfinite(C.step(C.gradient(g, torch.arange(2)), torch.arange(2))).all()


def test_what_coarse_curves_tell_of_slow_swings_is_the_same_by_more_nodes_and_another_metric():
    random = torch.Generator().manual_seed(0)
    A, B, aim = torch.randn(3, 2, 3, 3, generator=random, dtype=torch.float64)
    coarse, fine = (
        FlatPreconditioner(MetricFactor(M @ M.mT + torch.eye(3).double(), M.dtype), N) for M, N in ((A, 8), (B, 16))
    )

    def swings(N, direction):  # and back: (2, N - 1, 3)
        t = torch.arange(1, N, dtype=torch.float64)[:, None] / N
        return torch.sin(math.pi * t) * direction[:, :1] + 0.5 * torch.sin(2.0 * math.pi * t) * direction[:, 1:2]

    def coordinates(of, curves):  # steps are C⁻ᵀ Y and gradients C Y, as the inverse of C⁻¹: solved by least squares
        P, n = len(curves), curves[0].numel()
        basis = torch.eye(n, dtype=torch.float64).unflatten(1, curves.shape[1:])
        maps = [of(e.expand(P, -1, -1), torch.arange(P)).flatten(1) for e in basis]
        return torch.linalg.solve(torch.stack(maps, 2), curves.flatten(1)[..., None]).squeeze(2)

    known = (
        coordinates(coarse.step, swings(8, aim))[:, None],
        coarse.gradient(swings(8, aim.flip(1)) / 8, torch.arange(2)).flatten(1)[:, None],
        torch.ones(2, 1, dtype=torch.float64),
    )
    steps, changes, curvature = fine.learnt(known, coarse)
    found = fine.step(steps[:, 0].unflatten(1, (15, 3)), torch.arange(2))
    expected = swings(16, aim)
    assert (found - expected).norm() < 0.02 * expected.norm()
    expected = fine.gradient(swings(16, aim.flip(1)) / 16, torch.arange(2)).flatten(1)
    assert (changes[:, 0] - expected).norm() < 0.02 * expected.norm()
    torch.testing.assert_close((steps * changes).sum(2), (known[0] * known[1]).sum(2))
    assert torch.equal(curvature, known[2])
