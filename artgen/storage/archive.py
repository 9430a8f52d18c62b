"""An INPUT as a stream of sources; `Reader` reads their bytes."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Generator, Iterator
from contextlib import closing

from artgen.errors import SourceUnreadable, UsageError
from artgen.records import Kind, Skipped, Source
from artgen.storage import ahead, kind, listing
from artgen.storage import uri as uris
from artgen.storage.index import Container, Index, tar_or_targz
from artgen.storage.member import Member, to_json
from artgen.storage.reader import Reader

__all__ = ["MAX_BYTES", "Reader", "most_bytes", "scan"]

MAX_BYTES = 1 << 30
"""Bytes of an image, unpacked, that are always allowed, whatever its pixels: it may have many pages or layers."""

_Found = Source | Skipped
_ESCAPED = re.compile(r"\\x[0-9a-f]{2}")


def most_bytes(max_pixels: int) -> int:
    """Bytes that a file of an image of so many pixels may hold: 16 bits of red, green, blue and alpha, and at least
    MAX_BYTES. One of many pages or layers may hold more, and is refused unless more pixels are allowed.
    """
    return max(MAX_BYTES, 8 * max_pixels)


def scan(
    input_uri: str,
    options: uris.Options | None = None,
    *,
    cache_dir: str | None = None,
    keeps: bool = True,
    max_bytes: int = MAX_BYTES,
    exclude: str = "",
    label: str = "INPUT",
) -> Generator[Source | Skipped]:
    """Streams every image of INPUT and what is not one, in an order that is always
    the same. Archives are indexed, not read; a container or member that cannot be read is a Source with
    `problem` set. Memory does not grow with the listing, except with one folder (of local storage),
    the directories of as many zips as there are cores (local ones: of one) and the number of archives.

    What takes a while, archives in a store, files there that must be looked into and .tar.gz archives anywhere, is done by
    threads ahead of what is asked for; what is found waits in temporary files. The order is the same. Close the generator
    to end them before it is at its end.

    cache_dir: folder (path or URI) for what costs a pass over an archive, so that it is done once for each version of it:
    the seek points of .tar.gz archives, and the members of these and of tars in a store. Give the same to Reader, which
    without it finds the seek points again, once for each archive. None: nothing is kept. keeps: whether anything is put
    into cache_dir, not only looked up there.
    max_bytes: members of a .zip that declare more are refused, which saves unpacking them; all else is for
    Reader.read to refuse. See `most_bytes`.
    exclude: a folder that is not listed (OUTPUT inside INPUT). label: what the command calls INPUT.
    Of an OUTPUT of artgen its pictures alone are listed, once, with keys below their folder.
    Raises UsageError at once when INPUT does not exist or cannot be one, StorageError when a store fails.
    """
    root = listing.resolve(input_uri, options, label)
    if not root.alone and root.pattern is None and uris.exists(uris.join(input_uri, "_artgen"), options):
        root = listing.resolve(_pictures_in(input_uri, options, label), options, label)
    if root.alone:
        item = next(listing.items(root))
        found = kind.of(item.name)
        if item.skip or found in ("other", "foreign"):
            raise UsageError(
                f"{label} {uris.shown(input_uri)!r} is not an image or a readable archive "
                f"({item.skip or 'by its extension'}); give an image, a folder, a .tar, .tar.gz, .zip or .parquet"
            )
    return _scan(root, Reader(options, cache_dir, keeps=keeps), max_bytes, exclude)


def _pictures_in(output: str, options: uris.Options | None, label: str) -> str:
    """The folder of pictures in an OUTPUT of artgen, which may hold them in several forms. Raises UsageError."""
    names = uris.names(output, options)
    for name in ("images", "parquet", "shards"):
        if name in names:
            return uris.join(output, name)
    raise UsageError(
        f"{label} {uris.shown(output)!r} is of artgen and holds no restored or generated pictures; give a folder of pictures"
    )


def _scan(root: listing.Root, reader: Reader, max_bytes: int, exclude: str) -> Generator[Source | Skipped]:
    with (
        closing(Keys()) as odd,
        closing(_found(root, reader, odd, max_bytes, exclude)) as found,
        closing(ahead.through(found)) as images,
    ):
        yield from images


def _found(
    root: listing.Root, reader: Reader, odd: Keys, max_bytes: int, exclude: str
) -> Generator[_Found | ahead.Task[_Found]]:
    """What lies below `root`, as far as the listing and the names tell; containers and what must be looked into as tasks."""
    containers: set[str] = set()
    for item in listing.items(root, exclude):
        # Only a name with \xNN in it, its own or an undecodable byte, may meet its double.
        key = odd.unique(item.name) if _ESCAPED.search(item.name) else item.name
        if root.fs is not None and _is_below(item.name, containers):
            key = odd.unique(f"{item.name}#object")  # a store may hold both a.tar and a.tar/x.png
        found = kind.of(item.name)
        reason = item.skip or kind.clutter(item.name)
        detail = to_json(raw=item.raw) if item.raw else ""
        file = Source(key, item.uri, "file", 0, item.size, detail, item.version, item.problem)
        if reason:
            yield Skipped(key, reason)
        elif item.problem or found == "image":
            yield file
        elif found == "other":
            yield Skipped(key, f"not an image (.{kind.extension(item.name)})")
        elif found == "foreign":
            yield _with_problem(
                file, f"artgen does not open .{kind.extension(item.name)} archives; repack it as .tar or .zip"
            )
        elif found == "unknown":
            yield _sniffed(file, reader) if root.fs is None else _Sniff(file, reader)
        else:
            containers.add(item.name)
            yield _container(file, found, "" if root.alone else f"{key}/", reader, max_bytes)


def _is_below(name: str, containers: set[str]) -> bool:
    above = name.rpartition("/")[0] if containers else ""
    while above and above not in containers:
        above = above.rpartition("/")[0]
    return bool(above)


def _sniffed(file: Source, reader: Reader) -> Source | Skipped:
    try:
        head = reader.head(file, kind.SNIFF_BYTES)
    except SourceUnreadable as error:
        return _with_problem(file, str(error))
    return file if kind.looks_like_image(head) else Skipped(file.key, "not an image (by its first bytes)")


class _Sniff(ahead.Task[_Found]):
    """A look into a file of a store."""

    def __init__(self, file: Source, reader: Reader) -> None:
        self._file = file
        self._reader = reader

    def work(self, stop: threading.Event) -> _Found:
        return _sniffed(self._file, self._reader)

    def found(self) -> Iterator[_Found]:
        yield self.result()


def _container(
    file: Source, found: Container, prefix: str, reader: Reader, max_bytes: int
) -> ahead.Task[_Found] | Source:  # fmt: skip
    try:
        if uris.is_local(file.uri):
            found = tar_or_targz(file, found, reader)
    except SourceUnreadable as error:
        return _with_problem(file, str(error))
    return _Members(file, found, prefix, reader, max_bytes)


class _Members(Index[_Found]):
    """What lies in a container. prefix: before the names of members in their keys."""

    def __init__(self, container: Source, found: Container, prefix: str, reader: Reader, max_bytes: int) -> None:
        super().__init__(container, found, reader, max_bytes)
        self._prefix = prefix

    def found(self) -> Iterator[_Found]:
        container, prefix = self.container, self._prefix
        try:
            with closing(Keys()) as keys:
                for indexed, member in self.members():
                    key = keys.unique(prefix + listing.readable(member.name) if member.name else container.key)
                    yield Skipped(key, member.skip) if member.skip else _source(key, container, indexed, member)
        except SourceUnreadable as error:
            yield _with_problem(container, str(error))


def _source(key: str, container: Source, indexed: Kind, member: Member) -> Source:
    detail = {**json.loads(member.detail or "{}"), **json.loads(container.detail or "{}")}
    return Source(
        key,
        container.uri,
        indexed,
        member.offset,
        member.size,
        to_json(**detail) if detail else "",
        container.version,
        member.problem,
    )


def _with_problem(source: Source, problem: str) -> Source:
    return Source(
        source.key,
        source.uri,
        source.kind,
        0,
        source.size,
        source.detail,
        source.version,
        problem or source.problem,
    )


class Keys:
    """Makes the keys of one container, or of several INPUTs, unique: a repeated one gets #2, #3, ... in order. Close it.

    They lie in a database that SQLite keeps in memory while it is small, else in a temporary file that it removes.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536;"
            "CREATE TABLE seen (key TEXT PRIMARY KEY, times INTEGER DEFAULT 1) WITHOUT ROWID; BEGIN"
        )

    def unique(self, key: str) -> str:
        found = key
        while not self._db.execute("INSERT OR IGNORE INTO seen (key) VALUES (?)", (found,)).rowcount:
            self._db.execute("UPDATE seen SET times = times + 1 WHERE key = ?", (key,))
            (times,) = self._db.execute("SELECT times FROM seen WHERE key = ?", (key,)).fetchone()
            found = f"{key}#{times}"
        return found

    def close(self) -> None:
        self._db.close()
