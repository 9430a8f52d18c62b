"""Kept indexes: the members of one container of one version, which later listings read instead of walking it.

A gzip file, whose checksum tells when it is torn, of lines: what this is, then the members as `Spool` has them.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Literal

from artgen.records import Source
from artgen.storage import atomic, kind
from artgen.storage import uri as uris
from artgen.storage.cache import Cache, name_of
from artgen.storage.spool import Spool, parsed

FORMAT = 1
"""Raised whenever the same archive gives other members than the release before."""

Kept = Literal["tar", "targz"]
_UNPACKED_BYTES = 128 * 1024
_LONGEST_LINE = 64 * 1024 * 1024  # no header of a tar is longer than 4 MiB, and JSON has six letters for some
_FIELDS = [str, int, int, str, str, str]
_BROKEN = (zlib.error, ValueError, RecursionError)


def name_for(container: Source) -> str:
    """The name of the kept index of a container; "" if it has no version: one that has changed would not be noticed."""
    if not uris.tells_version(container.version, container.size):
        return ""
    return name_of("members", FORMAT, kind.RULES, container.uri, container.detail, container.version)


def load(spool: Spool, cache: Cache, name: str) -> Kept | None:
    """Fills an empty spool with a kept index and says what kind of container it is of. None: there is none, or it is torn
    or no index; then the spool is as empty as before. Raises StorageError.
    """
    lines = _lines(_unpacked(cache.read(name)))
    try:
        found = _kind(next(lines, b""))
        spool.take(_checked(lines))
    except _BROKEN:
        return None
    return found


def save(spool: Spool, cache: Cache, name: str, found: Kept) -> None:
    """Keeps the members in a spool, whole or not at all, where the cache may be written to. found: what kind of container
    holds them. Raises StorageError.
    """
    if not cache.writes:
        return
    with (
        atomic.open_for_commit(cache.place(name), cache.options) as file,
        gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
    ):
        packed.write(_header(found))
        for block in spool.blocks():
            packed.write(block)


def _header(found: Kept) -> bytes:
    return json.dumps({"artgen members": FORMAT, "kind": found}).encode() + b"\n"


def _kind(header: bytes) -> Kept:
    kinds: tuple[Kept, ...] = ("tar", "targz")
    for found in kinds:
        if header == _header(found):
            return found
    raise ValueError("not an index of this format")


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What a gzip file holds. Raises ValueError or zlib.error for one that is torn."""
    gunzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    for piece in pieces:
        left = piece
        while left:
            yield gunzip.decompress(left, _UNPACKED_BYTES)
            left = gunzip.unconsumed_tail
    yield gunzip.flush()
    if not gunzip.eof or gunzip.unused_data:
        raise ValueError("torn")


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The first line, then blocks of whole lines. Raises ValueError for one without an end."""
    first, rest = True, b""
    for block in blocks:
        rest += block
        if first and b"\n" in rest:
            head, _, rest = rest.partition(b"\n")
            yield head + b"\n"
            first = False
        whole, line_end, rest = rest.rpartition(b"\n")
        if line_end:
            yield whole + line_end
        if len(rest) > _LONGEST_LINE:
            break
    if rest:
        raise ValueError("a line has no end")


def _checked(lines: Iterable[bytes]) -> Iterator[bytes]:
    for block in lines:
        if any(type(fields) is not list or [*map(type, fields)] != _FIELDS for fields in parsed(block)):
            raise ValueError("not a member")
        yield block
