"""The optimisers that a restorer's recipe can name."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from artgen.training.muon import Muon

OPTIMIZERS = ("adamw", "mup", "muon")
NARROW = 360
"""Inputs of an output value up to which `mup` takes the whole learning rate: those of the default's first convolution."""


def make_optimizer(
    name: str, network: nn.Module, rate: float, decay: float, dtype: torch.dtype | None = None
) -> torch.optim.Optimizer:
    """One of OPTIMIZERS for the weights of `network`, which are on their device. dtype: of Muon's products."""
    if name == "muon":
        return Muon(network, rate, decay, dtype)
    given: Any = by_width(network) if name == "mup" else network.parameters()
    return torch.optim.AdamW(given, lr=rate, weight_decay=decay, fused=True)


def by_width(network: nn.Module) -> list[dict[str, Any]]:
    """Groups of parameters with the `share` of the learning rate that is theirs: less, the more inputs are summed up.

    Adam moves each weight by about the rate, all to one side where the inputs are alike, as after a ReLU; what a sum of n
    inputs gives then moves by n times as much. So the rate falls as 1 / n (Yang and Hu 2021, "Tensor programs V", table 3:
    hidden weights under Adam). With one rate for all the default's wide layers were driven below zero within 200 steps,
    where nothing learns any more (training/firing.py).
    """
    groups: defaultdict[float, list[nn.Parameter]] = defaultdict(list)
    for module in network.modules():
        for weight in module.parameters(recurse=False):
            groups[min(1.0, NARROW / _inputs(module, weight))].append(weight)
    return [{"params": weights, "share": share} for share, weights in groups.items()]


def _inputs(module: nn.Module, weight: Tensor) -> int:
    """How many products with this weight are summed up in one output value."""
    if weight.ndim < 2:
        return 1
    if isinstance(
        module, nn.ConvTranspose2d
    ):  # in x out x kh x kw, of which a place sees those that its stride leaves
        return weight.shape[0] * math.ceil(weight[0, 0].numel() / math.prod(module.stride))
    return weight[0].numel()
