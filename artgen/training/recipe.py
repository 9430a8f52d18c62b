"""What a training run of a restorer is made of: where and how it runs, and the recipe, which decides its weights."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import torch

from artgen.config import worker_range
from artgen.errors import UsageError
from artgen.storage import uri
from artgen.text import nearest
from artgen.training.losses import LOSSES
from artgen.training.mixtures import DEFAULT_WEIGHTS, check_weights
from artgen.training.optimizers import OPTIMIZERS
from artgen.training.rank import pick_dtype

SHIPPED = resources.files("artgen.recipes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What says where and how a run is trained; what decides its weights is in the recipe.

    data: INPUTs as of `artgen restore`, separated by commas. workers: processes that train together, N or MIN:MAX.
    """

    data: str
    folder: str
    engine: Literal["auto", "local", "ray"] = "auto"
    address: str | None = None
    workers: str = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    storage_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        wanted = worker_range(self.workers)
        if self.engine == "local" and self.address is not None:
            raise UsageError(f"--engine local takes no cluster address ({self.address!r}): drop one of the two")
        if self.engine == "local" and wanted is not None and wanted[1] > 1:
            raise UsageError(f"--engine local trains in one process, not {self.workers}: use --engine ray")


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorerRecipe:
    """Settings that decide the weights. Images are counted over all workers, so their number matters no more than the
    order of sums (see memory_megapixels).

    start: weights to begin from, as of --model (a name, a path, a URL): fine-tuning. The model must be the same.
    patch_px: side of the square crops, a multiple of the model's `multiple`.
    batch_images: crops in a step, over all workers together.
    micro_images: most crops that pass through the network at once (0: all that a worker has of a batch).
    memory_megapixels: decoded pictures that each worker keeps, in millions of pixels of 3 bytes (1000: up to 3 GB for
    each worker); of larger DATA the rest is decoded again in every epoch. It changes no weight. micro_images and the
    number of workers change the order in which gradients are summed and nothing else: after 20 steps of plain gradient
    descent in parts, or 30 on two workers instead of one, no weight of the tests' network is off by 1e-6; with AdamW,
    which enlarges what is nearly zero, none by 1e-3 after 30 steps, the loss by 1e-4 of itself (test_resume.py). That is
    in fp32. In bf16, which `auto` picks where the hardware multiplies it fast (GPUs, CPUs with AMX), a weight was off by
    1.6e-3 after 30 steps of AdamW. A network with batch norm (dncnn) is the exception: it normalises over the crops that pass
    at once, those of a worker; it refuses micro_images.
    steps: length of the run and of its schedule; `minutes` > 0 ends it (and the schedule) earlier, by the clock.
    optimizer: adamw; mup, which is AdamW with lower rates for wider layers (training/optimizers.py); or muon for the
    convolutions (training/muon.py).
    halflife_images: half-life of the running mean of the weights, at most 5 % of the images seen.
    grey_share: share of the crops trained as grey pictures (one channel of damage, three equal channels in).
    turns: turn and mirror the crops at random.
    compile: torch.compile for the forward and backward pass; needs a C++ compiler on CPUs. Other bits than without.
    holdout: every n-th image of the sorted listing is kept for validation (0: none).
    """

    model: str = "default"
    params: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    patch_px: int = 96
    batch_images: int = 16
    micro_images: int = 0
    memory_megapixels: int = 1000
    steps: int = 40_000
    minutes: float = 0.0
    learning_rate: float = 1e-3
    warmup_steps: int = 400
    weight_decay: float = 1e-4
    clip_norm: float = 0.5
    optimizer: str = "adamw"
    loss: str = "l1"
    halflife_images: int = 16_000
    grey_share: float = 1 / 3
    turns: bool = True
    damage: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    seed: int = 0
    holdout: int = 60
    report_steps: int = 100
    validate_steps: int = 2000
    checkpoint_minutes: float = 4.0
    precision: str = "auto"
    compile: bool = False
    licence: str = ""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, -(2**63), 2**63 - 1)
        for name in ("patch_px", "batch_images", "steps", "report_steps", "validate_steps"):
            check_range(name, getattr(self, name), 1)
        for name in ("micro_images", "memory_megapixels", "holdout", "warmup_steps", "minutes", "weight_decay",
                     "halflife_images", "checkpoint_minutes"):  # fmt: skip
            check_range(name, getattr(self, name), 0)
        for name in ("learning_rate", "clip_norm"):
            check_range(name, getattr(self, name), 1e-12)
        check_range("grey_share", self.grey_share, 0, 1)
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"optimizer is {self.optimizer!r}; choose from {', '.join(OPTIMIZERS)}")
        if self.loss not in LOSSES:
            raise UsageError(f"loss is {self.loss!r}; choose from {', '.join(LOSSES)}")
        check_weights(self.damage)
        pick_dtype(self.precision, torch.device("cpu"))  # raises for one that no device has


def without_secrets(recipe: RestorerRecipe) -> dict[str, Any]:
    """The recipe as it is told and written down: `start` may be a URL with a password."""
    return {**dataclasses.asdict(recipe), "start": uri.shown(recipe.start)}


def check_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Raises UsageError for a value of a recipe that is out of range, infinite or not a number."""
    if value == most == math.inf:
        raise UsageError(f"{name} is {value}; use a finite number")
    if not least <= value <= most:
        bounds = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise UsageError(f"{name} is {value}; use {bounds}")


def recipe_names(shipped: Traversable = SHIPPED) -> list[str]:
    """Recipes shipped with the package."""
    return sorted(file.name[:-5] for file in shipped.iterdir() if file.name.endswith(".toml"))


def find_recipe(name: str, shipped: Traversable = SHIPPED, kind: str = "recipe") -> Traversable:
    """A shipped recipe by name or a TOML file by path. Raises UsageError where there is neither."""
    names = recipe_names(shipped)
    if name in names:
        return shipped / f"{name}.toml"
    if not Path(name).is_file():
        raise UsageError(f"no {kind} {name!r}; shipped are {', '.join(names)}, or give a .toml file")
    return Path(name)


def load_recipe(name: str, changes: Mapping[str, Any] | None = None) -> RestorerRecipe:
    """A shipped recipe by name or a TOML file by path, with `changes` (key -> value) on top.

    Raises UsageError: no such recipe, not TOML, an unknown key or a value of the wrong type.
    """
    try:
        values = tomllib.loads(find_recipe(name).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {name!r}: {error.strerror}; grant read access") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {name!r} is not TOML: {error}") from error
    return make_recipe({**values, **(changes or {})}, source=name)


def make_recipe(values: Mapping[str, Any], source: str) -> RestorerRecipe:
    """Checks keys and types; raises UsageError that quotes the key, the value and the fix."""
    fields = {f.name: f for f in dataclasses.fields(RestorerRecipe)}
    example = RestorerRecipe()
    for key, value in values.items():
        if key not in fields:
            raise UsageError(f"unknown key {key!r} in the recipe {source!r}; {nearest(key, list(fields))}")
        wanted = type(getattr(example, key))
        fits = isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            how = """ (as --set: JSON, such as '{"noise": 60}')""" if wanted is dict else ""
            raise UsageError(
                f"{key} is {value!r} in the recipe {source!r}; it must be of type {wanted.__name__}{how}"
            )
    return RestorerRecipe(**values)
