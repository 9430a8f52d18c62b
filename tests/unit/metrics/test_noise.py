from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from artgen.metrics.noise import change, sigma


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture in 0-255 floats: slow waves and a hard edge, away from black and white."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    plane = 128 + 40 * np.sin(x / 37) * np.cos(y / 29)
    plane[:, width // 2 :] += 30
    return np.repeat(plane[:, :, None], channels, axis=2)


def noisy(height: int, width: int, noise: float, dtype: type = np.uint8, channels: int = 3) -> np.ndarray:
    top = np.iinfo(dtype).max
    values = smooth(height, width, channels)
    values = values + np.random.default_rng(1).normal(0, noise, values.shape)
    return np.clip(np.round(values * top / 255), 0, top).astype(dtype)


@pytest.mark.parametrize("noise", [0.0, 1.0, 2.0, 5.0, 15.0, 25.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_estimate_is_the_noise(noise: float, dtype: type, channels: int) -> None:
    assert sigma(noisy(300, 400, noise, dtype, channels)) == pytest.approx(noise, rel=0.05, abs=0.1)


def test_strong_noise_is_not_lost_to_clipping() -> None:
    assert 42 <= sigma(noisy(300, 400, 50.0)) <= 55


def test_a_white_page_with_noisy_ink_is_measured_where_it_is_not_clipped() -> None:
    page = np.full((300, 400, 1), 255, np.uint8)
    page[100:200] = noisy(100, 400, 10.0, channels=1)
    assert sigma(page) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 500, 3), (500, 1, 3), (2, 2, 3), (3, 2, 1)])
def test_small_and_flat_pictures_have_no_noise(shape: tuple[int, int, int]) -> None:
    assert sigma(np.full(shape, 77, np.uint8)) == 0.0


@pytest.mark.parametrize("shape", [(2, 1_000_000, 1), (1_000_000, 2, 1), (1200, 2000, 3)])
def test_large_pictures_are_sampled(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(2).normal(128, 12, shape).round().astype(np.uint8)
    assert sigma(pixels) == pytest.approx(12, rel=0.05)
    started = time.process_time()
    sigma(pixels)
    assert time.process_time() - started < 0.2, "a few ms; the bound leaves room for a busy machine"


def test_sigma_is_deterministic() -> None:
    pixels = noisy(1000, 700, 9.0)
    assert sigma(pixels) == sigma(pixels.copy())


def test_change_is_the_absolute_difference() -> None:
    before = np.array([[[10], [250]], [[0], [7]]], np.uint8)
    after = np.array([[[13], [240]], [[255], [7]]], np.uint8)
    assert change(before, after) == (pytest.approx((3 + 10 + 255) / 4), 255.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_change_over_many_bands_is_exact(dtype: type) -> None:
    random, top = np.random.default_rng(3), np.iinfo(dtype).max
    before, after = (random.integers(0, top, (900, 1300, 3), dtype, endpoint=True) for _ in range(2))
    wanted = np.abs(before.astype(np.int64) - after) * (255 / top)
    mean, most = change(before, after)
    assert mean == pytest.approx(wanted.mean(), rel=1e-12)
    assert most == pytest.approx(wanted.max(), rel=1e-12)


def test_change_of_an_enlarged_picture_is_unknown() -> None:
    assert change(np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)) == (None, None)


def test_change_makes_no_full_copy() -> None:
    before, after = (np.full((3000, 4000, 3), value, np.uint8) for value in (3, 5))
    tracemalloc.start()
    assert change(before, after) == (2.0, 2.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < before.nbytes // 5
