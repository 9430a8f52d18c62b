"""The distance for watching: it knows damage, loss of variety and nothing else; and its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from artgen.metrics.cheap_distance import FEATURES, RandomFeatures, Statistics, distance, statistics


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


def test_the_formula_in_one_and_many_dimensions() -> None:
    one = Statistics(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    other = Statistics(torch.tensor([4.0]).double(), torch.tensor([[9.0]]).double())
    assert distance(one, other) == pytest.approx(100 * (3**2 + (3 - 2) ** 2) / 4)
    dice = torch.Generator().manual_seed(1)
    a, b = (statistics(torch.randn(50, 6, generator=dice).double() @ torch.randn(6, 6, generator=dice).double())
            for _ in range(2))  # fmt: skip
    values = torch.linalg.eigvals(a.covariance @ b.covariance).real.clamp(min=0).sqrt().sum()
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * values
    assert distance(a, b) == pytest.approx(float(100 * expected / a.covariance.trace()), rel=1e-6)
