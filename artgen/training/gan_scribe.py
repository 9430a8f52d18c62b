"""What rank 0 of a GAN's run writes beside its checkpoints: the recipe, the data's report, the log, grids, the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from artgen.codecs.marking import Mark
from artgen.errors import UsageError
from artgen.inference.sample import grid, mark_of
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
from artgen.training.made_of import read_json, write_down
from artgen.training.pictures import parts_of

MAY_CHANGE = {
    "images", "minutes", "learning_rate", "learning_rate_end", "report_steps", "look_images", "checkpoint_minutes", "licence",
}  # fmt: skip
"""Keys of a recipe that a run may go on with at other values without a word: how long, how fast, how closely watched."""
Tell = Callable[[Mapping[str, Any]], None]
"""Gets the numbers of each report, of each look (`fd_random`), and of each rescue (`rescued`: why, in words); and, in words,
`size_rule` before the first step, where a size follows from the first picture."""


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
            "images": count, "height": self.facts.height, "width": self.facts.width, "channels": self.facts.channels,
            "classes": self.facts.classes, "changed": pictures.changed, "unusable": pictures.unusable,
            "size_rule": pictures.size_rule,
        }}  # fmt: skip
        changed = write_down(self.run, made_of, MAY_CHANGE, resumed_at, self.options)
        self.measure = f"{NAME} of {min(self.recipe.metric_images, count)} pictures of listing {pictures.listing}, classes as there"
        shown = pictures.batch(self.recipe, 0, min(GRID_IMAGES, count)).pixels
        self._write("reals.png", grid(shown.permute(0, 2, 3, 1).numpy(), 8))
        self._watch = Watch(pictures.pixels_NCHW, self.recipe.metric_images, pictures.labels_N)
        self._journal = Journal(self.run, self.state.step, self.options)
        self._journal.line({
            "pictures": count, "changed": len(pictures.changed), "unusable": len(pictures.unusable),
            "classes": len(pictures.classes), "resumed_at": resumed_at, "threads": torch.get_num_threads(),
            "precision": self.recipe.precision,
            "metric": f"{NAME} of {self._watch.images} pictures",
        })  # fmt: skip
        if changed:
            self._journal.line({"changed_settings": changed})
        if pictures.size_rule:
            self._say({"size_rule": pictures.size_rule, "step": self.state.step})

    def report(self, numbers: Mapping[str, float]) -> None:
        """Adds progress (0..1) and the seconds left."""
        progress = progress_of(self.state, self.recipe)
        left_s = self.state.seconds * (1 / progress - 1) if progress else 0.0
        self._tell({**numbers, "progress": progress, "left_s": left_s})

    def look(self) -> Look:
        """Looks at the running mean, and tells. Raises Unstable when there is nothing to see."""
        look = self._watch.look(self.state, self.facts)
        images = self._images()
        mark = self._mark(f"seeds 0-{len(look.grid) - 1}")
        self._write(grid_name(images), grid(look.grid, 8, mark))
        self._tell({"step": self.state.step, "images": images, NAME: look.distance, "diversity": look.diversity})
        return look

    def keep_best(self) -> None:
        """The running mean is nearer to the real pictures than at any look before."""
        self._write("best.safetensors", to_bytes(self.state.mean, self.facts))

    def rescued(self, reason: str, from_step: int) -> None:
        """The state is that of an earlier step by now."""
        state, now = self.state, {"rate_times": RESCUE_RATE}
        if self.recipe.gamma or self.recipe.gamma_end:
            now["gamma_times"] = RESCUE_GAMMA
        self._say({"rescued": reason, "from_step": from_step, "step": state.step, "rescues": state.rescues, **now})

    def end(self) -> None:
        """The film of the running mean; closes the log."""
        painter = Painter(self.state.mean, self.facts, "in training")
        self._write("interpolation.gif", film(painter, self._mark("frames on the way from seed to seed")))
        self._journal.close()

    def _images(self) -> int:
        return self.state.step * self.recipe.batch_images

    def _mark(self, prompt: str) -> Mark:
        return mark_of(self.facts, f"in training, {self._images()} images seen", prompt)

    def _say(self, line: Mapping[str, Any]) -> None:
        self._journal.line(line)
        self.tell(line)

    def _tell(self, numbers: Mapping[str, float]) -> None:
        self._journal.numbers(self.state.step, {key: value for key, value in numbers.items() if key != "step"})
        self.tell(numbers)

    def _write(self, name: str, data: bytes) -> None:
        atomic.write(uri.join(self.run, name), data, self.options)


def grid_name(images: int) -> str:
    """Of the grid after so many images, in thousands and the rest: names sort as they were made, as "." comes before "_"."""
    thousands, rest = divmod(images, 1000)
    return f"fakes-{thousands:06d}{f'_{rest:03d}' if rest else ''}.png"


def check_batch(run: str, recipe: GanRecipe, options: uri.Options | None = None) -> None:
    """A run counts in images what it has seen and what is left, from steps of one size. Raises UsageError for another."""
    before = read_json(run, "recipe.json", options).get("batch_images", recipe.batch_images)
    if before != recipe.batch_images:
        raise UsageError(
            f"batch_images is {recipe.batch_images}, and RUN {uri.shown(run)} was begun with {before}: use {before}, or "
            "another RUN (nothing was changed)"
        )
