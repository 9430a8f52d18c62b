"""A part that grows in a local temporary file and is published once, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from artgen.storage import atomic


class _Aborted(Exception):
    """Never leaves this module: it tells open_for_commit not to publish."""


class Spool:
    """`file` takes the bytes. `publish` makes them appear at `part_uri` in one step, on the disk; `discard` forgets them."""

    def __init__(self, part_uri: str, options: Mapping[str, Any] | None) -> None:
        self._stack = ExitStack()
        self.file = self._stack.enter_context(atomic.open_for_commit(part_uri, options, fsync=True))

    def publish(self) -> None:
        """Raises StorageError, with nothing published."""
        self._stack.close()

    def discard(self) -> None:
        """Does nothing after `publish`."""
        self._stack.__exit__(_Aborted, _Aborted(), None)
