import math

import pandas as pd
import pytest
import torch
from torch import nn

import latentgeo as lg
from latentgeo.geometry import surfaces
from latentgeo.geometry.surfaces import cusp, figure_eight, fold, pyramid, winding
from latentgeo.identifiability.assumptions import check_assumptions
from tests.conftest import mlp
from tests.surfaces import branched, paraboloid, swiss_roll_distance

VERDICTS = {"holds", "doubtful", "fails"}


def _box(lower, upper, n=200, seed=0):
    lower, upper = torch.tensor(lower, dtype=torch.float64), torch.tensor(upper, dtype=torch.float64)
    return lower + (upper - lower) * torch.rand(
        n, len(lower), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def _normal(d, n=200, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _network(activation, d=3, D=20, width=64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(d, width), activation, nn.Linear(width, width), activation, nn.Linear(width, D)
        return nn.Sequential(*layers).double().eval()


CONTROLS = {
    "sphere": (surfaces.sphere, _box([-0.8] * 2, [0.8] * 2)),
    "swiss roll": (surfaces.swiss_roll, _box([4.0, 0.0], [12.0, 6.0])),
    "torus patch": (surfaces.torus, _box([0.0, -1.0], [3.0, 1.0])),
    "smooth network": (mlp(0), _normal(3)),
    "smooth network, float32": (mlp(0).float(), _normal(3).float()),
    "ELU network": (_network(nn.ELU()), _normal(3)),
    "SiLU network, float32": (_network(nn.SiLU()).float(), _normal(3).float()),
    "ensemble": (lg.Ensemble([mlp(seed) for seed in range(3)]), _normal(3)),
    "figure-eight, its middle": (figure_eight, torch.linspace(-2.0, 2.0, 100).double()[:, None]),
    "cusp, off its point": (cusp, torch.linspace(0.2, 1.0, 100).double()[:, None]),
    "fold, one sheet": (fold, _box([0.3, -1.0], [1.5, 1.0])),
}


@pytest.mark.thorough
@pytest.mark.parametrize("case", CONTROLS)
def test_every_assumption_holds(case):
    decoder, z = CONTROLS[case]
    table = check_assumptions(decoder, z, prior_variance=0.05 if case != "smooth network" else 1.0)
    assert (table.verdict == "holds").all(), table.to_string()
    assert table.value.notna().all()
    assert table.assumption.tolist() == [
        "smooth",
        "full rank",
        "effective rank",
        "posterior",
        "injective",
        "noise dimension",
    ]


# The decoder, its codes, and the assumptions that fail; all others hold.
COUNTEREXAMPLES = {
    "fold": (fold, _normal(2), {"full rank", "injective"}),
    "fold in the plane": (lambda z: fold(z)[:, :2], _normal(2), {"full rank", "injective", "noise dimension"}),
    "cusp": (cusp, torch.linspace(-1.0, 1.0, 100).double()[:, None], {"full rank"}),
    "branch point": (branched, _normal(2), {"full rank", "injective"}),
    "ReLU": (_network(nn.ReLU()), _normal(3), {"smooth"}),
    "ReLU, float32": (_network(nn.ReLU()).float(), _normal(3).float(), {"smooth"}),
    "leaky ReLU": (_network(nn.LeakyReLU(0.2)), _normal(3), {"smooth"}),
    "figure-eight": (figure_eight, torch.linspace(-3.14, 3.14, 200).double()[:, None], {"injective"}),
    "circle, more than once": (winding, torch.linspace(0.0, 7.0, 100).double()[:, None], {"injective"}),
    "pyramid": (pyramid, _normal(2), {"smooth"}),
    "identity": (lambda z: z, _normal(2), {"noise dimension"}),
    "ignored dimension": (
        lambda z: mlp_of_two(z[:, :2]),
        _normal(3),
        {"full rank", "effective rank"},
    ),
}
mlp_of_two = mlp(1, d=2)


@pytest.mark.parametrize("case", COUNTEREXAMPLES)
def test_what_fails_is_found_and_nothing_else(case):
    decoder, z, expected = COUNTEREXAMPLES[case]
    table = check_assumptions(decoder, z).set_index("assumption")
    assert set(table.index[table.verdict == "fails"]) == expected, table.to_string()
    assert set(table.verdict) <= {"holds", "fails"}, table.to_string()
    failed = table.loc[sorted(expected)]
    assert ((failed.value < failed.threshold) | (failed.index == "effective rank")).all()


@pytest.mark.thorough
def test_the_values_are_what_they_are_by_hand():
    table = check_assumptions(*CONTROLS["sphere"]).set_index("assumption")
    # J of the stereographic chart is conformal, 2 / (1 + r²): from the origin, nearly, to the corner of the box.
    corner = CONTROLS["sphere"][1].abs().amax(0).square().sum().item()
    assert table.value["full rank"] == pytest.approx(1.0 / (1.0 + corner), rel=0.05)
    roll = check_assumptions(*CONTROLS["swiss roll"]).set_index("assumption")
    # One turn apart the sheets are 2π apart, and least so relative to the way around at the outer end.
    outer = CONTROLS["swiss roll"][1][:, 0].max().item()
    z = torch.tensor([[outer, 0.0], [outer - 2.0 * math.pi, 0.0]], dtype=torch.float64)
    ratio = 2.0 * math.pi / swiss_roll_distance(z[:1], z[1:]).item()
    assert roll.value["injective"] == pytest.approx(ratio, rel=0.02)
    assert roll.value["noise dimension"] == 1
    ignored = check_assumptions(*COUNTEREXAMPLES["ignored dimension"][:2]).set_index("assumption")
    assert ignored.value["effective rank"] == 1
    assert "inf (largest)" in ignored.detail["full rank"]


def test_the_pair_found_is_the_ends_and_the_middle_of_the_figure_eight():
    table = check_assumptions(*COUNTEREXAMPLES["figure-eight"][:2]).set_index("assumption")
    assert table.value["injective"] < 2e-3
    assert "3.14)" in table.detail["injective"]
    wider = torch.linspace(-3.0, 3.0, 200).double()[:, None]  # further from closing, the ratio says so
    assert check_assumptions(figure_eight, wider).set_index("assumption").value["injective"] > 1e-2


def test_piecewise_linear_decoders_are_named():
    relu = check_assumptions(*COUNTEREXAMPLES["ReLU"][:2]).detail[0]
    assert "exactly zero: the decoder is piecewise linear" in relu
    linear = check_assumptions(lambda z: torch.cat([z, z[:, :1]], 1), _normal(2))
    assert (linear.verdict == "holds").all()
    assert "exactly zero: the decoder is linear" in linear.detail[0]
    assert "exactly zero" not in check_assumptions(*CONTROLS["smooth network"]).detail[0]


def test_a_weakly_used_dimension_is_doubtful_and_a_collapsed_posterior_fails():
    weak = torch.tensor([1.0, 0.01], dtype=torch.float64)
    z = _normal(2) * torch.tensor([1.0, 0.05], dtype=torch.float64)
    table = check_assumptions(lambda z: paraboloid(z * weak), z, prior_variance=1.0).set_index("assumption")
    assert table.verdict["effective rank"] == "doubtful"
    assert table.verdict["posterior"] == "fails"
    assert table.value["posterior"] == 1
    assert "posterior" not in check_assumptions(paraboloid, z).assumption.tolist()
    # Collapsed along a diagonal: no coordinate on its own shows it.
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / math.sqrt(2.0)
    assert (z @ turn).var(0).min() > 0.1
    rotated = check_assumptions(paraboloid, z @ turn, prior_variance=1.0).set_index("assumption")
    assert rotated.verdict["posterior"] == "fails"


def test_noise_dimension():
    def verdict(decoder, d, **options):
        return check_assumptions(decoder, _normal(d), **options).set_index("assumption").verdict["noise dimension"]

    assert verdict(lambda z: z, 2, noise_known=True) == "holds"
    assert verdict(lambda z: z[:, :1], 2, noise_known=True) == "fails"
    # The members of an ensemble see the same data.
    assert verdict(lg.Ensemble([nn.Identity(), nn.Tanh()]), 2) == "fails"


def test_verdicts_do_not_depend_on_coordinates():
    decoder, z = CONTROLS["swiss roll"]
    A = lg.LinearTransform(torch.tensor([[3.0, 1.0], [0.0, 0.5]], dtype=torch.float64))
    there = check_assumptions(lg.reparametrise(decoder, A), A(z)).set_index("assumption")
    assert (there.verdict == "holds").all()
    here = check_assumptions(decoder, z).set_index("assumption")
    assert there.value["injective"] == pytest.approx(here.value["injective"], rel=0.05)
    decoder, z, expected = COUNTEREXAMPLES["fold"]
    there = check_assumptions(lg.reparametrise(decoder, A), A(z)).set_index("assumption")
    assert set(there.index[there.verdict == "fails"]) == expected


@pytest.mark.parametrize(
    "decoder",
    [
        lambda z: torch.cat([z.log(), z], 1),  # NaN at half of the codes
        lambda z: torch.cat([(z[:, :1].square() - 0.04).sqrt(), z], 1),  # finite at the codes, not between them
        lambda z: torch.cat([z, 1.0 / (z[:, :1].abs() - 0.1)], 1),  # a pole between the codes
        lambda z: 0.0 * z.repeat(1, 2),
    ],
    ids=["at codes", "between codes", "pole", "constant"],
)
def test_nan_is_never_a_number(decoder):
    z = _normal(2)
    z[:, 0] += 0.3 * z[:, 0].sign()
    table = check_assumptions(decoder, z, prior_variance=1.0)
    assert (table.verdict == "fails").any()
    assert (table.verdict[table.value.isna()] == "fails").all()
    assert table.detail[table.value.isna()].str.contains("NaN|not finite|do not differ").all()


@pytest.mark.thorough
def test_nothing_of_the_callers_is_changed():
    decoder, z = mlp(0), _normal(3).requires_grad_()
    before, state = z.detach().clone(), torch.get_rng_state()
    first, second = (check_assumptions(decoder, z, seed=3) for _ in range(2))
    assert first.equals(second)
    assert torch.equal(z.detach(), before)
    assert z.grad is None
    assert all(p.grad is None for p in decoder.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert set(first.verdict) <= VERDICTS


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3, torch.zeros(4, 2)), {}, TypeError, "callable"),
        ((mlp(0), torch.zeros(4)), {}, ValueError, r"\(P, d\)"),
        ((mlp(0), torch.zeros(4, 3, dtype=torch.float64)), {}, ValueError, "three different"),
        ((mlp(0), _normal(3).float()), {}, TypeError, "float64"),
        ((mlp(0), _normal(3).half()), {}, TypeError, "half precision"),
        ((mlp(0), _normal(3)), {"pairs": 0}, ValueError, "pairs"),
        ((mlp(0), _normal(3)), {"points": 2}, ValueError, "points"),
        ((mlp(0), _normal(3)), {"prior_variance": 0.0}, ValueError, "prior_variance"),
        ((nn.Sequential(mlp(0), nn.Dropout()).train(), _normal(3)), {}, ValueError, "training mode"),
    ],
)
def test_errors_name_the_remedy(arguments, options, error, message):
    with pytest.raises(error, match=message):
        check_assumptions(*arguments, **options)


@pytest.mark.parametrize("width", [80, 200])
def test_verdicts_and_values_are_printed_however_narrow_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    table = check_assumptions(*COUNTEREXAMPLES["fold"][:2], prior_variance=1.0)
    with pd.option_context("display.max_columns", 0):  # as many as the terminal's width takes
        lines = repr(table).splitlines()
    assert {"assumption", "verdict", "value", "threshold"} <= {*lines[0].split()}
    assert ("detail" in lines[0]) == (width == 200)
    assert all(f" {verdict} " in line for verdict, line in zip(table.verdict, lines[1:7], strict=True))
