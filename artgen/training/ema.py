"""The running mean of the weights, which is what gets evaluated and shipped."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_mean(mean: nn.Module, network: nn.Module, decay: float) -> None:
    """mean = decay * mean + (1 - decay) * network, for every parameter and every buffer of floats: the statistics of a batch
    norm belong to the weights they were seen with. Other buffers are copied.
    """
    for old, new in zip(mean.parameters(), network.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
    for old, new in zip(mean.buffers(), network.buffers(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
