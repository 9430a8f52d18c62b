from __future__ import annotations

import numpy as np
import pytest

from artgen.inference.forward import Tile
from artgen.inference.variants import expanded, merged

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("model_channels", [1, 3])
@pytest.mark.parametrize("ensemble", [False, True])
def test_merging_what_was_expanded_is_the_tile(channels: int, model_channels: int, ensemble: bool) -> None:
    tile = Tile(RANDOM.integers(0, 256, (5, 7, channels), np.uint8), RANDOM.random((5, 7)) < 0.5)
    tiles = expanded(tile, model_channels, ensemble=ensemble)
    assert all(each.pixels_HWC.shape[2] == model_channels for each in tiles)
    assert all(each.mask_HW is not None and each.mask_HW.shape == each.pixels_HWC.shape[:2] for each in tiles)
    back = merged([each.pixels_HWC.astype(np.float32) for each in tiles], channels, ensemble=ensemble)
    assert np.array_equal(back, tile.pixels_HWC.astype(np.float32))


def test_the_ensemble_is_the_eight_different_flips_and_turns() -> None:
    mask = RANDOM.random((6, 6)) < 0.5
    tile = Tile(RANDOM.integers(0, 256, (6, 6, 3), np.uint8), mask)
    tiles = expanded(tile, 3, ensemble=True)
    assert len({each.pixels_HWC.tobytes() for each in tiles}) == 8
    marked = tile.pixels_HWC[mask].sum()
    assert all(each.pixels_HWC[each.mask_HW].sum() == marked for each in tiles), "masks turn with their pixels"
