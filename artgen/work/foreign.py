"""Files below OUTPUT/images that artgen did not make: somebody keeps them there, and no picture is to replace them."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterator
from typing import Any

from artgen.sinks import files, manifest
from artgen.storage import atomic, listing, uri
from artgen.storage.arrow import tells_damage


def names(output: str, options: dict[str, Any] | None = None) -> Iterator[str]:
    """Every file below OUTPUT/images, as the names of pictures are written. Memory as of `listing.items`. Raises StorageError."""
    place = uri.join(output, files.FOLDER)
    if uri.exists(place, options):
        for item in listing.items(listing.resolve(place, options, "OUTPUT")):
            if not item.name.rpartition("/")[2].startswith(atomic.PREFIX):
                yield unicodedata.normalize("NFC", item.name)  # macOS lists accents apart from their letters


def planned(output: str, options: dict[str, Any] | None = None) -> Iterator[tuple[str, str]]:
    """(name, key) of the pictures of every plan in OUTPUT, whether they were made or not. Raises StorageError."""
    import pyarrow.parquet as pq

    home = uri.join(output, "_artgen")
    folders = [uri.join(home, name) for name in uri.names(home, options) if name.startswith("plan-")]
    for place in (uri.join(folder, name) for folder in folders for name in uri.names(folder, options)):
        if not place.endswith(".parquet"):
            continue
        fs, path = uri.filesystem(place, options)
        with uri.reading(place), fs.open(path, "rb") as file:
            try:
                for batch in pq.ParquetFile(file).iter_batches(columns=["name", "key"]):
                    yield from zip(batch.column("name").to_pylist(), batch.column("key").to_pylist(), strict=True)
            except Exception as error:
                if not tells_damage(error):
                    raise
                continue  # of a plan that nobody can go on with: what it made stays where it is


def count(output: str, options: dict[str, Any] | None = None) -> int:
    """How many files below OUTPUT/images no row names and no plan. Memory is flat. Raises StorageError."""
    db = sqlite3.connect("", isolation_level=None)
    try:
        db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; CREATE TABLE file(name TEXT PRIMARY KEY);"
        )
        db.execute("BEGIN")
        db.executemany("INSERT OR IGNORE INTO file VALUES (?)", ((name,) for name in names(output, options)))
        if db.execute("SELECT 1 FROM file").fetchone():
            for batch in manifest.read(output, ["output_name"], damaged=[], options=options):
                db.executemany("DELETE FROM file WHERE name = ?", zip(batch.column(0).to_pylist()))
        if db.execute("SELECT 1 FROM file").fetchone():
            db.executemany("DELETE FROM file WHERE name = ?", ((name,) for name, _ in planned(output, options)))
        return db.execute("SELECT count(*) FROM file").fetchone()[0]
    finally:
        db.close()
