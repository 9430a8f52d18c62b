"""The training loop of a restorer: batch, forward, loss, save, step, mean, report.

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
from artgen.training.rank import AddUp, add_gradients_up
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
    save: gets the state between two steps, once the loss of the next batch shows that the last step did no harm; the loss of
    a step itself is of the weights before it. So the end costs one more batch. A run that begins at its end is saved as it is.
    go_back: fills the state with the last good one and counts the rollback; called after BAD_STEPS in a row, which change
    nothing. Every rollback halves the learning rate, so the same data lead elsewhere. Raises RunError where there is none.
    Every rank reports, saves and goes back after the same steps; who writes is up to `report` and `save`.
    """
    device = next(state.network.parameters()).device
    start, count = share_of(recipe.batch_images, rank, world)
    ahead = max(4, 2 * threads)
    autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    tally = Tally(recipe.batch_images)
    saved_at, saved_step, clock = state.seconds, state.step, time.monotonic()
    if ended := progress_of(state, recipe) >= 1:
        save(state)

    while not ended:
        feed = prefetch(lambda step: batches(step * recipe.batch_images + start, count), state.step, ahead, threads)
        with contextlib.closing(feed):
            while not ended and tally.bad_in_a_row < BAD_STEPS:
                with tally.waiting():
                    batch = next(feed)
                # What else draws numbers (dropout) depends on the position too: no generator has a state to save.
                torch.manual_seed(stable_seed(recipe.seed, "step", state.step, rank))
                progress = progress_of(state, recipe)
                # The forward pass of a batch norm changes its statistics, before anybody knows whether the step counts.
                buffers = [buffer.clone() for buffer in state.network.buffers()]
                part = accumulate(state.network, batch, recipe, forward=forward, autocast=autocast)

                # The clock of rank 0 counts, for all: what follows from it (rate, save, end) must be the same everywhere.
                now = time.monotonic()
                seconds = now - clock if rank == 0 else 0.0
                loss, seconds = add_gradients_up(state.network, part, seconds, count / recipe.batch_images, add_up)
                state.seconds += seconds
                clock = now
                buffers = exchanged(state.network, buffers)
                good = is_good(state, loss, recipe)

                ended = good and progress >= 1
                due = state.step > saved_step and state.seconds - saved_at >= 60 * recipe.checkpoint_minutes
                if good and (ended or due):
                    save(state)
                    saved_at, saved_step = state.seconds, state.step
                if progress >= 1:  # nothing is left but to see whether the last step did harm
                    tally.add({} if good else None)
                    continue
                rate = recipe.learning_rate * cosine(progress, state.step, recipe.warmup_steps) / 2**state.rollbacks
                if good:
                    step_once(state, loss, rate, recipe, buffers)
                state.step += 1
                tally.add({"loss": loss} if good else None)
                if state.step % recipe.report_steps == 0 or progress_of(state, recipe) >= 1:
                    with tally.paused():
                        report({"step": state.step, "seconds": state.seconds, "lr": rate, **tally.flush()})
        if tally.bad_in_a_row >= BAD_STEPS:
            if go_back is None:
                raise RunError(
                    f"{BAD_STEPS} steps in a row were not finite or far above the usual loss of {state.usual_loss:.3g}"
                )
            go_back(state)
            tally.bad_in_a_row, saved_at, saved_step = 0, state.seconds, state.step


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


def exchanged(network: nn.Module, values: list[Tensor]) -> list[Tensor]:
    """Puts `values` into the network's buffers; returns what was there."""
    found = [buffer.clone() for buffer in network.buffers()]
    for buffer, value in zip(network.buffers(), values, strict=True):
        buffer.copy_(value)
    return found


def is_good(state: TrainState, loss: float, recipe: RestorerRecipe) -> bool:
    """Whether a step with this loss and the gradients of it, which are clipped, would do no harm."""
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_norm)
    return bool(torch.isfinite(norm)) and loss <= FAR_ABOVE * (state.usual_loss or loss)


def step_once(state: TrainState, loss: float, rate: float, recipe: RestorerRecipe, buffers: list[Tensor]) -> None:
    """One step of the optimiser and of the running mean. buffers: of the network, as its forward pass left them."""
    exchanged(state.network, buffers)
    for group in state.optimizer.param_groups:
        group.update(lr=rate * group.get("share", 1.0), weight_decay=recipe.weight_decay)
    state.optimizer.step()
    state.usual_loss = 0.99 * (state.usual_loss or loss) + 0.01 * loss
    seen_images = (state.step + 1) * recipe.batch_images
    decay = ema_decay(recipe.batch_images, seen_images, recipe.halflife_images)
    update_mean(state.mean, state.network, decay)
