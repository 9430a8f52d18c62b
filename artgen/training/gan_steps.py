"""The small parts of a GAN's step that neither loss nor loop is: applying gradients, counting, freezing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


def apply(network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """One step of the optimiser; returns the norm of the gradients, inf (and no change) when it is not finite."""
    norm = float(nn.utils.get_total_norm(p.grad for p in network.parameters() if p.grad is not None))
    if not norm < float("inf"):
        return float("inf")
    optimizer.step()
    return norm


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the weights of `network` in the block; they pass through it all the same."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[None]:
    """Running statistics of `network` are after the block what they were before."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)


class Tally:
    """Means over the steps since the last report; steps that were not finite are only counted, as `skipped`."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps = self.skipped = 0
        self.since = time.monotonic()

    def add(self, numbers: Mapping[str, float], finite: bool) -> None:
        self.steps += 1
        self.skipped += not finite
        for name, value in numbers.items() if finite else ():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def flush(self, batch_images: int) -> dict[str, float]:
        good = max(self.steps - self.skipped, 1)
        numbers = {name: total / good for name, total in self.sums.items()}
        numbers["images_per_s"] = self.steps * batch_images / (time.monotonic() - self.since)
        numbers["skipped"] = float(self.skipped)
        self._clear()
        return numbers
