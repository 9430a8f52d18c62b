from __future__ import annotations

import pytest
import torch
from torch import nn

from artgen.training.ema import update_mean
from artgen.training.schedules import cosine, ema_decay


def test_the_rate_warms_up_and_ends_at_zero():
    assert cosine(0.0, 0, 100) == pytest.approx(0.01)
    assert cosine(0.0, 99, 100) == pytest.approx(1)
    assert cosine(0.5, 1000, 100) == pytest.approx(0.5)
    assert cosine(1.0, 2000, 100) == pytest.approx(0)
    assert cosine(1.3, 2000, 0) == pytest.approx(0)


def test_the_mean_forgets_half_in_a_halflife():
    steps = 100
    assert ema_decay(16, 10**9, 16 * steps) ** steps == pytest.approx(0.5)
    # Early on the half-life is 5 % of what was seen.
    assert ema_decay(16, 16 * 2000, 10**9) ** 100 == pytest.approx(0.5)
    assert ema_decay(16, 0, 1000) == 0


def test_the_mean_moves_towards_the_network_with_its_statistics_and_copies_counts():
    mean, network = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(network.weight, 3.0)
    network.running_mean = torch.full((3,), 7.0)
    network.num_batches_tracked.fill_(5)
    update_mean(mean, network, 0.75)
    assert torch.allclose(mean.weight, torch.full((3,), 1.5))
    assert torch.allclose(mean.running_mean, torch.full((3,), 1.75))
    assert mean.num_batches_tracked == 5
