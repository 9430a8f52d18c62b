"""Compressed tars: gzip made seekable by indexed_gzip, whose index of seek points is built once and kept."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

from artgen.errors import SourceUnreadable
from artgen.storage import atomic, tar
from artgen.storage.blob import Blob, BlobFile
from artgen.storage.cache import Cache, name_of

_SPACING = 4 * 1024 * 1024
"""Unpacked bytes between two seek points: a jump inflates 2 MiB on average, and the kept index takes
32 KiB a point, 0.8 % of the unpacked size. Damage loses the images up to one point before it."""

_READ = 1024 * 1024


class Gzip:
    """The unpacked bytes of a gzip file, by ranges. Thread-safe, but for `headers`. With an index jumps are short;
    without one a jump inflates everything before it, once.

    cache: of kept indexes; one that every worker sees saves each its own pass.
    Raises StorageError when the store of the archive or of the indexes fails.
    """

    def __init__(self, blob: Blob, name: str, cache: Cache | None) -> None:
        import indexed_gzip

        self._lock = threading.Lock()
        self._cache = cache
        self._cached = name_of("gzidx", name, blob.version)
        self._packed = BlobFile(blob, block=_READ)
        self._unpacked: Any = indexed_gzip.IndexedGzipFile(
            fileobj=self._packed, spacing=_SPACING, readbuf_size=_READ, buffer_size=64 * 1024
        )
        self._checked = False
        index = self._kept_index()
        if index:
            try:
                self._ask(self._unpacked.import_index, fileobj=io.BytesIO(index))
                self._checked = True
            except (OSError, ValueError, EOFError):
                self._checked = False  # an index that cannot be read is made anew

    def read(self, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size). Raises SourceUnreadable when the data are damaged or end early, StorageError
        or OSError, of the blob, when they cannot be had.
        """
        try:
            with self._lock:
                self._ask(self._unpacked.seek, offset)
                data = self._ask(self._unpacked.read, size)
        except (OSError, ValueError, EOFError) as error:
            if error is self._packed.failure:
                raise
            raise SourceUnreadable(f"the compressed archive is damaged near byte {offset}: {error}") from error
        if len(data) < size:
            raise SourceUnreadable("the compressed archive ends inside this member; it is truncated")
        return data

    def headers(self) -> Headers:
        """The unpacked bytes as a file to walk from header to header, for one user at a time."""
        return Headers(self._unpacked, self._ask)

    def finish(self) -> str:
        """Reads to the end, checks the checksum and keeps the seek points in the cache folder, unless they came
        from there. Returns what is wrong, or "": gzip has one checksum for all, so it cannot say where.
        Raises StorageError when a store fails.
        """
        if self._checked:
            return ""
        try:
            self._ask(self._unpacked.build_full_index)
        except (OSError, ValueError, EOFError) as error:
            text = (
                "its checksum is wrong, one image or more of it is damaged" if "CRC" in str(error) else str(error)
            )
            return f"the compressed archive is damaged: {text}"
        self._checked = True
        if self._cache is None or not self._cache.writes:
            return ""
        buffer = io.BytesIO()
        self._unpacked.export_index(fileobj=buffer)
        atomic.write(self._cache.place(self._cached), buffer.getvalue(), self._cache.options)
        return ""

    def _ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of indexed_gzip. Raises what reading the blob raised, in place of what indexed_gzip makes of it: an
        error that says damage and names no cause.
        """
        self._packed.failure = None
        try:
            return call(*args, **kwargs)
        finally:
            if self._packed.failure is not None:
                raise self._packed.failure

    def _kept_index(self) -> bytes:
        return b"" if self._cache is None else b"".join(self._cache.read(self._cached))


class Headers:
    """A seekable file of unpacked bytes whose reads are of the size of headers: one that claims more than
    `tar.LONGEST_HEADER` raises ValueError. Not thread-safe.

    ask: calls indexed_gzip and raises what reading the blob raised.
    """

    def __init__(self, unpacked: Any, ask: Callable[..., Any]) -> None:
        self._unpacked = unpacked
        self._ask = ask

    def tell(self) -> int:
        return self._unpacked.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._ask(self._unpacked.seek, offset, whence)

    def read(self, size: int, /) -> bytes:
        # indexed_gzip sets aside the room for all that is asked for.
        if not 0 <= size <= tar.LONGEST_HEADER:
            raise ValueError(f"a header claims {size} bytes")
        return self._ask(self._unpacked.read, size)
