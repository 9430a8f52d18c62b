"""Tar archives: an index of members from the headers alone, plain or through a gzip seek index."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from artgen.storage import kind
from artgen.storage.member import Member, plain

LONGEST_HEADER = 4 * 1024 * 1024
"""No PAX or GNU long-name header is larger; one that claims more is a lie that would fill memory."""

_PADDING = 64 * 1024
_BROKEN = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError)
_TYPES = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a pipe",
}


def index(file: Any, size: int | None) -> Iterator[Member]:
    """Members of the tar `file` (seekable) in order; the data between headers is skipped, not read.

    size: bytes of the file, or None when unknown (inside gzip), where the last byte of each member is
    tried instead. A break ends the index with a Member whose problem says where; what lies before it
    is sound. Names are `plain`. Headers: POSIX.1-2001 (pax), ustar and GNU, as tarfile reads them.
    """
    for found in _headers(file):
        if isinstance(found, str):
            yield Member(problem=found)
        elif not found.isdir():
            member, complete = _member(found, file, size)
            yield member
            if not complete and member.problem:
                return  # this member's own problem tells of the break


def _headers(file: Any) -> Iterator[tarfile.TarInfo | str]:
    """The headers, then a text when the walk ended anywhere but at the archive's end."""
    archive: Any
    try:
        archive = tarfile.open(  # noqa: SIM115
            fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
        )
    except _BROKEN as error:
        yield f"not a readable tar archive: {error}"
        return
    at = -1
    while True:
        try:
            found = archive.next()
            archive.members.clear()  # tarfile keeps every header; a long index must stay flat
            if found is None and _resumes(archive, file):
                continue
        except _BROKEN as error:
            yield f"broken tar archive at byte {archive.offset}: {error}; images before it are read"
            return
        if found is None:
            return
        if found.size < 0 or found.offset <= at:
            yield f"broken tar archive at byte {found.offset}: a header leads backwards; images before it are read"
            return
        at = found.offset
        yield found


def _resumes(archive: Any, file: Any) -> bool:
    """At what tarfile takes for the end: is there another archive behind (`cat a.tar b.tar`)?

    tarfile also ends in silence at a damaged header in mid-archive; that raises ValueError here.
    """
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise ValueError("bad header")
    padding = block + file.read(_PADDING)
    zeros = len(padding) - len(padding.lstrip(b"\0"))
    start = zeros - zeros % tarfile.BLOCKSIZE
    if padding[start + 257 : start + 262] != b"ustar":
        return False  # padding, or bytes behind the end that tar itself ignores
    archive.offset += start
    return True


def _member(found: tarfile.TarInfo, file: Any, size: int | None) -> tuple[Member, bool]:
    """The member, and whether all its data are there."""
    name = plain(found.name)
    if found.issym() or found.islnk():
        return Member(name, skip=f"a link to {found.linkname!r}; links in archives are not followed"), True
    if not found.isreg():
        return Member(name, skip=f"{_TYPES.get(found.type, 'a special file')}, not an image"), True

    def head() -> bytes:
        try:
            file.seek(found.offset_data)
            return file.read(min(kind.SNIFF_BYTES, found.size))
        except _BROKEN:
            return b""

    skip, problem = kind.member(name, head)
    complete = found.sparse is not None or _complete(found, file, size)
    if found.sparse is not None and not skip:
        problem = "stored as a sparse member; pack the archive without --sparse"
    if not complete and not skip:
        problem = f"claims {found.size} bytes, but the archive ends before them; it is truncated or damaged"
    return Member(name, found.offset_data, found.size, skip=skip, problem=problem), complete


def _complete(found: tarfile.TarInfo, file: Any, size: int | None) -> bool:
    end = found.offset_data + found.size
    if size is not None:
        return end <= size
    if found.size == 0:
        return True
    try:
        file.seek(end - 1, io.SEEK_SET)
        return len(file.read(1)) == 1
    except (OSError, EOFError, ValueError):
        return False
