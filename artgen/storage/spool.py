"""Members on the disk instead of in memory, while they wait to be read."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from artgen.storage import atomic, scratch
from artgen.storage.member import Member

_READ_BYTES = 64 * 1024


class Spool:
    """The members of one container, in order, in a temporary file without a name: one thread writes them, another reads
    behind it. A line each, the JSON list of a Member's fields.

    Raises StorageError when the disk cannot hold them. Close it when neither thread uses it any more.
    """

    def __init__(self) -> None:
        self._folder = scratch.folder()
        self._changed = threading.Condition()
        self._written = self._shown = 0
        self._ended = False
        with atomic.explained(self._folder):
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=_READ_BYTES)  # noqa: SIM115

    def append(self, member: Member) -> None:
        fields = [member.name, member.offset, member.size, member.detail, member.skip, member.problem]
        self._write(json.dumps(fields).encode() + b"\n")
        self._show()

    def take(self, blocks: Iterable[bytes]) -> None:
        """Whole lines, of which none is read before all of them are here. Raises what `blocks` raises, and then has none."""
        try:
            for block in blocks:
                self._write(block)
        except BaseException:
            with self._changed:
                self._file.seek(0)
                self._file.truncate()
                self._written = 0
            raise
        self._show()

    def end(self) -> None:
        """Nothing more is written."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def blocks(self) -> Iterator[bytes]:
        """The lines that are here, as bytes."""
        at = 0
        while data := self._read(at):
            yield data
            at += len(data)

    def members(self) -> Iterator[Member]:
        """All of them, each as soon as it is here, up to `end`."""
        at, rest = 0, b""
        while True:
            with self._changed:
                while self._shown == at and not self._ended:
                    self._changed.wait()
            data = self._read(at)
            if not data:
                return
            at += len(data)
            lines, _, rest = (rest + data).rpartition(b"\n")
            for fields in parsed(lines):
                yield Member(*fields)

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        with self._changed, atomic.explained(self._folder):
            self._file.write(data)
            self._written += len(data)

    def _show(self) -> None:
        with self._changed:
            self._shown = self._written
            self._changed.notify_all()

    def _read(self, at: int) -> bytes:
        with self._changed, atomic.explained(self._folder):
            self._file.flush()
            return os.pread(self._file.fileno(), min(_READ_BYTES, self._shown - at), at)


def parsed(lines: bytes) -> list[Any]:
    """What JSON says of each of the lines; nothing of none. Raises ValueError or RecursionError."""
    return json.loads(b"[%b]" % lines.strip(b"\n").replace(b"\n", b","))
