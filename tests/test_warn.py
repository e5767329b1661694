"""Whoever is warned sees a line of their own."""

import warnings

import pytest
import torch

import latentgeo as lg


def steep(z: torch.Tensor) -> torch.Tensor:
    return torch.cat([z, torch.sin(40.0 * z)], 1)


Z = torch.linspace(-2.0, 2.0, 20, dtype=torch.float64)[:, None]
LOGITS = (lambda x: x[:, :1], lambda z: 50.0 + steep(z))
CALLS = {
    "geodesic": lambda: lg.geodesic(steep, Z[:10], Z[10:], max_iter=1),
    "distance": lambda: lg.distance(steep, Z[:10], Z[10:], max_iter=1),
    "distance_matrix": lambda: lg.distance_matrix(steep, Z, max_iter=1),
    "log_map": lambda: lg.log_map(steep, Z[:10], Z[10:], max_iter=1),
    "exp_map": lambda: lg.exp_map(steep, Z, 0.05 * torch.ones_like(Z), steps=2),
    "scalar_curvature": lambda: lg.scalar_curvature(torch.nn.Sequential(*RELU), torch.randn(30, 2)),
    "project": lambda: lg.project(LOGITS[1], steep(Z), Z),
    "points": lambda: lg.latent_model(LOGITS).points(steep(Z)),
    "agreement": lambda: lg.agreement([LOGITS, LOGITS], steep(Z), pairs=3, check=False, progress=False),
    "GeodesicDistance": lambda: lg.GeodesicDistance(steep, max_iter=1).fit(Z.numpy()).transform(Z.numpy()),
}
RELU = torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)


@pytest.mark.parametrize("name", CALLS)
def test_warnings_point_at_the_call(name):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        CALLS[name]()
    ours = [w for w in seen if w.category in (RuntimeWarning, UserWarning)]
    assert ours
    assert {w.filename for w in ours} == {__file__}
