import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import latentgeo as lg
from latentgeo.geometry.curve import resample, richardson


def _circle(z):
    return torch.cat([z.cos(), z.sin()], -1)


def _arc(segments):
    return torch.linspace(0.0, 2.0, segments + 1, dtype=torch.float64)[:, None]


def test_chords_converge_from_below_and_extrapolate():
    lengths = [lg.curve.chord_length(_circle, _arc(N)).item() for N in (8, 16, 32)]
    assert lengths[0] < lengths[1] < lengths[2] < 2.0
    assert (2.0 - lengths[0]) / (2.0 - lengths[1]) == pytest.approx(4.0, rel=0.01)
    assert abs(richardson(*lengths[1:]) - 2.0) < 1e-3 * (2.0 - lengths[2])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), segments=st.integers(1, 12))
def test_energy_bounds_the_squared_length_and_their_ratio_is_the_speed_variation(seed, segments):
    points = torch.randn(3, segments + 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    length, energy = lg.curve.chord_length(_circle, points), lg.curve.chord_energy(_circle, points)
    assert (energy >= length.square() * (1 - 1e-12)).all()
    expected = (energy / length.square() - 1).clamp_min(0).sqrt()
    torch.testing.assert_close(lg.curve.speed_variation(_circle, points), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(8, 16), (16, 8), (5, 5), (2, 8), (1, 4), (8, 1)])
def test_resampling_keeps_the_ends_and_cubic_curves(old, new):
    t = torch.linspace(0, 1, old + 1, dtype=torch.float64)
    degree = min(old, 3)  # that so many nodes determine
    curve = torch.stack([t, 3.0 * t + t**degree], -1)[None]
    result = resample(curve, new)
    s = torch.linspace(0, 1, new + 1, dtype=torch.float64)
    assert torch.equal(result[:, [0, -1]], curve[:, [0, -1]])
    torch.testing.assert_close(result[0, :, 0], s)
    torch.testing.assert_close(result[0, :, 1], 3.0 * s + s**degree)


def test_resampling_to_every_other_node_keeps_these():
    curve = torch.randn(2, 17, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(resample(curve, 8), curve[:, ::2])


def test_lengths_are_differentiable_in_the_points_and_not_in_the_decoder(decoder, ends):
    line = lg.curve.straight_line(*ends, 4)
    assert not lg.curve.chord_length(decoder, line).requires_grad
    lg.curve.chord_length(decoder, line.requires_grad_()).sum().backward()
    assert line.grad.abs().sum() > 0


def test_of_no_curves_there_are_no_lengths(decoder):
    assert lg.curve.chord_length(decoder, torch.zeros(0, 9, 3).double()).shape == (0,)


def test_a_single_point_is_not_a_curve():
    with pytest.raises(ValueError, match="N ≥ 1"):
        lg.curve.chord_length(_circle, torch.zeros(1, 1))
