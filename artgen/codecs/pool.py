"""One decoder process for each thread of a worker."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

from artgen.codecs.guard import Guard
from artgen.codecs.picture import Admit, Picture


class GuardPool:
    """`size` guards, started at once so that they boot while the model loads; `decode` borrows an idle one."""

    def __init__(self, size: int, max_pixels: int, timeout_s: float | None) -> None:
        self._idle: queue.SimpleQueue[Guard] = queue.SimpleQueue()
        self._all = [Guard(max_pixels=max_pixels, timeout_s=timeout_s) for _ in range(size)]
        for guard in self._all:
            self._idle.put(guard)

    def decode(self, data: bytes, admit: Admit | None = None, within_s: float | None = None) -> Picture:
        """As `codecs.guard.Guard.decode`; waits while all guards are busy."""
        with self.borrowed() as guard:
            return guard.decode(data, admit, within_s)

    @contextmanager
    def borrowed(self) -> Iterator[Guard]:
        """An idle guard, for more than one picture; waits while all are busy. Who has one must not wait for another."""
        guard = self._idle.get()
        try:
            yield guard
        finally:
            self._idle.put(guard)

    def interrupt(self) -> None:
        """Ends what is being decoded, from another thread: it raises DecoderCrashed there."""
        for guard in self._all:
            guard.interrupt()

    def close(self) -> None:
        for guard in self._all:
            guard.close()
