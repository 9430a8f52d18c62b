"""One sum of gradients whatever the number of workers: a batch is cut into shards, and shards are added in order.

Floating-point sums depend on their order. With a fixed number of shards, each computed alone, the parts that are added
and their order are the same on 1, 2 or 4 workers, and so is every bit of the result (on CPUs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.training.gan_recipe import GanRecipe
from artgen.training.loop_restorer import share_of
from artgen.training.rank import AddUp
from artgen.training.recipe import RestorerRecipe

Loss = Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]  # shard number -> loss to minimise, numbers to report


class Summed(NamedTuple):
    """numbers: the means of what the losses report. buffers: what the network's are to be once the step is taken, in order."""

    numbers: dict[str, float]
    buffers: list[Tensor]


@dataclass(frozen=True)
class Shards:
    """The shards of every batch, and which are ours.

    count: fixed shards; 0: one for each worker, added by a plain all-reduce. That is the fast mode: no copy of the
    gradients for each shard, but weights differ in the last bits between numbers of workers (by up to 1e-4 after
    20 steps), and batch norm sees other batches.
    Raises UsageError when shards or workers do not divide up.
    """

    batch_images: int
    count: int = 0
    rank: int = 0
    world: int = 1
    add_up: AddUp | None = None

    def __post_init__(self) -> None:
        if self.count and self.world > self.count:
            raise UsageError(f"{self.world} workers cannot share {self.count} shards; use fewer, or shards = 0")
        if self.batch_images % self.total:
            raise UsageError(
                f"batch_images is {self.batch_images}, which {self.total} {'shards' if self.count else 'workers'} cannot "
                "share; use a multiple"
            )

    @property
    def total(self) -> int:
        """Shards of a batch: `count`, or one for each worker."""
        return self.count or self.world

    @property
    def images(self) -> int:
        """Images of a shard."""
        return self.batch_images // self.total

    @property
    def ours(self) -> range:
        """Numbers of this worker's shards."""
        return range(self.rank * self.total // self.world, (self.rank + 1) * self.total // self.world)

    def gradients(self, network: nn.Module, loss: Loss) -> Summed:
        """Fills .grad of `network` with the mean over all shards of their gradients; returns the means of numbers and buffers.

        Buffers (running statistics of batch norm) start from the same values in every shard, and have them again afterwards:
        their means count only if the step is taken, since one forward pass that is not finite would spoil them for good.
        """
        state = [*network.buffers()]
        before = [buffer.clone() for buffer in state]
        parameters = [p for p in network.parameters() if p.requires_grad]
        rows: Tensor | None = None
        numbers: Mapping[str, Tensor] = {}
        for shard in self.ours:
            network.zero_grad(set_to_none=True)
            value, numbers = loss(shard)
            value.backward()
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            row = torch.cat([part.detach().flatten().float() for part in (*grads, *state, *numbers.values())])
            rows = row.new_zeros(self.count or 1, len(row)) if rows is None else rows
            rows[shard if self.count else 0] = row
            for buffer, value_before in zip(state, before, strict=True):
                buffer.copy_(value_before)
        if rows is None:  # for the type checker: `ours` is never empty
            raise UsageError(f"rank {self.rank} of {self.world} has no shard")
        if self.add_up is not None and self.world > 1:
            self.add_up(rows.view(-1))
        # From zeros, one by one: `sum` over rows may add them in another order.
        mean = torch.zeros_like(rows[0])
        for row in rows:
            mean += row
        mean /= self.total
        sizes = [part.numel() for part in (*parameters, *state)]
        *parts, told = mean.split([*sizes, len(numbers)])
        for parameter, part in zip(parameters, parts, strict=False):
            # In the memory format of the weights, which fused optimisers take for granted.
            parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))
        after = [part.view_as(buffer) for buffer, part in zip(state, parts[len(parameters) :], strict=True)]
        return Summed(dict(zip(numbers, told.tolist(), strict=True)), after)


def check_workers(recipe: RestorerRecipe | GanRecipe, workers: tuple[int, int]) -> None:
    """All that can be known before a worker starts, of every number of workers (least, most) that a group may have.

    Raises UsageError.
    """
    for number in range(workers[0], workers[1] + 1):
        if isinstance(recipe, GanRecipe):
            Shards(recipe.batch_images, recipe.shards, 0, number)
        else:
            share_of(recipe.batch_images, 0, number)
