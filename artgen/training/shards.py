"""One sum of gradients whatever the number of workers: a batch is cut into shards, and shards are added in order.

Floating-point sums depend on their order. With a fixed number of shards, each computed alone by one thread of torch (a
backward pass sums in an order that follows its threads), the parts that are added and their order are the same on 1, 2 or 4
workers of any number of cores, and so is every bit of the result (on CPUs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.training.gan_recipe import GanRecipe
from artgen.training.loop_restorer import share_of
from artgen.training.rank import AddUp
from artgen.training.recipe import RestorerRecipe


class Part(NamedTuple):
    """Of one shard. loss: to minimise. numbers: to report. buffers: those of the network behind the forward pass, in order."""

    loss: Tensor
    numbers: Mapping[str, Tensor]
    buffers: Sequence[Tensor]


Loss = Callable[[int, int], Part]  # number of a shard, and of the lane that does it


class Summed(NamedTuple):
    """numbers: the means of what the losses report. buffers: what the network's are to be once the step is taken, in order."""

    numbers: dict[str, float]
    buffers: list[Tensor]


class Lanes(NamedTuple):
    """How many shards are computed at once, each lane by one thread of `pool`; without one in the caller's, by all its threads.

    threads: that torch had before there was a pool. Beside it the caller's own operations get one: the helpers that they had
    would spin for some 15 ms after each of them, on the cores of the lanes, which costs a fifth of a step of small networks.
    """

    number: int = 1
    pool: ThreadPoolExecutor | None = None
    threads: int = 1

    @contextmanager
    def halted(self) -> Iterator[None]:
        """All threads for what the caller does in the block, where no lane works."""
        if self.pool is None:
            yield
            return
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(1)

    def each(self, work: Callable[[int, int], Tensor], shards: Sequence[int]) -> list[Tensor]:
        """work(shard, lane) of every shard, in their order."""

        def lane(number: int) -> list[Tensor]:
            return [work(shard, number) for shard in shards[number :: self.number]]

        done = list(map(lane, range(self.number)) if self.pool is None else self.pool.map(lane, range(self.number)))
        return [done[place % self.number][place // self.number] for place in range(len(shards))]


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

    @contextmanager
    def lanes(self, device: torch.device) -> Iterator[Lanes]:
        """As many lanes as torch has threads here, each of one thread; one lane of all of them on an accelerator, for one shard
        (whose bits follow the number of threads) and in the fast mode."""
        if self.count < 2 or device.type != "cpu":
            yield Lanes()
            return
        threads = torch.get_num_threads()
        number = min(threads, len(self.ours))
        try:
            with ThreadPoolExecutor(number, "artgen-shard", torch.set_num_threads, (1,)) as pool:
                torch.set_num_threads(1)
                yield Lanes(number, pool, threads)
        finally:
            torch.set_num_threads(threads)  # a call counts for threads that are begun later, too

    def gradients(self, network: nn.Module, loss: Loss, lanes: Lanes | None = None) -> Summed:
        """Fills .grad of `network` with the mean over all shards of their gradients; returns the means of numbers and buffers.

        Buffers (running statistics of batch norm) are not touched: every shard begins from the same, in what its lane has for
        itself (`Twins`), and their means count only if the step is taken, since one forward pass that is not finite would
        spoil them for good.
        """
        parameters = [p for p in network.parameters() if p.requires_grad]
        names: list[str] = []

        def row(shard: int, lane: int) -> Tensor:
            part = loss(shard, lane)
            names[:] = part.numbers
            found = torch.autograd.grad(part.loss, parameters, allow_unused=True)
            grads = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            return torch.cat(
                [v.detach().flatten().float() for v in (*grads, *part.buffers, *part.numbers.values())]
            )

        ours = (lanes or Lanes()).each(row, self.ours)
        if not ours:  # for the type checker: `ours` is never empty
            raise UsageError(f"rank {self.rank} of {self.world} has no shard")
        rows: Iterable[Tensor] = ours
        if self.add_up is not None and self.world > 1:
            rows = ours[0].new_zeros(self.count or 1, len(ours[0]))
            for shard, one in zip(self.ours, ours, strict=True):
                rows[shard if self.count else 0] = one
            self.add_up(rows.view(-1))
        # From zeros, one by one: `sum` over rows may add them in another order.
        mean = torch.zeros_like(ours[0])
        for one in rows:
            mean += one
        mean /= self.total
        state = [*network.buffers()]
        sizes = [part.numel() for part in (*parameters, *state)]
        *parts, told = mean.split([*sizes, len(names)])
        for parameter, part in zip(parameters, parts, strict=False):
            # In the memory format of the weights, which fused optimisers take for granted.
            parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))
        after = [part.view_as(buffer) for buffer, part in zip(state, parts[len(parameters) :], strict=True)]
        return Summed(dict(zip(names, told.tolist(), strict=True)), after)


def check_workers(recipe: RestorerRecipe | GanRecipe, workers: tuple[int, int]) -> None:
    """All that can be known before a worker starts, of every number of workers (least, most) that a group may have.

    Raises UsageError.
    """
    for number in range(workers[0], workers[1] + 1):
        if isinstance(recipe, GanRecipe):
            Shards(recipe.batch_images, recipe.shards, 0, number)
        else:
            share_of(recipe.batch_images, 0, number)
