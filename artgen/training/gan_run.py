"""A whole training run of a GAN in one process, alone or as one rank of several: pictures in, a run folder out.

The same call resumes it. Several ranks need a place for RUN that all of them see; only rank 0 writes to it.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from artgen.errors import UsageError
from artgen.models.gans.registry import build_discriminator, build_generator
from artgen.models.gans.spec import SMALLEST_PX, GanFacts
from artgen.models.gans.weights import HEADER
from artgen.storage import uri
from artgen.training.gan_data import RealPictures, load_real
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_scribe import GanScribe, Tell, check_batch
from artgen.training.gan_state import GanState, go_back, load_gan, save_gan, settle
from artgen.training.gan_watch import slow_start, trouble
from artgen.training.loop_gan import Unstable, train
from artgen.training.rank import (
    Rank,
    agreed_precision,
    check_agreement,
    check_same_pictures,
    from_first,
    pick_device,
    pick_dtype,
)
from artgen.training.state import check_same, forget_after

MOST_RESCUES = 6
log = logging.getLogger(__name__)


def train_gan(
    data: str | Sequence[str],
    run: str,
    recipe: GanRecipe,
    *,
    device: str = "auto",
    report: Tell | None = None,
    rank: Rank | None = None,
    options: uri.Options | None = None,
) -> str:
    """Trains on the pictures of `data` (as of `pictures.parts_of`) into the folder or URL `run`.

    Writes RUN/recipe.json, data.json (which DATA; which pictures were changed or left out, and how), log.jsonl, tensorboard,
    reals.png, fakes-<images seen>.png (`gan_scribe.grid_name`), checkpoints, best.safetensors (the weights of the look with
    the lowest distance), interpolation.gif and model.safetensors, whose path it returns.
    report: gets the numbers that rank 0 logs. A run that has gone wrong goes back to the last look that found nothing
    wrong, MOST_RESCUES times at most. One that goes on with another recipe (or where precision `auto` comes to another one)
    or other pictures says so, in a warning and in log.jsonl. Raises UsageError (too few usable pictures, more than the memory
    holds, a size that the architecture does not make, a RUN of another architecture, size, classes, batch_images or other
    facts, one that has gone back so often in vain), StorageError, RunError (such as ranks that kept different pictures).
    """
    rank = rank or Rank()
    where = torch.device(pick_device(device))
    # What it comes to, not `auto`: that may be another one where the run goes on.
    recipe = dataclasses.replace(recipe, precision=agreed_precision(recipe.precision, where, rank))
    pictures = load_real(data, recipe, options=options, threads=rank.threads)
    check_same_pictures(pictures.listing, len(pictures.pixels_NCHW), where, rank)
    facts = facts_of(pictures, recipe)
    check_same(run, HEADER, facts.deciding(), options)
    state = fresh(recipe, facts, where)
    resumed = load_gan(state, run, options)
    if resumed:
        check_batch(run, recipe, options)
    check_agreement(state.step, where, rank)
    # What is newer is damaged: left there, it would pass for saved when the run comes to its step again.
    if resumed and rank.number == 0:
        forget_after(state.step, run, options)
    course = Course(run, facts, state, rank, where, options)
    if rank.number == 0:
        course.scribe = GanScribe(run, recipe, facts, state, report or log_numbers, options)
        course.scribe.begin(data, pictures, state.step if resumed else -1)
    if not resumed:  # something to go back to
        course.save(state)
    while True:
        try:
            train(
                state, lambda first, count: pictures.batch(recipe, first, count), facts.latent, recipe,
                report=course.report, look=course.look, save=course.save, rank=rank.number, world=rank.world,
                add_up=rank.add_up, dtype=pick_dtype(recipe.precision, where),
            )  # fmt: skip
            break
        except Unstable as reason:
            course.rescue(str(reason))
    if course.scribe is not None:
        course.scribe.end()
    return uri.join(run, "model.safetensors")


@dataclasses.dataclass
class Course:
    """What the loop calls, on every rank; rank 0 alone has a scribe and writes."""

    run: str
    facts: GanFacts
    state: GanState
    rank: Rank
    device: torch.device
    options: uri.Options | None
    scribe: GanScribe | None = None

    def report(self, numbers: Mapping[str, float]) -> None:
        if self.scribe is not None:
            self.scribe.report(numbers)

    def save(self, state: GanState) -> None:
        if self.scribe is not None:
            save_gan(state, self.run, self.facts, self.options)

    def look(self, state: GanState) -> None:
        """Rank 0 looks. When all is well this step becomes the one to go back to; else all ranks raise Unstable.

        After a slow start the step to go back to stays the first.
        """
        reason, seen, slow = "", None, False
        if self.scribe is not None:
            if state.measured != self.scribe.measure:  # by an earlier run, of other pictures or of more or fewer
                state.best, state.most_diverse, state.measured = -1.0, 0.0, self.scribe.measure
            try:
                seen = self.scribe.look()
                reason, slow = trouble(seen, state), slow_start(seen, state)
            except Unstable as error:
                reason = str(error)
        if from_first(float(bool(reason)), self.device, self.rank):
            raise Unstable(reason or "rank 0 has seen why")
        if from_first(float(slow), self.device, self.rank):
            state.flat_step = state.step
        else:
            state.good_before, state.good_step = state.good_step, state.step
        if self.scribe is not None and seen is not None:
            state.most_diverse = max(state.most_diverse, seen.diversity)
            if state.best < 0 or seen.distance < state.best:
                self.scribe.keep_best()
                state.best = -1.0 if slow else seen.distance  # one picture is nothing to compare the next look with
        self.save(state)

    def rescue(self, reason: str) -> None:
        """Back to the last good step, at a changed rate and gamma.

        Raises UsageError, once RUN holds that step, when going back did not help so often: the same command would only end
        here again.
        """
        state, from_step, so_far = self.state, self.state.step, self.state.rescues
        go_back(state, self.run, self.options)
        check_agreement(state.step, self.device, self.rank)
        if in_vain := so_far >= MOST_RESCUES:
            state.rescues = so_far
        if self.scribe is not None:
            settle(state, self.run, self.facts, self.options)
        if in_vain:
            raise UsageError(
                f"{reason}; the run has gone back {MOST_RESCUES} times already, and step {state.good_step} is its last "
                "good one: lower learning_rate, raise gamma or give more pictures, in a new RUN"
            )
        if self.scribe is not None:
            self.scribe.rescued(reason, from_step)


def log_numbers(numbers: Mapping[str, Any]) -> None:
    """The `report` of a run that was given none: a line of Python's log."""
    log.info("%s", "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items()))


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


def check_model(recipe: GanRecipe) -> None:
    """Raises UsageError for what no DATA makes possible: parameters, a size that is set, penalties; makes no weights."""
    facts = GanFacts(
        recipe.model, recipe.height or SMALLEST_PX, recipe.width or SMALLEST_PX, recipe.channels or 3, recipe.latent,
        ("one", "other") if recipe.classes else (), dict(recipe.generator),
    )  # fmt: skip
    told = f"generator = {recipe.generator} and discriminator = {recipe.discriminator}"
    try:
        with torch.device("meta"):
            networks = [build_generator(facts), build_discriminator(facts, recipe.discriminator)]
    except (RuntimeError, ValueError, IndexError) as error:  # torch's own, as for a width of -3
        raise UsageError(f"{recipe.model!r} cannot be built with {told}: {error}") from error
    if not all(value.numel() for network in networks for value in network.parameters()):
        raise UsageError(f"{recipe.model!r} has a layer without a single weight with {told}; raise the widths")
    _check_penalties(recipe, networks[1])


def _check_penalties(recipe: GanRecipe, discriminator: torch.nn.Module) -> None:
    gamma = max(recipe.gamma, recipe.gamma_end)
    if gamma and any(isinstance(module, torch.nn.BatchNorm2d) for module in discriminator.modules()):
        raise UsageError(
            f"gamma is {gamma:g}, and the discriminator {recipe.model!r} has batch norm, through which a picture's slope "
            "depends on the others of its batch: put `norm = false` into [discriminator] of the recipe, or set gamma and "
            "gamma_end to 0"
        )


def fresh(recipe: GanRecipe, facts: GanFacts, device: torch.device) -> GanState:
    """The state before the first step, a function of recipe and facts alone. Raises UsageError for what does not go together."""
    torch.manual_seed(recipe.seed)
    # Channels-last is 1.3 to 1.5 times as fast in bf16 on CPUs too, but its bits follow the number of threads there.
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    generator, discriminator = (
        network.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        for network in (build_generator(facts), build_discriminator(facts, recipe.discriminator))
    )
    _check_penalties(recipe, discriminator)
    mean = copy.deepcopy(generator).eval().requires_grad_(False)
    betas = (recipe.beta1, recipe.beta2)

    def optimizer(network: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=betas, fused=True)

    return GanState(
        generator, discriminator, mean, optimizer(generator), optimizer(discriminator), augment=recipe.augment
    )
