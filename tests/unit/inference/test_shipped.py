"""Every shipped model: tiles must not show: within 1/255 at the default overlap."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
import pytest

from artgen.inference.forward import Forward
from artgen.inference.restore import RestoreOptions, restore
from artgen.models import registry
from artgen.models.weights import load


@cache
def forward_of(name: str) -> Forward:
    weights = resources.files("artgen.models").joinpath("weights", f"{name}.safetensors")
    if name != "identity" and not weights.is_file():
        pytest.skip(f"{name} has no shipped weights")
    return Forward(load(name))


def photo(height: int, width: int, noise: float) -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    astronaut = data.astronaut()
    wide = np.concatenate([astronaut, astronaut[:, ::-1]], axis=1)
    values = np.concatenate([wide, wide[::-1]])[100 : 100 + height, 100 : 100 + width].astype(float)
    values += np.random.default_rng(0).normal(0, noise, values.shape) if noise else 0
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def largest_difference(name: str, size: tuple[int, int], content: str, tiles: tuple[int, ...]) -> dict[int, int]:
    forward = forward_of(name)
    pixels = photo(*size, noise=25 if content == "noisy" else 0)
    mask = None
    if content == "missing":
        if not forward.facts.takes_mask:
            pytest.skip("takes no mask")
        mask = np.random.default_rng(1).random(size) < 0.4
    whole = restore(pixels, mask, forward, RestoreOptions(tile=2048)).pixels.astype(int)
    return {
        tile: int(np.abs(whole - restore(pixels, mask, forward, RestoreOptions(tile=tile)).pixels).max())
        for tile in tiles
    }


@pytest.mark.parametrize("content", ["clean", "noisy", "missing"])
@pytest.mark.parametrize("name", registry.names())
def test_tiles_do_not_show(name: str, content: str) -> None:
    found = largest_difference(name, (150, 221), content, (128,))
    assert max(found.values()) <= 1, found


@pytest.mark.slow
@pytest.mark.parametrize("content", ["clean", "noisy", "missing"])
@pytest.mark.parametrize("name", registry.names())
def test_tiles_do_not_show_in_larger_pictures(name: str, content: str) -> None:
    found = largest_difference(name, (400, 600), content, (256, 512))
    assert max(found.values()) <= 1, found


def lined() -> np.ndarray:
    """A scene with a black row that ends within it, as of a scanner."""
    y, x = np.mgrid[:96, :640]
    values = np.stack(
        [101 + 20 * np.sin(x / 40), 164 + 10 * np.cos(y / 20), 116 + 15 * np.sin((x + y) / 30)], axis=-1
    )
    values += np.random.default_rng(0).normal(0, 3, values.shape)
    pixels = np.clip(values, 1, 254).astype(np.uint8)
    pixels[60, :360] = 0
    return pixels


def test_a_line_that_ends_in_one_tile_is_the_same_in_all() -> None:
    pixels, forward = lined(), forward_of("default")
    whole, tiled = (restore(pixels, None, forward, RestoreOptions(tile=tile)).pixels for tile in (2048, 256))
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert tiled[60, 20:300].max() < 60  # it stays
