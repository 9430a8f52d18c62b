"""The real pictures of a GAN: all of DATA at one size, uint8 in memory, drawn as a function of (seed, position).

Shape letters: N pictures, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from artgen.codecs.encode import to_8_bits
from artgen.codecs.metadata import Metadata
from artgen.codecs.picture import Picture, all_numbers
from artgen.codecs.pool import GuardPool
from artgen.config import MAX_PIXELS
from artgen.errors import DecoderCrashed, ImageError, ImageTimeout, UsageError
from artgen.models.gans.spec import MODES
from artgen.records import Source
from artgen.storage import archive
from artgen.training.data import epoch_order, stable_seed
from artgen.training.gan_labels import LISTS, classes_of, read_labels
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_size import sides, size_rule
from artgen.training.memory import available_bytes
from artgen.training.pictures import DECODE_TIMEOUT_S, digest_of, distinct, list_sources, parts_of

AHEAD_PER_THREAD = 8
Shape = tuple[int, int, int]
"""Height, width and channels (1: grey, 3: RGB, 4: RGBA)."""


class Reals(NamedTuple):
    """pixels: uint8, B x C x H x W. labels: int64, B; None without classes."""

    pixels: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class RealPictures:
    """pixels_NCHW: uint8. labels_N: int64 into `classes`, or None. changed: key -> what was done to make it fit;
    unusable: key -> why it was left out. listing: which pictures were kept, and their classes (`pictures.digest_of`).
    size_rule: in words, where no size was set and the first picture's is not the one of all, or others were fitted to it.
    """

    pixels_NCHW: Tensor
    labels_N: Tensor | None
    classes: tuple[str, ...]
    changed: Mapping[str, str]
    unusable: Mapping[str, str]
    listing: str = ""
    size_rule: str = ""

    def batch(self, recipe: GanRecipe, first: int, count: int) -> Reals:
        """Pictures of the positions first..first+count-1: every epoch shows each once, in its own order."""
        chosen = np.empty(count, np.int64)
        epoch, order = -1, np.empty(0, np.int64)
        for offset in range(count):
            number, place = divmod(first + offset, len(self.pixels_NCHW))
            if number != epoch:
                epoch, order = number, epoch_order(recipe.seed, number, len(self.pixels_NCHW))
            chosen[offset] = order[place]
        rows = torch.from_numpy(chosen)
        pixels_BCHW = self.pixels_NCHW[rows]
        if recipe.mirror:
            sides = [stable_seed(recipe.seed, "mirror", first + offset) % 2 == 1 for offset in range(count)]
            turned = torch.tensor(sides)
            pixels_BCHW[turned] = pixels_BCHW[turned].flip(-1)
        return Reals(pixels_BCHW, None if self.labels_N is None else self.labels_N[rows])


def load_real(
    data: str | Sequence[str], recipe: GanRecipe, *, options: Mapping[str, Any] | None = None, threads: int = 1
) -> RealPictures:
    """Every picture of `data` (as of `pictures.parts_of`) that can be used, fitted to one size.

    The rule: the largest part in the middle that has the shape wanted is cut out and resized (Lanczos); transparent
    pictures are laid on white unless the recipe has 4 channels; grey becomes RGB or the other way, 16 bits become 8. A
    height or width that the recipe leaves open is that of `gan_size.sides` for the first usable picture.
    With `recipe.classes` each has the class of `gan_labels.read_labels`, or the name of its folder (the whole path).

    Raises UsageError: nothing usable, fewer pictures than a batch, one class only, more than the memory left; the last as
    soon as the size is known.
    """
    sources, labels, unusable = listed(data, recipe.classes, options)
    pixels_NCHW = np.empty((0, 0, 0, 0), np.uint8)
    kept: list[Source] = []
    kept_labels: list[str] = []
    changed: dict[str, str] = {}
    rule = ""
    with closing(decoded(sources, partial(_wanted, recipe), options, threads)) as decoding:
        for (source, outcome), label in zip(decoding, labels, strict=True):
            if isinstance(outcome, ImageError):
                unusable[source.key] = f"{type(outcome).__name__}: {outcome}"
                continue
            if not kept:
                pixels_NCHW = _room(len(sources), outcome.pixels.shape)
                rule = size_rule(recipe, outcome.before[:2], source.key)
            pixels_NCHW[len(kept)] = outcome.pixels.transpose(2, 0, 1)
            kept.append(source)
            kept_labels.append(label)
            if outcome.changes:
                changed[source.key] = ", ".join(outcome.changes)
    if len(kept) < recipe.batch_images:
        why = ""
        if unusable:
            key, reason = next(iter(unusable.items()))
            why = f" ({len(unusable)} cannot be used, such as {key!r}: {reason})"
        raise UsageError(
            f"DATA holds {len(kept)} usable pictures{why}, fewer than batch_images {recipe.batch_images}; "
            "give more pictures or a smaller batch_images"
        )
    if len(kept) < 2:  # of which there is no variety to look at
        raise UsageError("DATA holds 1 usable picture; give at least 2")
    channels, height, width = pixels_NCHW.shape[1:]
    fitted = sum(_fitted_to_first(recipe, channels, how) for how in changed.values())
    if fitted and not rule:
        rule = (
            f"{fitted} of {len(kept)} pictures are fitted to the {width}x{height} pixels and {MODES[channels]} of "
            f"{kept[0].key!r}, the first usable one (data.json has how); set height, width and channels for others"
        )
    pixels = torch.from_numpy(pixels_NCHW[: len(kept)])
    if not recipe.classes:
        return RealPictures(pixels, None, (), changed, unusable, digest_of(kept), rule)
    classes = classes_of(kept_labels)
    if len(classes) == 1:
        raise UsageError(
            f"classes are asked for, but all pictures have one, {classes[0]!r}; put each class into a folder of its "
            "own, list them in dataset.json or metadata.csv, or set classes = false"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels_N = torch.tensor([numbers[label] for label in kept_labels])
    return RealPictures(pixels, labels_N, classes, changed, unusable, digest_of(kept, kept_labels), rule)


def _room(pictures: int, shape: Sequence[int]) -> np.ndarray:
    """An array, N x C x H x W, to be filled: pages that are not written to (for pictures that cannot be used) cost nothing.

    Raises UsageError where it would not fit into the memory left.
    """
    height, width, channels = shape
    wanted, left = pictures * height * width * channels, available_bytes()
    if left is not None and wanted > left:
        raise UsageError(
            f"the {pictures} pictures of DATA take {wanted / 1e9:.3g} GB of memory in each worker at {width}x{height} with "
            f"{channels} channels, and {left / 1e9:.3g} GB are free; set a smaller height and width in the recipe, give "
            "fewer pictures, or use a machine with more memory"
        )
    return np.empty((pictures, channels, height, width), np.uint8)


def _wanted(recipe: GanRecipe, _: Source, picture: Picture) -> Shape:
    height, width, channels = shape_of(picture)
    return (*sides(recipe, (height, width)), recipe.channels or channels)


def listed(
    data: str | Sequence[str], with_classes: bool, options: Mapping[str, Any] | None
) -> tuple[list[Source], list[str], dict[str, str]]:
    """The pictures of `data` and the class of each ("" unless asked for); and what is left out for the lack of one."""
    if not with_classes:
        sources = list_sources(data, options)
        return sources, [""] * len(sources), {}
    sources: list[Source] = []
    labels: list[str] = []
    without: list[tuple[Source, str]] = []
    for part in parts_of(data):
        listed = list_sources([part], options)
        classes = read_labels(part, options)
        for source in listed:
            if classes is None:
                label, reason = source.key.rpartition("/")[0], "it lies in no class folder"
            else:
                label, reason = classes.get(source.key), f"it has no class in the {' or '.join(LISTS)} of DATA"
            if label:
                sources.append(source)
                labels.append(label)
            else:
                without.append((source, reason))
    named = distinct([*sources, *(source for source, _ in without)])
    reasons = (reason for _, reason in without)
    return named[: len(sources)], labels, dict(zip((s.key for s in named[len(sources) :]), reasons, strict=True))


class Fitted(NamedTuple):
    """pixels: uint8, H x W x C. changes: in words. before: the shape that it had, as of `shape_of`. format: of its file."""

    pixels: np.ndarray
    changes: tuple[str, ...]
    before: Shape
    format: str


def fitted(picture: Picture, height: int, width: int, channels: int) -> Fitted:
    """The picture by the rule of `load_real`."""
    changes = []
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.dtype != np.uint8:
        pixels, alpha = to_8_bits(pixels), None if alpha is None else to_8_bits(alpha)
        changes.append("16 bits to 8")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if alpha is not None and channels == 4:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(alpha))
    elif alpha is not None:
        white = Image.new(image.mode, image.size, "white")
        image = Image.composite(image, white, Image.fromarray(alpha))
        changes.append("laid on white")
    if image.mode != MODES[channels]:
        changes.append(f"{image.mode} to {MODES[channels]}")
        image = image.convert(MODES[channels])
    box = _middle(image.size, height, width)
    if box != (0, 0, *image.size):
        changes.append("cropped")
        image = image.crop(box)  # first: a resize of a box also looks at pixels outside it
    if image.size != (width, height):
        changes.append(f"resized from {picture.pixels.shape[1]}x{picture.pixels.shape[0]}")
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return Fitted(
        np.array(image).reshape(height, width, channels), tuple(changes), shape_of(picture), picture.format
    )


def fitted_picture(picture: Picture, height: int, width: int, channels: int) -> Picture:
    """What `fitted` makes of it, as a picture."""
    pixels = fitted(picture, height, width, channels).pixels
    alpha = pixels[..., 3] if channels == 4 else None
    return replace(picture, pixels=np.ascontiguousarray(pixels[..., :3]), alpha=alpha, bits=8, metadata=Metadata())


def _fitted_to_first(recipe: GanRecipe, channels: int, how: str) -> bool:
    """Whether a picture was changed in what the recipe leaves to the first one."""
    sized = "cropped" in how or "resized" in how
    return (sized and not (recipe.height and recipe.width)) or (
        f" to {MODES[channels]}" in how and not recipe.channels
    )


def _middle(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the largest part in the middle of the shape height:width, in whole pixels."""
    wide = min(size[0], max(round(size[1] * width / height), 1))
    high = min(size[1], max(round(size[0] * height / width), 1))
    left, top = (size[0] - wide) // 2, (size[1] - high) // 2
    return left, top, left + wide, top + high


def shape_of(picture: Picture) -> Shape:
    """As it is; one with transparency has 4 channels."""
    height, width, channels = picture.pixels.shape
    return height, width, 4 if picture.alpha is not None else channels


def decoded(
    sources: Iterable[Source],
    wanted: Callable[[Source, Picture], Shape],
    options: Mapping[str, Any] | None,
    threads: int,
) -> Generator[tuple[Source, Fitted | ImageError]]:
    """Each source with its picture, fitted to one shape, or what was wrong with it; in order, and a few ahead.

    wanted: tells the shape of all from the first usable picture. One that took its decoder down, or too long, is tried once
    more, alone: it may have lacked memory or time for the others' sake, and left out it would change the order of the data.
    """
    guards = GuardPool(threads, MAX_PIXELS, DECODE_TIMEOUT_S)
    shape: Shape | None = None
    ahead: deque[tuple[Source, Future[Fitted | ImageError]]] = deque()

    def work(source: Source) -> Fitted | ImageError:
        nonlocal shape
        try:
            picture = all_numbers(guards.decode(reader.read(source, archive.most_bytes(MAX_PIXELS))))
        except ImageError as error:
            return error
        if shape is None:  # of the first usable picture, before there are threads
            shape = wanted(source, picture)
        return fitted(picture, *shape)

    def settled(source: Source, outcome: Fitted | ImageError) -> Fitted | ImageError:
        if not isinstance(outcome, DecoderCrashed | ImageTimeout):
            return outcome
        wait([other for _, other in ahead])
        return work(source)

    try:
        with archive.Reader(options) as reader, ThreadPoolExecutor(threads) as pool:
            rest = iter(sources)
            for source in rest:
                yield source, settled(source, work(source))
                if shape is not None:
                    break
            for source in rest:
                ahead.append((source, pool.submit(work, source)))
                if len(ahead) > AHEAD_PER_THREAD * threads:
                    first, outcome = ahead.popleft()
                    yield first, settled(first, outcome.result())
            while ahead:
                source, outcome = ahead.popleft()
                yield source, settled(source, outcome.result())
    finally:
        guards.close()
