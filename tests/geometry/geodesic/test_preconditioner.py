import torch

from latentgeo.geometry.geodesic.preconditioner import CurvePreconditioner


def test_hessians_that_rounding_left_indefinite_are_named_and_decoupled():
    own = torch.eye(2).expand(2, 3, 2, 2).clone()
    cross = torch.zeros(2, 2, 2, 2)
    cross[1] = 4.0 * torch.eye(2)  # no Jacobians have these products
    C = CurvePreconditioner(own, cross, 4, 1e-6)
    assert C.sound.tolist() == [True, False]
    g = torch.randn(2, 3, 2)
    assert torch.isfinite(C.step(C.gradient(g, torch.arange(2)), torch.arange(2))).all()
