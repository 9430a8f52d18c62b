"""What the ranks of test_gan_ranks.py run; apart from pytest, so that a fresh process imports little."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from artgen.models.gans.spec import GanFacts
from artgen.training.gan_data import RealPictures
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_run import fresh
from artgen.training.gan_state import GanState
from artgen.training.gan_steps import Step, Twins
from artgen.training.loop_gan import progress_of, schedule, train
from artgen.training.shards import Shards

R3 = {"base": 8, "most": 16, "group": 4}
RECIPE = GanRecipe(
    model="r3", generator=R3, discriminator=R3, batch_images=8, shards=4, images=24, latent=8, report_steps=2,
    augment=0.4, augment_target=0.1, mirror=True, look_images=32, precision="fp32",
)  # fmt: skip
DCGAN = replace(
    RECIPE,
    images=24,
    model="dcgan",
    generator={"base": 4},
    discriminator={"base": 4},
    game="bce",
    gamma=0.0,
    gamma_end=0.0,
)


def pictures(classes: int = 0) -> RealPictures:
    pixels = torch.randint(0, 256, (24, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(24) % classes if classes else None
    return RealPictures(pixels, labels, tuple(map(str, range(classes))), {}, {})


def facts(recipe: GanRecipe, real: RealPictures) -> GanFacts:
    return GanFacts(recipe.model, 28, 28, 1, recipe.latent, real.classes, dict(recipe.generator))


def start(recipe: GanRecipe, classes: int = 0) -> tuple[GanState, RealPictures]:
    real = pictures(classes)
    return fresh(recipe, facts(recipe, real), torch.device("cpu")), real


def trained(recipe: GanRecipe, rank: int = 0, world: int = 1, classes: int = 0) -> tuple[GanState, list[dict]]:
    state, real = start(recipe, classes)
    told: list[dict] = []
    train(
        state, lambda first, count: real.batch(recipe, first, count), recipe.latent, recipe,
        report=lambda numbers: told.append(dict(numbers)), look=lambda _: None, save=lambda _: None, rank=rank, world=world,
        add_up=dist.all_reduce if world > 1 else None,
    )  # fmt: skip
    return state, told


def step_of(recipe: GanRecipe, state: GanState, real: RealPictures, shards: Shards) -> Step:
    now = schedule(progress_of(state, recipe), state, recipe)
    return Step(
        state,
        [Twins.of(state)],
        lambda first, count: real.batch(recipe, first, count),
        recipe.latent,
        recipe,
        shards,
        now,
        None,
    )


def gradients(recipe: GanRecipe, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """Of both networks at the first step, the last convolutions of blocks away from zero so that all take part."""
    state, real = start(recipe)
    torch.manual_seed(1)
    for network in (state.generator, state.discriminator):
        for weights in network.parameters():
            torch.nn.init.normal_(weights, std=0.3)
    add_up = dist.all_reduce if world > 1 else None
    shards = Shards(recipe.batch_images, recipe.shards, rank, world, add_up)
    step = step_of(recipe, state, real, shards)
    found = {}
    shards.gradients(state.discriminator, partial(step.discriminator, elapsed_s=0.0))
    found |= {
        f"d.{name}": p.grad.clone() for name, p in state.discriminator.named_parameters() if p.grad is not None
    }
    shards.gradients(state.generator, step.generator)
    found |= {f"g.{name}": p.grad.clone() for name, p in state.generator.named_parameters() if p.grad is not None}
    return found


def weights_of(state: GanState) -> dict[str, torch.Tensor]:
    parts = {"generator": state.generator, "discriminator": state.discriminator, "mean": state.mean}
    return {
        f"{part}.{name}": value for part, network in parts.items() for name, value in network.state_dict().items()
    }


def run(rank: int, world: int, store: str, out: str) -> None:
    """One gloo rank: everything that the tests compare, saved to `out`-<rank>.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    saved: dict[str, Any] = {}
    for name, recipe in cases().items():
        saved[name] = weights_of(trained(recipe, rank, world, classes=3 if name == "classes" else 0)[0])
        if name in ("r3", "fast", "lazy"):
            saved[f"{name} gradients"] = gradients(recipe, rank, world)
    torch.save(saved, f"{out}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def cases() -> dict[str, GanRecipe]:
    return {
        "r3": RECIPE,
        "classes": RECIPE,
        "dcgan": DCGAN,
        "lazy": replace(RECIPE, penalty_every=2),
        "fast": replace(RECIPE, shards=0, augment=0.4, augment_target=0.0, augment_end=0.4),
    }
