"""Hidden units that never fire, and how to begin them anew.

A unit whose sum stays below zero whatever the picture passes nothing on and gets no gradient: it is lost for the rest of
the training (Lu et al. 2020, "Dying ReLU and initialization: theory and numerical examples"). One loss that goes astray can
leave most of a network so, and the loss does not tell: the rest goes on learning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from artgen.models.restorers.unet import ResidualBlock

Highest = dict[str, Tensor]
"""By name of a residual block the highest sum that each of its hidden units had so far."""


@contextmanager
def watched(network: nn.Module) -> Iterator[Highest]:
    """While it lasts, every forward pass of `network` is noted. Empty for a network without residual blocks."""
    highest: Highest = {}

    def noting(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def note(_module: nn.Module, _given: object, sums_BCHW: Tensor) -> None:
            if not len(sums_BCHW):  # of the pictures of a batch none came this way
                return
            top_C = sums_BCHW.detach().amax((0, 2, 3))
            highest[name] = torch.maximum(top_C, highest.get(name, top_C))

        return note

    hooks = [block.first.register_forward_hook(noting(name)) for name, block in _blocks(network).items()]
    try:
        yield highest
    finally:
        for hook in hooks:
            hook.remove()


def silent_share(highest: Mapping[str, Tensor]) -> float:
    """Of the hidden units the share, 0..1, that never fired. Raises ValueError where nothing was noted."""
    if not highest:
        raise ValueError("no residual block was watched in a forward pass")
    return torch.cat([top_C <= 0 for top_C in highest.values()]).float().mean().item()


@torch.no_grad()
def revive(network: nn.Module, highest: Mapping[str, Tensor], seed: int = 0) -> int:
    """Begins the units that never fired anew, and says how many they are.

    They get random weights (He et al. 2015) and no say in what follows, as in a new block, so for the pictures that were
    watched the network gives what it gave before; from there they learn.
    """
    dice = torch.Generator().manual_seed(seed)
    count = 0
    for name, block in _blocks(network).items():
        if name not in highest:  # no picture came this way
            continue
        silent = highest[name] <= 0
        weights = block.first.weight[silent]
        fresh = (
            torch.randn(weights.shape, generator=dice) * (2 / weights[:1].numel()) ** 0.5
            if len(weights)
            else weights
        )
        block.first.weight[silent] = fresh.to(weights)
        assert block.first.bias is not None
        block.first.bias[silent] = 0
        block.last.weight[:, silent] = 0
        count += len(weights)
    return count


def _blocks(network: nn.Module) -> dict[str, ResidualBlock]:
    return {name: module for name, module in network.named_modules() if isinstance(module, ResidualBlock)}
