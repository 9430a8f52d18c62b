"""The listing of an INPUT, spilled to a temporary SQLite database so that memory stays flat."""

from __future__ import annotations

import hashlib
import sqlite3
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from itertools import islice
from typing import Any

from artgen.records import Entry, Skipped, Source
from artgen.sinks import files, manifest, parquet, shards
from artgen.storage import kind
from artgen.storage.ledger import Ledger
from artgen.storage.names import Names
from artgen.work import foreign

SOURCE_COLUMNS = ("key", "uri", "kind", "offset", "size", "detail", "version", "problem")
_BATCH = 2000
# Units whose stale rows go at once: in a store each costs some requests one after the other.
_DROPPERS = 16


class Listing:
    """Sources of an INPUT in their order, with masks, and what of them is already done in an OUTPUT.

    paired: INPUT and masks are one file each, which belong together whatever their names.
    masked: images with a mask. unmatched: masks of no image; unreadable: what of the masks cannot be read and belongs to no
    image, such as the rest of a torn archive (key, reason). changed, damaged, committed, gone: see `subtract_done`. foreign:
    see `drop_stale`.
    Close it (or use it as a context manager) to remove the temporary database.
    """

    seeds = ""  # of a plan of seeds, see `seed_listing`

    def __init__(
        self, root: str, found: Iterable[Source | Skipped], masks: Iterable[Source | Skipped] | None = None,
        *, paired: bool = False,
    ) -> None:  # fmt: skip
        self.root = root
        self.skipped = 0
        self.first_skipped: list[Skipped] = []
        self.masked = self.unmatched = self.changed = self.foreign = 0
        self.unreadable: tuple[str, str] | None = None
        self.gone, self.first_gone = 0, ""
        self.damaged: list[str] = []
        self.committed: list[str] = []
        # An empty name makes SQLite keep the database in memory and spill it to a temporary file as it grows.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE source(seq INTEGER PRIMARY KEY, key TEXT UNIQUE, uri, kind, offset, size, detail, version, problem);"
            "CREATE TABLE mask(stem TEXT, key TEXT UNIQUE, uri, kind, offset, size, detail, version, problem);"
            "CREATE INDEX mask_stem ON mask(stem);"
            "CREATE TABLE done(key TEXT PRIMARY KEY, name TEXT, unit TEXT);"
            "CREATE TABLE earlier(key TEXT PRIMARY KEY, attempts INTEGER);"
            "CREATE TABLE taken(name TEXT PRIMARY KEY);"
            "CREATE TABLE stale(unit TEXT, key TEXT, attempts INTEGER, output_uri TEXT); CREATE INDEX stale_key ON stale(key);"
            "CREATE INDEX stale_unit ON stale(unit);"
        )
        self._add_sources(found)
        if masks is not None:
            self._add_masks(masks, paired)

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def _add_sources(self, found: Iterable[Source | Skipped]) -> None:
        def rows() -> Iterator[tuple[Any, ...]]:
            for item in found:
                if isinstance(item, Skipped):
                    self.skipped += 1
                    if len(self.first_skipped) < 100:
                        self.first_skipped.append(item)
                else:
                    yield astuple(item)

        self._each(
            "INSERT INTO source(key, uri, kind, offset, size, detail, version, problem) VALUES (?,?,?,?,?,?,?,?)",
            rows(),
        )

    def _add_masks(self, masks: Iterable[Source | Skipped], paired: bool) -> None:
        only = self.first_key() if paired else None
        rows = ((stem(only or item.key), *astuple(item)) for item in masks if isinstance(item, Source))
        self._each("INSERT OR IGNORE INTO mask VALUES (?,?,?,?,?,?,?,?,?)", rows)
        self._db.create_function("stem", 1, stem, deterministic=True)
        (self.masked,) = self._db.execute(
            "SELECT count(*) FROM source WHERE key IN (SELECT key FROM mask) OR stem(key) IN (SELECT stem FROM mask)"
        ).fetchone()
        lonely = (
            "FROM mask WHERE key NOT IN (SELECT key FROM source) AND stem NOT IN (SELECT stem(key) FROM source)"
        )
        (self.unmatched,) = self._db.execute(f"SELECT count(*) {lonely}").fetchone()
        self.unreadable = self._db.execute(f"SELECT key, problem {lonely} AND problem <> '' LIMIT 1").fetchone()

    def _each(self, statement: str, rows: Iterator[tuple[Any, ...]]) -> None:
        self._db.execute("BEGIN")
        while batch := list(islice(rows, _BATCH)):
            self._db.executemany(statement, batch)
        self._db.execute("COMMIT")

    def first_key(self) -> str | None:
        """Of the first source; None: there is none."""
        row = self._db.execute("SELECT key FROM source ORDER BY seq LIMIT 1").fetchone()
        return None if row is None else row[0]

    def count(self) -> int:
        """Images still to be done."""
        return self._db.execute("SELECT count(*) FROM source WHERE key NOT IN (SELECT key FROM done)").fetchone()[0]

    def digest(self, *, todo: bool = False) -> str:
        """SHA-256 of the root, keys, sizes and versions (and masks'), of all sources or of those still to be done."""
        where = "WHERE key NOT IN (SELECT key FROM done)" if todo else ""
        hasher = hashlib.sha256(self.root.encode("utf-8", "surrogateescape"))  # a local path may hold any bytes
        columns = ", ".join(SOURCE_COLUMNS[1:])
        for row in self._db.execute(f"SELECT key, {columns} FROM source {where} ORDER BY seq"):
            hasher.update(repr(row).encode())
        for row in self._db.execute("SELECT key, size, version FROM mask ORDER BY key"):
            hasher.update(repr(row).encode())
        return hasher.hexdigest()

    def subtract_done(self, output: str, *, retry_failed: bool, options: dict[str, Any] | None = None) -> None:
        """Leaves out the sources that have a row of the same version in OUTPUT; `changed` counts those of another,
        `damaged` are the units of parts that cannot be read, `committed` all that there are. gone: on `retry_failed`,
        failed rows of what this INPUT no longer has, which are stale. What failed of another INPUT keeps its row.
        """
        self.changed, self.damaged, self.gone, self.first_gone = 0, [], 0, ""
        self._db.execute("DELETE FROM done")
        self._db.execute("DELETE FROM earlier")
        self._db.execute("DELETE FROM stale")
        columns = ["key", "source_uri", "source_version", "status", "output_name", "output_uri", "attempts", "unit"]
        self.committed = Ledger(output, options).units()
        for batch in manifest.read(output, columns, units=self.committed, damaged=self.damaged, options=options):
            for row in batch.to_pylist():
                self._take_row(row, retry_failed)

    def drop_stale(self, output: str, options: dict[str, Any] | None = None) -> None:
        """Drops from OUTPUT the rows and pictures that `subtract_done` found of changed sources (and failed rows on its
        `retry_failed`, or of containers that can be read by now), so that in the end every key has one row. Dying on the
        way is safe: a key without a row is planned again. `foreign` counts the files below images/ that are then nobody's.
        """
        dropping: deque[Future[None]] = deque()
        with ThreadPoolExecutor(_DROPPERS, "artgen-drop") as pool:
            for unit, found in self._stale():
                dropping.append(pool.submit(_drop, output, unit, found, options))
                if len(dropping) > _DROPPERS:
                    dropping.popleft().result()
            for under_way in dropping:
                under_way.result()
        self._db.execute("INSERT OR REPLACE INTO earlier SELECT key, max(attempts) FROM stale GROUP BY key")
        self._take_foreign(output, options)

    def _stale(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        """Each unit with stale rows, in order, and the output_uri of each of their keys."""
        for (unit,) in self._db.execute("SELECT DISTINCT unit FROM stale ORDER BY unit").fetchall():
            yield unit, dict(self._db.execute("SELECT key, output_uri FROM stale WHERE unit = ?", (unit,)))

    def _take_foreign(self, output: str, options: dict[str, Any] | None) -> None:
        """Notes what lies below images/ and is neither of a row nor what a process left that died before its rows: no
        picture takes such a name. An image with a row is done, so what an older plan called its picture does not count.
        """
        self._each("INSERT OR IGNORE INTO taken VALUES (?)", ((name,) for name in foreign.names(output, options)))
        self._db.execute("DELETE FROM taken WHERE name IN (SELECT name FROM done)")
        if self._db.execute("SELECT 1 FROM taken").fetchone():
            left = (
                "DELETE FROM taken WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM done WHERE done.key = ?2)"
                " AND NOT EXISTS (SELECT 1 FROM stale WHERE stale.key = ?2)"
            )
            self._each(left, foreign.planned(output, options))
        (self.foreign,) = self._db.execute("SELECT count(*) FROM taken").fetchone()

    def _take_row(self, row: dict[str, Any], retry_failed: bool) -> None:
        known = self._db.execute("SELECT version FROM source WHERE key = ?", (row["key"],)).fetchone()
        mask = self._mask(row["key"])
        changed = known is not None and row["source_version"] != (
            known[0] if mask is None else f"{known[0]}|{mask.version}"
        )
        # A failed row of what INPUT no longer has (a source that was deleted, a container that can be read by now) would
        # stay for ever. What was restored stays, also when its source was deleted afterwards.
        failed = row["status"] == "failed"
        gone = failed and retry_failed and known is None and self._is_below(row["source_uri"])
        over = gone or (failed and (self._is_container(row["key"]) if known is None else retry_failed))
        if gone:
            self.gone, self.first_gone = self.gone + 1, self.first_gone or row["key"]
        self.changed += changed
        if changed or over:
            stale = (row["unit"], row["key"], row["attempts"], row["output_uri"])
            self._db.execute("INSERT INTO stale VALUES (?,?,?,?)", stale)
        else:
            self._db.execute(
                "INSERT OR REPLACE INTO done VALUES (?,?,?)", (row["key"], row["output_name"], row["unit"])
            )

    def _is_below(self, source_uri: str) -> bool:
        """Whether this INPUT would have listed it, were it still there."""
        return source_uri == self.root or source_uri.startswith(self.root.rstrip("/") + "/")

    def _is_container(self, key: str) -> bool:
        """Whether sources lie in `key`; those of an INPUT that is one archive do not name it in their keys."""
        if self.root.rpartition("/")[2] == key:
            return True
        found = self._db.execute("SELECT 1 FROM source WHERE key > ? AND key < ? LIMIT 1", (f"{key}/", f"{key}0"))
        return found.fetchone() is not None  # 0 is the character after /

    def entries(self, extension: str) -> Iterator[Entry]:
        """The images still to be done, named so that no two outputs share a path on any file system."""
        query = "SELECT name FROM done WHERE name IS NOT NULL UNION ALL SELECT name FROM taken"
        taken = (name for (name,) in self._db.execute(query))
        names = Names(extension=extension, taken=taken)
        where = "WHERE source.key NOT IN (SELECT key FROM done) ORDER BY seq"
        for (key,) in self._db.execute(f"SELECT key FROM source {where}"):
            names.add(key)
        columns = ", ".join(f"source.{name}" for name in SOURCE_COLUMNS)
        query = f"SELECT {columns}, coalesce(earlier.attempts, 0) FROM source LEFT JOIN earlier ON earlier.key = source.key {where}"
        for row in self._db.execute(query):
            source = Source(*row[:-1])
            yield Entry(source, names.name(source.key), self._mask(source.key), row[-1] + 1)

    def _mask(self, key: str) -> Source | None:
        columns = ", ".join(SOURCE_COLUMNS)
        # The same path first; among those that differ in the extension the first that was listed.
        query = f"SELECT {columns} FROM mask WHERE key = ? OR stem = ? ORDER BY key <> ?, rowid LIMIT 1"
        row = self._db.execute(query, (key, stem(key), key)).fetchone()
        return None if row is None else Source(*row)


def _drop(output: str, unit: str, stale: dict[str, str | None], options: dict[str, Any] | None) -> None:
    """The pictures of a unit's stale rows, then the rows. stale: the output_uri by the key, None of a failed row."""
    for where in stale.values():
        if where is not None and where.startswith(f"{files.FOLDER}/"):
            files.remove(output, where, options)
    if shown := {
        key for key, where in stale.items() if where is not None
    }:  # a failed row has no picture to look for
        for sink in (parquet, shards):
            sink.drop(output, unit, shown, options)
    manifest.drop(output, unit, stale.keys(), options)


def stem(key: str) -> str:
    """A key without the extension of a picture, in Unicode's composed form: what an image and its mask share.

    macOS writes the accents of names apart from their letters, other systems in one.
    """
    bare = key.rpartition(".")[0] if kind.extension(key) in kind.IMAGE_EXTENSIONS else key
    return unicodedata.normalize("NFC", bare)
