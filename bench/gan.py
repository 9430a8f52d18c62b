"""What the GAN's loop costs beside a bare one, and whether training stays stable around the preset's settings.

    python bench/gan.py loop [--recipe NAME] [--set KEY=VALUE] [--steps N] [--rounds N] [--device cpu]
    python bench/gan.py stability DATA [--recipe NAME ...] [--set KEY=VALUE] [--images N] [--seeds N]

loop:      images/s of `training.loop_gan.train` over a bare PyTorch loop with the same networks, losses, penalties,
           pictures and latent numbers; to reach: 0.95. With one shard, and with the recipe's.
stability: seeds x learning rate {1/2, 1, 2} x gamma {1/3, 1, 3}, each a run of N images with ten looks. Told of every
           cell: the lowest and the last fd_random of its seeds and the worst quotient of the two (to reach: 1.2), how
           often it was rescued, and how many of its runs collapsed, that is ended with an error. A recipe without
           penalties has no gamma to vary.
Pictures of `loop` are made from a seed. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from artgen.errors import ArtgenError
from artgen.models.gans.spec import GanFacts
from artgen.training.ema import update_mean
from artgen.training.gan_data import Reals
from artgen.training.gan_recipe import GanRecipe, load_gan_recipe
from artgen.training.gan_run import fresh, train_gan
from artgen.training.gan_state import GanState
from artgen.training.gan_steps import frozen
from artgen.training.journal import read_log
from artgen.training.loop_gan import train
from artgen.training.losses_gan import GAMES
from artgen.training.rank import pick_device, pick_dtype
from artgen.training.regularisers import squared_slope

WARMUP_STEPS = 3
LOOKS = 10


def bare(state: GanState, reals: list[Tensor], recipe: GanRecipe, dtype: torch.dtype | None) -> float:
    """Images/s of the loop that a person would write: D with its penalties, G, running mean."""
    device, game = next(state.generator.parameters()).device, GAMES[recipe.game]
    autocast = torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
    began = 0.0
    for number, pixels in enumerate(reals):
        if number == WARMUP_STEPS:
            began = time.perf_counter()
        z = torch.randn(2, len(pixels), recipe.latent, device=device)
        real = pixels.to(device).float() / 127.5 - 1
        with torch.no_grad(), autocast:
            fake = state.generator(z[0]).float()
        gamma = 0.0 if number % recipe.penalty_every else recipe.gamma * recipe.penalty_every
        real.requires_grad_(gamma > 0)
        fake.requires_grad_(gamma > 0)
        with autocast:
            a, b = state.discriminator(real).float(), state.discriminator(fake).float()
        loss = game.discriminator(a, b)
        if gamma:
            loss = loss + gamma / 2 * (squared_slope(a, real) + squared_slope(b, fake))
        state.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.discriminator_optimizer.step()
        with frozen(state.discriminator):
            with autocast:
                b = state.discriminator(state.generator(z[1])).float()
                with torch.no_grad():
                    a = state.discriminator(real.detach()).float() if game.relative else torch.zeros_like(b)
            loss = game.generator(a, b)
            state.generator_optimizer.zero_grad(set_to_none=True)
            loss.backward()
        state.generator_optimizer.step()
        update_mean(state.mean, state.generator, 0.99)
        loss.item()
    return (len(reals) - WARMUP_STEPS) * recipe.batch_images / (time.perf_counter() - began)


def ours(state: GanState, reals: list[Tensor], recipe: GanRecipe, dtype: torch.dtype | None) -> float:
    """Images/s of artgen's loop after its first steps."""
    times: list[float] = []

    def pictures(first: int, count: int) -> Reals:
        batch, offset = divmod(first, recipe.batch_images)
        return Reals(reals[batch][offset : offset + count], None)

    train(
        state, pictures, recipe.latent, recipe, report=lambda _: times.append(time.perf_counter()),
        look=lambda _: None, save=lambda _: None, dtype=dtype,
    )  # fmt: skip
    return (len(times) - WARMUP_STEPS) * recipe.batch_images / (times[-1] - times[WARMUP_STEPS - 1])


def loop(args: argparse.Namespace) -> None:
    recipe = load_gan_recipe(args.recipe[0], sets=args.set)
    device = torch.device(pick_device(args.device))
    dtype = pick_dtype(recipe.precision, device)
    steps, side = args.steps + WARMUP_STEPS, recipe.height or 28
    facts = GanFacts(
        recipe.model, side, recipe.width or side, recipe.channels or 3, recipe.latent, (), recipe.generator
    )
    recipe = replace(
        recipe, images=steps * recipe.batch_images, report_steps=1, minutes=0.0, checkpoint_minutes=1e9
    )
    shape = (recipe.batch_images, facts.channels, facts.height, facts.width)
    reals = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(steps)]
    ratios: dict[int, list[float]] = {shards: [] for shards in sorted({1, recipe.shards})}
    for _ in range(args.rounds):
        peer = bare(fresh(recipe, facts, device), reals, recipe, dtype)
        for shards, found in ratios.items():
            found.append(ours(fresh(recipe, facts, device), reals, replace(recipe, shards=shards), dtype) / peer)
    for shards, found in ratios.items():
        spread = " ".join(f"{ratio:.3f}" for ratio in sorted(found))
        print(f"loop / bare loop, {shards} shard(s)   {statistics.median(found):.3f}   ({spread})   to reach 0.95")


class Outcome(NamedTuple):
    """Of one run: distances at its looks, how often it was rescued, and whether it ended with an error."""

    lowest: float
    last: float
    rescues: int
    collapsed: bool


def stability(args: argparse.Namespace) -> None:
    for name in args.recipe:
        base = load_gan_recipe(name, sets=args.set)
        look = args.images // LOOKS
        base = replace(base, images=args.images, look_images=look, minutes=0.0, checkpoint_minutes=1e9)
        print(
            f"{name}: {args.images} images, {args.seeds} seeds\n  rate  gamma   lowest    last   last/lowest  rescues  collapsed"
        )
        for rate in (0.5, 1.0, 2.0):
            for gamma in (1 / 3, 1.0, 3.0) if base.gamma else (0.0,):
                cell = replace(
                    base, learning_rate=rate * base.learning_rate, learning_rate_end=rate * base.learning_rate_end,
                    gamma=gamma * base.gamma, gamma_end=gamma * base.gamma_end,
                )  # fmt: skip
                runs = [_run(args.data, replace(cell, seed=seed), args.device) for seed in range(args.seeds)]
                lowest, last = (
                    statistics.mean(run.lowest for run in runs),
                    statistics.mean(run.last for run in runs),
                )
                worst = max(run.last / run.lowest if run.lowest < float("inf") else float("inf") for run in runs)
                print(
                    f"{rate:6.2g} {gamma:6.2g} {lowest:8.2f} {last:7.2f} {worst:13.2f} "
                    f"{sum(run.rescues for run in runs):8d} {sum(run.collapsed for run in runs):10d}",
                    flush=True,
                )


def _run(data: str, recipe: GanRecipe, device: str) -> Outcome:
    """One run. Raises ArtgenError when it did not even begin: then no other cell of the table would."""
    collapsed = False
    with tempfile.TemporaryDirectory(prefix="artgen-bench-gan-") as folder:
        try:
            train_gan(data, folder, recipe, device=device, report=lambda _: None)
        except ArtgenError as error:
            if not read_log(folder):
                raise
            collapsed = True
            print(f"  seed {recipe.seed}: {error}")
        lines = read_log(folder)
    seen = [line["fd_random"] for line in lines if "fd_random" in line] or [float("inf")]
    return Outcome(min(seen), seen[-1], sum("rescued" in line for line in lines), collapsed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    for kind, run in (("loop", loop), ("stability", stability)):
        command = kinds.add_parser(kind)
        command.set_defaults(run=run)
        command.add_argument("--recipe", nargs="+", default=["default"])
        command.add_argument("--set", action="append", default=[])
        command.add_argument("--device", default="auto")
        if run is stability:
            command.add_argument("data")
            command.add_argument("--images", type=int, default=60_000)
            command.add_argument("--seeds", type=int, default=3)
        else:
            command.add_argument("--steps", type=int, default=20)
            command.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
