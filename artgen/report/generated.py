"""OUTPUT/report.html of generated pictures: a contact sheet, how much they differ, the nearest training pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from artgen.codecs.decode import Picture, decode
from artgen.config import GenerateConfig
from artgen.errors import ArtgenError
from artgen.report import page, text
from artgen.report.histogram import Histogram, chart
from artgen.report.pictures import srgb
from artgen.report.summary import Summary, summarise
from artgen.sinks import base
from artgen.storage import atomic, uri

SAMPLE = 64
# The side of the squares that pictures are shrunk to before they are compared.
COMPARED_PX = 16
SHOWN_PX = 256
# A page must not take hours: of larger training sets the first so many are looked at, and the page says so.
MOST_TRAINING = 20_000
_MOST_NEAREST = 12

Training = Callable[[], Iterable[tuple[str, Picture]]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of the contact sheet: its row, its data URI, and what it is compared by (float32, 16 x 16 x 3)."""

    row: dict[str, Any]
    image: str
    small: np.ndarray


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A sample and the training picture nearest to it; distance: root mean square of the shrunk pictures, 0-255."""

    sample: Sample
    key: str
    image: str
    distance: float


def write(
    output_uri: str,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
    training: Training | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Makes OUTPUT/report.html from the manifest, run.json and at most `sample` pictures; returns its URI.

    `training` yields (key, picture) of the training set, of which the first MOST_TRAINING are looked at. Memory is flat in
    the number of images. The page is the same for the same OUTPUT and `seed`. Raises StorageError.
    """
    summary = summarise(output_uri, sample=sample, seed=seed, options=options)
    rows = sorted((row for group in summary.groups for row in group.rows), key=lambda row: row["key"])
    samples, problems = _samples(output_uri, rows, options)
    neighbours, looked_at = _neighbours(samples[:_MOST_NEAREST], training)
    html = render(summary, samples, problems, neighbours, looked_at, page.run_of(output_uri, options), output_uri)
    page_uri = uri.join(output_uri, page.NAME)
    atomic.write(page_uri, html.encode(), options)
    return page_uri


def render(
    summary: Summary, samples: list[Sample], problems: list[str], neighbours: list[Neighbour], looked_at: int,
    run: dict[str, Any], output_uri: str,
) -> str:  # fmt: skip
    """The page as text. Everything that comes from a run is escaped by the template."""
    apart = distances([sample.small for sample in samples])
    figures = page.figures(summary, run, "Generated")
    if len(samples) > 1:
        figures.append(("Mean distance of two", f"{mean_distance(apart):.1f}"))
    nearest = Histogram()
    if len(samples) > 1:
        nearest.add(apart.min(axis=1))
    return page.environment().get_template("generated.html").render(
        style=page.resource("report.css"), headline=headline(summary), figures=figures, summary=summary,
        samples=samples, problems=problems, neighbours=neighbours, looked_at=looked_at, most=MOST_TRAINING,
        compared_px=COMPARED_PX, chart=chart({"nearest": nearest}), settings=page.settings_lists(summary, run),
        command=page.command_of(run, output_uri, "generate", GenerateConfig), plural=text.plural,
    )  # fmt: skip


def headline(summary: Summary) -> str:
    """How many there are, in one sentence."""
    if not summary.images:
        return "There was nothing to generate."
    return "One picture generated." if summary.images == 1 else f"{text.count(summary.images)} pictures generated."


def distances(pictures: list[np.ndarray]) -> np.ndarray:
    """Root mean square differences of each two pictures (float, one shape, 0-255); infinite on the diagonal."""
    if not pictures:
        return np.zeros((0, 0))
    flat = np.stack(pictures).reshape(len(pictures), -1).astype(np.float64)
    squares = (flat**2).sum(1)
    products = np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0)
    found = np.sqrt(products / flat.shape[1])
    np.fill_diagonal(found, np.inf)
    return found


def mean_distance(apart: np.ndarray) -> float:
    """Of all pairs of `distances`: 0 where every picture is the same."""
    return float(apart[np.isfinite(apart)].mean())


def shrunk(picture: Picture) -> np.ndarray:
    """What pictures are compared by: float32, COMPARED_PX square, RGB, 0-255, whatever shape the picture has."""
    image = srgb(picture, None).resize((COMPARED_PX, COMPARED_PX), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def _samples(
    output_uri: str, rows: list[dict[str, Any]], options: Mapping[str, Any] | None
) -> tuple[list[Sample], list[str]]:
    found, problems = [], []
    for row in rows:
        try:
            picture = decode(base.read(output_uri, row["output_uri"] or "", options))
        except (ArtgenError, OSError) as error:
            problems.append(f"{row['key']} cannot be shown: {error}")
            continue
        found.append(Sample(row, _image(picture), shrunk(picture)))
    return found, problems


def _neighbours(samples: list[Sample], training: Training | None) -> tuple[list[Neighbour], int]:
    """The nearest training picture of each sample, nearest first, and how many were looked at."""
    if training is None or not samples:
        return [], 0
    best: list[tuple[float, str, str]] = [(np.inf, "", "")] * len(samples)
    wanted = np.stack([sample.small for sample in samples])
    looked_at = 0
    for key, picture in _readable(training):
        looked_at += 1
        apart = np.sqrt(((wanted - shrunk(picture)) ** 2).mean(axis=(1, 2, 3)))
        for index in np.nonzero(apart < [distance for distance, *_ in best])[0].tolist():
            best[index] = (float(apart[index]), key, _image(picture))
    found = [
        Neighbour(sample, key, image, distance)
        for sample, (distance, key, image) in zip(samples, best, strict=True)
        if image
    ]
    return sorted(found, key=lambda item: item.distance), looked_at


def _readable(training: Training) -> Iterator[tuple[str, Picture]]:
    """Training data that is gone or out of reach costs the page this part and nothing else."""
    try:
        yield from islice(training(), MOST_TRAINING)
    except (ArtgenError, OSError):
        return


def _image(picture: Picture) -> str:
    """A data URI, at most SHOWN_PX a side."""
    image = srgb(picture, None)
    image.thumbnail((SHOWN_PX, SHOWN_PX))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90, method=3)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
