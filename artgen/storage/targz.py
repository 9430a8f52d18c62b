"""Compressed tars: gzip made seekable by indexed_gzip, whose index of seek points is built once and kept."""

from __future__ import annotations

import hashlib
import io
import threading
from typing import Any

from artgen.errors import ArtgenError, SourceUnreadable
from artgen.storage import atomic
from artgen.storage import uri as uris
from artgen.storage.blob import Blob, BlobFile

_SPACING = 4 * 1024 * 1024
"""Unpacked bytes between two seek points: a jump inflates 2 MiB on average, and the kept index takes
32 KiB a point, 0.8 % of the unpacked size. Damage loses the images up to one point before it."""

_READ = 1024 * 1024


class Gzip:
    """The unpacked bytes of a gzip file, by ranges. Thread-safe. `file` is the same, seekable, for one
    user at a time. With an index jumps are short; without one a jump inflates everything before it, once.

    cache_dir: folder (any URI) of kept indexes; one that every worker sees saves each its own pass.
    """

    def __init__(self, blob: Blob, name: str, cache_dir: str | None, options: uris.Options | None = None) -> None:
        import indexed_gzip

        self._lock = threading.Lock()
        self._cache_dir = cache_dir
        self._options = options
        identity = f"{name}\n{blob.version}".encode()
        self._cached = f"{hashlib.sha256(identity).hexdigest()[:32]}.gzidx"
        self.file: Any = indexed_gzip.IndexedGzipFile(
            fileobj=BlobFile(blob, block=_READ), spacing=_SPACING, readbuf_size=_READ, buffer_size=64 * 1024
        )
        self._checked = False
        index = self._kept_index()
        if index:
            try:
                self.file.import_index(fileobj=io.BytesIO(index))
                self._checked = True
            except (OSError, ValueError, EOFError):
                self._checked = False  # an index that cannot be read is made anew

    def read(self, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size). Raises SourceUnreadable when the data are damaged or end early."""
        try:
            with self._lock:
                self.file.seek(offset)
                data = self.file.read(size)
        except (OSError, ValueError, EOFError) as error:
            raise SourceUnreadable(f"the compressed archive is damaged near byte {offset}: {error}") from error
        if len(data) < size:
            raise SourceUnreadable("the compressed archive ends inside this member; it is truncated")
        return data

    def finish(self) -> str:
        """Reads to the end, checks the checksum and keeps the seek points in the cache folder, unless they came
        from there. Returns what is wrong, or "": gzip has one checksum for all, so it cannot say where.
        """
        if self._checked:
            return ""
        try:
            self.file.build_full_index()
        except (OSError, ValueError, EOFError) as error:
            text = (
                "its checksum is wrong, one image or more of it is damaged" if "CRC" in str(error) else str(error)
            )
            return f"the compressed archive is damaged: {text}"
        self._checked = True
        if self._cache_dir is None:
            return ""
        buffer = io.BytesIO()
        self.file.export_index(fileobj=buffer)
        atomic.write(uris.join(self._cache_dir, self._cached), buffer.getvalue(), options=self._options)
        return ""

    def _kept_index(self) -> bytes:
        if self._cache_dir is None:
            return b""
        fs, path = uris.filesystem(uris.join(self._cache_dir, self._cached), self._options)
        try:
            return fs.cat_file(path)  # pyright: ignore[reportReturnType]
        except FileNotFoundError:
            return b""
        except ArtgenError:
            raise
        except Exception as error:
            raise SourceUnreadable(f"cannot read the index cache {self._cached}: {uris.explain(error)}") from error
