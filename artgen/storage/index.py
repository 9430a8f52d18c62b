"""The members of a container: kept by an earlier listing, or found by a walk that is then kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

from artgen.errors import SourceUnreadable, StorageError
from artgen.records import Kind, Source
from artgen.storage import kept_index, parquet, tar, targz, zip
from artgen.storage import uri as uris
from artgen.storage.ahead import T, Task
from artgen.storage.blob import Blob, BlobFile
from artgen.storage.member import Member
from artgen.storage.reader import Reader
from artgen.storage.spool import Spool

Container = Literal["tar", "targz", "zip", "parquet"]


class Index(Task[T]):
    """The index of one container, made ahead where that takes long: in a store, and of what is to be inflated.

    What costs a request for each member, or to inflate all of them, is kept: tars in a store and compressed tars. Local
    tars are not (33 us a member to walk, 5 to read again: nothing beside the image), nor are zips and Parquet files, whose
    own directories are as few requests as a kept index.

    found: what the container's name says, of a local one what `tar_or_targz` says.
    """

    def __init__(self, container: Source, found: Container, reader: Reader, max_bytes: int) -> None:
        self.container = container
        self._local = uris.is_local(container.uri)
        self._found: Container = found
        self._reader = reader
        self._max_bytes = max_bytes
        self.ahead = found == "targz" or not self._local
        # Of a zip the whole directory is held in memory, of which a machine with more cores has more.
        self.busy = found in ("targz", "zip")
        self._spool = Spool() if self.ahead else None

    def members(self) -> Iterator[tuple[Kind, Member]]:
        """Each with the kind of its container, as soon as it is found. Raises SourceUnreadable or StorageError where the
        walk ended so.
        """
        found = self._spool.members() if self._spool else self._walk(self._open())
        for member in found:
            yield self._found, member
        if self._spool:
            self.result()

    def work(self, stop: threading.Event) -> None:
        assert self._spool is not None
        try:
            self._fill(self._spool, stop)
        finally:
            self._spool.end()

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _fill(self, spool: Spool, stop: threading.Event) -> None:
        cache, name = self._reader.cache, self._kept_name()
        kept = kept_index.load(spool, cache, name) if cache is not None and name else None
        self._found = kept or tar_or_targz(self.container, self._found, self._reader)
        if kept:
            return
        blob = _Watched(self._open(), stop)
        for member in self._walk(blob):
            if stop.is_set():
                return
            spool.append(member)
        # What was written to while it was walked may have members that no version of it has.
        if cache is not None and name and not blob.failed and self._reader.is_unchanged(self.container):
            kept_index.save(spool, cache, name, "targz" if self._found == "targz" else "tar")

    def _kept_name(self) -> str:
        """Under which the members are looked for and kept; "" where they are not."""
        pays = self._found == "targz" or (self._found == "tar" and not self._local)
        return kept_index.name_for(self.container) if pays else ""

    def _open(self) -> Blob:
        if self.container.size == 0:
            raise SourceUnreadable("empty file")
        return self._reader.container(self.container)

    def _walk(self, blob: Blob) -> Iterator[Member]:
        if self._found == "targz":
            return _gzip_members(targz.Gzip(blob, self.container.uri, self._reader.cache))
        if self._found == "zip":
            return zip.index(blob, self._max_bytes)
        if self._found == "parquet":
            return parquet.index(blob)
        return tar.index(BlobFile(blob, longest=tar.LONGEST_HEADER), blob.size)


class _Watched:
    """A blob that says whether it has always been readable, which who walks it takes for damage in part, and that cannot be
    read any more once `stop` is set.
    """

    def __init__(self, blob: Blob, stop: threading.Event) -> None:
        self.size, self.version, self.failed = blob.size, blob.version, False
        self._blob = blob
        self._stop = stop

    def fetch(self, start: int, end: int) -> bytes:
        if self._stop.is_set():
            raise StorageError("nobody reads this listing any more")
        try:
            return self._blob.fetch(start, end)
        except Exception:
            self.failed = True
            raise


def tar_or_targz(container: Source, found: Container, reader: Reader) -> Container:
    """Whichever of the two its name says, its first bytes know. Raises SourceUnreadable and StorageError."""
    if found not in ("tar", "targz") or container.size == 0:
        return found
    return "targz" if reader.head(container, 2) == b"\x1f\x8b" else "tar"


def _gzip_members(gzip: targz.Gzip) -> Iterator[Member]:
    told = ""
    for member in tar.index(gzip.headers(), None):
        told = member.problem  # of the last member: a break ends the index
        yield member
    problem = gzip.finish()
    if problem and not told:
        yield Member(problem=problem)
