"""Distances of two sets of pictures, from their features: Frechet (FID's formula) and kernel (KID's).

Shape letters: N pictures, F features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from artgen.errors import UsageError

KID_SUBSETS, KID_SUBSET_IMAGES = 100, 1000


class Statistics(NamedTuple):
    """Of features, as sums in float64, so that those of shards add up to those of the whole: F, and F x F."""

    images: int
    total_F: Tensor
    products_FF: Tensor

    @property
    def mean(self) -> Tensor:
        """Of one picture at least: F."""
        return self.total_F / self.images

    @property
    def covariance(self) -> Tensor:
        """Of two pictures at least; unbiased, as that of Heusel et al. 2017."""
        centre = self.images * torch.outer(self.mean, self.mean)
        return (self.products_FF - centre) / (self.images - 1)


def statistics(features_NF: Tensor) -> Statistics:
    """Of one shard, whatever the type of its features."""
    features = features_NF.double()
    return Statistics(len(features), features.sum(0), features.T @ features)


def merged(parts: Iterable[Statistics]) -> Statistics:
    """Of one part at least. The same whatever the parts are, but for the rounding of float64."""
    images, totals, products = zip(*parts, strict=True)
    return Statistics(sum(images), torch.stack(totals).sum(0), torch.stack(products).sum(0))


def frechet(real: Statistics, fake: Statistics) -> float:
    """|m - n|^2 + tr(A + B - 2 (A B)^1/2) of means m, n and covariances A, B: the squared distance of two normal
    distributions (Dowson and Landau 1982; Heusel et al. 2017, equation 6).

    It falls as the pictures become more, on either side: compare only at the same numbers.
    """
    spread = real.covariance
    root = _root(spread)
    cross = torch.linalg.eigvalsh(root @ fake.covariance @ root).clamp(min=0).sqrt().sum()
    shift = (real.mean - fake.mean).square().sum()
    distance = float(shift + spread.trace() + fake.covariance.trace() - 2 * cross)
    return 0.0 if distance < 0 else distance  # rounding; NaN stays


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


class Kernel(NamedTuple):
    """Mean and standard deviation over subsets (0 for one), how many there were, and how large."""

    mean: float
    deviation: float
    subsets: int
    subset_images: int


def kernel_distance(
    real_NF: Tensor,
    fake_NF: Tensor,
    *,
    subsets: int = KID_SUBSETS,
    subset_images: int = KID_SUBSET_IMAGES,
    seed: int = 0,
) -> Kernel:
    """Squared maximum mean discrepancy under (x.y / F + 1)^3, unbiased, so it may be below 0 and does not depend on
    the number of pictures (Binkowski et al. 2018, section 4). Over random subsets, drawn from `seed`, of at most the
    smaller set's size. Raises UsageError for a set of less than two pictures.
    """
    size = min(subset_images, len(real_NF), len(fake_NF))
    if size < 2:
        raise UsageError(f"a kernel distance needs 2 pictures on each side; there are {size}")
    if size == len(real_NF) == len(fake_NF):
        subsets = 1  # they would all be the same one
    dice, found = Generator().manual_seed(seed), []
    for _ in range(subsets):
        real, fake = (
            rows[torch.randperm(len(rows), generator=dice)[:size]].double() for rows in (real_NF, fake_NF)
        )
        within = _mean_of_pairs(_kernel(real, real)) + _mean_of_pairs(_kernel(fake, fake))
        found.append(within - 2 * float(_kernel(real, fake).mean()))
    values = torch.tensor(found, dtype=torch.float64)
    return Kernel(float(values.mean()), float(values.std(correction=0)), subsets, size)


def _kernel(a_NF: Tensor, b_NF: Tensor) -> Tensor:
    return (a_NF @ b_NF.T / a_NF.shape[1] + 1) ** 3


def _mean_of_pairs(kernel_NN: Tensor) -> float:
    """Without the pairs of a picture with itself: that is what makes the estimate unbiased."""
    count = len(kernel_NN)
    return float((kernel_NN.sum() - kernel_NN.trace()) / (count * (count - 1)))
