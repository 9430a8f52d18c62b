from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from artgen.errors import UsageError
from artgen.training.data import Crops, prefetch, stable_seed
from artgen.training.recipe import RestorerRecipe


def pictures(count: int = 5) -> list[np.ndarray]:
    dice = np.random.default_rng(0)
    return [dice.integers(0, 256, (40 + i, 50, 3), np.uint8) for i in range(count)]


def crops(**changes) -> Crops:
    return Crops(pictures(), RestorerRecipe(patch_px=32, batch_images=4, **changes))


def test_a_crop_depends_on_its_position_alone():
    whole = crops().batch(0, 12)
    for first, count in ((0, 3), (3, 5), (8, 4)):
        part = crops().batch(first, count)
        for all_of, some in zip(whole, part, strict=True):
            assert torch.equal(all_of[first : first + count], some)
    assert not torch.equal(crops(seed=1).batch(0, 12).damaged, whole.damaged)


def test_an_epoch_shows_every_picture_once():
    flat = [np.full((32, 32), value, np.uint8) for value in range(7)]
    endless = Crops(flat, RestorerRecipe(patch_px=32, damage={"clean": 1.0}), channels=1)
    for epoch in range(3):
        seen = endless.batch(7 * epoch, 7).clean.mul(255).round().amax((1, 2, 3)).tolist()
        assert sorted(seen) == list(range(7))
    assert not np.array_equal(endless.order(0), endless.order(1))


def test_grey_crops_have_three_equal_channels():
    batch = crops(grey_share=1.0).batch(0, 8)
    for x in (batch.clean, batch.damaged):
        assert torch.equal(x[:, 0], x[:, 1])
        assert torch.equal(x[:, 0], x[:, 2])


def test_a_grey_model_gets_one_channel():
    batch = Crops(pictures(), RestorerRecipe(patch_px=32), channels=1).batch(0, 4)
    assert batch.clean.shape == batch.damaged.shape == batch.mask.shape == (4, 1, 32, 32)


def test_no_pictures_is_a_usage_error():
    with pytest.raises(UsageError, match="no picture to train on"):
        Crops([], RestorerRecipe())


def test_seeds_are_the_same_on_every_machine():
    assert stable_seed(0, "crop", 1) == 1076978448506171417
    assert stable_seed(1, 1) != stable_seed(11)


def test_prefetch_keeps_the_order_hands_on_errors_and_ends_its_thread():
    feed = prefetch(lambda step: step * step, 3)
    assert [next(feed) for _ in range(4)] == [9, 16, 25, 36]
    feed.close()

    def fail(step: int) -> int:
        if step == 2:
            raise ValueError("bad luck")
        return step

    feed = prefetch(fail, 0)
    assert [next(feed), next(feed)] == [0, 1]
    with pytest.raises(ValueError, match="bad luck"):
        next(feed)
    assert not [t for t in threading.enumerate() if t.name.startswith("artgen-batches")]
