import ast
import sys
from pathlib import Path

import pytest
import torch
import zuko

import latentgeo as lg
from latentgeo.identifiability.coordinates import NeuralFlow, random_flow


def _draws(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_flows_are_far_from_similarities_and_from_affine_maps(d, seed):
    A, z = random_flow(d, seed=seed), _draws(400, d)
    y = A(z)
    ratio = (y[1:] - y[:-1]).norm(dim=1) / (z[1:] - z[:-1]).norm(dim=1)
    assert ((ratio - 1).abs() > 0.05).double().mean() > 0.5
    assert ratio.std() / ratio.mean() > 0.05  # no common factor mends it
    design = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
    left = y - design @ torch.linalg.lstsq(design, y).solution
    assert left.square().mean() > 0.005 * (y - y.mean(0)).square().mean()


def test_random_flows_repeat_by_seed_are_frozen_and_leave_the_global_generator():
    z = _draws(5, 3)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    A, again, other = random_flow(3, seed=5), random_flow(3, seed=5), random_flow(3, seed=6)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(A(z), again(z))
    assert not torch.allclose(A(z), other(z), atol=0.1)
    assert not A(z).requires_grad
    assert not A.flow.training
    torch.testing.assert_close(random_flow(3, scale=1e-6)(z), z, rtol=0, atol=1e-5)


def test_a_flow_from_elsewhere_is_copied_and_frozen():
    flow = zuko.flows.NSF(features=2, transforms=1, hidden_features=(8,)).double()
    A, z = NeuralFlow(flow), _draws(5, 2)
    torch.testing.assert_close(A(z), flow().transform(z))
    torch.testing.assert_close(A.inv(A(z)), z)
    assert flow.training
    assert all(p.requires_grad for p in flow.parameters())


def test_importing_the_package_does_not_import_zuko():
    # No module imports it but inside a function. Parsed, for a fresh interpreter takes seconds.
    for path in Path(lg.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not any(name.split(".")[0] == "zuko" for name in names), path


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: random_flow(1), ValueError, "CoordinateWarp"),
        (lambda: random_flow(2, transforms=0), ValueError, "transforms=0"),
        (lambda: random_flow(2, hidden=(0,)), ValueError, r"hidden=\(0,\)"),
        (lambda: random_flow(2, scale=-1.0), ValueError, "scale: expected a positive"),
        (lambda: random_flow(2)(torch.zeros(1, 3).double()), ValueError, r"\(\*batch, 2\)"),
        (lambda: random_flow(2).inv(torch.zeros(1, 2)), TypeError, "dtype torch.float64"),
        (lambda: NeuralFlow(torch.nn.Linear(2, 2)), TypeError, "expected a zuko.flows.Flow, got Linear"),
    ],
)
def test_what_is_no_flow_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_missing_zuko_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match="pip install zuko"):
        random_flow(2)
