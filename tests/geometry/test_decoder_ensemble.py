import copy

import pytest
import torch

import latentgeo as lg
from tests.conftest import mlp


def test_chords_use_the_same_decoder_at_both_ends(ensemble, ends):
    a, b = ends
    chords = torch.stack([(ensemble[k](b) - ensemble[k](a)).square().sum(1) for k in range(4)]).mean(0)
    torch.testing.assert_close((ensemble(b) - ensemble(a)).flatten(1).square().sum(1), chords)


def test_the_length_of_a_fixed_curve_converges_with_its_refinement(ensemble, ends):
    lengths = [lg.curve.chord_length(ensemble, lg.curve.straight_line(*ends, N)) for N in (64, 128, 256)]
    assert ((lengths[2] - lengths[1]).abs() < 0.3 * (lengths[1] - lengths[0]).abs() + 1e-12).all()


def test_one_decoder_is_an_ensemble_of_itself(decoder, ends):
    torch.testing.assert_close(lg.distance(lg.Ensemble([decoder]), *ends), lg.distance(decoder, *ends))


def test_members_move_with_the_ensemble():
    F = lg.Ensemble([mlp(0), mlp(1)]).float()
    assert F(torch.zeros(1, 3)).dtype == torch.float32
    assert copy.deepcopy(F).double()(torch.zeros(1, 3).double()).dtype == torch.float64
    assert F(torch.zeros(1, 3)).dtype == torch.float32


def test_nothing_and_what_is_no_decoder_are_refused():
    with pytest.raises(ValueError, match="at least one decoder"):
        lg.Ensemble([])
    with pytest.raises(TypeError, match="entry 1 is a int"):
        lg.Ensemble([mlp(0), 3])
