"""A folder for what it took a while to find out about archives, so that the next run need not."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from artgen.errors import ArtgenError, StorageError
from artgen.storage import atomic
from artgen.storage import uri as uris

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PIECE_BYTES = 4 * 1024 * 1024
"""Of a kept file held in memory at a time; one of no more than this takes one request."""

_COPIES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Cache:
    """Kept files by name. folder: a path or URI, made when something is kept. writes: whether anything may be."""

    folder: str
    options: uris.Options | None = None
    writes: bool = True

    def place(self, name: str) -> str:
        """Where the file of this name lies, or would."""
        return uris.join(self.folder, name)

    def take(self, folder: str) -> None:
        """Keeps what a cache in a local folder has. The seek points of an archive come before its members, for who finds
        these looks for no seek points. Raises StorageError.
        """
        found = sorted(os.listdir(folder))
        with ThreadPoolExecutor(_COPIES_AT_ONCE, "artgen-keep") as pool:
            for early in (True, False):
                names = [name for name in found if name.endswith(".gzidx") is early]
                list(pool.map(partial(self._copy, folder), names))

    def _copy(self, folder: str, name: str) -> None:
        with (
            open(os.path.join(folder, name), "rb") as held,
            atomic.open_for_commit(self.place(name), self.options) as file,
        ):
            shutil.copyfileobj(held, file)

    def read(self, name: str) -> Iterator[bytes]:
        """A kept file in pieces of PIECE_BYTES; none at all if there is no such file. Raises StorageError: what is kept
        concerns every image of an archive, none of which is damaged.
        """
        fs, path = uris.filesystem(self.place(name), self.options)
        at = 0
        while piece := self._piece(fs, path, name, at):
            yield piece
            at += len(piece)
            if len(piece) < PIECE_BYTES:
                return

    def _piece(self, fs: AbstractFileSystem, path: str, name: str, at: int) -> bytes:
        try:
            return fs.cat_file(path, start=at, end=at + PIECE_BYTES)  # pyright: ignore[reportReturnType]
        except FileNotFoundError:
            return b""
        except ArtgenError:
            raise
        except Exception as error:
            # To stores a range that begins at the end of an object is an error.
            if isinstance(error, OSError) and _size(fs, path) == at:
                return b""
            raise StorageError(
                f"cannot read the index cache {name} in {uris.shown(self.folder)!r}: {uris.explain(error)}; "
                "the same command resumes the run"
            ) from error


def name_of(suffix: str, *facts: object) -> str:
    """The name under which is kept what follows from `facts` alone."""
    identity = "\n".join(map(str, facts)).encode()
    return f"{hashlib.sha256(identity).hexdigest()[:32]}.{suffix}"


def _size(fs: AbstractFileSystem, path: str) -> int | None:
    try:
        return fs.info(path)["size"]
    except Exception:  # noqa: BLE001 - the error that made us ask is the one to tell
        return None
