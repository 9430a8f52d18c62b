"""A set of pictures for `artgen evaluate gan`: read from an INPUT or drawn from a generator, and what is kept of it.

Shape letters: N pictures, C channels, H height, W width, K classes, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artgen.errors import ImageError, UsageError
from artgen.inference.sample import sample
from artgen.metrics.coverage import histogram
from artgen.metrics.extractors import Extractor
from artgen.metrics.sets import Statistics, merged, statistics
from artgen.models.gans.spec import MODES, Painter
from artgen.records import Source
from artgen.storage import archive, uri
from artgen.training.gan_data import Fitted, Shape, decoded, shape_of

BATCH_IMAGES = 256
MOST_COMPARED = 10_000
"""Pictures of each set whose features are kept for what compares pairs: time goes with the square, memory with it."""


@dataclass
class Found:
    """Pictures of an INPUT, at one shape. Not fitted: each must have the shape, as those of one generator have.

    unusable: key -> why it was left out. labels: the class of each source; kept: the places of those that were used.
    """

    sources: Sequence[Source]
    shape: Shape
    fit: bool
    options: Mapping[str, Any] | None = None
    threads: int = 1
    unusable: dict[str, str] = field(default_factory=dict)
    changed: int = 0
    kept: list[int] = field(default_factory=list)

    def batches(self) -> Iterator[Tensor]:
        """pixels_NCHW, uint8, BATCH_IMAGES at a time. Raises UsageError for another shape where they are not fitted."""
        waiting: list[np.ndarray] = []
        self.unusable, self.changed, self.kept = {}, 0, []
        stream = decoded(self.sources, lambda *_: self.shape, self.options, self.threads)
        for place, (source, outcome) in enumerate(stream):
            if isinstance(outcome, ImageError):
                self.unusable[source.key] = f"{type(outcome).__name__}: {outcome}"
                continue
            if not (self.fit or outcome.before == self.shape or _lost_alpha(outcome, self.shape)):
                raise UsageError(
                    f"the pictures of MODEL differ: {source.key!r} is {_in_words(outcome.before)}, the first is "
                    f"{_in_words(self.shape)}; give pictures of one generator, all of one size and mode"
                )
            self.changed += bool(outcome.changes)
            self.kept.append(place)
            waiting.append(outcome.pixels)
            if len(waiting) == BATCH_IMAGES:
                yield _stacked(waiting)
                waiting = []
        if waiting:
            yield _stacked(waiting)


def _in_words(shape: Shape) -> str:
    height, width, channels = shape
    return f"{width}x{height} {MODES[channels]}"


def _lost_alpha(picture: Fitted, shape: Shape) -> bool:
    """WebP drops an alpha channel that is opaque everywhere, so a generator of RGBA leaves files of RGB among the others."""
    return picture.format == "WEBP" and picture.before == (*shape[:2], 3) and shape[2] == 4


def common_shape(sources: Iterable[Source], options: Mapping[str, Any] | None, threads: int) -> Shape:
    """Of the first picture that can be used; with alpha where it may have lost it and another one has it (`_lost_alpha`).

    Raises UsageError when none can be used.
    """
    shape: Shape | None = None
    with closing(decoded(sources, lambda _, picture: shape_of(picture), options, threads)) as stream:
        for _, outcome in stream:
            if isinstance(outcome, ImageError):
                continue
            shape = shape or outcome.before
            with_alpha = (*shape[:2], 4)
            if outcome.before == with_alpha:
                return with_alpha
            if not _lost_alpha(outcome, with_alpha):
                return shape
    if shape is None:
        raise UsageError("MODEL holds no picture that can be read; give a generator or pictures that one made")
    return shape


def drawn(
    painter: Painter, seeds: range, truncation: float, precision: str, classes: Sequence[int] | None = None
) -> Iterator[Tensor]:  # fmt: skip
    """pixels_NCHW of the seeds, uint8, BATCH_IMAGES at a time. classes: one for each seed; None: it modulo their number."""
    for start in range(0, len(seeds), BATCH_IMAGES):
        stop = start + BATCH_IMAGES
        some = None if classes is None else classes[start:stop]
        yield _as_NCHW(sample(painter, seeds[start:stop], some, truncation, precision))


def _stacked(pictures: list[np.ndarray]) -> Tensor:
    return _as_NCHW(np.stack(pictures))


def _as_NCHW(pixels_NHWC: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Seen:
    """What is kept of a set. rows_NF: features, float32, of at most MOST_COMPARED. classes_K: int64; empty without."""

    statistics: Statistics
    rows_NF: Tensor
    classes_K: Tensor


def look_at(batches: Iterable[Tensor], extractor: Extractor, planned: int) -> Seen:
    """Streams over the pictures. planned: how many are expected, to spread what is kept. At least one must come."""
    kept: Statistics | None = None
    rows: list[Tensor] = []
    seen = 0
    classes = len(extractor.classifier.facts.classes) if extractor.classifier else 0
    counts = torch.zeros(classes, dtype=torch.int64)
    for pixels in batches:
        features = extractor.look(pixels)
        part = statistics(features)
        kept = part if kept is None else merged([kept, part])
        if extractor.classifier:
            counts += histogram(extractor.classifier.labels(features), classes)
        places = torch.arange(seen, seen + len(features))
        most = min(MOST_COMPARED, planned)
        rows.append(features[(places + 1) * most // planned > places * most // planned].float())
        seen += len(features)
    if kept is None:
        raise UsageError("not one of the pictures can be read; look at them with `artgen restore --dry-run`")
    return Seen(kept, torch.cat(rows), counts)


def spread(listed: int, images: int) -> list[int]:
    """Places of at most `images` of `listed` pictures, evenly, so that every folder has its share."""
    count = min(images, listed)
    return [place * listed // count for place in range(count)]


def listing_hash(sources: Iterable[Source], labels: Iterable[str]) -> str:
    """Of what a listing says: names, places, sizes and versions (etag or time), not the bytes."""
    digest = hashlib.sha256()
    for source, label in zip(sources, labels, strict=True):
        told = (
            source.key,
            uri.normal(source.uri),
            source.offset,
            source.size,
            source.detail,
            source.version,
            label,
        )
        digest.update(repr(told).encode())
    return digest.hexdigest()


def content_hash(
    sources: Sequence[Source], labels: Sequence[str], options: Mapping[str, Any] | None = None, threads: int = 1
) -> str:
    """Of names, classes and bytes, wherever they lie and however old they are. In a store the etag (or time) and size of a
    listing stand for the bytes, which would have to be fetched for it. Raises StorageError.
    """

    def content(source: Source) -> str:
        if not uri.is_local(source.uri):
            return repr((uri.normal(source.uri), source.offset, source.size, source.detail, source.version))
        try:
            return hashlib.sha256(reader.read(source)).hexdigest()
        except ImageError as error:  # as wrong as it will be when it is decoded
            return f"{type(error).__name__}: {error}"

    digest = hashlib.sha256()
    with archive.Reader(options) as reader, ThreadPoolExecutor(threads) as pool:
        for source, label, told in zip(sources, labels, pool.map(content, sources), strict=True):
            digest.update(repr((source.key, label, told)).encode())
    return digest.hexdigest()
