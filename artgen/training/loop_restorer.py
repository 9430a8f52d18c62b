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

Forward = Callable[[Tensor, Tensor], Tensor]
Report = Callable[[Mapping[str, float]], None]


@dataclass(slots=True)
class TrainState:
    """All that a run needs to go on exactly: the data position is step * batch_images."""

    network: nn.Module
    mean: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0


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
    rank: int = 0,
    world: int = 1,
    add_up: AddUp | None = None,
    dtype: torch.dtype | None = None,
    threads: int = 1,
) -> None:
    """Trains until progress is 1. `batches(first, count)` gives the crops from position `first` on.

    forward: state.network, or what wraps it. dtype: of the autocast forward pass. threads: that make batches.
    Every rank reports and saves after the same steps; who writes is up to `report` and `save`.
    Raises RunError when 20 steps in a row are not finite; the last checkpoint is then the place to resume.
    """
    device = next(state.network.parameters()).device
    start, count = share_of(recipe.batch_images, rank, world)
    ahead = max(4, 2 * threads)
    feed = prefetch(lambda step: batches(step * recipe.batch_images + start, count), state.step, ahead, threads)
    autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    tally = Tally(recipe.batch_images)
    saved_at, clock = state.seconds, time.monotonic()

    with contextlib.closing(feed):
        while (progress := progress_of(state, recipe)) < 1:
            waited = time.monotonic()
            batch = next(feed)
            tally.wait_s += time.monotonic() - waited

            # What else draws numbers (dropout) depends on the position too: no generator has a state to save.
            torch.manual_seed(stable_seed(recipe.seed, "step", state.step, rank))
            rate = recipe.learning_rate * cosine(progress, state.step, recipe.warmup_steps)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            part = accumulate(state.network, batch, recipe, forward=forward, autocast=autocast)

            # The clock of rank 0 counts, for all: what follows from it (rate, save, end) must be the same everywhere.
            now = time.monotonic()
            loss, seconds = add_gradients_up(state.network, part, now - clock if rank == 0 else 0.0, add_up)
            state.seconds += seconds
            clock = now

            stepped = step_once(state, recipe)
            state.step += 1
            if stepped:
                seen_images = state.step * recipe.batch_images
                decay = ema_decay(recipe.batch_images, seen_images, recipe.halflife_images)
                update_mean(state.mean, state.network, decay)
            tally.add(loss if stepped else None)
            if state.step % recipe.report_steps == 0:
                report({"step": state.step, "seconds": state.seconds, "lr": rate, **tally.flush()})
            if state.seconds - saved_at >= 60 * recipe.checkpoint_minutes:
                save(state)
                saved_at = state.seconds
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


def add_gradients_up(network: nn.Module, loss: Tensor, seconds: float, add_up: AddUp | None) -> list[float]:
    """Adds gradients, loss and seconds up over all ranks, in one exchange."""
    if add_up is None:
        return [loss.item(), seconds]
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.stack([loss, loss.new_tensor(seconds)])])
    add_up(flat)
    *parts, numbers = flat.split([*(g.numel() for g in gradients), 2])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))
    return numbers.tolist()


def step_once(state: TrainState, recipe: RestorerRecipe) -> bool:
    """One step of the optimiser; False (and no change) when the gradient is not finite."""
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_norm)
    if not torch.isfinite(norm):
        return False
    state.optimizer.step()
    return True


class Tally:
    """Means over the steps since the last report."""

    def __init__(self, batch_images: int) -> None:
        self.batch_images = batch_images
        self.bad_in_a_row = 0
        self._clear()

    def _clear(self) -> None:
        self.losses: list[float] = []
        self.skipped = 0
        self.wait_s = 0.0
        self.since = time.monotonic()

    def add(self, loss: float | None) -> None:
        if loss is not None:
            self.losses.append(loss)
            self.bad_in_a_row = 0
            return
        self.skipped += 1
        self.bad_in_a_row += 1
        if self.bad_in_a_row >= 20:
            raise RunError("20 steps in a row were not finite; lower learning_rate and run the same command again")

    def flush(self) -> dict[str, float]:
        steps = len(self.losses) + self.skipped
        seconds = time.monotonic() - self.since
        numbers = {
            "loss": sum(self.losses) / max(len(self.losses), 1),
            "images_per_s": steps * self.batch_images / seconds,
            "data_wait": self.wait_s / seconds,
            "skipped": float(self.skipped),
        }
        self._clear()
        return numbers
