"""Distances of sets: as torchmetrics has them on the same features, and the same from any number of shards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.metrics.sets import Statistics, frechet, kernel_distance, merged, statistics

FEATURES = 12


def features(seed: int, count: int, shift: float = 0.0) -> Tensor:
    """Correlated, skewed, off the origin."""
    dice = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, FEATURES, generator=dice) @ torch.randn(
        FEATURES, FEATURES, generator=torch.Generator().manual_seed(99)
    )
    return (0.3 * (mixed + 0.1 * mixed**2) + 1 + shift).float()


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_add_up_to_the_whole(shards: int) -> None:
    whole, other = features(0, 500), statistics(features(1, 400, 0.3))
    joined = merged(statistics(part) for part in whole.tensor_split(shards))
    assert joined.images == 500
    assert torch.allclose(joined.total_F, whole.double().sum(0), rtol=1e-14)
    assert torch.allclose(joined.covariance, torch.cov(whole.double().T), rtol=1e-11)
    assert frechet(joined, other) == pytest.approx(frechet(statistics(whole), other), rel=1e-11)
    assert frechet(joined, statistics(whole)) == pytest.approx(0, abs=1e-9)


class Flat(nn.Module):
    """torchmetrics takes features from a module that is given pictures: here these are the features."""

    num_features = FEATURES

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)


@pytest.mark.slow  # torchmetrics takes seconds to import
def test_frechet_distance_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, fake = features(0, 300), features(1, 200, 0.3)
    peer = FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(1, 1, FEATURES))
    peer.set_dtype(torch.float64)
    peer.update(real[:, None, None].double(), real=True)
    peer.update(fake[:, None, None].double(), real=False)
    assert frechet(statistics(real), statistics(fake)) == pytest.approx(float(peer.compute()), rel=1e-6)


@pytest.mark.slow
def test_kernel_distance_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = features(0, 90), features(1, 90, 0.3)
    peer = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=90, normalize=True)
    peer.update(real[:, None, None], real=True)
    peer.update(fake[:, None, None], real=False)
    found = kernel_distance(real, fake)
    assert found.mean == pytest.approx(float(peer.compute()[0]), rel=1e-4)
    assert found[1:] == (0, 1, 90)


def test_kernel_distance_of_the_same_kind_is_0_on_average() -> None:
    values = torch.tensor([kernel_distance(features(2 * n, 40), features(2 * n + 1, 40)).mean for n in range(80)])
    error = float(values.std()) / 80**0.5
    assert abs(float(values.mean())) < 3 * error
    other = kernel_distance(features(0, 40), features(1, 40, 0.5)).mean
    assert other > 10 * error


def test_kernel_distance_follows_its_seed() -> None:
    real, fake = features(0, 200), features(1, 300, 0.5)
    found = kernel_distance(real, fake, subset_images=50, seed=3)
    assert found.deviation > 0
    assert found[2:] == (100, 50)
    assert found == kernel_distance(real, fake, subset_images=50, seed=3)
    assert found != kernel_distance(real, fake, subset_images=50, seed=4)
    with pytest.raises(UsageError, match="2 pictures"):
        kernel_distance(real, fake[:1])


def test_the_formula_in_one_and_many_dimensions() -> None:
    def told(mean: float, variance: float, images: int = 100) -> Statistics:
        products = (images - 1) * variance + images * mean**2
        return Statistics(images, torch.tensor([images * mean]).double(), torch.tensor([[products]]).double())

    assert frechet(told(1, 4), told(4, 9)) == pytest.approx(3**2 + (3 - 2) ** 2)
    a, b = statistics(features(3, 50)), statistics(features(4, 50, 1.0))
    values = torch.linalg.eigvals(a.covariance @ b.covariance).real.clamp(min=0).sqrt().sum()
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * values
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_no_frechet_distance_is_below_0() -> None:
    """Of pictures without variance and those of DATA itself only rounding is left, on either side of 0."""
    for seed in range(8):
        same = statistics(features(seed, 40))
        assert 0 <= frechet(same, same) < 1e-9
