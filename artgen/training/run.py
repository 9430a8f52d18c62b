"""A whole training run of one process, alone or as one rank of several: pictures in, a run folder out.

The same call resumes it. Several ranks need a place for RUN that all of them see; only rank 0 writes to it, but for
the images that a rank could not use (RUN/skipped/rank-N.json).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from artgen.errors import RunError, UsageError
from artgen.models import registry
from artgen.models.spec import Facts
from artgen.models.weights import load
from artgen.records import Source
from artgen.storage import uri
from artgen.training.data import Crops, nothing_usable
from artgen.training.holdout import hold_out, stretches
from artgen.training.loop_restorer import Report, TrainState, train
from artgen.training.optimizers import make_optimizer
from artgen.training.pictures import Pictures, list_sources, parts_of
from artgen.training.rank import (
    Rank,
    agreed_precision,
    check_agreement,
    gathered,
    pick_device,
    pick_dtype,
    running_statistics,
)
from artgen.training.recipe import RestorerRecipe
from artgen.training.scribe import Scribe, facts_of_data, log_line
from artgen.training.skipped import Skipped, read_skipped
from artgen.training.state import checkpoints, difference, forget_after, load_checkpoint, save_checkpoint

MOST_ROLLBACKS = 5
log = logging.getLogger(__name__)


def train_restorer(
    data: str | Sequence[str],
    run: str,
    recipe: RestorerRecipe,
    *,
    device: str = "auto",
    report: Report | None = None,
    rank: Rank | None = None,
    options: uri.Options | None = None,
) -> str:
    """Trains on the pictures of `data` (as of `pictures.parts_of`) into the folder or URL `run`.

    Writes RUN/recipe.json, data.json (which DATA), log.jsonl, tensorboard, checkpoints, panels, skipped and
    model.safetensors, whose path it returns. A run that goes on with another recipe or other DATA says so, in a warning
    and in log.jsonl, and goes on: DATA may grow.
    report: gets the numbers of each report of rank 0. threads of rank: that decode, and damage on the device.
    Raises UsageError (no usable picture, crops that the model does not take, another architecture in RUN), StorageError,
    RunError.
    """
    rank = rank or Rank()
    where = torch.device(pick_device(device))
    # What it comes to, not `auto`: that may be another one where the run goes on.
    recipe = dataclasses.replace(recipe, precision=agreed_precision(recipe.precision, where, rank))
    dtype = pick_dtype(recipe.precision, where)
    sources = list_sources(data, options)
    start_options = uri.options_for(recipe.start, options, (*parts_of(data), run))
    state, facts = fresh(dataclasses.replace(recipe, start=""), where)
    resumed = load_checkpoint(state, run, options)
    if recipe.start and not resumed:  # once there is a checkpoint, the weights that it began from may be gone
        state, facts = fresh(recipe, where, start_options)
    check_agreement(state.step, where, rank)
    # What is newer is damaged: left there, it would pass for saved when the run comes to its step again.
    if resumed and rank.number == 0:
        forget_after(state.step, run, options)
    skipped = Skipped(run, rank, options)
    parts = _divide(sources, run, recipe, where, rank, skipped, options)
    memory = recipe.memory_megapixels * 1_000_000
    with Pictures(
        parts.kept, recipe.patch_px, kept_pixels=memory, options=options, threads=rank.threads
    ) as pictures:
        crops = Crops(pictures, recipe, facts.channels, where)
        scribe: Scribe | None = None
        if rank.number == 0:
            scribe = Scribe(
                run=run, recipe=recipe, facts=facts, state=state, held=parts.held, dtype=dtype, tell=report or log_line,
                options=options,
            )  # fmt: skip
            scribe.begin(
                facts_of_data(data, sources, parts.kept), pictures=len(parts.kept), held_out=len(parts.held),
                resumed_at=state.step if resumed else -1,
            )  # fmt: skip
        if resumed:  # what it came upon before; it may not come to all of them again
            trained_on = {source.key for source in parts.kept}
            pictures.unusable.update({key: why for key, why in skipped.before.items() if key in trained_on})
        pictures.unusable.update(parts.unusable)

        def on_report(numbers: Mapping[str, float]) -> None:
            skipped.tell(pictures.unusable)
            if scribe is not None:
                scribe.report({**numbers, "skipped_pictures": len(pictures.unusable)})

        def on_save(saved: TrainState) -> None:
            if scribe is not None:
                save_checkpoint(saved, run, facts, options)

        def on_bad_steps(broken: TrainState) -> None:
            stopped_at = broken.step
            go_back(broken, recipe, run, options, start_options)
            check_agreement(broken.step, where, rank)
            if scribe is not None:
                forget_after(broken.step, run, options)
                scribe.note({"went_back_from": stopped_at, "to": broken.step, "rollbacks": broken.rollbacks})

        network = torch.compile(state.network) if recipe.compile else state.network
        train(
            state, crops.batch, recipe, forward=network if facts.takes_mask else lambda x, mask: network(x),
            report=on_report, save=on_save, go_back=on_bad_steps, rank=rank.number, world=rank.world,
            add_up=rank.add_up, dtype=dtype, threads=rank.threads,
        )  # fmt: skip
        skipped.tell(pictures.unusable)
    if scribe is not None:
        scribe.end()
    return uri.join(run, "model.safetensors")


class Parts(NamedTuple):
    """kept: to train on, the same on every rank. held, unusable: of rank 0, the centres to validate on, and what it saw that
    cannot be used, by key, with the reason."""

    kept: list[Source]
    held: list[np.ndarray]
    unusable: dict[str, str]


def _divide(
    sources: Sequence[Source],
    run: str,
    recipe: RestorerRecipe,
    device: torch.device,
    rank: Rank,
    skipped: Skipped,
    options: uri.Options | None,
) -> Parts:
    """Rank 0 looks which pictures can be held out and tells the others. Raises UsageError where no picture can be used."""
    told = [-1.0] * (len(stretches(len(sources), recipe.holdout)) + 1)
    held: list[np.ndarray] = []
    unusable: dict[str, str] = {}
    if rank.number == 0:
        with Pictures(sources, recipe.patch_px, kept_pixels=0, options=options) as pictures:
            numbers, held, rest = hold_out(pictures, recipe.holdout)
            unusable = pictures.unusable
        told[: len(numbers)], told[-1] = numbers, float(rest)
        if not (held or rest):
            skipped.tell(unusable)
    *told, rest = gathered(told, device, rank)[0]
    if rest > 0:
        return Parts([source for number, source in enumerate(sources) if number not in told], held, unusable)
    if max(told, default=-1) < 0:
        key, reason = next(iter(read_skipped(run, options).items()))
        raise nothing_usable(recipe.patch_px, f" ({len(sources)} left out, such as {key!r}: {reason})")
    log.warning("no picture can be kept out of training: those that are validated on are trained on too")
    return Parts(list(sources), held, unusable)


def fresh(
    recipe: RestorerRecipe, device: torch.device, start_options: uri.Options | None = None
) -> tuple[TrainState, Facts]:
    """The state before the first step, a function of the recipe alone, and the facts that its weights will carry.

    start_options: of the store of the weights to begin from. Raises UsageError for what this model cannot be trained with.
    """
    torch.manual_seed(recipe.seed)
    network, facts = registry.build(recipe.model, recipe.params)
    _check_trains(recipe, facts, network)
    damage = tuple(kind for kind, weight in recipe.damage.items() if weight > 0)
    facts = dataclasses.replace(facts, damage=damage, licence=recipe.licence)
    if recipe.start:
        _begin_from(network, facts, recipe.start, start_options)
    network = network.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    mean = copy.deepcopy(network).requires_grad_(False)
    dtype = pick_dtype(recipe.precision, device)
    optimizer = make_optimizer(recipe.optimizer, network, recipe.learning_rate, recipe.weight_decay, dtype)
    return TrainState(network, mean, optimizer), facts


def check_model(recipe: RestorerRecipe) -> None:
    """Raises UsageError for a model that there is not, that does not take `params`, or not such crops; makes no weights."""
    with torch.device("meta"):
        network, facts = registry.build(recipe.model, recipe.params)
    _check_trains(recipe, facts, network)


def check_start(recipe: RestorerRecipe, start_options: uri.Options | None = None) -> None:
    """Raises UsageError for a `start` that is not there or not weights of the recipe's model; the run itself need not begin."""
    network, facts = registry.build(recipe.model, recipe.params)
    _begin_from(network, facts, recipe.start, start_options)


def _check_trains(recipe: RestorerRecipe, facts: Facts, network: nn.Module) -> None:
    if not any(weight.numel() for weight in network.parameters()):
        raise UsageError(f"the model {recipe.model!r} has no weights to train: set model to another one")
    # A model that takes less than its multiple continues its input by itself: the article's trains on 28 pixels.
    rest = recipe.patch_px % facts.multiple if facts.min_size >= facts.multiple else 0
    if rest:
        fitting = max(recipe.patch_px - rest, facts.multiple)
        raise UsageError(
            f"patch_px is {recipe.patch_px}, and the model {recipe.model!r} takes multiples of {facts.multiple}: "
            f"use {fitting} or {fitting + facts.multiple}"
        )
    if recipe.micro_images and running_statistics(network):
        raise UsageError(
            f"micro_images is {recipe.micro_images}, and the model {recipe.model!r} normalises over the crops that pass "
            "at once (batch norm), so other weights would come out: use micro_images = 0 and a smaller batch_images"
        )


def _begin_from(network: nn.Module, facts: Facts, start: str, options: uri.Options | None) -> None:
    given, start = load(start, options), uri.shown(start)
    if given.facts.architecture != facts.architecture:
        raise UsageError(
            f"start {start!r} is a {given.facts.architecture!r}, not a {facts.architecture!r}: set model to it"
        )
    try:
        network.load_state_dict(given.module.state_dict())
    except RuntimeError as error:
        other = difference(network.state_dict(), given.module.state_dict())
        raise UsageError(
            f"start {start!r} has other sizes than the recipe's model ({other}); set its params"
        ) from error


def go_back(
    state: TrainState, recipe: RestorerRecipe, run: str, options: uri.Options | None = None,
    start_options: uri.Options | None = None,
) -> None:  # fmt: skip
    """Fills the state from the last checkpoint, or as before the first step, and counts the rollback.

    What has been counted once stays counted, though the checkpoint does not know: a second time at the same place halves
    the rate again. The clock does not go back. Raises RunError after MOST_ROLLBACKS.
    """
    bad, usual, rollbacks, seconds = state.step, state.usual_loss, state.rollbacks + 1, state.seconds
    if not load_checkpoint(state, run, options):
        first, _ = fresh(recipe, next(state.network.parameters()).device, start_options)
        state.network.load_state_dict(first.network.state_dict())
        state.mean.load_state_dict(first.mean.state_dict())
        state.optimizer.load_state_dict(first.optimizer.state_dict())
        state.step, state.usual_loss = 0, 0.0
    state.rollbacks, state.seconds = rollbacks, seconds
    if rollbacks > MOST_ROLLBACKS:
        # Every good step moves the usual loss.
        advice = _advice(recipe, run, options, went_well=state.usual_loss != usual)
        raise RunError(
            f"training went astray before step {bad}, for the {rollbacks}. time, each time at half the rate; {advice}"
        )
    log.warning("the loss went astray before step %d: back to step %d, at half the rate", bad, state.step)


def _advice(recipe: RestorerRecipe, run: str, options: uri.Options | None, *, went_well: bool) -> str:
    """What to do about a run that goes astray again and again. went_well: whether any step did from the last checkpoint on."""
    again = f"lower learning_rate ({recipe.learning_rate:g}) and run the same command again"
    kept = checkpoints(run, options)
    if not kept:
        return again
    if went_well:
        return f"the last checkpoint ({kept[-1]}) is good: {again}"
    return (
        f"not one step went well from the last checkpoint ({kept[-1]}) on: if loss, damage or DATA are others than it was "
        "trained with, begin a new RUN with its model.safetensors as `start`; if they are not, it is broken: remove "
        f"{uri.shown(uri.join(run, 'checkpoints', kept[-1]))}, {again}"
    )
