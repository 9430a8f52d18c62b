"""The training loop of a GAN: pictures, discriminator's step, generator's step, mean, report, save.

It knows no launcher, no logger and no storage: `rank` and `world` say which shards of each batch are ours, `report`
gets numbers, `save` gets the state. Step s trains on pictures s * batch_images and on, whoever does which of them.

Shape letters: B batch, L latent numbers, K dice, C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from artgen.errors import RunError
from artgen.inference.sample import from_bytes
from artgen.training.data import stable_seed
from artgen.training.diffaugment import adapted, augment, throw
from artgen.training.ema import update_mean
from artgen.training.gan_data import Reals
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_steps import Tally, apply, frozen, unchanged_buffers
from artgen.training.loop_restorer import Report
from artgen.training.losses_gan import GAMES
from artgen.training.rank import AddUp
from artgen.training.regularisers import squared_slope
from artgen.training.schedules import cosine, ema_decay
from artgen.training.shards import Shards

BAD_STEPS = 20


@dataclass(slots=True)
class GanState:
    """All that a run needs to go on exactly: position and chance follow from `step`; augment: probability now."""

    generator: nn.Module
    discriminator: nn.Module
    mean: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    augment: float = 0.0
    bad_in_a_row: int = 0


class Now(NamedTuple):
    """What the schedules say at one step."""

    rate: float
    beta2: float
    gamma: float
    augment: float


def progress_of(state: GanState, recipe: GanRecipe) -> float:
    """How much of the run is done, 0..1: by images, or by the clock where `minutes` ends it earlier."""
    by_clock = state.seconds / (60 * recipe.minutes) if recipe.minutes else 0.0
    return min(max(state.step / recipe.steps, by_clock), 1.0)


def schedule(progress: float, state: GanState, recipe: GanRecipe) -> Now:
    """Values that go along half a cosine over the run (R3GAN, appendix D)."""
    left = cosine(progress, state.step, 1)

    def between(start: float, end: float) -> float:
        return end + (start - end) * left

    return Now(
        between(recipe.learning_rate, recipe.learning_rate_end), between(recipe.beta2, recipe.beta2_end),
        between(recipe.gamma, recipe.gamma_end),
        state.augment if recipe.augment_target else between(recipe.augment, recipe.augment_end),
    )  # fmt: skip


def train(
    state: GanState,
    reals: Callable[[int, int], Reals],
    latent: int,
    recipe: GanRecipe,
    *,
    report: Report,
    save: Callable[[GanState], None],
    rank: int = 0,
    world: int = 1,
    add_up: AddUp | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Trains until progress is 1. `reals(first, count)` gives the pictures from position `first` on.

    latent: numbers that a picture is made of. dtype: of the autocast forward passes. Every rank reports and saves
    after the same steps; who writes is up to `report` and `save`. Raises UsageError when the batch does not divide up,
    RunError when 20 steps in a row are not finite; the last checkpoint is then the place to resume.
    """
    shards = Shards(recipe.batch_images, recipe.shards, rank, world, add_up)
    tally, saved_at, clock = Tally(), state.seconds, time.monotonic()
    while (progress := progress_of(state, recipe)) < 1:
        now = schedule(progress, state, recipe)
        for optimizer in (state.discriminator_optimizer, state.generator_optimizer):
            optimizer.param_groups[0].update(lr=now.rate, betas=(recipe.beta1, now.beta2))
        step = Step(state, reals, latent, recipe, shards, now, dtype)

        # The clock of rank 0 counts, for all: what follows from it (rates, save, end) must be the same everywhere.
        elapsed_s = time.monotonic() - clock if rank == 0 else 0.0
        clock = time.monotonic()
        numbers = shards.gradients(state.discriminator, lambda shard: step.discriminator(shard, elapsed_s))  # noqa: B023
        state.seconds += numbers.pop("elapsed_s") * shards.total
        numbers["d_grad"] = apply(state.discriminator, state.discriminator_optimizer)

        with frozen(state.discriminator):
            numbers |= shards.gradients(state.generator, step.generator)
        numbers["g_grad"] = apply(state.generator, state.generator_optimizer)

        state.step += 1
        seen_images = state.step * recipe.batch_images
        finite = max(numbers["d_grad"], numbers["g_grad"]) < float("inf")
        if numbers["g_grad"] < float("inf"):
            decay = ema_decay(recipe.batch_images, seen_images, recipe.halflife_images)
            update_mean(state.mean, state.generator, decay)
        if recipe.augment_target and finite:
            state.augment = adapted(state.augment, numbers["sign"], recipe.augment_target, recipe.batch_images)
        state.bad_in_a_row = 0 if finite else state.bad_in_a_row + 1
        if state.bad_in_a_row >= BAD_STEPS:
            raise RunError(
                f"{BAD_STEPS} steps in a row were not finite; lower learning_rate or raise gamma, then run the same "
                "command again: it goes on from the last checkpoint"
            )
        tally.add(numbers, finite)
        if state.step % recipe.report_steps == 0:
            report({
                "step": state.step, "images": seen_images, "seconds": state.seconds, **now._asdict(),
                **tally.flush(recipe.batch_images),
            })  # fmt: skip
        if state.seconds - saved_at >= 60 * recipe.checkpoint_minutes:
            save(state)
            saved_at = state.seconds
    save(state)


class Step:
    """Both losses of one step, shard by shard; their chance is that of the whole batch, whoever does which shard."""

    def __init__(
        self, state: GanState, reals: Callable[[int, int], Reals], latent: int, recipe: GanRecipe, shards: Shards,
        now: Now, dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        self.state, self.reals, self.now, self.images = state, reals, now, shards.images
        self.game = GAMES[recipe.game]
        self.first = state.step * recipe.batch_images
        self.device = next(state.generator.parameters()).device
        self.autocast = torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)
        dice = Generator().manual_seed(stable_seed(recipe.seed, "step", state.step))
        self.z_2BL = torch.randn(2, recipe.batch_images, latent, generator=dice)
        self.dice_4KB = [throw(recipe.batch_images, dice) for _ in range(4)]

    def real(self, shard: int) -> tuple[Tensor, Tensor | None]:
        pixels, labels = self.reals(self.first + shard * self.images, self.images)
        return from_bytes(pixels.to(self.device)), None if labels is None else labels.to(self.device)

    def fake(self, shard: int, side: int, labels_B: Tensor | None) -> Tensor:
        z_BL = self.z_2BL[side, shard * self.images : (shard + 1) * self.images].to(self.device)
        with self.autocast:
            return self.state.generator(z_BL, labels_B).float()

    def logits(self, x_BCHW: Tensor, labels_B: Tensor | None, shard: int, which: int) -> Tensor:
        dice_KB = self.dice_4KB[which][:, shard * self.images : (shard + 1) * self.images]
        with self.autocast:
            return self.state.discriminator(augment(x_BCHW, self.now.augment, dice_KB), labels_B).float()

    def discriminator(self, shard: int, elapsed_s: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss with R1 and R2 in one, for one backward pass; and what there is to tell."""
        x_BCHW, labels_B = self.real(shard)
        with torch.no_grad(), unchanged_buffers(self.state.generator):
            fake_BCHW = self.fake(shard, 0, labels_B)
        penalised = self.now.gamma > 0
        x_BCHW, fake_BCHW = x_BCHW.requires_grad_(penalised), fake_BCHW.requires_grad_(penalised)
        real_B, fake_B = self.logits(x_BCHW, labels_B, shard, 0), self.logits(fake_BCHW, labels_B, shard, 1)
        loss = self.game.discriminator(real_B, fake_B)
        r1 = squared_slope(real_B, x_BCHW) if penalised else loss.new_zeros(())
        r2 = squared_slope(fake_B, fake_BCHW) if penalised else loss.new_zeros(())
        relative = self.game.relative
        right = (real_B > fake_B).float() if relative else ((real_B > 0).float() + (fake_B < 0).float()) / 2
        told = {
            "d_loss": loss, "r1": r1, "r2": r2, "d_right": right.mean(),
            "sign": (real_B - fake_B if relative else real_B).sign().mean(),
            "elapsed_s": loss.new_tensor(elapsed_s if shard == 0 else 0.0),
        }  # fmt: skip
        return loss + self.now.gamma / 2 * (r1 + r2), told

    def generator(self, shard: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        x_BCHW, labels_B = self.real(shard)
        fake_B = self.logits(self.fake(shard, 1, labels_B), labels_B, shard, 3)
        with torch.no_grad():
            real_B = self.logits(x_BCHW, labels_B, shard, 2) if self.game.relative else torch.zeros_like(fake_B)
        loss = self.game.generator(real_B, fake_B)
        return loss, {"g_loss": loss}
