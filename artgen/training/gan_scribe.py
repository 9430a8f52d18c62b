"""What rank 0 of a GAN's run writes beside its checkpoints: the recipe, the data's report, the log, grids, the best."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from artgen.errors import UsageError
from artgen.inference.sample import grid
from artgen.metrics.cheap_distance import NAME
from artgen.models.gans.spec import GanFacts, Painter
from artgen.models.gans.weights import to_bytes
from artgen.storage import atomic, uri
from artgen.training.gan_data import RealPictures
from artgen.training.gan_film import film
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_state import GanState
from artgen.training.gan_watch import GRID_IMAGES, Look, Watch
from artgen.training.journal import Journal
from artgen.training.loop_gan import RESCUE_GAMMA, RESCUE_RATE, progress_of
from artgen.training.pictures import parts_of

MAY_CHANGE = {
    "images", "minutes", "learning_rate", "learning_rate_end", "report_steps", "look_images", "checkpoint_minutes", "licence",
}  # fmt: skip
"""Keys of a recipe that a run may go on with at other values without a word: how long, how fast, how closely watched."""
log = logging.getLogger(__name__)
Tell = Callable[[Mapping[str, Any]], None]
"""Gets the numbers of each report, of each look (`fd_random`), and of each rescue (`rescued`: why, in words)."""


@dataclasses.dataclass
class GanScribe:
    """What rank 0 writes; `begin` comes first, `end` last."""

    run: str
    recipe: GanRecipe
    facts: GanFacts
    state: GanState
    tell: Tell
    options: uri.Options | None

    def begin(self, data: str | Sequence[str], pictures: RealPictures, resumed_at: int) -> None:
        """What is known before the first step; where a run goes on with something else than before, says so first.

        resumed_at: the step that the run goes on from, -1 for a new one.
        """
        count = len(pictures.pixels_NCHW)
        made_of = {"recipe.json": dataclasses.asdict(self.recipe), "data.json": {
            "data": [uri.shown(part) for part in parts_of(data)], "listing": pictures.listing,
            "pictures": count, "height": self.facts.height, "width": self.facts.width, "channels": self.facts.channels,
            "classes": self.facts.classes, "changed": pictures.changed, "unusable": pictures.unusable,
        }}  # fmt: skip
        before = {name: read_json(self.run, name, self.options) for name in made_of}
        changed = changes(before, made_of) if resumed_at >= 0 else {}
        if changed:
            told = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items())
            log.warning("the run goes on from step %d with other settings than so far: %s", resumed_at, told)
        for name, values in made_of.items():
            self._write(name, _json(values))
        shown = pictures.batch(self.recipe, 0, min(GRID_IMAGES, count)).pixels
        self._write("reals.png", grid(shown.permute(0, 2, 3, 1).numpy(), 8))
        self._watch = Watch(pictures.pixels_NCHW, self.recipe.metric_images)
        self._journal = Journal(self.run, self.state.step, self.options)
        self._journal.line({
            "pictures": count, "changed": len(pictures.changed), "unusable": len(pictures.unusable),
            "classes": len(pictures.classes), "resumed_at": resumed_at, "threads": torch.get_num_threads(),
            "metric": f"{NAME} of {self._watch.images} pictures",
        })  # fmt: skip
        if changed:
            self._journal.line({"changed_settings": changed})

    def report(self, numbers: Mapping[str, float]) -> None:
        """Adds progress (0..1) and the seconds left."""
        progress = progress_of(self.state, self.recipe)
        left_s = self.state.seconds * (1 / progress - 1) if progress else 0.0
        self._tell({**numbers, "progress": progress, "left_s": left_s})

    def look(self) -> Look:
        """Looks at the running mean, and tells. Raises Unstable when there is nothing to see."""
        look = self._watch.look(self.state, self.facts)
        images = self.state.step * self.recipe.batch_images
        self._write(f"fakes-{images // 1000:06d}.png", grid(look.grid, 8))
        self._tell({"step": self.state.step, "images": images, NAME: look.distance, "diversity": look.diversity})
        return look

    def keep_best(self) -> None:
        """The running mean is nearer to the real pictures than at any look before."""
        self._write("best.safetensors", to_bytes(self.state.mean, self.facts))

    def rescued(self, reason: str, from_step: int) -> None:
        """The state is that of an earlier step by now."""
        state, now = self.state, {"rate_times": RESCUE_RATE, "gamma_times": RESCUE_GAMMA}
        line = {"rescued": reason, "from_step": from_step, "step": state.step, "rescues": state.rescues, **now}
        self._journal.line(line)
        self.tell(line)

    def end(self) -> None:
        """The film of the running mean; closes the log."""
        self._write("interpolation.gif", film(Painter(self.state.mean, self.facts, "in training")))
        self._journal.close()

    def _tell(self, numbers: Mapping[str, float]) -> None:
        self._journal.numbers(self.state.step, {key: value for key, value in numbers.items() if key != "step"})
        self.tell(numbers)

    def _write(self, name: str, data: bytes) -> None:
        atomic.write(uri.join(self.run, name), data, self.options)


def read_json(run: str, name: str, options: uri.Options | None) -> dict[str, Any]:
    """A file of RUN; empty when it is missing, or edited until it is no JSON, and so tells nothing."""
    with contextlib.suppress(ValueError):
        return json.loads(uri.read_or_none(uri.join(run, name), options) or b"{}")
    return {}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What decides the weights and is not as it was, by key, as (before, now); both as of recipe.json and data.json.

    A key that one of them does not know is of another version of artgen. The same pictures at another place are no change.
    """
    old, new = before["recipe.json"], json.loads(_json(now["recipe.json"]))  # with lists where tuples were
    keys = [key for key in new if key in old and key not in MAY_CHANGE]
    changed = {key: (old[key], new[key]) for key in keys if old[key] != new[key]}
    old, new = before["data.json"], now["data.json"]
    if old.get("listing", new["listing"]) != new["listing"]:
        changed["DATA"] = (_listed(old), _listed(new))
    return changed


def _listed(data: Mapping[str, Any]) -> str:
    return f"{data.get('pictures')} pictures of {','.join(data.get('data', []))} (listing {data['listing'][:8]})"


def check_batch(run: str, recipe: GanRecipe, options: uri.Options | None = None) -> None:
    """A run counts in images what it has seen and what is left, from steps of one size. Raises UsageError for another."""
    before = read_json(run, "recipe.json", options).get("batch_images", recipe.batch_images)
    if before != recipe.batch_images:
        raise UsageError(
            f"batch_images is {recipe.batch_images}, and RUN {uri.shown(run)} was begun with {before}: use {before}, or "
            "another RUN (nothing was changed)"
        )


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False).encode()
