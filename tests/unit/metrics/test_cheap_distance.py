"""The distance for watching: it knows damage, loss of variety and nothing else; and its unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from artgen.metrics.cheap_distance import FEATURES, RandomFeatures, distance
from artgen.metrics.sets import Statistics, frechet, statistics


def pictures(seed: int, count: int = 600, channels: int = 3) -> Tensor:
    """Bright bars at random places on a dark ground, uint8."""
    dice = np.random.default_rng(seed)
    pixels = np.full((count, channels, 28, 36), 20, np.uint8)
    for number in range(count):
        row, column, height, width = dice.integers(2, 14, 4)
        pixels[number, :, row : row + height, column : column + 2 * width] = dice.integers(
            80, 256, (channels, 1, 1)
        )
    return torch.from_numpy(pixels)


def test_it_grows_with_damage_and_with_lost_variety() -> None:
    look = RandomFeatures(3)
    real = statistics(look(pictures(0)))

    def away(pixels: Tensor) -> float:
        return distance(real, statistics(look(pixels)))

    same, other = away(pictures(0)), away(pictures(1))
    noise = torch.randn(600, 3, 28, 36, generator=torch.Generator().manual_seed(0))
    damaged = [away((pictures(1) + sigma * noise).clamp(0, 255).byte()) for sigma in (10, 30, 90)]
    few = [away(pictures(1)[:kinds].repeat(600 // kinds, 1, 1, 1)) for kinds in (100, 10, 1)]
    assert same < 1e-6
    assert [same, other, *damaged] == sorted([same, other, *damaged])
    assert [other, *few] == sorted([other, *few])
    assert other < 8
    assert few[-1] > 80


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_features_are_the_same_whoever_looks_at_whatever_beside(channels: int) -> None:
    pixels = pictures(2, 8, channels)
    features = RandomFeatures(channels)(pixels)
    assert features.shape == (8, FEATURES)
    assert torch.allclose(RandomFeatures(channels)(pixels[3:5]), features[3:5], rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(RandomFeatures(channels)(pictures(3, 300, channels))) > 100


def test_it_is_percent_of_the_real_variance() -> None:
    # Mean and variance of the two numbers are 1 and 8, and 4 and 18.
    one, other = (statistics(torch.tensor(values).double()[:, None]) for values in ([-1, 3], [1, 7]))
    assert isinstance(one, Statistics)
    assert frechet(one, other) == pytest.approx((4 - 1) ** 2 + (18**0.5 - 8**0.5) ** 2)
    assert distance(one, other) == pytest.approx(100 * frechet(one, other) / 8)
