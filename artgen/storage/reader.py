"""The reader of the bytes of sources, whatever they lie in."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from artgen.errors import ArtgenError, SourceUnreadable, StorageError
from artgen.records import Source
from artgen.storage import parquet, targz, zip
from artgen.storage import uri as uris
from artgen.storage.blob import OURS, Blob, LocalBlob, RemoteBlob
from artgen.storage.cache import Cache

_OPEN_FILES = 64
_OPEN_INDEXES = 4


class Reader:
    """Reads the bytes of sources. Thread-safe; open files, filesystems and indexes are kept, the least
    recently used dropped.

    cache_dir: where `scan` put the seek points of .tar.gz archives; None: found again as needed. keeps: whether what is
    found may be put there.
    """

    def __init__(
        self, options: uris.Options | None = None, cache_dir: str | None = None, *, keeps: bool = True
    ) -> None:
        self.cache = None if cache_dir is None else Cache(cache_dir, options, keeps)
        self._options = options
        self._blobs = _Recent(_OPEN_FILES)
        self._indexes = _Recent(_OPEN_INDEXES)
        self._stores = _Recent(_OPEN_FILES)

    def read(self, source: Source, max_bytes: int | None = None) -> bytes:
        """All bytes of `source`. Raises SourceUnreadable, with a reason a person can act on, when it has a
        problem, is gone, empty, damaged, changed since it was listed or larger than `max_bytes`; StorageError
        when the store or this machine is at fault.
        """
        if source.problem:
            raise SourceUnreadable(source.problem)
        detail = json.loads(source.detail) if source.detail else {}
        size = detail.get("size", source.size)  # unpacked, of a zip member
        if max_bytes is not None and size > max_bytes:
            raise SourceUnreadable(_too_large(size, max_bytes))
        data = self._guarded(source, lambda: self._read(source, detail, max_bytes))
        if not data:
            raise SourceUnreadable("empty file")
        return data

    def head(self, source: Source, size: int) -> bytes:
        """The first bytes of a plain file or of a container itself."""
        return self._guarded(source, lambda: self._open(source, source.size).fetch(0, size))

    def container(self, source: Source) -> Blob:
        """The container of a source, by ranges. Raises SourceUnreadable when it is not the one listed."""
        blob = self._guarded(source, lambda: self._blobs.get(source.uri, lambda: self._open(source)))
        # A copy on another machine has another time, so of a local file only the size must be the same.
        old, new = source.version, blob.version
        if uris.is_local(source.uri):
            old, new = old.partition("-")[0], new.partition("-")[0]
        if old and old != new:
            raise SourceUnreadable("the archive has changed since it was listed; the same command lists it anew")
        return blob

    def is_unchanged(self, source: Source) -> bool:
        """Whether what lies there now, looked at anew, is of the version listed. Raises StorageError."""
        try:
            return self._guarded(source, lambda: self._open(source)).version == source.version
        except SourceUnreadable:
            return False

    def gzip(self, source: Source) -> targz.Gzip:
        """The container of a .tar.gz source, unpacked, by ranges."""

        def make() -> targz.Gzip:
            return targz.Gzip(self.container(source), source.uri, self.cache)

        return self._indexes.get((source.uri, "targz"), make)

    def close(self) -> None:
        """Drops every open file; each closes when its last reader is done."""
        for kept in (self._blobs, self._indexes, self._stores):
            kept.clear()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, source: Source, detail: dict, max_bytes: int | None) -> bytes:
        if source.kind == "file":
            return self._read_file(source, max_bytes)
        if source.kind == "targz":
            return self.gzip(source).read(source.offset, source.size)
        blob = self.container(source)
        if source.kind == "zip":
            codec = None
            if detail["method"] not in (0, 8):
                codec = self._indexes.get((source.uri, "zip"), lambda: zip.Others(blob))
            return zip.read(blob, source.offset, source.size, detail, codec)
        if source.kind == "parquet":
            rows = self._indexes.get((source.uri, "parquet"), lambda: parquet.Rows(blob))
            return rows.read(source.offset, detail, max_bytes)
        data = blob.fetch(source.offset, source.offset + source.size)
        if len(data) < source.size:
            raise SourceUnreadable("the archive ends inside this member; it is truncated")
        return data

    def _read_file(self, source: Source, max_bytes: int | None) -> bytes:
        blob = self._open(source, source.size)
        if max_bytes is not None and blob.size > max_bytes:
            raise SourceUnreadable(_too_large(blob.size, max_bytes))
        return blob.fetch(0, blob.size)

    def _open(self, source: Source, size: int | None = None) -> Blob:
        """size: saves the request for it, when the listing has told it."""
        raw = json.loads(source.detail).get("raw") if source.detail else None
        if raw:
            return LocalBlob(unquote_to_bytes(raw))
        if uris.is_local(source.uri):
            return LocalBlob(uris.local_path(source.uri))
        host = "/".join(source.uri.split("/", 3)[:3])
        fs, _ = self._stores.get(host, lambda: uris.filesystem(source.uri, self._options))
        return RemoteBlob(fs, str(fs._strip_protocol(source.uri)), None if size == -1 else size, source.version)

    def _guarded(self, source: Source, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except ArtgenError:
            raise
        except FileNotFoundError:
            raise SourceUnreadable(f"{uris.shown(source.uri)!r} is gone; it was there when listed") from None
        except PermissionError as error:
            raise SourceUnreadable(
                f"no permission to read {uris.shown(source.uri)!r}: {uris.explain(error)}; grant read access"
            ) from error
        except OSError as error:
            text = f"cannot read {uris.shown(source.uri)!r}: {uris.explain(error)}"
            raise (StorageError if error.errno in OURS else SourceUnreadable)(text) from error


def _too_large(size: int, limit: int) -> str:
    return f"the file holds {size} bytes, more than the limit of {limit} (raise --max-pixels to allow it)"


class _Recent:
    """A thread-safe cache of the `limit` most recently used. What is dropped closes when its users are done."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, _Slot] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        with self._lock:
            slot = self._kept.setdefault(key, _Slot())
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        with slot.lock:  # held while making, so that no index is built twice; other keys do not wait for it
            if not slot.made:
                slot.value = make()
                slot.made = True
            return slot.value

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made = False
        self.value: Any = None
