"""What stands beside the samples of a run: grid.png of the first ones, and frames that lead from seed to seed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from artgen.codecs import marking
from artgen.codecs.credentials import signer_of
from artgen.config import GenerateConfig
from artgen.errors import UsageError
from artgen.storage import atomic, uri
from artgen.work.seeds import Seeds

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from artgen.models.gans.spec import Painter
    from artgen.work.generation import GenerateJob

FRAME_MS = 50
MOST_FRAMES = 10_000  # eight minutes; they lie in one folder, and the animation is made in memory
FOLDER = "interpolation"
ANIMATION, ROUTE = "animation.webp", "route.json"


def stops(text: str | None, count: int) -> tuple[int, ...]:
    """The seeds of `--interpolate A,B[,C...]` in their order; none without. count: frames from each to the next.

    Raises UsageError, also for more frames than MOST_FRAMES in all.
    """
    if text is None:
        return ()
    try:
        parts = [Seeds.parse(part) for part in map(str.strip, text.split(",")) if part or _refuse_gap(text)]
    except UsageError as error:
        raise UsageError(str(error).replace("--seeds", "--interpolate", 1)) from error
    named = sum(map(len, parts))
    if named < 2:
        raise UsageError(f"--interpolate {text!r} names {named} seed; use two or more, as in 4,7")
    if (wanted := _frames(named, count)) > MOST_FRAMES:
        raise UsageError(
            f"--interpolate with {named} seeds and --frames {count} makes {wanted} frames, more than {MOST_FRAMES}: name fewer "
            "seeds, or use --seeds for many pictures"
        )
    return tuple(seed for part in parts for seed in part)


def _refuse_gap(text: str) -> bool:
    raise UsageError(f"--interpolate {text!r} has a comma with no seed beside it; use two seeds or more, as in 4,7")


def frames_on(route: tuple[int, ...], count: int) -> int:
    """How many frames lead along the seeds of `route`; none without."""
    return _frames(len(route), count) if route else 0


def write_grid(config: GenerateConfig, shown: Seeds, painter: Painter, job: GenerateJob) -> None:
    """OUTPUT/grid.png of the seeds shown, in rows. A pure function of them and the settings, written in one atomic step: a
    second run writes the same again. Raises RunError, StorageError.
    """
    from artgen.inference.sample import sample, sheet
    from artgen.work.generation import encoded

    numbers = list(shown)
    pictures = sample(painter, numbers, job.classes_of(numbers), job.truncation, job.precision)
    prompt = f"seeds {shown}, truncation {job.truncation:g}"
    ((data, _),) = encoded(sheet(pictures)[None], painter, [prompt], ["grid.png"], signer_of(job.credentials))
    atomic.write(uri.join(config.output, "grid.png"), data, config.storage_options)


def write_frames(config: GenerateConfig, route: tuple[int, ...], painter: Painter, job: GenerateJob) -> None:
    """OUTPUT/interpolation: PNG frames that lead along the seeds of `route`, and all of them as animation.webp.

    route.json, written last, says of what they are: where it says the same and all is there, nothing is done; else what
    is there goes first. Frames are made and written as the animation takes them, so memory holds a few of them, and the
    animation encoded. Raises RunError, StorageError.
    """
    from PIL import Image

    from artgen.inference.sample import mark_of
    from artgen.work.generation import encoded

    folder, told = uri.join(config.output, FOLDER), _route(config, route, job)
    total = _frames(len(route), config.frames)
    if _is_there(folder, told, total, config.storage_options):
        return
    uri.remove(folder, config.storage_options)
    signer = signer_of(job.credentials)
    way = f"on the way through the seeds {', '.join(map(str, route))}, truncation {job.truncation:g}"

    def images() -> Iterator[Image.Image]:
        for number, picture_HWC in enumerate(frames(route, config.frames, painter, job)):
            name = _frame(number)
            ((data, _),) = encoded(picture_HWC[None], painter, [f"frame {number} {way}"], [name], signer)
            atomic.write(uri.join(folder, name), data, config.storage_options)
            yield Image.fromarray(picture_HWC[..., 0] if picture_HWC.shape[2] == 1 else picture_HWC)

    stream, file = images(), io.BytesIO()
    mark = mark_of(painter.facts, f"sha256:{painter.sha256}", f"frames {way}")
    next(stream).save(
        file, "WEBP", save_all=True, append_images=[_Film(stream, total - 1)], duration=FRAME_MS, loop=0, lossless=True,
        xmp=marking.packet(mark),
    )  # fmt: skip
    data = file.getvalue()
    if signer is not None:
        data = signer.created(data, "webp", mark, ANIMATION)
    atomic.write(uri.join(folder, ANIMATION), data, config.storage_options)
    atomic.write(uri.join(folder, ROUTE), told, config.storage_options)


class _Film:
    """Frames of a stream, one after the other, as Pillow's writers take them from an animation that they are given: frames
    that are appended one by one it gathers in a list before it writes the first, so all would be in memory, decoded.
    """

    def __init__(self, stream: Iterator[Image.Image], n_frames: int) -> None:
        self._stream, self.n_frames = stream, n_frames
        self._shown: Image.Image | None = None

    def seek(self, frame: int) -> None:
        """To the next frame: writers ask for each once, in order."""
        self._shown = next(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)


def _route(config: GenerateConfig, route: tuple[int, ...], job: GenerateJob) -> bytes:
    """All that decides the frames, as JSON."""
    facts: dict[str, Any] = {
        "seeds": route, "frames": config.frames, "class": job.classes_of(route[:1]), "truncation": job.truncation,
        "precision": job.precision, "model_sha256": job.model_sha256, "c2pa": job.credentials and job.credentials.signer,
    }  # fmt: skip
    return json.dumps(facts, indent=1).encode()


def _is_there(folder: str, told: bytes, total: int, options: uri.Options | None) -> bool:
    if uri.read_or_none(uri.join(folder, ROUTE), options) != told:
        return False
    return {ANIMATION, *map(_frame, range(total))} <= set(uri.names(folder, options))


def _frame(number: int) -> str:
    return f"frame-{number:05d}.png"


def _frames(stops: int, count: int) -> int:
    """Frames through so many seeds, `count` from each to the next with both ends."""
    return (stops - 1) * (count - 1) + 1


def frames(route: tuple[int, ...], count: int, painter: Painter, job: GenerateJob) -> Iterator[np.ndarray]:
    """Pictures, uint8 H x W x C, `count` from each seed to the next, both ends included and shared by two ways.

    The first and last are those of the seeds alone, if they are of one class; every frame has the class of the first.
    """
    import torch

    from artgen.inference.sample import FORWARD_IMAGES, between, latents, paint

    stops_NL = latents(route, painter.facts.latent)
    classes = job.classes_of(route[:1])
    total = _frames(len(route), count)
    for start in range(0, total, FORWARD_IMAGES):
        numbers = range(start, min(start + FORWARD_IMAGES, total))
        legs = [min(number // (count - 1), len(route) - 2) for number in numbers]
        z_NL = torch.cat([
            between(stops_NL[leg : leg + 1], stops_NL[leg + 1 : leg + 2], (number - leg * (count - 1)) / (count - 1))
            for number, leg in zip(numbers, legs, strict=True)
        ]) * job.truncation  # fmt: skip
        labels_N = None if classes is None else torch.tensor(classes * len(numbers))
        yield from paint(painter, z_NL, labels_N, [f"frame {number}" for number in numbers], job.precision)
