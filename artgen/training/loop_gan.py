"""The training loop of a GAN: pictures, discriminator's step, generator's step, mean, report, look, save.

It knows no launcher, no logger and no storage: `rank` and `world` say which shards of each batch are ours, `report`
gets numbers, `look` and `save` get the state. Step s trains on pictures s * batch_images and on, whoever does which.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from artgen.errors import RunError
from artgen.training.diffaugment import adapted
from artgen.training.ema import update_mean
from artgen.training.gan_data import Reals
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_state import GanState
from artgen.training.gan_steps import Now, Step, Twins, apply, frozen
from artgen.training.loop_restorer import Report
from artgen.training.rank import AddUp
from artgen.training.schedules import cosine, ema_decay
from artgen.training.shards import Shards
from artgen.training.tally import Tally

BAD_STEPS = 20
D_LOSS_DECAY = 0.99
RESCUE_RATE, RESCUE_GAMMA = 0.5, 2.0
"""What each rescue multiplies the learning rate and gamma by, for the rest of the run."""


class Unstable(RunError):
    """The run has gone wrong in a way that a lower rate or a higher gamma may mend; says how it shows."""


def progress_of(state: GanState, recipe: GanRecipe) -> float:
    """How much of the run is done, 0..1: by images, or by the clock where `minutes` ends it earlier."""
    by_clock = state.seconds / (60 * recipe.minutes) if recipe.minutes else 0.0
    return min(max(state.step / recipe.steps, by_clock), 1.0)


def schedule(progress: float, state: GanState, recipe: GanRecipe) -> Now:
    """Values that go along half a cosine over the run (R3GAN, appendix D), changed by every rescue so far."""
    left = cosine(progress, state.step, 1)

    def between(start: float, end: float) -> float:
        return end + (start - end) * left

    return Now(
        between(recipe.learning_rate, recipe.learning_rate_end) * RESCUE_RATE**state.rescues,
        between(recipe.beta2, recipe.beta2_end),
        between(recipe.gamma, recipe.gamma_end) * RESCUE_GAMMA**state.rescues,
        state.augment if recipe.augment_target else between(recipe.augment, recipe.augment_end),
    )


def train(
    state: GanState,
    reals: Callable[[int, int], Reals],
    latent: int,
    recipe: GanRecipe,
    *,
    report: Report,
    look: Callable[[GanState], None],
    save: Callable[[GanState], None],
    rank: int = 0,
    world: int = 1,
    add_up: AddUp | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Trains until progress is 1. `reals(first, count)` gives the pictures from position `first` on.

    latent: numbers that a picture is made of. dtype: of the autocast forward passes. look: called every
    `recipe.look_steps`, or after the next step that is finite, and at the end; it may raise Unstable, else it makes the step
    the good (or the flat) one. Every rank reports, looks and saves after the same steps; who writes is up to the callables.
    Raises UsageError when the batch does not divide up, Unstable when 20 steps in a row are not finite, or the last ones.
    """
    shards = Shards(recipe.batch_images, recipe.shards, rank, world, add_up)
    tally, saved_at, clock = Tally(recipe.batch_images), state.seconds, time.monotonic()
    device = next(state.generator.parameters()).device
    with shards.lanes(device) as lanes:
        twins = [Twins.of(state) for _ in range(lanes.number)]
        while (progress := progress_of(state, recipe)) < 1:
            now = schedule(progress, state, recipe)
            for optimizer in (state.discriminator_optimizer, state.generator_optimizer):
                optimizer.param_groups[0].update(lr=now.rate, betas=(recipe.beta1, now.beta2))
            step = Step(state, twins, reals, latent, recipe, shards, now, dtype)

            # The clock of rank 0 counts, for all: what follows from it (rates, save, end) must be the same everywhere.
            elapsed_s = time.monotonic() - clock if rank == 0 else 0.0
            clock = time.monotonic()
            numbers, buffers = shards.gradients(
                state.discriminator, partial(step.discriminator, elapsed_s=elapsed_s), lanes
            )
            state.seconds += numbers.pop("elapsed_s") * shards.total
            numbers["d_grad"] = apply(state.discriminator, state.discriminator_optimizer, buffers)

            with frozen(state.discriminator):
                told, buffers = shards.gradients(state.generator, step.generator, lanes)
            numbers |= told
            numbers["g_grad"] = apply(state.generator, state.generator_optimizer, buffers)

            state.step += 1
            seen_images = state.step * recipe.batch_images
            finite = max(numbers["d_grad"], numbers["g_grad"]) < float("inf")
            if numbers["g_grad"] < float("inf"):
                decay = ema_decay(recipe.batch_images, seen_images, recipe.halflife_images)
                update_mean(state.mean, state.generator, decay)
            if finite:
                state.d_loss += (1 - D_LOSS_DECAY) * (numbers["d_loss"] - state.d_loss)
            if recipe.augment_target and finite:
                state.augment = adapted(state.augment, numbers["sign"], recipe.augment_target, recipe.batch_images)
            state.bad_in_a_row = 0 if finite else state.bad_in_a_row + 1
            if state.bad_in_a_row >= BAD_STEPS:
                raise Unstable(f"{BAD_STEPS} steps in a row were not finite")
            tally.add(numbers if finite else None)
            if state.step % recipe.report_steps == 0:
                report({
                    "step": state.step, "images": seen_images, "seconds": state.seconds, **now._asdict(),
                    **tally.flush(),
                })  # fmt: skip
            # Nothing is looked at within a streak of bad steps: the pictures are still those of the last good one, but what has
            # broken the steps is in the state, which must not become the one to go back to.
            due = state.step // recipe.look_steps * recipe.look_steps > max(state.good_step, state.flat_step)
            if due and not state.bad_in_a_row:
                with lanes.halted(), tally.paused():
                    look(state)
            elif state.seconds - saved_at >= 60 * recipe.checkpoint_minutes and not state.bad_in_a_row:
                save(state)
                saved_at = state.seconds
    if state.bad_in_a_row:
        raise Unstable(f"the last steps were not finite ({state.bad_in_a_row} of them)")
    # Not twice at one state: it would be no better than itself, which `trouble` takes for a game that is lost.
    if state.step not in (state.good_step, state.flat_step):
        look(state)
    save(state)
