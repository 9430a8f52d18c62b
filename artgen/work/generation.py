"""Generates the pictures of a unit of seeds: forward passes of many seeds -> encode -> rows."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from artgen.codecs.credentials import Credentials, Signer, signer_of
from artgen.codecs.encode import Format, encode_many
from artgen.codecs.pool import GuardPool
from artgen.errors import ImageError, RunError
from artgen.inference.sample import FORWARD_IMAGES, mark_of, sample
from artgen.models.gans import weights
from artgen.models.gans.spec import MODES, Painter
from artgen.records import Entry, Row
from artgen.storage import uri
from artgen.work.unit import Made

# A picture takes seconds at most, wherever it is made: no flag for it.
IMAGE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class GenerateJob:
    """What a worker needs to generate pictures; picklable, the same on every machine.

    classes: class numbers; that of a seed is classes[seed modulo their number]. Empty for a model without classes.
    model_options: of the store of the model.
    """

    model: str
    model_sha256: str
    classes: tuple[int, ...] = ()
    truncation: float = 1.0
    device: str = "cpu"
    precision: str = "fp32"
    format: Format = "png"
    quality: int = 90
    image_timeout: float = IMAGE_TIMEOUT_S
    credentials: Credentials | None = None
    model_options: uri.Options | None = field(default=None, repr=False)

    @property
    def named(self) -> bool:
        return self.model in weights.shipped_names()

    @property
    def advice(self) -> str:
        return "look at the machines and their memory; no picture is generated without its neighbours"

    def load(self, model: str) -> Painter:
        return weights.load_painter(model, self.model_options)

    def torch_threads(self, cores: int, threads: int) -> int:
        """On a CPU as many passes run at once as there are threads, each in one of torch (`inference.sample`)."""
        return 1 if self.device == "cpu" else cores

    def open(self, model: Painter, threads: int, guards: GuardPool | None = None) -> Generation:
        return Generation(self, model, threads)

    def classes_of(self, seeds: Sequence[int]) -> list[int] | None:
        """The class number of each seed; None for a model without classes."""
        return [self.classes[seed % len(self.classes)] for seed in seeds] if self.classes else None


class Generation:
    """A job opened on one machine: the generator on its device.

    Whoever makes pictures runs their forward pass, encodes them and writes their rows, all in one thread: at a millisecond a
    picture, handing each from thread to thread would cost as much as encoding it.
    """

    at_once = FORWARD_IMAGES

    def __init__(self, job: GenerateJob, painter: Painter, threads: int = 1) -> None:
        self._job, self._painter, self._shown = job, painter, uri.shown(job.model)
        self._signer = signer_of(job.credentials)
        self._stop = threading.Event()
        # One pass after the other on an accelerator, which the threads feed while others encode.
        self._turns = threading.Semaphore(threads if job.device == "cpu" else 1)

    def stop(self) -> None:
        """Ends the pictures under way soon, with a RunError each."""
        self._stop.set()

    def close(self) -> None:
        """There is nothing to close."""

    def make(self, entries: Sequence[Entry]) -> list[Made]:
        """The pictures of at most `at_once` seeds. Raises RunError (OutOfMemory too): no picture is to blame for what goes
        wrong here.
        """
        started = time.monotonic()
        seeds = [entry.source.offset for entry in entries]
        pictures, prompts = self._paint(seeds), [self.prompt(seed) for seed in seeds]
        if self._stop.is_set():
            raise RunError("the run is ending")
        names = [entry.name for entry in entries]
        files = encoded(pictures, self._painter, prompts, names, self._signer, self._job.format, self._job.quality)
        seconds = round((time.monotonic() - started) / len(entries), 4)
        return [
            Made(self._row(entry, data, notes, seconds), data)
            for entry, (data, notes) in zip(entries, files, strict=True)
        ]

    def _paint(self, seeds: Sequence[int]) -> np.ndarray:
        job = self._job
        with self._turns:
            if self._stop.is_set():
                raise RunError("the run is ending")
            try:
                return sample(self._painter, seeds, job.classes_of(seeds), job.truncation, job.precision)
            except RunError as error:
                raise type(error)(f"{self._shown}: {error}") from error

    def prompt(self, seed: int) -> str:
        """What the model was told, in words."""
        name = self._class_name(seed)
        told = [f"seed {seed}", f"class {name}" if name is not None else "", f"truncation {self._job.truncation:g}"]
        return ", ".join(text for text in told if text)

    def _class_name(self, seed: int) -> str | None:
        numbers = self._job.classes_of([seed])
        return None if numbers is None else self._painter.facts.classes[numbers[0]]

    def _row(self, entry: Entry, data: bytes, notes: tuple[str, ...], seconds: float) -> Row:
        facts, seed = self._painter.facts, entry.source.offset
        return Row(
            key=entry.source.key, source_uri=entry.source.uri, source_sha256=None, source_bytes=None,
            source_version=entry.version, width=facts.width, height=facts.height, mode=MODES[facts.channels], bits=8,
            status="ok", error_type=None, error_message=None, output_name=entry.name, output_uri=None,
            output_sha256=hashlib.sha256(data).hexdigest(), output_bytes=len(data), model=self._shown,
            model_sha256=self._job.model_sha256, noise_before=None, noise_after=None, change_mean=None, change_max=None,
            seconds=seconds, attempts=entry.attempts, notes="; ".join(notes), unit="", seed=seed,
            class_name=self._class_name(seed), output_width=facts.width, output_height=facts.height,
        )  # fmt: skip


def encoded(
    pictures_NHWC: np.ndarray, painter: Painter, prompts: Sequence[str], names: Sequence[str],
    signer: Signer | None = None, format: Format = "png", quality: int = 90,
) -> list[tuple[bytes, tuple[str, ...]]]:  # fmt: skip
    """The bytes of a file of each picture, uint8 N x H x W x C (grey, RGB or RGBA), marked as generated and perhaps signed,
    and notes."""
    alpha = pictures_NHWC[..., 3] if pictures_NHWC.shape[3] == 4 else None
    marks = [mark_of(painter.facts, f"sha256:{painter.sha256}", prompt) for prompt in prompts]
    files = encode_many(pictures_NHWC[..., :3], alpha, marks, format=format, quality=quality)
    if signer is None:
        return [(made.data, made.notes) for made in files]
    try:
        return [
            (signer.created(made.data, format, mark, name), made.notes)
            for made, mark, name in zip(files, marks, names, strict=True)
        ]
    except ImageError as error:  # no seed is to blame
        raise RunError(str(error)) from error
