"""A file read by ranges, local or remote, and the same as a seekable Python file."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from artgen.errors import SourceUnreadable, StorageError
from artgen.storage import uri as uris

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

READ_AHEAD = 128 * 1024
"""Bytes fetched at a time while walking headers. A remote request costs about as much time as a few
hundred kilobytes; larger blocks would download archives of small images whole."""

OURS = (
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
    errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV,
)  # fmt: skip
"""Errors of this machine or of a file system that is out of reach, not of an image."""

OF_ONE = (FileNotFoundError, PermissionError, IsADirectoryError)
_CODES_OF_ONE = ("", "AccessDenied", "NoSuchKey", "NoSuchVersion", "InvalidObjectState", "403", "404")
"""What S3 says where one object is gone or barred; a login that has expired or a bucket that is gone concerns all of them."""


_AZURE_CODES_OF_ONE = ("BlobArchived", "BlobBeingRehydrated")
"""What Azure says of one blob of the archive tier, as S3 says InvalidObjectState."""


def _code(error: Exception) -> str:
    """S3's own word for an error; "" of other stores."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextmanager
def _ours_told(path: str | bytes) -> Iterator[None]:
    """Raises StorageError in place of an error of this machine or of a file system that is out of reach."""
    try:
        yield
    except OSError as error:
        if error.errno not in OURS:
            raise
        raise StorageError(
            f"cannot read {os.fsdecode(path)!r}: {uris.explain(error)}; the same command resumes the run"
        ) from error


class Blob(Protocol):
    """Bytes at a place. `fetch` is thread-safe and returns fewer bytes than asked only at the end."""

    size: int
    version: str

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes [start, end). Raises OSError for one file, StorageError for its store."""
        ...


class LocalBlob:
    """A regular local file; closed when the last user drops it, so a cache may forget it at any time. The errors
    `OURS` become StorageError here, because who parses an archive takes an OSError for damage.
    """

    def __init__(self, path: str | bytes) -> None:
        self._fd = -1
        self._path = path
        with _ours_told(path):
            # O_NONBLOCK: opening a pipe that took the file's place must not hang.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise SourceUnreadable(f"{os.fsdecode(path)!r} is not a regular file")
        self.size = status.st_size
        self.version = f"{status.st_size}-{status.st_mtime_ns}"

    def fetch(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        with _ours_told(self._path):
            data = os.pread(self._fd, max(0, end - start), start)
            if start + len(data) < end:  # Linux returns at most 2 GiB a call
                parts = [data]
                at = start + len(data)
                while parts[-1] and at < end:
                    parts.append(os.pread(self._fd, end - at, at))
                    at += len(parts[-1])
                data = b"".join(parts)
        return data

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class RemoteBlob:
    """An object of a store, one request a range. The store's own errors become FileNotFoundError,
    PermissionError or, when the store itself is at fault, StorageError.
    """

    def __init__(self, fs: AbstractFileSystem, path: str, size: int | None = None, version: str = "") -> None:
        self._fs = fs
        self._path = path
        if size is None:
            info = self._ask(fs.info, path)
            if info.get("size") is None:
                raise SourceUnreadable(f"the server does not tell the size of {path!r}; copy the file first")
            size, version = int(info["size"]), uris.version_of(info)
        self.size = size
        self.version = version

    def fetch(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        # A range with both ends given: s3fs would ask for the size first otherwise.
        return bytes(self._ask(self._fs.cat_file, self._path, start=start, end=end)) if start < end else b""

    def _ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            if isinstance(error, OF_ONE) and _code(error) in _CODES_OF_ONE:
                raise
            if str(getattr(error, "error_code", "")) in _AZURE_CODES_OF_ONE:
                raise PermissionError(uris.explain(error)) from error
            # fsspec has already retried. An outage must not mark a million images as failed: end the run.
            raise StorageError(
                f"cannot read {uris.shown(self._fs.unstrip_protocol(self._path))!r}: {uris.explain(error)}; "
                "the same command resumes the run"
            ) from error


class BlobFile(io.RawIOBase):
    """A seekable file over a blob with one block of read-ahead. Not thread-safe.

    longest: no single read may ask for more bytes (a header that lies about its length); ValueError.
    failure: what reading the blob raised last; who parses the file may hide it behind an error of its own.
    """

    def __init__(self, blob: Blob, block: int = READ_AHEAD, longest: int | None = None) -> None:
        super().__init__()
        self._blob = blob
        self._block = block
        self._longest = longest
        self._at = 0
        self._start = 0
        self._buffer = b""
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._blob.size}[whence]
        if base + offset < 0:
            raise OSError(22, f"seek to {base + offset}, before the start of the file")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._blob.size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if self._longest is not None and size > self._longest:
            raise ValueError(f"a header claims {size} bytes")
        inside = self._at - self._start
        if not 0 <= inside <= len(self._buffer) - size:
            try:
                buffer = self._blob.fetch(self._at, self._at + max(size, self._block)) if size else b""
            except Exception as error:
                self.failure = error
                raise
            self._start, self._buffer, inside = self._at, buffer, 0
        data = self._buffer[inside : inside + size]
        self._at += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
