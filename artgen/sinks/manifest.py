"""The manifest: OUTPUT/manifest/part-<unit>.parquet, one row per source image, the commit record of a unit."""

from __future__ import annotations

import io
import json
import socket
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artgen.errors import StorageError
from artgen.records import Row
from artgen.sinks import parquet
from artgen.storage import atomic, ledger, uri

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string()),
        pa.field("source_bytes", pa.int64()),
        pa.field("source_version", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("bits", pa.int16()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("output_name", pa.string()),
        pa.field("output_uri", pa.string()),
        pa.field("output_sha256", pa.string()),
        pa.field("output_bytes", pa.int64()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("noise_before", pa.float32()),
        pa.field("noise_after", pa.float32()),
        pa.field("change_mean", pa.float32()),
        pa.field("change_max", pa.float32()),
        pa.field("seconds", pa.float32(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("notes", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("seed", pa.int64()),
        pa.field("class_name", pa.string()),
        pa.field("output_width", pa.int32()),
        pa.field("output_height", pa.int32()),
    ]
)

# Beside the rows, in the file's own metadata: when and on which machine a part was written, for `artgen status`.
_WRITTEN = b"artgen.written"
# Parts are small (one unit) and, on an object store, each costs a round trip.
_READERS = 8


def table(rows: Iterable[Row]) -> pa.Table:
    """Rows in the columns of SCHEMA, in the order given."""
    # Column by column: for small pictures a dict of each row takes as long as their encoding.
    columns = dict(zip(Row._fields, zip(*rows, strict=True), strict=False))
    return pa.Table.from_arrays(
        [pa.array(columns.get(column.name, ()), column.type) for column in SCHEMA], schema=SCHEMA
    )


def write(output_uri: str, unit_id: str, rows: Iterable[Row], options: Mapping[str, Any] | None = None) -> None:
    """Commits a unit: publishes its rows in one atomic step, after everything else is written.

    Raises StorageError.
    """
    now = json.dumps({"at": round(time.time(), 3), "node": socket.gethostname()}).encode()
    _put(output_uri, unit_id, table(rows).replace_schema_metadata({_WRITTEN: now}), options)


def written(schema: pa.Schema) -> tuple[float, str] | None:
    """(seconds since 1970, machine) of the commit of a part, by the schema of what `read` yields; None: not told."""
    said = (schema.metadata or {}).get(_WRITTEN)
    if said is None:
        return None
    facts = json.loads(said)
    return facts["at"], facts["node"]


class _Damaged(StorageError):
    """The bytes of a part are no manifest, or it was dropped by a run since it was listed."""


def read(
    output_uri: str,
    columns: Sequence[str] | None = None,
    *,
    units: Iterable[str] | None = None,
    damaged: list[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Streams the manifest part by part, of `units` (default all that are committed, in order): `columns` (default all).

    Memory does not grow with the number of parts. A part that the ledger takes for absent is left out. damaged: takes the
    units of parts whose damage shows only as they are read, which are then left out too; without it they are a StorageError,
    as is whatever the store or disk refuses.
    """
    if units is None:
        units = ledger.Ledger(output_uri, dict(options) if options else None).units()
    asked = iter(units)
    waiting: deque[tuple[str, Future[pa.Table]]] = deque()
    with ThreadPoolExecutor(_READERS, "manifest") as pool:
        try:
            while True:
                while len(waiting) < 2 * _READERS and (unit := next(asked, None)) is not None:
                    waiting.append((unit, pool.submit(_part, output_uri, unit, columns, options)))
                if not waiting:
                    return
                unit, future = waiting.popleft()
                try:
                    rows = future.result()
                except _Damaged:
                    if damaged is None:
                        raise
                    damaged.append(unit)
                    continue
                yield from rows.to_batches()
        finally:
            for _, future in waiting:
                future.cancel()


def totals(output_uri: str, options: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Rows by status: `{"ok": n, "failed": m}`. For who ends a run, as it writes: every column is read, and a damaged part is
    emptied, so that the next run takes it for absent. Raises StorageError for such.
    """
    counts: Counter[str] = Counter(ok=0, failed=0)
    damaged: list[str] = []
    for batch in read(output_uri, damaged=damaged, options=options):
        counts.update(batch.column("status").to_pylist())
    for unit in damaged:
        _empty(output_uri, unit, options)
    if damaged:
        raise StorageError(
            f"{len(damaged)} parts of the manifest of {uri.shown(output_uri)!r} are damaged, such as part-{damaged[0]}.parquet: "
            "run the same command again, which does their units anew"
        )
    return dict(counts)


def drop(output_uri: str, unit_id: str, keys: Set[str], options: Mapping[str, Any] | None = None) -> int:
    """Rewrites a part without `keys`, atomically; returns how many rows went.

    A part that loses all its rows is removed: a later plan of the same images bears the same unit ids (the second
    --retry-failed of the same failures), and must not find them done. Rows in a Parquet part move up as in
    `parquet.drop` with the same keys. Raises StorageError for a damaged part, which it empties: the next run does it anew.
    """
    if not uri.exists(ledger.part_uri(output_uri, unit_id), options):
        return 0
    try:
        part = _part(output_uri, unit_id, None, options)
    except _Damaged:
        _empty(output_uri, unit_id, options)
        raise
    rows = part.to_pylist()
    gone = sorted(_row_number(row) for row in rows if row["key"] in keys and _row_number(row) >= 0)
    kept = [row for row in rows if row["key"] not in keys]
    if len(kept) == len(rows):
        return 0
    if not kept:
        uri.remove(ledger.part_uri(output_uri, unit_id), options)
        return len(rows)
    for row in kept:
        if (number := _row_number(row)) >= 0:
            file = row["output_uri"].partition("#")[0]
            row["output_uri"] = f"{file}#{number - sum(dropped < number for dropped in gone)}"
    _put(output_uri, unit_id, pa.Table.from_pylist(kept, schema=part.schema), options)
    return len(rows) - len(kept)


def _empty(output_uri: str, unit_id: str, options: Mapping[str, Any] | None) -> None:
    """A damaged part, so that whoever lists the parts next takes it for absent."""
    atomic.write(ledger.part_uri(output_uri, unit_id), b"", options, fsync=True)


def _row_number(row: dict[str, Any]) -> int:
    """The row of a Parquet part that an output_uri names; -1 for any other."""
    where = row["output_uri"] or ""
    return int(where.partition("#")[2]) if where.startswith(parquet.FOLDER + "/") else -1


def _part(
    output_uri: str,
    unit_id: str,
    columns: Sequence[str] | None,
    options: Mapping[str, Any] | None,
) -> pa.Table:
    part_uri = ledger.part_uri(output_uri, unit_id)
    data = uri.read_or_none(part_uri, options)
    if data is None:
        raise _Damaged(f"the manifest part {uri.shown(part_uri)!r} has vanished while it was read")
    wanted = list(SCHEMA.names if columns is None else columns)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return file.read(columns=wanted, use_threads=False).select(wanted)
    except (OSError, pa.ArrowInvalid) as error:
        raise _Damaged(
            f"cannot read the manifest part {uri.shown(part_uri)!r}: {uri.explain(error)}; run the command that made OUTPUT "
            "again, which does its unit anew"
        ) from error


def _put(output_uri: str, unit_id: str, rows: pa.Table, options: Mapping[str, Any] | None) -> None:
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    atomic.write(ledger.part_uri(output_uri, unit_id), buffer.getbuffer(), options, fsync=True)
