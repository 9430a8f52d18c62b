from __future__ import annotations

import pytest
import torch

from artgen.training.dice import Dice


def test_the_first_numbers_are_those_of_splitmix64():
    state = 0
    expected = []
    for _ in range(4):  # the reference, in Python's whole numbers
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        expected.append((z ^ (z >> 31)) >> 40)
    dice = Dice(0)
    dice._keys_B1 = torch.zeros(1, 1, dtype=torch.int64)
    assert (dice.uniform(4)[0] * 2**24).tolist() == expected


def test_a_row_is_a_function_of_its_seed_and_of_what_was_drawn_before():
    both, alone = Dice([7, 2**62 + 11]), Dice(2**62 + 11)
    for _ in range(2):
        assert torch.equal(both.normal(3, 5, 7)[1], alone.normal(3, 5, 7)[0])
        assert torch.equal(both.uniform(9)[1], alone.uniform(9)[0])
        assert both.seeds()[1] == alone.seeds()[0]
    assert not torch.equal(Dice(1).uniform(8), Dice(2).uniform(8))
    assert not torch.equal(alone.uniform(8), alone.uniform(8))


def test_uniform_and_normal_numbers_are_what_they_say():
    dice = Dice(list(range(50)))
    flat, bell = dice.uniform(20_000), dice.normal(20_001)
    assert bell.shape == (50, 20_001)
    assert flat.min() >= 0
    assert flat.max() < 1
    counts = torch.histc(flat, 20, 0, 1)
    assert (
        (counts - 50_000) ** 2 / 50_000
    ).sum() < 45  # chi-squared, 19 degrees of freedom: above it once in 1,400
    assert bell.mean().item() == pytest.approx(0, abs=0.004)
    assert bell.std().item() == pytest.approx(1, abs=0.003)
    assert (bell**4).mean().item() == pytest.approx(3, abs=0.04)
    assert torch.corrcoef(flat).triu(1).abs().max() < 0.04  # neighbouring seeds have nothing in common
    assert torch.corrcoef(torch.stack([bell[:, :-1].flatten(), bell[:, 1:].flatten()]))[0, 1].abs() < 0.005


def test_whole_numbers_reach_both_ends():
    found = Dice(list(range(3000))).integers(-1, 3)
    assert found.unique().tolist() == [-1, 0, 1, 2, 3]
    assert (found + 1).bincount().min() > 500
