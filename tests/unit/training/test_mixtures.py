from __future__ import annotations

import numpy as np
import pytest
import torch

from artgen.errors import UsageError
from artgen.training import mixtures
from artgen.training.degrade import OPERATORS, UNSEEN
from artgen.training.mixtures import DEFAULT_WEIGHTS, damage_at_random, plan


def test_every_kind_keeps_shape_and_is_a_function_of_the_seed():
    clean = torch.rand(1, 3, 48, 48)
    for kind in DEFAULT_WEIGHTS:
        for seed in range(6):
            first = damage_at_random(clean, {kind: 1}, [seed])
            again = damage_at_random(clean, {kind: 1}, [seed])
            assert torch.equal(first.image, again.image)
            assert first.image.shape == clean.shape
            assert first.mask.shape == (1, 1, 48, 48)
            assert torch.equal(first.image, clean) == (kind == "clean")


def test_a_known_mask_marks_only_blank_pixels():
    for seed in range(30):
        image, mask = damage_at_random(torch.rand(1, 3, 32, 32), {"mixture": 1}, [seed])
        assert (image * mask).abs().sum() == 0


def test_kinds_come_by_weight():
    clean = torch.rand(1, 1, 8, 8)
    same = [torch.equal(damage_at_random(clean, {"clean": 1, "noise": 3}, [s]).image, clean) for s in range(400)]
    assert sum(same) / 400 == pytest.approx(0.25, abs=0.07)


def test_a_weight_of_zero_never_comes():
    clean = torch.rand(1, 1, 8, 8)
    for seed in range(50):
        image, _ = damage_at_random(clean, {"noise": 0, "clean": 1, "jpeg": 0}, [seed])
        assert torch.equal(image, clean)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="'rain'"):
        damage_at_random(torch.rand(1, 1, 8, 8), {"rain": 1}, [0])


def test_training_never_sees_the_operators_of_generalisation(monkeypatch):
    def forbidden(*_):
        raise AssertionError("an operator kept out of training was used")

    monkeypatch.setattr(mixtures, "OPERATORS", {**OPERATORS, **dict.fromkeys(UNSEEN, forbidden)})
    for seed in range(200):
        damage_at_random(torch.rand(1, 3, 16, 16), DEFAULT_WEIGHTS, [seed])


def test_a_crop_is_damaged_the_same_alone_and_in_a_batch():
    clean = torch.rand(40, 3, 48, 48)
    whole = damage_at_random(clean, DEFAULT_WEIGHTS, list(range(40)))
    for seed in range(40):
        alone = damage_at_random(clean[seed : seed + 1], DEFAULT_WEIGHTS, [seed])
        assert torch.equal(alone.image[0], whole.image[seed])
        assert torch.equal(alone.mask[0], whole.mask[seed])


def test_jpeg_off_the_grid_moves_the_blocks_and_not_the_picture():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(200, 3, 64, 64)
    image, _ = damage_at_random(ramp, {"jpeg": 1}, list(range(200)))
    assert (image - ramp).abs().mean() < 0.05
    edges = (image[:, 0, 32, 1:] - image[:, 0, 32, :-1]).abs()
    worst = edges.argmax(dim=1) % 8
    assert 0.65 < (worst == 7).float().mean() < 0.9  # most begin on the grid, and an eighth of the rest


def test_float_noise_is_that_of_the_published_tables_alone():
    steps = [plan({"float-noise": 1.0}, seed, 1) for seed in range(400)]
    assert all(len(some) == 1 and some[0].operator == "noise" for some in steps)
    sigmas = np.array([some[0].strength for some in steps])
    assert 0 <= sigmas.min() < 2
    assert 53 < sigmas.max() <= 55
    assert np.mean(sigmas) == pytest.approx(27.5, abs=2)
    mixed = [step.operator for seed in range(400) for step in plan({"mixture": 1.0}, seed, 1)]
    assert set(mixed) >= {"noise", "jpeg"}
