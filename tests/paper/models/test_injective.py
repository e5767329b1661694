import subprocess
import sys

import pytest
import torch
from zuko.transforms import MonotonicAffineTransform

import latentgeo as lg
from latentgeo.paper.models.injective import InjectiveDecoder, _smooth_affine
from latentgeo.paper.models.vae import ARCHITECTURES

DIGIT = (1, 8, 8)


def drawn(seed=0, event_shape=DIGIT, latent_dim=3, **options):
    """A decoder of random weights, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InjectiveDecoder(event_shape, latent_dim, **options).double().requires_grad_(False)


def codes(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("activation", ["tanh", "silu", "elu"])
@pytest.mark.parametrize(("event_shape", "d"), [(DIGIT, 1), (DIGIT, 8), ((2, 3, 1), 6), ((1, 28, 28), 4)])
def test_the_inverse_recovers_every_code(event_shape, d, activation):
    f, z = drawn(event_shape=event_shape, latent_dim=d, activation=activation), 3 * codes(50, d)
    x = f(z)
    assert x.shape == (50, *event_shape)
    found, residual = f.inverse(x)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-12)
    assert residual.shape == (50,)
    assert residual.max() < 1e-12


def test_the_inverse_does_not_recover_codes_of_a_fold_and_sees_images_off_the_surface():
    f, z = drawn(), codes(50, 3)
    folded, residual = f.inverse(f(torch.cat([z[:, :1].abs(), z[:, 1:]], 1)))
    moved = z[:, 0] < 0
    assert ((folded - z).norm(dim=1) > 0.01)[moved].float().mean() > 0.9
    assert residual.max() < 1e-12  # images of the fold are images of f
    off = f(z) + 1e-3 * codes(50, 64, seed=1).unflatten(1, DIGIT)
    assert f.inverse(off)[1].min() > 1e-4


def test_without_coupling_it_is_a_linear_isometry():
    f, z = drawn(), codes(5, 3)
    for parameter in f.flow.parameters():
        parameter.zero_()
    frame = f.frame
    torch.testing.assert_close(frame.mT @ frame, torch.eye(3).double())
    torch.testing.assert_close(f(z).flatten(1), z @ frame.mT)
    torch.testing.assert_close(lg.pullback_metric(f, z), torch.eye(3).double().expand(5, 3, 3))
    x = codes(5, 64, seed=1)
    off = torch.linalg.norm(x - torch.linalg.lstsq(frame, x.mT).solution.mT @ frame.mT, dim=1)  # least squares
    torch.testing.assert_close(f.inverse(x.unflatten(1, DIGIT))[1], off)


def test_a_step_with_constant_networks_scales_and_shifts_every_other_pixel():
    f, z = drawn(steps=1), codes(5, 3)
    for parameter in f.flow.parameters():
        parameter.zero_()
    shift_and_slope = f.flow.transforms[0].hyper[-1].bias
    shift_and_slope[0::2], shift_and_slope[1::2] = 0.7, -0.4
    moved = ~f.flow.transforms[0].mask
    slope = torch.where(moved, torch.tensor(-0.4).double().tanh().exp(), 1.0)
    frame = slope[:, None] * f.frame
    torch.testing.assert_close(f(z).flatten(1), z @ frame.mT + 0.7 * moved)
    torch.testing.assert_close(lg.pullback_metric(f, z), (frame.mT @ frame).expand(5, 3, 3))


def test_two_steps_move_every_pixel():
    f, z = drawn(steps=2), codes(5, 3)
    plain = z @ f.frame.mT
    assert ((f(z).flatten(1) - plain).abs() > 1e-6).all(0).float().mean() > 0.95
    one = drawn(steps=1)
    assert (one(z).flatten(1) == z @ one.frame.mT).all(0).sum() == 32


def test_the_slope_is_smooth_where_zukos_own_is_not():
    def second_derivatives(make):
        s = torch.tensor([-1e-9, 1e-9], dtype=torch.float64, requires_grad=True)
        slope = make(torch.zeros(2).double(), s)(torch.ones(2).double())
        (first,) = torch.autograd.grad(slope.sum(), s, create_graph=True)
        return torch.autograd.grad(first.sum(), s)[0]

    left, right = second_derivatives(_smooth_affine)
    assert abs(left - right) < 1e-6
    left, right = second_derivatives(MonotonicAffineTransform)
    assert abs(left - right) > 0.1


@pytest.mark.thorough
def test_no_assumption_is_broken_and_those_of_the_controls_are():
    f, z = drawn(latent_dim=2, steps=3, hidden=(16,)), codes(60, 2)
    inner = ["smooth", "full rank", "effective rank", "injective"]

    def verdicts(decoder):
        return lg.check_assumptions(decoder, z, pairs=4, points=48).set_index("assumption").verdict[inner].tolist()

    assert verdicts(f) == ["holds"] * 4
    folded = verdicts(lambda z: f(torch.cat([z[:, :1].abs(), z[:, 1:]], 1)))
    assert (folded[0], folded[3]) == ("fails", "fails")
    wound = verdicts(lambda z: f((z[:, 1:] / 3).exp() * torch.cat([(3 * z[:, :1]).cos(), (3 * z[:, :1]).sin()], 1)))
    assert wound == ["holds", "holds", "holds", "fails"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 65}, "1 ≤ d ≤ D"),
        ({"latent_dim": 0}, "1 ≤ d ≤ D"),
        ({"event_shape": (1, 1, 1), "latent_dim": 1}, "D ≥ 2"),
        ({"steps": 0}, "positive sizes"),
        ({"hidden": ()}, "positive sizes"),
        ({"hidden": (0,)}, "positive sizes"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        drawn(**options)


def test_images_of_another_shape_have_no_inverse():
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 1, 8, 8\), got \(2, 1, 4, 16\)"):
        drawn().inverse(torch.zeros(2, 1, 4, 16).double())


@pytest.mark.thorough
def test_only_injective_decoders_need_zuko():
    code = (
        "import sys; sys.modules['zuko'] = None\n"
        "import latentgeo as lg\n"
        "lg.paper.build_vae('mlp', (1, 8, 8), 2, 1, seed=0)\n"
        "try: lg.paper.build_vae('flow', (1, 8, 8), 2, 1, seed=0)\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'latentgeo[flows]'" in done.stdout


@pytest.mark.parametrize("decoders", [1, 3])
def test_it_is_an_architecture(decoders):
    assert "flow" in ARCHITECTURES
    model, again = (lg.paper.build_vae("flow", DIGIT, 3, decoders, seed=4, activation="tanh") for _ in range(2))
    z = codes(7, 3).float()
    torch.testing.assert_close(model.decode(z), again.decode(z), rtol=0, atol=0)
    assert model.decode(z).shape == (7, decoders, *DIGIT)
    assert all(isinstance(f, InjectiveDecoder) for f in model.decoders)
    for first in range(1, decoders):
        assert (model.decoders[first](z) - model.decoders[0](z)).norm() > 0.1


@pytest.mark.thorough
@pytest.mark.parametrize("decoders", [1, 2])
def test_a_study_trains_and_stores_it(tmp_path, decoders):
    training = lg.paper.TrainingConfig(epochs=2, batch_size=128, learning_rate=8e-3, warmup_steps=5)
    study = lg.paper.Study(
        "digits", "flow", seeds=2, pairs=4, latent_dim=3, decoders=decoders, training=training, store=tmp_path
    )
    table = study.run(workers=0)
    assert table["converged"].all()
    assert (table["value"] > 0).all()
    stored = study.stored(0).load()
    first, second = (dict(model.state_dict()) for model in (study.trained(0), stored))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    f, z = stored.double().decoders[0], codes(20, 3)
    torch.testing.assert_close(f.inverse(f(z))[0], z, rtol=0, atol=1e-12)
