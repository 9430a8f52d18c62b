"""Zip archives: an index from the central directory, members read by one range each."""

from __future__ import annotations

import json
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator

from artgen.errors import SourceUnreadable
from artgen.storage import kind
from artgen.storage.blob import OF_ONE, Blob, BlobFile
from artgen.storage.member import Member, plain, to_json

BOMB_RATIO = 1000
BOMB_BYTES = 64 * 1024 * 1024
"""A member of at least BOMB_BYTES that is packed more than BOMB_RATIO to one is refused: no picture is."""

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_SLACK = 512
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_BROKEN = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    OSError,
    ValueError,
    EOFError,
    struct.error,
)


def index(blob: Blob, max_bytes: int) -> Iterator[Member]:
    """Members in the order of the central directory. A member larger than `max_bytes` by its own account,
    or a bomb, is refused here. Names are `plain`. `offset` is that of the local header, `size` the compressed size.
    """
    try:
        entries = _open(blob).infolist()
    except _BROKEN as error:
        yield Member(problem=f"not a readable zip archive: {error}")
        return
    for entry in entries:
        if not entry.is_dir():
            yield _member(blob, entry, max_bytes)


def read(blob: Blob, offset: int, size: int, detail: dict, codec: Others | None = None) -> bytes:
    """The bytes of one member, never more than its declared size. Raises SourceUnreadable when the
    archive and its directory disagree, the data are damaged or the checksum does not match.
    """
    raw = blob.fetch(offset, offset + _LOCAL_HEADER.size + detail["name"] + _SLACK + size)
    if len(raw) < _LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
        raise SourceUnreadable(f"the zip archive has no member at byte {offset}; it is damaged or has changed")
    *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(raw)
    start = _LOCAL_HEADER.size + name_bytes + extra_bytes
    if len(raw) < start + size:
        raw += blob.fetch(offset + len(raw), offset + start + size)
    packed = memoryview(raw)[start : start + size]
    if len(packed) < size:
        raise SourceUnreadable("the zip archive ends inside this member; it is truncated")
    declared = detail["size"]
    if detail["method"] == zipfile.ZIP_STORED:
        data = bytes(packed)
    elif detail["method"] == zipfile.ZIP_DEFLATED:
        data = _inflate(packed, declared)
    else:
        data = (codec or Others(blob)).read(offset, declared)
    if len(data) != declared:
        raise SourceUnreadable(f"the zip member holds {len(data)} bytes and declares {declared}; it is damaged")
    if zlib.crc32(data) != detail["crc"]:
        raise SourceUnreadable("the zip member is damaged: bad CRC-32")
    return data


class Others:
    """Members packed with bzip2 or LZMA, through zipfile. Thread-safe. Raises SourceUnreadable when that is no zip."""

    def __init__(self, blob: Blob) -> None:
        self._lock = threading.Lock()
        try:
            self._zip = _open(blob)
        except OF_ONE:
            raise  # the archive is gone or barred, not damaged
        except _BROKEN as error:
            raise SourceUnreadable(f"not a readable zip archive: {error}") from error
        self._at = {entry.header_offset: entry for entry in self._zip.infolist()}

    def read(self, offset: int, declared: int) -> bytes:
        """The member whose local header is at `offset`; at most one byte more than declared. Raises SourceUnreadable
        when it is damaged.
        """
        try:
            with self._lock, self._zip.open(self._at[offset]) as file:
                return file.read(declared + 1)
        except OF_ONE:
            raise
        except (*_BROKEN, KeyError, zlib.error, RuntimeError) as error:
            raise SourceUnreadable(f"the zip member cannot be unpacked: {error}") from error


def _open(blob: Blob) -> zipfile.ZipFile:
    """Raises one of _BROKEN, but what reading the blob raised where zipfile would say "not a zip file" of it."""
    file = BlobFile(blob)
    try:
        return zipfile.ZipFile(file)
    except _BROKEN as error:
        raise file.failure or error from None


def _inflate(packed: memoryview, declared: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, declared + 1)
    except zlib.error as error:
        raise SourceUnreadable(f"the zip member cannot be unpacked: {error}") from error


def _member(blob: Blob, entry: zipfile.ZipInfo, max_bytes: int) -> Member:
    name = plain(_name(entry))
    if stat.S_ISLNK(entry.external_attr >> 16):
        return Member(name, skip="a symbolic link; links in archives are not followed")
    detail = to_json(
        method=entry.compress_type, size=entry.file_size, crc=entry.CRC, name=len(entry.orig_filename.encode())
    )
    offset, size = entry.header_offset, entry.compress_size
    problem = _refused(entry, max_bytes)

    def head() -> bytes:
        # Unknown names are rare, so the member is read whole (bounded by max_bytes) for its first bytes.
        try:
            return b"" if problem else read(blob, offset, size, json.loads(detail))[: kind.SNIFF_BYTES]
        except SourceUnreadable:
            return b""

    skip, wrong = kind.member(name, head)
    return Member(name, offset, size, detail, skip=skip, problem="" if skip else problem or wrong)


def _refused(entry: zipfile.ZipInfo, max_bytes: int) -> str:
    if entry.flag_bits & 1:
        return "the zip member is encrypted; unpack the archive with its password first"
    if entry.compress_type not in _METHODS:
        return f"the zip member uses compression method {entry.compress_type}; repack it with deflate"
    if entry.file_size > max_bytes:
        return (
            f"the zip member declares {entry.file_size} bytes, more than the limit of {max_bytes} "
            "(raise --max-pixels to allow it)"
        )
    if entry.file_size >= BOMB_BYTES and entry.file_size > BOMB_RATIO * entry.compress_size:
        ratio = entry.file_size // max(1, entry.compress_size)
        return f"a zip bomb: {entry.file_size} bytes packed {ratio} to one (limit {BOMB_RATIO})"
    return ""


def _name(entry: zipfile.ZipInfo) -> str:
    """The stored name. Many tools write UTF-8 without setting its flag; zipfile then reads code page 437."""
    name = entry.orig_filename.partition("\0")[0]
    if not entry.flag_bits & 0x800 and not name.isascii():
        try:
            return name.encode("cp437").decode("utf-8")
        except (UnicodeEncodeError, UnicodeDecodeError):
            return name
    return name
