"""One step of a GAN: both losses, shard by shard; and what its loop does around them (apply, freeze).

Shape letters: B batch, L latent numbers, K dice, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from artgen.inference.sample import from_bytes
from artgen.training.data import stable_seed
from artgen.training.diffaugment import augment, throw
from artgen.training.gan_data import Reals
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_state import GanState
from artgen.training.losses_gan import GAMES
from artgen.training.regularisers import squared_slope
from artgen.training.shards import Part, Shards


def apply(network: nn.Module, optimizer: torch.optim.Optimizer, buffers: Sequence[Tensor]) -> float:
    """One step of the optimiser, with which the buffers of `network` become `buffers` (as of `Shards.gradients`).

    Returns the norm of the gradients; inf, and nothing is changed, when it or a buffer is not finite.
    """
    norm = float(nn.utils.get_total_norm(p.grad for p in network.parameters() if p.grad is not None))
    if not norm < float("inf") or not all(buffer.isfinite().all() for buffer in buffers):
        return float("inf")
    optimizer.step()
    _fill(network, buffers)
    return norm


@torch.no_grad()
def _fill(network: nn.Module, buffers: Sequence[Tensor]) -> None:
    for buffer, value in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(value)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the weights of `network` in the block; they pass through it all the same."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


class Twins(NamedTuple):
    """The networks of a lane: the weights are those of all lanes, the buffers (statistics of batch norm) its own."""

    generator: nn.Module
    discriminator: nn.Module

    @classmethod
    def of(cls, state: GanState) -> Twins:
        """Twins of the networks of a state, in whatever it holds: those of another state need others."""
        networks = (state.generator, state.discriminator)
        shared: dict[int, object] = {id(p): p for network in networks for p in network.parameters()}
        return cls(*(copy.deepcopy(network, shared) for network in networks))

    def begin(self, state: GanState) -> Twins:
        """With the buffers of the state: they start from the same values in every shard."""
        _fill(self.generator, [*state.generator.buffers()])
        _fill(self.discriminator, [*state.discriminator.buffers()])
        return self


class Now(NamedTuple):
    """What the schedules say at one step."""

    rate: float
    beta2: float
    gamma: float
    augment: float


class Step:
    """Both losses of one step, shard by shard; their chance is that of the whole batch, whoever does which shard.

    twins: the networks of each lane, of the same state.
    """

    def __init__(
        self, state: GanState, twins: Sequence[Twins], reals: Callable[[int, int], Reals], latent: int,
        recipe: GanRecipe, shards: Shards, now: Now, dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        self.state, self.twins, self.reals, self.now, self.images = state, twins, reals, now, shards.images
        self.game = GAMES[recipe.game]
        # Every k-th step the penalties count k times (lazy regularisation; Karras et al. 2020, StyleGAN2, section 3.1).
        self.every = recipe.penalty_every
        self.gamma = 0.0 if state.step % self.every else now.gamma * self.every
        self.first = state.step * recipe.batch_images
        self.device = next(state.generator.parameters()).device
        self.dtype = dtype
        # After a rescue the same pictures, but other chance: the same might lead to the same end.
        chance = ("step", state.step, *([state.rescues] if state.rescues else []))
        dice = Generator().manual_seed(stable_seed(recipe.seed, *chance))
        self.z_2BL = torch.randn(2, recipe.batch_images, latent, generator=dice)
        self.dice_4KB = [throw(recipe.batch_images, dice) for _ in range(4)]

    def autocast(self) -> torch.autocast:
        """One for each use: it holds what was set before, of one thread. Without a cache: that is one for all threads, and a
        forward pass uses each weight once."""
        dtype = self.dtype or torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.dtype is not None, cache_enabled=False)

    def real(self, shard: int) -> tuple[Tensor, Tensor | None]:
        """The pictures of a shard, -1..1, B x C x H x W, and their labels."""
        pixels, labels = self.reals(self.first + shard * self.images, self.images)
        return from_bytes(pixels.to(self.device)), None if labels is None else labels.to(self.device)

    def fake(self, generator: nn.Module, shard: int, side: int, labels_B: Tensor | None) -> Tensor:
        """side: of the latent numbers: 0 for the discriminator's loss, 1 for the generator's."""
        z_BL = self.z_2BL[side, shard * self.images : (shard + 1) * self.images].to(self.device)
        with self.autocast():
            return generator(z_BL, labels_B).float()

    def logits(
        self, discriminator: nn.Module, x_BCHW: Tensor, labels_B: Tensor | None, shard: int, which: int
    ) -> Tensor:
        """Of pictures that are augmented first. which: of four chances, one for each call of a step."""
        dice_KB = self.dice_4KB[which][:, shard * self.images : (shard + 1) * self.images]
        with self.autocast():
            return discriminator(augment(x_BCHW, self.now.augment, dice_KB), labels_B).float()

    def discriminator(self, shard: int, lane: int, elapsed_s: float) -> Part:
        """The loss with R1 and R2 in one, for one backward pass; and what there is to tell."""
        generator, discriminator = self.twins[lane].begin(self.state)
        x_BCHW, labels_B = self.real(shard)
        with torch.no_grad():
            fake_BCHW = self.fake(generator, shard, 0, labels_B)
        penalised = self.gamma > 0
        x_BCHW, fake_BCHW = x_BCHW.requires_grad_(penalised), fake_BCHW.requires_grad_(penalised)
        real_B = self.logits(discriminator, x_BCHW, labels_B, shard, 0)
        fake_B = self.logits(discriminator, fake_BCHW, labels_B, shard, 1)
        loss = self.game.discriminator(real_B, fake_B)
        r1 = squared_slope(real_B, x_BCHW) if penalised else loss.new_zeros(())
        r2 = squared_slope(fake_B, fake_BCHW) if penalised else loss.new_zeros(())
        relative = self.game.relative
        right = (real_B > fake_B).float() if relative else ((real_B > 0).float() + (fake_B < 0).float()) / 2
        told = {
            "d_loss": loss, "r1": r1 * self.every, "r2": r2 * self.every, "d_right": right.mean(),
            "sign": (real_B - fake_B if relative else real_B).sign().mean(),
            "elapsed_s": loss.new_tensor(elapsed_s if shard == 0 else 0.0),
        }  # fmt: skip
        return Part(loss + self.gamma / 2 * (r1 + r2), told, [*discriminator.buffers()])

    def generator(self, shard: int, lane: int) -> Part:
        """The loss, for one backward pass; and what there is to tell."""
        generator, discriminator = self.twins[lane].begin(self.state)
        x_BCHW, labels_B = self.real(shard)
        fake_B = self.logits(discriminator, self.fake(generator, shard, 1, labels_B), labels_B, shard, 3)
        with torch.no_grad():
            real_B = (
                self.logits(discriminator, x_BCHW, labels_B, shard, 2)
                if self.game.relative
                else torch.zeros_like(fake_B)
            )
        loss = self.game.generator(real_B, fake_B)
        return Part(loss, {"g_loss": loss}, [*generator.buffers()])
