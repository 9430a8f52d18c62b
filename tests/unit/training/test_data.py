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


def shown_in(endless: Crops, epoch: int) -> list[int]:
    """The values of the flat pictures of an epoch."""
    count = len(endless.pictures)
    return endless.batch(count * epoch, count).clean.mul(255).round().amax((1, 2, 3)).int().tolist()


def test_others_stand_in_for_unusable_pictures_scattered_over_all():
    settings = RestorerRecipe(patch_px=8, damage={"clean": 1.0})
    flat: list[np.ndarray | None] = [np.full((8, 8), value, np.uint8) for value in range(120)]
    order = Crops(flat, settings, channels=1).order(0)
    unusable = set(order[10:50].tolist())  # forty in a row, of the first epoch
    for number in unusable:
        flat[number] = None
    endless = Crops(flat, settings, channels=1)
    stand_ins = []
    for epoch in range(3):
        seen, order = shown_in(endless, epoch), endless.order(epoch).tolist()
        own = [number for number, at in zip(seen, order, strict=True) if number == at]
        assert sorted(own) == sorted(set(range(120)) - unusable), "a usable picture has lost its own place"
        assert max(map(seen.count, seen)) <= 5
        stand_ins.append([number for number, at in zip(seen, order, strict=True) if number != at])
        assert len(set(stand_ins[-1])) >= 25
    assert stand_ins[0] != stand_ins[1]
    parts = [endless.batch(first, 15).clean for first in range(0, 120, 15)]
    assert torch.equal(torch.cat(parts), endless.batch(0, 120).clean)


def test_one_usable_picture_is_found_and_none_is_a_usage_error():
    flat: list[np.ndarray | None] = [None] * 50
    flat[17] = np.full((8, 8), 17, np.uint8)
    settings = RestorerRecipe(patch_px=8, damage={"clean": 1.0})
    assert set(shown_in(Crops(flat, settings, channels=1), 0)) == {17}
    with pytest.raises(UsageError, match="no picture to train on"):
        Crops([None] * 50, settings).batch(0, 1)


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
