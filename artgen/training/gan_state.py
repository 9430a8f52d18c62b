"""All that a run of a GAN needs to go on, and its checkpoints (see `state`): the last two, and the last two good ones.

RUN/checkpoints/step-00001200/{generator,discriminator,mean}.safetensors
                              {generator,discriminator}_optimizer.pt
                              position.json
RUN/model.safetensors         the running mean of the generator with its facts: what gets used
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from artgen.errors import RunError
from artgen.models.gans.spec import GanFacts
from artgen.models.gans.weights import to_bytes
from artgen.storage import uri
from artgen.training.state import forget_after, load_state, save_model, save_numbers, save_state


@dataclass(slots=True)
class GanState:
    """All that a run needs to go on exactly: position and chance follow from `step` and `rescues`.

    augment: probability now. d_loss: running mean of the discriminator's loss. good_step: of the last look that found
    nothing wrong; good_before: of the one before, which the last checkpoint but one may name. rescues: how often the run
    went back to one. best: lowest distance seen, -1 before the first. most_diverse: highest diversity seen. measured: with
    what both were; other figures do not compare with them. flat_step: of the first look if it saw one picture only, else -1.
    """

    generator: nn.Module
    discriminator: nn.Module
    mean: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    augment: float = 0.0
    bad_in_a_row: int = 0
    d_loss: float = 1.0
    good_step: int = 0
    good_before: int = 0
    rescues: int = 0
    best: float = -1.0
    most_diverse: float = 0.0
    measured: str = ""
    flat_step: int = -1


def save_gan(state: GanState, run: str, facts: GanFacts, options: uri.Options | None = None) -> None:
    """Writes the checkpoint beside the others and RUN/model.safetensors, then drops all but the last two and the good ones.

    Raises StorageError; what was saved before is then intact.
    """
    save_state(state, to_bytes(state.mean, facts), run, options, kept=[state.good_step, state.good_before])


def load_gan(state: GanState, run: str, options: uri.Options | None = None) -> bool:
    """Fills the state from the newest checkpoint that can be read; False when there is none. Raises as load_state."""
    return load_state(state, run, options)


def go_back(state: GanState, run: str, options: uri.Options | None = None) -> None:
    """Fills the state from the last good checkpoint, from the one before where it is damaged or gone, with one rescue more and
    the clock as it is. Raises RunError when neither can be read."""
    seconds, rescues, good = state.seconds, state.rescues, {state.good_step, state.good_before}
    if not load_state(state, run, options, steps=good):
        shown = " and ".join(map(str, sorted(good)))
        raise RunError(f"the checkpoint of step {shown} is gone from {uri.shown(run)!r}; use another RUN")
    state.seconds, state.rescues = seconds, rescues + 1


def settle(state: GanState, run: str, facts: GanFacts, options: uri.Options | None = None) -> None:
    """Makes the step gone back to the newest in RUN, with its rescue, and its weights the model; a process that is killed
    goes on from there."""
    save_model(to_bytes(state.mean, facts), run, options)
    save_numbers(state, run, options)
    forget_after(state.step, run, options)
