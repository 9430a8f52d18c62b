"""What a restorer's run writes down: what it is made of, its numbers, panels and scores."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from artgen.models.spec import Facts, Restorer
from artgen.records import Source
from artgen.storage import uri
from artgen.training.firing import silent_share, watched
from artgen.training.journal import Journal
from artgen.training.loop_restorer import Report, TrainState, progress_of
from artgen.training.made_of import write_down
from artgen.training.pictures import digest_of, parts_of
from artgen.training.recipe import RestorerRecipe, without_secrets
from artgen.training.validate import validate

MAY_CHANGE = {
    "steps", "minutes", "learning_rate", "warmup_steps", "micro_images", "memory_megapixels", "report_steps", "validate_steps",
    "checkpoint_minutes", "licence",
}  # fmt: skip
"""Keys of a recipe that a run may go on with at other values without a word: how long, how fast, how closely watched."""
MANY_SILENT = 0.3
log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class Scribe:
    """What rank 0 writes beside the checkpoints: the recipe, the log, validations with their panels."""

    run: str
    recipe: RestorerRecipe
    facts: Facts
    state: TrainState
    held: list[np.ndarray]
    dtype: torch.dtype | None
    tell: Report
    options: uri.Options | None

    def begin(self, data: Mapping[str, Any], *, resumed_at: int, **facts: Any) -> None:
        """Writes down what the run is made of, and where it goes on with something else than before, says so first."""
        made_of = {"recipe.json": without_secrets(self.recipe), "data.json": data}
        changed = write_down(self.run, made_of, MAY_CHANGE, resumed_at, self.options)
        self._journal = Journal(self.run, self.state.step, self.options)
        self._journal.line({**facts, "resumed_at": resumed_at, "threads": torch.get_num_threads()})
        if changed:
            self._journal.line({"changed_settings": changed})

    def report(self, numbers: Mapping[str, float]) -> None:
        """Adds progress (0..1), the seconds left and, where a validation is due, its scores; at the end one always is."""
        state, recipe = self.state, self.recipe
        progress = progress_of(state, recipe)
        ended = progress >= 1
        if self.held and (ended or state.step % recipe.validate_steps < recipe.report_steps):
            numbers = {**numbers, **self._validate("final" if ended else f"step-{state.step:08d}")}
        left_s = state.seconds * (1 / progress - 1) if progress else 0.0
        numbers = {**numbers, "progress": progress, "left_s": left_s}
        self._journal.numbers(state.step, {key: value for key, value in numbers.items() if key != "step"})
        self.tell(numbers)

    def note(self, facts: Mapping[str, Any]) -> None:
        """A line of the log that is no report."""
        self._journal.line(facts)

    def end(self) -> None:
        """Closes the log."""
        self._journal.close()

    def _validate(self, name: str) -> dict[str, float]:
        """Scores, and for a network of residual blocks the share of its hidden units that fire on none of these pictures."""
        panel = uri.join(self.run, "panels", f"{name}.png")
        restorer = Restorer(self.state.mean, self.facts, "")
        with watched(self.state.mean) as highest:
            scores = validate(restorer, self.held, panel, self.dtype, self.options)
        if not highest:
            return scores
        silent = silent_share(highest)
        if silent > MANY_SILENT:
            log.warning(
                "%.0f %% of the hidden units fire on none of the held-out pictures and learn nothing any more: begin anew with "
                "a lower learning_rate, or go on from what scripts/revive.py makes of %s", 100 * silent, uri.shown(self.run),
            )  # fmt: skip
        return {**scores, "silent-units": silent}


def facts_of_data(data: str | Sequence[str], sources: Sequence[Source], kept: Sequence[Source]) -> dict[str, Any]:
    """What RUN/data.json holds: DATA as it was given, without secrets, what it listed, and which of it is trained on."""
    return {
        "data": [uri.shown(part) for part in parts_of(data)],
        "images": len(sources),
        "listing": digest_of(sources),
        "trained_on": digest_of(kept),
    }


def log_line(numbers: Mapping[str, float]) -> None:
    """The `report` of a run that was given none: a line of Python's log."""
    log.info("%s", "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
