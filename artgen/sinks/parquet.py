"""`--to parquet`: OUTPUT/parquet/part-<unit>.parquet, which Hugging Face `datasets` shows as pictures.

`datasets` shows a column as pictures only if it is `struct<bytes: binary, path: string>` and the schema
metadata has the key `huggingface`; anything else loads as raw bytes with no error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from artgen.errors import StorageError
from artgen.records import Row
from artgen.sinks.base import picture_facts, remedy
from artgen.sinks.spool import Spool
from artgen.storage import atomic, ledger, uri

FOLDER = "parquet"
# A row group is what a reader holds in memory at once, and what this sink holds before it spools.
GROUP_ROWS = 100
GROUP_BYTES = 32 << 20

_PICTURE = [
    pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    pa.field("key", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
]
_RESTORED = [
    pa.field("source_sha256", pa.string()),
    pa.field("noise_before", pa.float32()),
    pa.field("noise_after", pa.float32()),
    pa.field("change_mean", pa.float32()),
    pa.field("change_max", pa.float32()),
    pa.field("notes", pa.string()),
]
_GENERATED = [
    pa.field("seed", pa.int64()),
    pa.field("class_name", pa.string()),
    pa.field("model", pa.string()),
    pa.field("model_sha256", pa.string()),
    pa.field("digital_source_type", pa.string()),
]
_HUGGINGFACE = json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})
SCHEMA = pa.schema([*_PICTURE, *_RESTORED], metadata={"huggingface": _HUGGINGFACE})
GENERATED_SCHEMA = pa.schema([*_PICTURE, *_GENERATED], metadata={"huggingface": _HUGGINGFACE})


class Parquet:
    """Spools row group by row group, so memory does not grow with the unit. Its columns are those of its first row:
    of restored pictures or of generated ones."""

    def __init__(self, output_uri: str, unit_id: str, options: Mapping[str, Any] | None) -> None:
        self._where = f"{FOLDER}/part-{unit_id}.parquet"
        self._uri = uri.join(output_uri, self._where)
        self._options = options
        self._spool = Spool(self._uri, options)
        self._writer: pq.ParquetWriter | None = None
        self._group: list[dict[str, Any]] = []
        self._group_bytes = 0
        self._rows = 0

    def add(self, name: str, data: bytes, row: Row) -> str:
        """Returns `parquet/part-<unit>.parquet#<row>`. Raises StorageError."""
        return self.append({"image": {"bytes": bytes(data), "path": name}, **picture_facts(row)})

    def append(self, row: dict[str, Any]) -> str:
        """`add` of a row that has the columns of a schema already."""
        where = f"{self._where}#{self._rows}"
        self._group.append(row)
        self._group_bytes += len(row["image"]["bytes"])
        self._rows += 1
        if len(self._group) >= GROUP_ROWS or self._group_bytes >= GROUP_BYTES:
            self._flush()
        return where

    def _flush(self) -> None:
        if not self._group:
            return
        if self._writer is None:
            self._writer = _writer(self._spool.file, GENERATED_SCHEMA if "seed" in self._group[0] else SCHEMA)
        with atomic.explained(self._uri):
            self._writer.write_table(pa.Table.from_pylist(self._group, schema=self._writer.schema))
        self._group, self._group_bytes = [], 0

    def commit(self) -> None:
        """Publishes the part; one without rows is none, and an earlier one of the unit goes. Raises StorageError."""
        if not self._rows:
            # Whatever an earlier attempt at this unit left: it has no pictures now.
            self.abort()
            uri.remove(self._uri, self._options)
            return
        self._flush()
        with atomic.explained(self._uri):
            self._close()
        self._spool.publish()

    def abort(self) -> None:
        with suppress(OSError):  # a full disk, maybe: what it cannot hold is thrown away anyhow
            self._close()
        self._spool.discard()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _writer(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    """Pictures are compressed already; statistics of their bytes would copy them into the footer."""
    small = [name for name in schema.names if name != "image"]
    return pq.ParquetWriter(
        file,
        schema,
        compression={"image.bytes": "NONE", "image.path": "ZSTD", **dict.fromkeys(small, "ZSTD")},  # pyright: ignore[reportArgumentType] (the stubs know only str)
        use_dictionary=False,
        write_statistics=small,  # pyright: ignore[reportArgumentType] (the stubs know only bool)
    )


def unit_of(name: str) -> str | None:
    """The unit of a file of this folder; None for what is not ours."""
    found = re.fullmatch(r"part-(.+)\.parquet", name)
    return found[1] if found and ledger.is_unit(found[1]) else None


def open(output_uri: str, unit_id: str, options: Mapping[str, Any] | None = None) -> Parquet:
    """The sink of one unit; nothing is seen of it before its `commit`. Raises StorageError."""
    return Parquet(output_uri, unit_id, options)


def rows(output_uri: str, unit_id: str, options: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a part in order, a few pictures in memory at a time; none if there is no such part. Raises StorageError."""
    place = uri.join(output_uri, FOLDER, f"part-{unit_id}.parquet")
    if not uri.exists(place, options):
        return
    fs, path = uri.filesystem(place, options)
    try:
        with fs.open(path, "rb") as file, pq.ParquetFile(file) as part:
            for batch in part.iter_batches(batch_size=8, use_threads=False):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"cannot read {uri.shown(place)!r}: {uri.explain(error)}; {remedy(unit_id)}") from error


def read(output_uri: str, where: str, options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of the picture at `parquet/part-<unit>.parquet#<row>`; reads one row group.

    Raises StorageError when the part or the row is gone.
    """
    name, _, row = where.partition("#")
    fs, path = uri.filesystem(uri.join(output_uri, name), options)
    offset = int(row)
    try:
        with fs.open(path, "rb") as file, pq.ParquetFile(file) as part:
            for index in range(part.num_row_groups):
                group_rows = part.metadata.row_group(index).num_rows
                if offset < group_rows:
                    column = part.read_row_group(index, columns=["image.bytes"]).column("image")
                    return column[offset].as_py()["bytes"]
                offset -= group_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"cannot read {where!r} in {uri.shown(output_uri)!r}: {uri.explain(error)}") from error
    raise StorageError(f"{where!r} in {uri.shown(output_uri)!r} has no such row: the part has changed since")


def drop(output_uri: str, unit_id: str, keys: Set[str], options: Mapping[str, Any] | None = None) -> int:
    """Rewrites a part without `keys`, atomically; returns how many rows went.

    The rows that stay move up, as `manifest.drop` with the same keys moves their output_uri.
    """
    sink = open(output_uri, unit_id, options)
    dropped = 0
    try:
        for row in rows(output_uri, unit_id, options):
            if row["key"] in keys:
                dropped += 1
            else:
                sink.append(row)
    except BaseException:
        sink.abort()
        raise
    if dropped:
        sink.commit()
    else:
        sink.abort()
    return dropped
