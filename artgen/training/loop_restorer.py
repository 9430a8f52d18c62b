"""The training loop of a restorer: batch, forward, loss, step, mean, report, save.

It knows no launcher, no logger and no storage: `rank` and `world` say which part of each batch is ours, `report`
gets numbers, `save` gets the state. Step s trains on images s * batch_images and on, whoever does which of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from artgen.errors import RunError, UsageError
from artgen.training.data import Batch, prefetch, stable_seed
from artgen.training.ema import update_mean
from artgen.training.losses import LOSSES
from artgen.training.rank import AddUp
from artgen.training.recipe import RestorerRecipe
from artgen.training.schedules import cosine, ema_decay
from artgen.training.tally import Tally

Forward = Callable[[Tensor, Tensor], Tensor]
Report = Callable[[Mapping[str, float]], None]

BAD_STEPS = 20
"""So many steps in a row that are not finite, or whose loss is far above the usual, and the run goes back."""
FAR_ABOVE = 10.0


@dataclass(slots=True)
class TrainState:
    """All that a run needs to go on exactly: the data position is step * batch_images.

    usual_loss: running mean over about 100 steps, 0 before the first. rollbacks: how often the run went back.
    """

    network: nn.Module
    mean: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    usual_loss: float = 0.0
    rollbacks: int = 0


def progress_of(state: TrainState, recipe: RestorerRecipe) -> float:
    """How much of the run is done, 0..1: by steps, or by the clock where `minutes` ends it earlier."""
    by_clock = state.seconds / (60 * recipe.minutes) if recipe.minutes else 0.0
    return min(max(state.step / recipe.steps, by_clock), 1.0)


def share_of(batch_images: int, rank: int, world: int) -> tuple[int, int]:
    """First image and number of images of this rank in a batch: shares differ by at most one image."""
    if world > batch_images:
        raise UsageError(
            f"batch_images is {batch_images}, too few for {world} workers; raise it or use fewer workers"
        )
    first = rank * batch_images // world
    return first, (rank + 1) * batch_images // world - first


def train(
    state: TrainState,
    batches: Callable[[int, int], Batch],
    recipe: RestorerRecipe,
    *,
    forward: Forward,
    report: Report,
    save: Callable[[TrainState], None],
    go_back: Callable[[TrainState], None] | None = None,
    rank: int = 0,
    world: int = 1,
    add_up: AddUp | None = None,
    dtype: torch.dtype | None = None,
    threads: int = 1,
) -> None:
    """Trains until progress is 1. `batches(first, count)` gives the crops from position `first` on.

    forward: state.network, or what wraps it. dtype: of the autocast forward pass. threads: that make batches.
    go_back: fills the state with the last good one and counts the rollback; called after BAD_STEPS in a row, which change
    nothing. Every rollback halves the learning rate, so the same data lead elsewhere. Raises RunError where there is none.
    Every rank reports, saves and goes back after the same steps; who writes is up to `report` and `save`.
    """
    device = next(state.network.parameters()).device
    start, count = share_of(recipe.batch_images, rank, world)
    ahead = max(4, 2 * threads)
    autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    tally = Tally(recipe.batch_images)
    saved_at, clock = state.seconds, time.monotonic()

    while (progress := progress_of(state, recipe)) < 1:
        feed = prefetch(lambda step: batches(step * recipe.batch_images + start, count), state.step, ahead, threads)
        with contextlib.closing(feed):
            while (progress := progress_of(state, recipe)) < 1 and tally.bad_in_a_row < BAD_STEPS:
                with tally.waiting():
                    batch = next(feed)
                # What else draws numbers (dropout) depends on the position too: no generator has a state to save.
                torch.manual_seed(stable_seed(recipe.seed, "step", state.step, rank))
                rate = recipe.learning_rate * cosine(progress, state.step, recipe.warmup_steps) / 2**state.rollbacks
                for group in state.optimizer.param_groups:
                    group["lr"] = rate * group.get("share", 1.0)
                # The forward pass of a batch norm changes its statistics, before anybody knows whether the step counts.
                before = [buffer.clone() for buffer in state.network.buffers()]
                part = accumulate(state.network, batch, recipe, forward=forward, autocast=autocast)

                # The clock of rank 0 counts, for all: what follows from it (rate, save, end) must be the same everywhere.
                now = time.monotonic()
                seconds = now - clock if rank == 0 else 0.0
                loss, seconds = add_gradients_up(state.network, part, seconds, count / recipe.batch_images, add_up)
                state.seconds += seconds
                clock = now

                stepped = step_once(state, loss, recipe, before)
                state.step += 1
                tally.add({"loss": loss} if stepped else None)
                if state.step % recipe.report_steps == 0:
                    report({"step": state.step, "seconds": state.seconds, "lr": rate, **tally.flush()})
                # A state that is about to be given up is not saved.
                if state.seconds - saved_at >= 60 * recipe.checkpoint_minutes and not tally.bad_in_a_row:
                    save(state)
                    saved_at = state.seconds
        if tally.bad_in_a_row >= BAD_STEPS:
            if go_back is None:
                raise RunError(
                    f"{BAD_STEPS} steps in a row were not finite or far above the usual loss of {state.usual_loss:.3g}"
                )
            go_back(state)
            tally.bad_in_a_row, saved_at = 0, state.seconds
    save(state)


def accumulate(
    network: nn.Module,
    batch: Batch,
    recipe: RestorerRecipe,
    *,
    forward: Forward,
    autocast: contextlib.AbstractContextManager[object],
) -> Tensor:
    """Gradients of this rank's part of the loss, which is the mean over the whole batch; returns that part.

    At most `micro_images` crops pass at once, so memory does not grow with the batch.
    """
    device = next(network.parameters()).device
    network.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    at_once = recipe.micro_images or len(batch.clean)
    for crops in zip(*(tensor.split(at_once) for tensor in batch), strict=True):
        clean, damaged, mask = (t.to(device, memory_format=torch.channels_last, non_blocking=True) for t in crops)
        with autocast:
            restored = forward(damaged, mask)
        loss = LOSSES[recipe.loss](restored.float(), clean) * (len(clean) / recipe.batch_images)
        loss.backward()
        total += loss.detach()
    return total


def add_gradients_up(
    network: nn.Module, loss: Tensor, seconds: float, share: float, add_up: AddUp | None
) -> list[float]:
    """Adds gradients, loss and seconds up over all ranks, in one exchange.

    share: of this rank in the batch; running statistics become their mean over the batch, equal on all ranks.
    """
    if add_up is None:
        return [loss.item(), seconds]
    summed = [p.grad for p in network.parameters() if p.grad is not None]
    summed += [statistic.mul_(share) for statistic in running_statistics(network)]
    flat = torch.cat([*(s.flatten() for s in summed), torch.stack([loss, loss.new_tensor(seconds)])])
    add_up(flat)
    *parts, numbers = flat.split([*(s.numel() for s in summed), 2])
    for target, part in zip(summed, parts, strict=True):
        target.copy_(part.view(target.shape))
    return numbers.tolist()


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Those of batch norms: each process makes them of the crops that it passes through at once."""
    return [made for name, made in network.named_buffers() if name.endswith(("running_mean", "running_var"))]


def step_once(state: TrainState, loss: float, recipe: RestorerRecipe, before: list[Tensor]) -> bool:
    """One step of the optimiser and of the running mean. False for a step that would do harm: nothing changes then, and
    the network's buffers are again as they were `before` the forward pass."""
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_norm)
    usual = state.usual_loss or loss
    if not (torch.isfinite(norm) and loss <= FAR_ABOVE * usual):
        for buffer, kept in zip(state.network.buffers(), before, strict=True):
            buffer.copy_(kept)
        return False
    state.optimizer.step()
    state.usual_loss = 0.99 * usual + 0.01 * loss
    seen_images = (state.step + 1) * recipe.batch_images
    decay = ema_decay(recipe.batch_images, seen_images, recipe.halflife_images)
    update_mean(state.mean, state.network, decay)
    return True
