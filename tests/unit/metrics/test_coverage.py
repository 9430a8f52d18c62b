"""Precision, recall, modes and divergence where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from artgen.errors import UsageError
from artgen.metrics.coverage import divergence, histogram, modes, precision_recall


def cloud(seed: int, count: int, centre: float) -> Tensor:
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) + centre


@pytest.mark.parametrize("count", [40, 1100])  # one block of rows, and two
def test_a_set_covers_itself_and_nothing_that_is_far(count: int) -> None:
    here, there = cloud(0, count, 0), cloud(1, count, 100)
    assert precision_recall(here, here) == (1, 1)
    assert precision_recall(here, there) == (0, 0)
    # Half of what is made is real, and nothing real is missed; then the other way round.
    both = torch.cat([here, there])
    precision, recall = precision_recall(here, both)
    assert precision == 0.5
    assert recall == 1
    assert precision_recall(both, here) == (1, 0.5)


def test_on_a_line_by_hand() -> None:
    real = torch.tensor([0.0, 1, 2, 10])[:, None]
    fake = torch.tensor([-1.0, -1.1, 4, 11])[:, None]
    # Radii with one neighbour: 1, 1, 1, 8 of the real and 0.1, 0.1, 5, 7 of the fake ones.
    # -1 is within 1 of 0, -1.1 is not within anything, 4 and 11 are within 8 of 10.
    # 0, 1 and 2 are within 5 of 4; 10 is within 7 of 11.
    assert precision_recall(real, fake, 1) == (0.75, 1)
    # One picture again and again is precise and recalls what lies at the same place only.
    assert precision_recall(real, torch.zeros(5, 1), 1) == (1, 0.25)


def test_a_copy_far_from_the_origin_is_at_no_distance() -> None:
    row = torch.full((1, 300), 1234.567)
    assert precision_recall(row.repeat(6, 1), row.repeat(4, 1)) == (1, 1)


def test_too_few_pictures_say_how_many() -> None:
    with pytest.raises(UsageError, match=r"4 pictures on each side; there are 3"):
        precision_recall(cloud(0, 3, 0), cloud(0, 9, 0))


def test_modes_and_divergence() -> None:
    counts = histogram(torch.tensor([0, 0, 3, 3, 3, 3]), 5)
    assert counts.tolist() == [2, 0, 0, 4, 0]
    assert modes(counts) == 2
    expected = 1 / 3 * math.log(5 / 3) + 2 / 3 * math.log(10 / 3)
    assert divergence(counts) == pytest.approx(expected)
    assert divergence(counts, torch.tensor([10, 0, 0, 20, 0])) == pytest.approx(0)
    assert divergence(counts, torch.tensor([1, 0, 0, 1, 2])) == pytest.approx(
        1 / 3 * math.log(4 / 3) + 2 / 3 * math.log(8 / 3)
    )
    assert divergence(counts, torch.tensor([1, 1, 1, 0, 1])) == math.inf
    assert divergence(histogram(torch.tensor([2, 2]), 7)) == pytest.approx(math.log(7))
