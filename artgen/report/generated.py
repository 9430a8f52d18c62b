"""OUTPUT/report.html of generated pictures: a contact sheet, how much they differ, the nearest training pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from artgen import text
from artgen.codecs.decode import Picture, decode
from artgen.config import GenerateConfig
from artgen.errors import ArtgenError, ImageError
from artgen.report import page
from artgen.report.histogram import Histogram, chart
from artgen.report.pictures import srgb
from artgen.report.summary import Summary, summarise
from artgen.sinks import base
from artgen.storage import atomic, uri

SAMPLE = 64
# The side of the squares that pictures are shrunk to before they are compared.
COMPARED_PX = 16
SHOWN_PX = 256
# A page must not take hours: of larger training sets so many are looked at, from all over the listing, and the page says so.
MOST_TRAINING = 20_000
_MOST_NEAREST = 12

Training = Callable[[], Iterable[tuple[str, Callable[[], Picture]]]]
"""Lists a training set anew at each call: the keys, and what decodes the picture of each, fitted as for training (raises
ImageError)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of the contact sheet: its row, its data URI, and what it is compared by (float32, 16 x 16 x 3)."""

    row: dict[str, Any]
    image: str
    small: np.ndarray


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A sample and the training picture nearest to it; distance: root mean square of the shrunk pictures, 0-255.

    mirrored: whether it is nearest, and shown, turned left to right.
    """

    sample: Sample
    key: str
    image: str
    distance: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training set tells of the samples. smalls: shrunk pictures of it, as many as samples where there are, from all
    over its listing. listed: how many there are; looked_at: how many were compared. problem: why nothing can be told.
    """

    neighbours: list[Neighbour]
    smalls: list[np.ndarray]
    listed: int
    looked_at: int
    problem: str = ""


def write(
    output_uri: str,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
    left: int = 0,
    training: Training | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Makes OUTPUT/report.html from the manifest, run.json and at most `sample` pictures; returns its address, fit for a message.

    Of a `training` set at most MOST_TRAINING are looked at, spread over its listing. Memory is flat in the number of images.
    The page is the same for the same OUTPUT and `seed`. left: pictures of the run that are still to be done. Raises StorageError.
    """
    summary = summarise(output_uri, sample=sample, seed=seed, options=options)
    rows = sorted((row for group in summary.groups for row in group.rows), key=lambda row: row["key"])
    samples, problems = _samples(output_uri, rows, options)
    trained = _trained(samples, training)
    html = render(summary, samples, problems, trained, page.run_of(output_uri, options), output_uri, left)
    page_uri = uri.join(output_uri, page.NAME)
    atomic.write(page_uri, html.encode(), options)
    return uri.shown(page_uri)


def render(
    summary: Summary, samples: list[Sample], problems: list[str], trained: Trained, run: dict[str, Any], output_uri: str,
    left: int = 0,
) -> str:  # fmt: skip
    """The page as text. Everything that comes from a run is escaped by the template."""
    figures = page.figures(summary, run, "Generated")
    nearest: dict[str, Histogram] = {}
    for label, told, smalls in (
        ("generated", "Mean distance of two", [sample.small for sample in samples]),
        ("training", "The same of training pictures", trained.smalls),
    ):
        if len(smalls) > 1:
            apart = distances(smalls)
            figures.append((told, f"{mean_distance(apart):.1f}"))
            nearest[label] = Histogram()
            nearest[label].add(apart.min(axis=1))
    return page.environment().get_template("generated.html").render(
        style=page.resource("report.css"), headline=headline(summary, run), figures=figures, summary=summary,
        samples=samples, problems=problems, trained=trained, compared_px=COMPARED_PX,
        chart=chart(nearest), left=left, settings=page.settings_lists(summary, run),
        command=page.command_of(run, output_uri, "generate", GenerateConfig), plural=text.plural,
    )  # fmt: skip


def headline(summary: Summary, run: Mapping[str, Any]) -> str:
    """How many there are, in one sentence."""
    if not summary.images and (run.get("config") or {}).get("interpolate"):
        return "No samples were asked for: the frames lie in interpolation/."
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


def _trained(samples: list[Sample], training: Training | None) -> Trained:
    """The nearest training picture of each of the first samples, nearest first, and what else there is to tell of them all."""
    if training is None or not samples:
        return Trained([], [], 0, 0)
    try:
        return _compared(samples, training)
    except (ArtgenError, OSError) as error:  # costs the page this part and nothing else
        return Trained([], [], 0, 0, str(error))


def _compared(samples: list[Sample], training: Training) -> Trained:
    """Raises ArtgenError, OSError for a training set that is gone or out of reach."""
    listed = sum(1 for _ in training())
    sought = samples[:_MOST_NEAREST]
    best = [Neighbour(sample, "", "", np.inf, mirrored=False) for sample in sought]
    wanted = np.stack([sample.small for sample in sought])
    smalls: list[np.ndarray] = []
    looked_at = 0
    for number, key, picture in _readable(training, listed):
        small = shrunk(picture)
        looked_at += 1
        if _is_chosen(number, listed, len(samples)):
            smalls.append(small)
        for mirrored in (False, True):  # a preset may show half of them turned
            apart = np.sqrt(((wanted - (small[:, ::-1] if mirrored else small)) ** 2).mean(axis=(1, 2, 3)))
            for index in np.nonzero(apart < [found.distance for found in best])[0].tolist():
                image = _image(picture, mirrored=mirrored)
                best[index] = Neighbour(sought[index], key, image, float(apart[index]), mirrored)
    found = sorted((item for item in best if item.image), key=lambda item: item.distance)
    return Trained(found, smalls, listed, looked_at)


def _is_chosen(number: int, listed: int, most: int) -> bool:
    """Whether a listing's picture is among `most` (all, if there are no more) that are spread over it evenly."""
    most = min(most, listed)
    return (number + 1) * most // listed > number * most // listed


def _readable(training: Training, listed: int) -> Iterator[tuple[int, str, Picture]]:
    """Place in the listing, key and picture of those looked at."""
    for number, (key, picture) in enumerate(training()):
        if number < listed and _is_chosen(number, listed, MOST_TRAINING):
            with suppress(ImageError):
                yield number, key, picture()


def _image(picture: Picture, *, mirrored: bool = False) -> str:
    """A data URI, at most SHOWN_PX a side."""
    image = srgb(picture, None)
    if mirrored:
        image = ImageOps.mirror(image)
    image.thumbnail((SHOWN_PX, SHOWN_PX))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90, method=3)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
