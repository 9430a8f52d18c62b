"""`--to png`: the tree of pictures, OUTPUT/images/<name>. Each picture is published by itself, all are synced at `commit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from artgen.errors import StorageError
from artgen.records import Row
from artgen.storage import atomic, uri

FOLDER = "images"


class Files:
    """Writes every picture at `add`, from any thread: a redone unit writes the same bytes to the same names."""

    def __init__(self, output_uri: str, options: Mapping[str, Any] | None) -> None:
        self._output_uri = output_uri
        self._options = options
        self._written: list[str] = []
        self._disk = atomic.Disk(output_uri)

    def add(self, name: str, data: bytes, row: Row) -> str:
        """One atomic put; returns `images/<name>`. Raises StorageError."""
        place = where(name)
        atomic.write(uri.join(self._output_uri, place), data, self._options)
        self._written.append(place)
        return place

    def commit(self) -> None:
        """Nothing is left to publish, but the rows that come next must not outlive the pictures. Raises StorageError."""
        try:
            atomic.sync(self._output_uri, self._written, self._disk)
        finally:
            self._disk.close()

    def abort(self) -> None:
        """Pictures that are written stay: the unit is redone and replaces them."""
        self._disk.close()


def where(name: str) -> str:
    """The output_uri of a picture, relative to OUTPUT."""
    return f"{FOLDER}/{name}"


def open(output_uri: str, unit_id: str, options: Mapping[str, Any] | None = None) -> Files:
    """The sink of one unit, whose pictures are seen as they come: the unit's name plays no part."""
    return Files(output_uri, options)


def read(output_uri: str, where: str, options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of `images/<name>`. Raises StorageError when it is gone."""
    data = uri.read_or_none(uri.join(output_uri, where), options)
    if data is None:
        raise StorageError(f"{where!r} is no longer in {uri.shown(output_uri)!r}")
    return data


def remove(output_uri: str, where: str, options: Mapping[str, Any] | None = None) -> None:
    """Removes `images/<name>`, whose row goes too: should its source fail this time, no old picture stands in for it."""
    uri.remove(uri.join(output_uri, where), options)
