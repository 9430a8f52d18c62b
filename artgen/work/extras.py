"""What stands beside the samples of a run: grid.png of the first ones, and frames that lead from seed to seed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from artgen.codecs import marking
from artgen.codecs.credentials import signer_of
from artgen.config import GenerateConfig
from artgen.errors import UsageError
from artgen.storage import atomic, uri
from artgen.work.seeds import Seeds

if TYPE_CHECKING:
    import numpy as np

    from artgen.models.gans.spec import Painter
    from artgen.work.generation import GenerateJob

FRAME_MS = 50
FOLDER = "interpolation"


def stops(text: str | None) -> tuple[int, ...]:
    """The seeds of `--interpolate A,B[,C...]` in their order; none without. Raises UsageError."""
    if text is None:
        return ()
    try:
        found = tuple(seed for part in text.split(",") for seed in Seeds.parse(part.strip() or "none"))
    except UsageError as error:
        raise UsageError(str(error).replace("--seeds", "--interpolate", 1)) from error
    if len(found) < 2:
        raise UsageError(f"--interpolate {text!r} names {len(found)} seed; use two or more, as in 4,7")
    return found


def write_grid(config: GenerateConfig, seeds: Seeds, painter: Painter, job: GenerateJob) -> None:
    """OUTPUT/grid.png of the first `config.grid` seeds, in rows. A pure function of the settings, written in one atomic
    step: a second run writes the same again. Raises RunError, StorageError.
    """
    from artgen.inference.sample import sample, sheet
    from artgen.work.generation import encoded

    shown = seeds.part(0, config.grid)
    numbers = list(shown)
    pictures = sample(painter, numbers, job.classes_of(numbers), job.truncation, job.precision)
    prompt = f"seeds {shown}, truncation {job.truncation:g}"
    data, _ = encoded(sheet(pictures), painter, prompt, "grid.png", signer_of(job.credentials))
    atomic.write(uri.join(config.output, "grid.png"), data, config.storage_options)


def write_frames(config: GenerateConfig, route: tuple[int, ...], painter: Painter, job: GenerateJob) -> None:
    """OUTPUT/interpolation: PNG frames that lead along the seeds of `route`, and all of them as animation.webp.

    As `write_grid`; frames are made and written as the animation takes them, so memory holds few of them.
    """
    from PIL import Image

    from artgen.work.generation import encoded, mark_of

    signer = signer_of(job.credentials)
    way = f"on the way through the seeds {', '.join(map(str, route))}, truncation {job.truncation:g}"

    def images() -> Iterator[Image.Image]:
        for number, picture_HWC in enumerate(frames(route, config.frames, painter, job)):
            name = f"frame-{number:05d}.png"
            data, _ = encoded(picture_HWC, painter, f"frame {number} {way}", name, signer)
            place = uri.join(config.output, FOLDER, name)
            atomic.write(place, data, config.storage_options)
            yield Image.fromarray(picture_HWC[..., 0] if picture_HWC.shape[2] == 1 else picture_HWC)

    stream, file = images(), io.BytesIO()
    mark = mark_of(painter, f"frames {way}")
    next(stream).save(
        file, "WEBP", save_all=True, append_images=stream, duration=FRAME_MS, loop=0, lossless=True,
        xmp=marking.packet(mark),
    )  # fmt: skip
    data = file.getvalue()
    if signer is not None:
        data = signer.created(data, "webp", mark, "animation.webp")
    atomic.write(uri.join(config.output, FOLDER, "animation.webp"), data, config.storage_options)


def frames(route: tuple[int, ...], count: int, painter: Painter, job: GenerateJob) -> Iterator[np.ndarray]:
    """Pictures, uint8 H x W x C, `count` from each seed to the next, both ends included and shared by two ways.

    The first and last are those of the seeds alone, if they are of one class; every frame has the class of the first.
    """
    import torch

    from artgen.inference.sample import FORWARD_IMAGES, between, latents, paint

    stops_NL = latents(route, painter.facts.latent) * job.truncation
    classes = job.classes_of(route[:1])
    last = (len(route) - 1) * (count - 1)
    for start in range(0, last + 1, FORWARD_IMAGES):
        numbers = range(start, min(start + FORWARD_IMAGES, last + 1))
        legs = [min(number // (count - 1), len(route) - 2) for number in numbers]
        z_NL = torch.cat([
            between(stops_NL[leg : leg + 1], stops_NL[leg + 1 : leg + 2], (number - leg * (count - 1)) / (count - 1))
            for number, leg in zip(numbers, legs, strict=True)
        ])  # fmt: skip
        labels_N = None if classes is None else torch.tensor(classes * len(numbers))
        yield from paint(painter, z_NL, labels_N, [f"frame {number}" for number in numbers], job.precision)
