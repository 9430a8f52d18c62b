"""A whole training run of a GAN in one process, alone or as one rank of several: pictures in, a run folder out.

The same call resumes it. Several ranks need a place for RUN that all of them see; only rank 0 writes to it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch

from artgen.inference.sample import grid, sample
from artgen.models.gans.registry import build_discriminator, build_generator
from artgen.models.gans.spec import GanFacts, Painter
from artgen.storage import atomic, uri
from artgen.training.gan_data import RealPictures, load_real
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_state import load_gan, save_gan
from artgen.training.journal import Journal
from artgen.training.loop_gan import GanState, train
from artgen.training.loop_restorer import Report
from artgen.training.rank import Rank, check_agreement, pick_device, pick_dtype
from artgen.training.run import log_line

GRID_IMAGES = 64


def train_gan(
    data: str,
    run: str,
    recipe: GanRecipe,
    *,
    device: str = "auto",
    report: Report | None = None,
    rank: Rank | None = None,
    options: uri.Options | None = None,
) -> str:
    """Trains on the pictures of `data` (INPUTs of restore, separated by commas) into the folder or URL `run`.

    Writes RUN/recipe.json, data.json (which pictures were changed or left out, and how), log.jsonl, tensorboard,
    reals.png, fakes-<thousands of images>.png, checkpoints and model.safetensors, whose path it returns.
    report: gets the numbers of each report of rank 0. Raises UsageError (too few usable pictures, a size that the
    architecture does not make, another architecture in RUN), StorageError, RunError.
    """
    rank = rank or Rank()
    where = torch.device(pick_device(device))
    dtype = pick_dtype(recipe.precision, where)
    pictures = load_real(data, recipe, options=options, threads=rank.threads)
    facts = facts_of(pictures, recipe)
    state = fresh(recipe, facts, where)
    resumed = load_gan(state, run, options)
    check_agreement(state.step, where, rank)
    scribe: GanScribe | None = None
    if rank.number == 0:
        scribe = GanScribe(run, recipe, facts, state, report or log_line, options)
        scribe.begin(pictures, state.step if resumed else -1)

    def on_report(numbers: Mapping[str, float]) -> None:
        if scribe is not None:
            scribe.report(numbers)

    def on_save(saved: GanState) -> None:
        if scribe is not None:
            save_gan(saved, run, facts, options)

    train(
        state, lambda first, count: pictures.batch(recipe, first, count), facts.latent, recipe,
        report=on_report, save=on_save, rank=rank.number, world=rank.world, add_up=rank.add_up, dtype=dtype,
    )  # fmt: skip
    if scribe is not None:
        scribe.end()
    return uri.join(run, "model.safetensors")


def facts_of(pictures: RealPictures, recipe: GanRecipe) -> GanFacts:
    """The facts of a generator of pictures like these. Raises UsageError for sizes out of range."""
    channels, height, width = pictures.pixels_NCHW.shape[1:]
    return GanFacts(
        recipe.model,
        height,
        width,
        channels,
        recipe.latent,
        pictures.classes,
        dict(recipe.generator),
        recipe.licence,
    )


def fresh(recipe: GanRecipe, facts: GanFacts, device: torch.device) -> GanState:
    """The state before the first step, a function of recipe and facts alone."""
    torch.manual_seed(recipe.seed)
    generator = build_generator(facts).to(device)
    discriminator = build_discriminator(facts, recipe.discriminator).to(device)
    mean = copy.deepcopy(generator).eval().requires_grad_(False)
    betas = (recipe.beta1, recipe.beta2)

    def optimizer(network: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=betas, fused=True)

    return GanState(
        generator, discriminator, mean, optimizer(generator), optimizer(discriminator), augment=recipe.augment
    )


@dataclasses.dataclass
class GanScribe:
    """What rank 0 writes beside the checkpoints: the recipe, the data's report, the log, grids."""

    run: str
    recipe: GanRecipe
    facts: GanFacts
    state: GanState
    tell: Report
    options: uri.Options | None

    def begin(self, pictures: RealPictures, resumed_at: int) -> None:
        self._write("recipe.json", _json(dataclasses.asdict(self.recipe)))
        count = len(pictures.pixels_NCHW)
        self._write("data.json", _json({
            "pictures": count, "height": self.facts.height, "width": self.facts.width, "channels": self.facts.channels,
            "classes": self.facts.classes, "changed": pictures.changed, "unusable": pictures.unusable,
        }))  # fmt: skip
        shown = pictures.batch(self.recipe, 0, min(GRID_IMAGES, count)).pixels
        self._write("reals.png", grid(shown.permute(0, 2, 3, 1).numpy(), 8))
        self._journal = Journal(self.run, self.state.step, self.options)
        self._journal.line({
            "pictures": count, "changed": len(pictures.changed), "unusable": len(pictures.unusable),
            "classes": len(pictures.classes), "resumed_at": resumed_at, "threads": torch.get_num_threads(),
        })  # fmt: skip

    def report(self, numbers: Mapping[str, float]) -> None:
        done, new = int(numbers["images"]), self.recipe.report_steps * self.recipe.batch_images
        if done // self.recipe.grid_images > max(done - new, 0) // self.recipe.grid_images:
            self._fakes(done)
        self._journal.numbers(self.state.step, {key: value for key, value in numbers.items() if key != "step"})
        self.tell(numbers)

    def end(self) -> None:
        self._fakes(self.state.step * self.recipe.batch_images)
        self._journal.close()

    def _fakes(self, images: int) -> None:
        """The pictures of seeds 0-63, always the same ones, of the running mean."""
        pictures = sample(Painter(self.state.mean, self.facts, "in training"), range(GRID_IMAGES))
        self._write(f"fakes-{images // 1000:06d}.png", grid(pictures, 8))

    def _write(self, name: str, data: bytes) -> None:
        atomic.write(uri.join(self.run, name), data, self.options)


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False).encode()
