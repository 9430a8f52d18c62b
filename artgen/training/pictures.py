"""The pictures of DATA by number: decoded when a crop first asks for one, kept in memory within a bound."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

from artgen.codecs.encode import to_8_bits
from artgen.codecs.picture import all_numbers
from artgen.codecs.pool import GuardPool
from artgen.config import MAX_PIXELS
from artgen.errors import DecoderCrashed, ImageError, ImageTimeout, UsageError
from artgen.records import Skipped, Source
from artgen.storage import archive, scratch, uri

DECODE_TIMEOUT_S = 300.0


def list_sources(data: str | Sequence[str], options: uri.Options | None = None) -> list[Source]:
    """Every image of DATA, as of `parts_of`.

    The order is always the same. About half a kilobyte of memory for each image. Raises UsageError when there is none.
    """
    parts = parts_of(data)
    scans = (archive.scan(part, options, cache_dir=_indexes()) for part in parts)
    found = distinct(item for scan in scans for item in scan if not isinstance(item, Skipped))
    if not found:
        raise UsageError(
            f"DATA {shown_parts(parts)!r} holds no image; give a folder, an archive or a bucket of pictures"
        )
    return found


def distinct(sources: Iterable[Source]) -> list[Source]:
    """The same with keys that differ: two parts of DATA may hold a picture of one name each. The later ones get #2, #3, ..."""
    with closing(archive.Keys()) as keys:
        return [replace(source, key=keys.unique(source.key)) for source in sources]


def digest_of(sources: Sequence[Source], labels: Sequence[str] = ()) -> str:
    """Which pictures DATA lists and in what order: of names, sizes and labels, so that a copy elsewhere has the same one.

    Where a listing tells no size (Parquet, some stores), the version of the file stands for it.
    """
    digest = hashlib.sha256()
    for source, label in zip(sources, labels or repeat(""), strict=False):
        size = source.size if source.size >= 0 else source.version
        digest.update(f"{source.key}\0{size}\0{label}\n".encode())
    return digest.hexdigest()


def parts_of(data: str | Sequence[str]) -> list[str]:
    """The INPUTs of `artgen restore` that DATA names: split at commas, unless it is one path with commas in it.

    What is divided already stays as it is, so that a part may have a comma.
    """
    if not isinstance(data, str):
        return list(data)
    return [data] if uri.is_local(data) and uri.exists(data) else data.split(",")


def shown_parts(data: str | Sequence[str]) -> str:
    """DATA fit for a message: `uri.shown` of the whole would show the passwords of all parts but the first."""
    return ",".join(map(uri.shown, parts_of(data)))


def _indexes() -> str:
    """Where this process keeps the seek points of .tar.gz archives: listing finds them, which inflates all, and reading
    needs them."""
    return uri.join(scratch.folder(), "indexes")


class Pictures:
    """`pictures[i]` is uint8, H x W (grey) or H x W x 3, or None when image i cannot be used; thread-safe.

    At most `kept_pixels` pixels (1 or 3 bytes each) stay in memory, the least recently used are dropped and decoded
    again when their turn comes in the next epoch. smallest_px: images with a shorter side are left out.
    `unusable` says of every image left out so far why; one that turns out to be usable is taken from it. Images that cannot
    be read or decoded never raise; a store that fails does (StorageError).
    """

    def __init__(
        self,
        sources: Sequence[Source],
        smallest_px: int,
        *,
        kept_pixels: int = 1_000_000_000,
        options: Mapping[str, Any] | None = None,
        threads: int = 1,
    ) -> None:
        self.unusable: dict[str, str] = {}
        self._sources = sources
        self._smallest_px = smallest_px
        self._most = kept_pixels
        self._reader = archive.Reader(options, _indexes())
        self._guards = GuardPool(threads, MAX_PIXELS, DECODE_TIMEOUT_S)
        self._lock = threading.Lock()
        self._kept: dict[int, np.ndarray] = {}
        self._bad: set[int] = set()
        self._pixels = 0

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, number: int) -> np.ndarray | None:
        with self._lock:
            if number in self._bad:
                return None
            if number in self._kept:
                return self._kept[number]
        source = self._sources[number]
        try:
            data = self._reader.read(source, archive.most_bytes(MAX_PIXELS))
            try:
                picture = self._guards.decode(data)
            except (
                DecoderCrashed,
                ImageTimeout,
            ):  # of a busy or full machine perhaps, which is no fault of the image
                picture = self._guards.decode(data)
            pixels = _as_bytes(all_numbers(picture).pixels)
            height, width = pixels.shape[:2]
            if min(height, width) < self._smallest_px:
                return self._leave_out(number, f"{width}x{height} is under {self._smallest_px} pixels")
        except ImageError as error:
            return self._leave_out(number, f"{type(error).__name__}: {error}")
        self._keep(number, pixels)
        self.unusable.pop(source.key, None)  # as an earlier run may have found it, before it was mended
        return pixels

    def _leave_out(self, number: int, reason: str) -> None:
        with self._lock:
            self._bad.add(number)
            self.unusable[self._sources[number].key] = reason

    def _keep(self, number: int, pixels: np.ndarray) -> None:
        """What came first stays: every epoch has another order, in which what was used last is asked for no sooner."""
        more = pixels.shape[0] * pixels.shape[1]
        with self._lock:
            if number not in self._kept and self._pixels + more <= self._most:
                self._pixels += more
                self._kept[number] = pixels

    def close(self) -> None:
        self._guards.close()
        self._reader.close()

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """HxWxC of 8 or 16 bits to uint8, HxW where C = 1; 16 bits are rounded, not cut."""
    pixels = to_8_bits(pixels)
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
