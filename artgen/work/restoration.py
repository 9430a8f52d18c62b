"""Restores one image of a unit: fetch -> decode -> restore -> encode -> row."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from artgen.codecs.credentials import Credentials, signer_of
from artgen.codecs.encode import Format, encode
from artgen.codecs.guard import Guard
from artgen.codecs.marking import Mark
from artgen.codecs.metadata import C2PA_LEFT_OUT, enlarged
from artgen.codecs.picture import Picture
from artgen.codecs.pool import GuardPool
from artgen.config import IMAGE_TIMEOUT_S, MAX_PIXELS
from artgen.errors import ArtgenError, ImageError, ImageTimeout, RestoreFailed, RunError
from artgen.inference.forward import Forward
from artgen.inference.restore import RestoreOptions, restore
from artgen.metrics import noise
from artgen.models import registry, weights
from artgen.models.spec import Restorer
from artgen.records import Entry, Row
from artgen.storage import uri
from artgen.storage.archive import Reader, most_bytes
from artgen.text import count
from artgen.work.unit import Made

# Pixels that may be in work at once for each thread, from the first that is decoded: a photograph of a camera for each. A
# larger image waits for others to end, so peak memory is not that of as many of the largest as there are threads. An
# upscaler's are those of what it makes.
PIXELS_A_THREAD = 24_000_000
_FORMATS: dict[str, Format] = {"jpg": "jpeg", "webp": "webp", "png": "png"}
_NAMES: dict[Format, str] = {"jpeg": "JPEG", "webp": "WebP", "png": "PNG"}


@dataclass(frozen=True, slots=True)
class RestoreJob:
    """What a worker needs to restore images; picklable, the same on every machine.

    storage_options: of images and masks; model_options: of the store of the model. masks: whether the run was given masks.
    as_source: pictures are to be of the format of their sources, where it is one that is written.
    """

    model: str
    model_sha256: str
    options: RestoreOptions
    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 1
    quality: int = 90
    mask_from_alpha: bool = False
    max_pixels: int = MAX_PIXELS
    image_timeout: float = IMAGE_TIMEOUT_S
    storage_options: dict[str, Any] | None = field(default=None, repr=False)
    index_folder: str | None = None
    credentials: Credentials | None = None
    model_options: uri.Options | None = field(default=None, repr=False)
    masks: bool = False
    as_source: bool = False

    @property
    def named(self) -> bool:
        return self.model in registry.names()

    @property
    def advice(self) -> str:
        return "look at the file, lower --tile or --max-pixels or give the workers more memory, then use --retry-failed"

    def load(self, model: str) -> Restorer:
        return weights.load(model, self.model_options)

    def torch_threads(self, cores: int, threads: int) -> int:
        """On a CPU every image thread runs its own forward pass, so they share the cores."""
        return max(1, cores // threads) if self.device == "cpu" else cores

    def open(self, model: Restorer, threads: int, guards: GuardPool | None = None) -> Restoration:
        guards = guards or GuardPool(threads, self.max_pixels, self.image_timeout or None)
        return Restoration(self, model, guards, threads)


class Restoration:
    """A job opened on one machine: the model on its device, readers, one decoder process for each thread."""

    at_once = 1

    def __init__(self, job: RestoreJob, restorer: Restorer, guards: GuardPool, threads: int) -> None:
        self._job = job
        self._stop = threading.Event()
        self._forward = Forward(restorer, device=job.device, precision=job.precision, batch=job.batch)
        self._reader = Reader(job.storage_options, job.index_folder)
        self._guards = guards
        self._gate = PixelGate(threads * PIXELS_A_THREAD)
        self._signer = signer_of(job.credentials)
        self._most_bytes = most_bytes(job.max_pixels)

    def stop(self) -> None:
        """Ends the images under way soon, with a RunError each: Ctrl-C must not wait for a large one."""
        self._stop.set()
        self._guards.interrupt()

    def close(self) -> None:
        """Ends the decoder processes too, also those that it was given."""
        self._guards.close()
        self._reader.close()

    def make(self, entries: Sequence[Entry]) -> list[Made]:
        """One after the other."""
        return [self._one(entry) for entry in entries]

    def _one(self, entry: Entry) -> Made:
        """Any ImageError becomes a failed row, and so does what nobody foresaw (a RunError ends the run): a bad
        image must not stop the others, today and whenever the same command is given again.
        """
        started = time.monotonic()
        row = Row(
            key=entry.source.key, source_uri=uri.shown(entry.source.uri), source_sha256=None, source_bytes=None,
            source_version=entry.version, width=None, height=None, mode=None, bits=None, status="failed", error_type=None,
            error_message=None, output_name=None, output_uri=None, output_sha256=None, output_bytes=None,
            model=uri.shown(self._job.model), model_sha256=self._job.model_sha256, noise_before=None, noise_after=None,
            change_mean=None, change_max=None, seconds=0.0, attempts=entry.attempts, notes="", unit="",
        )  # fmt: skip
        known: dict[str, Any] = {}
        data = None
        try:
            data = self._make(entry, known)
        except ImageError as error:
            known |= {"error_type": type(error).__name__, "error_message": str(error)}
        except ArtgenError:
            raise
        except Exception as error:  # noqa: BLE001
            message = f"unexpected {type(error).__name__}: {error} (please report it, with this image)"
            known |= {"error_type": RestoreFailed.__name__, "error_message": message}
        return Made(row._replace(**known, seconds=round(time.monotonic() - started, 4)), data)

    def _make(self, entry: Entry, known: dict[str, Any]) -> bytes:
        """The encoded picture. known: takes the fields of its row as they are found out; a failed row has them as well."""
        if self._stop.is_set():
            raise RunError("the run is ending")
        source = self._reader.read(entry.source, self._most_bytes)
        known.update(source_sha256=hashlib.sha256(source).hexdigest(), source_bytes=len(source))
        mask_file = self._mask_file(entry)
        with ExitStack() as inside:
            clock = Clock(self._job.image_timeout)

            def admit(pixels: int) -> None:
                inside.enter_context(self._gate.enter(pixels * self._forward.facts.scale**2))
                clock.start()

            # One decoder for the image and its mask: an image that has its place in the gate waits for none that another
            # holds who waits for a place.
            with self._guards.borrowed() as guard:
                picture = guard.decode(source, admit)
                height, width = picture.pixels.shape[:2]
                known.update(width=width, height=height, mode=picture.mode, bits=picture.bits)
                # a signature takes the source's credentials along, or says why not
                notes = [note for note in picture.notes if self._signer is None or note != C2PA_LEFT_OUT]
                clock.check("decoded")
                picture, mask = self._mask(entry, picture, mask_file, guard, notes, clock)
            options = replace(self._job.options, deadline=clock.deadline, stop=self._stop)
            try:
                restored = restore(picture.pixels, mask, self._forward, options)
            except ImageTimeout as error:
                raise ImageTimeout(clock.told("restored")) from error
            notes += restored.notes
            alpha = _fit_alpha(picture.alpha, restored.pixels.shape[:2])
            file_format = _FORMATS[entry.name.rpartition(".")[2].lower()]
            if self._job.as_source and picture.format.lower() != file_format:
                notes.append(f"{picture.format} written as {_NAMES[file_format]}")
            change_mean, change_max = noise.change(picture.pixels, restored.pixels)
            mark = None if change_max == 0 else self._mark(mask)
            clock.check("restored")
            encoded = encode(
                restored.pixels, alpha, enlarged(picture.metadata, self._forward.facts.scale), format=file_format,
                quality=self._job.quality, mark=mark,
            )  # fmt: skip
            notes += encoded.notes
            if self._signer is not None:
                clock.check("encoded")
                encoded = self._signer.edited(encoded.data, file_format, mark, entry.name, source)
                notes += encoded.notes
            known.update(
                status="ok", output_name=entry.name, output_sha256=hashlib.sha256(encoded.data).hexdigest(),
                output_bytes=len(encoded.data), output_width=restored.pixels.shape[1],
                output_height=restored.pixels.shape[0], noise_before=noise.sigma(picture.pixels),
                noise_after=noise.sigma(restored.pixels), change_mean=change_mean, change_max=change_max,
                notes="; ".join(notes),
            )  # fmt: skip
        return encoded.data

    def _mark(self, mask: np.ndarray | None) -> Mark:
        """Where a mask is given, parts are the model's own drawing; elsewhere it only cleaned what was there."""
        drawn = mask is not None and bool(mask.any())
        kind = "compositeWithTrainedAlgorithmicMedia" if drawn else "algorithmicallyEnhanced"
        return Mark(kind, f"artgen {self._forward.facts.name}", f"sha256:{self._job.model_sha256}")

    def _mask_file(self, entry: Entry) -> bytes | None:
        """The bytes of the mask that the image has; fetched before its clock runs, as a slow store is not its fault."""
        if entry.mask is None or self._job.mask_from_alpha:
            return None
        try:
            return self._reader.read(entry.mask, self._most_bytes)
        except ImageError as error:
            raise type(error)(f"its mask {entry.mask.key!r}: {error}") from error

    def _mask(
        self, entry: Entry, picture: Picture, mask_file: bytes | None, guard: Guard, notes: list[str], clock: Clock
    ) -> tuple[Picture, np.ndarray | None]:  # fmt: skip
        """The mask (HxW bool, True = repair) of this image, from its file or its alpha."""
        if self._job.mask_from_alpha:
            if picture.alpha is None:
                notes.append("no alpha channel: nothing was masked")
                return picture, None
            return self._mask_of_alpha(picture, picture.alpha, notes)
        if entry.mask is None or mask_file is None:
            if self._job.masks:
                notes.append("no mask was found")
            return picture, None
        h, w = picture.pixels.shape[:2]

        def admit(pixels: int) -> None:
            """The image's place in the gate has room for a mask of its size. To wait there again could be for ever."""
            if pixels > h * w:
                raise RestoreFailed(
                    f"it has {count(pixels)} pixels and the image {count(h * w)}: make them the same size"
                )

        try:
            drawn = guard.decode(mask_file, admit, clock.left_s())
        except ImageTimeout as error:
            raise ImageTimeout(f"its mask {entry.mask.key!r}: {clock.told('decoded')}") from error
        except ImageError as error:
            raise type(error)(f"its mask {entry.mask.key!r}: {error}") from error
        mask_h, mask_w = drawn.pixels.shape[:2]
        if (mask_h, mask_w) != (h, w):
            raise RestoreFailed(
                f"its mask {entry.mask.key!r} is {mask_w}x{mask_h} and the image {w}x{h}: make them the same size"
            )
        mask = _white(drawn)
        if not mask.any():
            notes.append("its mask has no white pixel: nothing was masked")
        return picture, mask

    @staticmethod
    def _mask_of_alpha(picture: Picture, alpha: np.ndarray, notes: list[str]) -> tuple[Picture, np.ndarray]:
        """What is more than half transparent is repaired and made opaque; a soft edge or a shadow elsewhere stays."""
        top = 255 if picture.bits == 8 else 65535
        mask = alpha <= top // 2
        left = np.where(mask, alpha.dtype.type(top), alpha)
        partly = bool((left < top).any())
        if mask.any():
            notes.append("transparent pixels were repaired and made opaque")
        else:
            notes.append("no pixel was more than half transparent" if partly else "no pixel was transparent")
        if partly:
            notes.append("partial transparency was kept")
        return replace(picture, alpha=left if partly else None), mask


def _white(drawn: Picture) -> np.ndarray:
    """HxW bool: where a mask is nearer to white than to black. What is transparent is not white."""
    top = 255 if drawn.bits == 8 else 65535
    channels = drawn.pixels.shape[2]
    white = drawn.pixels.sum(axis=2, dtype=np.uint32) * 2 > top * channels
    return white if drawn.alpha is None else white & (drawn.alpha > top // 2)


def _fit_alpha(alpha: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    """Alpha at the size of the restored picture: as it is, or resized where the model upscales."""
    if alpha is None or alpha.shape == size:
        return alpha
    from PIL import Image

    resized = Image.fromarray(alpha.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.clip(np.rint(np.asarray(resized)), 0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)


class Clock:
    """The time limit of one image, as --image-timeout gives it (0: none), for all that is done to it.

    It runs from the moment that the image's header is read and the image let in, so none is to blame for a slow store, for
    a decoder process that still starts, or for its wait for others. A batch of tiles, an encoding and a signature cannot
    be interrupted: one that is under way is finished first. Reading the header is interrupted by a clock of its own, of the
    same limit.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.deadline: float | None = None
        self.start()

    def start(self) -> None:
        """The time runs from now on; what went before does not count."""
        self.deadline = time.monotonic() + self._limit_s if self._limit_s else None

    def left_s(self) -> float | None:
        """Seconds left, 0 when the time is over; None: no limit."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def check(self, step: str) -> None:
        """Raises ImageTimeout when the time is over. step: what the image is by now, "decoded"."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise ImageTimeout(self.told(step))

    def told(self, step: str) -> str:
        """The text of an ImageTimeout; step as of `check`."""
        return f"not {step} within {self._limit_s:g} s: raise --image-timeout"


class PixelGate:
    """Lets images in while their pixels sum to at most `limit`; a larger image goes in alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._changed = threading.Condition()

    @contextmanager
    def enter(self, pixels: int) -> Iterator[None]:
        """Waits for room and holds it until the context ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside == 0 or self._inside + pixels <= self._limit)
            self._inside += pixels
        try:
            yield
        finally:
            with self._changed:
                self._inside -= pixels
                self._changed.notify_all()
