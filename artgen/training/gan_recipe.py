"""What a training run of a GAN is made of: one frozen dataclass, filled from TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from artgen import config
from artgen.errors import UsageError
from artgen.models.gans.spec import LARGEST_PX, MOST_LATENT, SMALLEST_PX
from artgen.training.recipe import SHIPPED, check_range, find_recipe, recipe_names

# A folder of their own: a recipe called `default` trains a restorer.
_SHIPPED = SHIPPED / "gan"


@dataclass(frozen=True, kw_only=True, slots=True)
class GanRecipe:
    """Settings that decide the weights. Images are counted over all workers, so their number does not matter.

    generator, discriminator: parameters of the architecture `model`.
    height, width, channels: of the pictures, 28 to 256 pixels (0: as the first usable one of DATA has, made a size that the
    architecture takes: `gan_size.sides`); others are fitted to it.
    classes: pictures have one: that of dataset.json or metadata.csv, else the name of their folder (`gan_labels`).
    mirror: turn half of the pictures left to right.
    images: length of the run and of its schedules, counted in real pictures shown; `minutes` > 0 ends both earlier.
    shards: parts of a batch that are computed one by one, so that the weights are bit for bit those of any number of
    workers up to it, of any number of cores; 0: one for each worker, faster and the same only within 1e-4 (see `training.shards`).
    X and X_end: from X at the start to X_end at the end, along half a cosine, of learning rate, Adam's beta2, gamma
    and the augmentation's probability. gamma: of R1 and R2, 0 for none; raise it when the discriminator's loss stays
    under 0.3. penalty_every: k > 1 computes both at every k-th step only, k times as strong.
    augment_target: above 0, the probability is adapted to this overfitting (ADA) instead, from `augment` on.
    halflife_images: half-life of the running mean of the generator, at most 5 % of the images seen.
    look_images: between two looks: a grid of generated pictures, the distance of `metric_images` of them from as many
    real ones, whether all is well (see `gan_watch`), and a checkpoint to go back to when it is not.
    """

    model: str = "r3"
    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    height: int = 0
    width: int = 0
    channels: int = 0
    latent: int = 64
    classes: bool = False
    mirror: bool = False
    batch_images: int = 64
    shards: int = 4
    images: int = 2_000_000
    minutes: float = 0.0
    game: Literal["bce", "hinge", "relativistic"] = "relativistic"
    learning_rate: float = 2e-3
    learning_rate_end: float = 5e-4
    beta1: float = 0.0
    beta2: float = 0.9
    beta2_end: float = 0.99
    gamma: float = 5.0
    gamma_end: float = 0.5
    penalty_every: int = 1
    augment: float = 0.0
    augment_end: float = 0.0
    augment_target: float = 0.0
    halflife_images: int = 20_000
    seed: int = 0
    report_steps: int = 50
    look_images: int = 50_000
    metric_images: int = 2000
    checkpoint_minutes: float = 4.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    licence: str = ""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, -(2**63), 2**63 - 1)
        check_range("latent", self.latent, 1, MOST_LATENT)
        for name in ("batch_images", "images", "report_steps", "look_images", "penalty_every"):
            check_range(name, getattr(self, name), 1)
        check_range("metric_images", self.metric_images, 2)
        for name in ("shards", "minutes", "gamma", "gamma_end", "halflife_images", "checkpoint_minutes"):
            check_range(name, getattr(self, name), 0)
        for name in ("height", "width"):
            if getattr(self, name):
                check_range(name, getattr(self, name), SMALLEST_PX, LARGEST_PX)
        for name in ("augment", "augment_end", "augment_target"):
            check_range(name, getattr(self, name), 0, 1)
        for name in ("beta1", "beta2", "beta2_end"):
            check_range(name, getattr(self, name), 0, 0.9999999)
        for name in ("learning_rate", "learning_rate_end"):
            check_range(name, getattr(self, name), 1e-12)
        if self.channels not in (0, 1, 3, 4):
            raise UsageError(
                f"channels is {self.channels}; use 1 (grey), 3 (RGB), 4 (with transparency) or 0 (as the first picture has)"
            )
        if self.shards and self.batch_images % self.shards:
            raise UsageError(
                f"batch_images is {self.batch_images}, which {self.shards} shards cannot share; use a multiple"
            )

    @property
    def steps(self) -> int:
        """Of the whole run; the last one may go past `images`."""
        return -(-self.images // self.batch_images)

    @property
    def look_steps(self) -> int:
        """From one look to the next."""
        return -(-self.look_images // self.batch_images)


def gan_recipe_names() -> list[str]:
    """Recipes shipped with the package."""
    return recipe_names(_SHIPPED)


def load_gan_recipe(
    name: str, changes: Mapping[str, Any] | None = None, sets: list[str] | None = None
) -> GanRecipe:
    """A shipped recipe by name or a TOML file by path; `changes` and then KEY=VALUE strings on top.

    Raises UsageError: no such recipe, not TOML, an unknown key or a value of the wrong type or out of range.
    """
    changes = config.checked(GanRecipe, changes or {}, "of a GAN's recipe;")
    with resources.as_file(find_recipe(name, _SHIPPED, "GAN recipe")) as file:
        return config.load(GanRecipe, changes, file=str(file), sets=sets)
