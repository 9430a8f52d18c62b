"""How near the pictures of a generator are to real ones, and how much of them they cover."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from artgen.errors import UsageError
from artgen.metrics import classifier as classifiers
from artgen.metrics.coverage import NEIGHBOURS, divergence, modes, precision_recall
from artgen.metrics.extractors import Extractor
from artgen.metrics.sets import kernel_distance
from artgen.models.gans import weights
from artgen.models.gans.spec import Painter
from artgen.models.place import is_file
from artgen.records import Source
from artgen.storage import archive, uri
from artgen.training.gan_data import Shape, listed
from artgen.training.gan_labels import classes_of
from artgen.work.picture_set import Found, Seen, common_shape, content_hash, drawn, listing_hash, spread

LEAST_PICTURES = NEIGHBOURS + 1


@dataclass(frozen=True)
class Fakes:
    """The pictures to be judged. planned: how many there are at most. told: where they come from, for the result."""

    shape: Shape
    planned: int
    batches: Callable[[], Iterator[Tensor]]
    told: dict[str, Any]
    unusable: Callable[[], Mapping[str, str]]


def are_pictures(model: str, options: uri.Options | None) -> bool:
    """Whether MODEL is an INPUT of pictures that are there already, and no generator."""
    if model in weights.shipped_names() or is_file(model):
        return False
    if any(sign in model for sign in "*?["):
        return True
    of_a_run = ("model.safetensors", "recipe.json")  # the one at its end only, the other from its start on
    return uri.exists(model, options) and not any(uri.exists(uri.join(model, name), options) for name in of_a_run)


def fakes_of_generator(
    painter: Painter, name: str, seeds: range, *, truncation: float = 1.0, precision: str = "fp32",
    classes: Sequence[int] | None = None,
) -> Fakes:  # fmt: skip
    """The pictures that `artgen generate` makes of the same seeds, or those of the given classes, one for each."""
    facts = painter.facts
    told = {
        "model": uri.shown(name), "model_sha256": painter.sha256, "seeds": f"{seeds.start}-{seeds.stop - 1}",
        "truncation": truncation, "precision": precision,
    }  # fmt: skip
    if facts.classes:
        told["classes"] = "equally often" if classes is None else "as often as in DATA"
    return Fakes(
        (facts.height, facts.width, facts.channels), len(seeds),
        lambda: drawn(painter, seeds, truncation, precision, classes), told, dict,
    )  # fmt: skip


def classes_as_in(data: str, classes: Sequence[str], count: int, options: uri.Options | None) -> list[int] | None:
    """Numbers of `count` classes as often as they are in DATA; None where DATA has others than these or none.

    Drawn equally often, the pictures of a generator would be far from a DATA of unequal classes, however good each is.
    """
    try:
        _, labels, _ = listed(data, True, options)
    except UsageError:
        return None
    if {*labels} != {*classes}:
        return None
    numbers = sorted(map(list(classes).index, labels))
    return [numbers[place * len(numbers) // count] for place in range(count)]


def fakes_of_pictures(model: str, images: int, options: uri.Options | None = None, threads: int = 1) -> Fakes:
    """At most `images` of them, spread over the listing. Of an OUTPUT of `artgen generate` its pictures alone.

    Raises UsageError: no picture, or none that can be read.
    """
    sources = [item for item in archive.scan(model, options, label="MODEL") if isinstance(item, Source)]
    if not sources:
        raise UsageError(f"MODEL {uri.shown(model)!r} is no generator and holds no picture; give one or the other")
    chosen = [sources[number] for number in spread(len(sources), images)]
    found = Found(chosen, common_shape(chosen, options, threads), fit=False, options=options, threads=threads)
    told = {
        "model": uri.shown(model),
        "listing_sha256": listing_hash(chosen, [""] * len(chosen)),
        "listed": len(sources),
    }
    return Fakes(found.shape, len(chosen), found.batches, told, lambda: found.unusable)


@dataclass
class Reals:
    """Pictures of DATA, fitted to one shape as training fits them.

    labels: the class of each, "" where they are not asked for. unlabelled: key -> why it was left out of the listing.
    sha256: as of `content_hash`, which reads the pictures.
    """

    found: Found
    labels: list[str]
    unlabelled: dict[str, str]
    listed: int

    @cached_property
    def sha256(self) -> str:
        return content_hash(self.found.sources, self.labels, self.found.options, self.found.threads)


def reals_of(
    data: str,
    shape: Shape,
    images: int,
    *,
    with_classes: bool = False,
    options: uri.Options | None = None,
    threads: int = 1,
) -> Reals:
    """At most `images`, spread over the listing. Raises UsageError when DATA has none."""
    sources, labels, unlabelled = listed(data, with_classes, options)
    places = spread(len(sources), images)
    chosen = [sources[place] for place in places]
    found = Found(chosen, shape, fit=True, options=options, threads=threads)
    return Reals(found, [labels[place] for place in places], unlabelled, len(sources) + len(unlabelled))


def train_classifier(reals: Reals, seed: int, device: str) -> tuple[classifiers.Classifier, Tensor]:
    """On the classes of DATA; and the pictures, all of which this needs in memory. Raises UsageError."""
    batches = list(reals.found.batches())
    if not batches:
        raise UsageError("not one picture of DATA can be read: there is nothing to train a classifier on")
    pixels = torch.cat(batches)
    labels = [reals.labels[place] for place in reals.found.kept]
    classes = classes_of(labels)
    numbers = {name: number for number, name in enumerate(classes)}
    answers = torch.tensor([numbers[label] for label in labels])
    return classifiers.train(pixels, answers, classes, seed=seed, device=device), pixels


def check_enough(real: int, fake: int) -> None:
    """Raises UsageError for fewer pictures on a side than one and its neighbours: there would be no precision, no recall."""
    if min(real, fake) < LEAST_PICTURES:
        raise UsageError(
            f"there are {real} pictures of DATA and {fake} of MODEL, and a comparison needs {LEAST_PICTURES} on each side: "
            "give more, or raise --samples or --images"
        )


def too_few(extractor: Extractor, real: int, fake: int) -> str:
    """Why there is no Frechet distance of so many pictures, and what to do: without more pictures than features its
    covariances are not of full rank. Empty where there is one.
    """
    need = extractor.features + 1
    if min(real, fake) >= need:
        return ""
    return (
        f"{extractor.figure} is of {extractor.features} features and needs {need} pictures on each side; there are {real} of "
        f"DATA and {fake} of MODEL: give more, raise --samples or --images, or use another --extractor (classifier needs "
        "65, random 129, inception 2049)"
    )


def compare(
    extractor: Extractor, real: Seen, fake: Seen, seed: int
) -> tuple[dict[str, float | int | None], dict[str, int]]:
    """The figures by name, and what those of pairs depend on; `seed` draws the subsets of the kernel distance. The Frechet
    distance is None where there are `too_few` pictures for it.
    """
    few = too_few(extractor, real.statistics.images, fake.statistics.images)
    kernel = kernel_distance(real.rows_NF, fake.rows_NF, seed=seed)
    manifolds = precision_recall(real.rows_NF, fake.rows_NF)
    kid = "kid" if extractor.figure == "fid" else f"kid_{extractor.name}"
    figures: dict[str, float | int | None] = {
        extractor.figure: None if few else extractor.distance(real.statistics, fake.statistics),
        kid: kernel.mean, "precision": manifolds.precision, "recall": manifolds.recall,
    }  # fmt: skip
    fewer = min(len(real.rows_NF), len(fake.rows_NF))
    if 2 * kernel.subset_images <= fewer:  # else the subsets are much the same pictures, and it would look too good
        figures[f"{kid}_deviation"] = kernel.deviation
    if extractor.classifier is not None:
        figures |= {
            "classes": len(fake.classes_K), "modes": modes(fake.classes_K), "modes_real": modes(real.classes_K),
            "kl_uniform": divergence(fake.classes_K), "kl_real": divergence(fake.classes_K, real.classes_K),
        }  # fmt: skip
    pairs = {
        "real": len(real.rows_NF), "fake": len(fake.rows_NF), "neighbours": NEIGHBOURS, "kid_subsets": kernel.subsets,
        "kid_subset_images": kernel.subset_images,
    }  # fmt: skip
    return figures, pairs


def for_json(figures: Mapping[str, float | int | None]) -> dict[str, float | int | None]:
    """Rounded; what is infinite or not a number has no place in JSON."""
    return {
        name: (float(f"{value:.6g}") if math.isfinite(value) else None) if isinstance(value, float) else value
        for name, value in figures.items()
    }
