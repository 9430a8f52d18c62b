"""The training loop of a restorer: batch, forward, loss, step, mean, report, save.

It knows no launcher, no logger and no storage: `rank` and `world` say which part of each batch is ours,
`report` gets numbers, `save` gets the state. Distributed launchers hand in a network that averages gradients.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from artgen.errors import RunError
from artgen.training.data import Batch, prefetch
from artgen.training.ema import update_mean
from artgen.training.losses import LOSSES
from artgen.training.recipe import RestorerRecipe
from artgen.training.schedules import cosine, ema_decay

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


def train(
    state: TrainState,
    batches: Callable[[int, int], Batch],
    recipe: RestorerRecipe,
    *,
    forward: Callable[[Tensor, Tensor], Tensor],
    report: Report,
    save: Callable[[TrainState], None],
    rank: int = 0,
    world: int = 1,
    dtype: torch.dtype | None = None,
) -> None:
    """Trains until progress is 1. `batches(first, count)` gives the crops from position `first` on.

    forward: state.network, or what wraps it (data-parallel, compiled). dtype: of the autocast forward pass.
    Raises RunError when 20 steps in a row are not finite; the last checkpoint is then the place to resume.
    """
    device = next(state.network.parameters()).device
    share = recipe.batch_images // world
    feed = prefetch(lambda step: batches(step * recipe.batch_images + rank * share, share), state.step)
    autocast = torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()
    tally = Tally(recipe.batch_images)
    saved_at = clock = time.monotonic()

    with contextlib.closing(feed):
        while (progress := progress_of(state, recipe)) < 1:
            waited = time.monotonic()
            batch = next(feed)
            tally.wait_s += time.monotonic() - waited

            rate = recipe.learning_rate * cosine(progress, state.step, recipe.warmup_steps)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            loss = step_once(state, batch, recipe, forward=forward, autocast=autocast)

            state.step += 1
            seen_images = state.step * recipe.batch_images
            if loss is not None:
                decay = ema_decay(recipe.batch_images, seen_images, recipe.halflife_images)
                update_mean(state.mean, state.network, decay)
            tally.add(loss)

            now = time.monotonic()
            state.seconds += now - clock
            clock = now
            if state.step % recipe.report_steps == 0:
                report({"step": state.step, "seconds": state.seconds, "lr": rate, **tally.flush()})
            if now - saved_at > 60 * recipe.checkpoint_minutes:
                save(state)
                saved_at = time.monotonic()
    save(state)


def step_once(
    state: TrainState,
    batch: Batch,
    recipe: RestorerRecipe,
    *,
    forward: Callable[[Tensor, Tensor], Tensor],
    autocast: contextlib.AbstractContextManager[object],
) -> float | None:
    """One step of the optimiser; None (and no change) when the loss or its gradient is not finite."""
    device = next(state.network.parameters()).device
    clean, damaged, mask = (t.to(device, memory_format=torch.channels_last, non_blocking=True) for t in batch)
    with autocast:
        restored = forward(damaged, mask)
    loss = LOSSES[recipe.loss](restored.float(), clean)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_norm)
    if not torch.isfinite(norm):
        return None
    state.optimizer.step()
    return loss.item()


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
