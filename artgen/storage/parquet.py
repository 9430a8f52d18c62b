"""Parquet files of images: a bytes column or Hugging Face's struct<bytes, path>, one row an image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from artgen.errors import SourceUnreadable
from artgen.storage.blob import OF_ONE, Blob, BlobFile
from artgen.storage.member import Member, to_json

_IMAGE_NAMES = ("image", "img", "bytes", "image_bytes", "data", "content", "picture", "photo", "jpg", "jpeg", "png")
_KEY_NAMES = ("path", "key")
_BATCH_ROWS = 64
_BATCH_BYTES = 8 * 1024 * 1024
_KEPT_BATCHES = 16


def index(blob: Blob) -> Iterator[Member]:
    """One Member a row, named by its `path` or `key` column or its row number. Only that column is read;
    rows without bytes fail when they are read. `offset` is the row within its row group.
    """
    import pyarrow as pa

    if blob.size == 0:
        yield Member(problem="empty file, not a Parquet file")
        return
    try:
        file = _open(blob)
        column, leaf = image_column(file.schema_arrow)
        key = _key_column(file.schema_arrow, column)
    except (pa.ArrowException, OSError, ValueError) as error:
        yield Member(problem=f"not a readable Parquet file of images: {' '.join(str(error).split())}")
        return
    row = 0
    for group in range(file.metadata.num_row_groups):
        detail = to_json(group=group, column=column, leaf=leaf)
        try:
            for at, name in enumerate(_keys(file, group, key)):
                yield Member(str(row) if name is None else str(name), at, -1, detail)
                row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Member(problem=f"broken Parquet file in row group {group}: {error}; rows before it are read")
            return


def image_column(schema: Any) -> tuple[str, str]:
    """(column, leaf) that holds the bytes: leaf is "bytes" for a struct, "" for a binary column.

    By type and name: a struct with a binary field `bytes`, else a binary column with one of the usual
    names, else the only binary column. Raises ValueError that names what the file has instead.
    """
    import pyarrow.types as types

    structs = [f.name for f in schema if types.is_struct(f.type) and _has_bytes(f.type)]
    binaries = [f.name for f in schema if _is_binary(f.type)]
    for found, leaf in ((structs, "bytes"), (binaries, "")):
        for wanted in _IMAGE_NAMES:
            for name in found:
                if name.lower() == wanted:
                    return name, leaf
        if len(found) == 1:
            return found[0], leaf
    if structs or binaries:
        raise ValueError(f"several columns may hold the image: {', '.join(structs or binaries)}; name one 'image'")
    columns = ", ".join(f"{f.name}: {f.type}" for f in schema)
    raise ValueError(
        f"no column holds image bytes (columns: {columns}); paths and URLs in data are not opened, "
        "write the bytes themselves as binary or as struct<bytes, path>"
    )


class Rows:
    """Reads rows of one Parquet file. Thread-safe.

    A row group is decoded in batches of at most 64 rows and about 8 MB; the last 16 batches stay, so that
    neighbours in flight are found there and memory does not depend on the size of a row group. (A writer's
    page is the least that can be decoded, however.) Going backwards further than that starts the group anew.
    """

    def __init__(self, blob: Blob) -> None:
        import pyarrow as pa

        self._lock = threading.Lock()
        self._errors = (pa.ArrowException, OSError, ValueError)
        self._kept: OrderedDict[tuple[int, str, int], Any] = OrderedDict()
        self._walks: OrderedDict[tuple[int, str], tuple[Iterator[Any], int]] = OrderedDict()
        try:
            self._file = _open(blob)
        except OF_ONE:
            raise  # the file is gone or barred, not damaged
        except self._errors as error:
            raise SourceUnreadable(f"not a readable Parquet file: {error}") from error

    def read(self, row: int, detail: dict, max_bytes: int | None = None) -> bytes:
        """The bytes of `row` of row group detail["group"]. Raises SourceUnreadable for null and oversize."""
        group, column, leaf = detail["group"], detail["column"], detail["leaf"]
        with self._lock:
            try:
                rows = self._batch_rows(group, column)
                values = self._batch(group, f"{column}.{leaf}" if leaf else column, row // rows, rows)
                value = values[row % rows]
            except OF_ONE:
                raise
            except (*self._errors, IndexError) as error:
                raise SourceUnreadable(f"row {row} of row group {group} cannot be read: {error}") from error
        buffer = value.as_buffer() if value.is_valid else None
        if buffer is None:
            raise SourceUnreadable(
                f"the {column!r} column holds no bytes in row {row} of row group {group} (null); "
                "a path alone is not opened, embed the bytes"
            )
        if max_bytes is not None and buffer.size > max_bytes:
            raise SourceUnreadable(
                f"the image holds {buffer.size} bytes, more than the limit of {max_bytes} (raise --max-pixels to allow it)"
            )
        return buffer.to_pybytes()

    def _batch(self, group: int, leaf: str, number: int, rows: int) -> Any:
        wanted = (group, leaf, number)
        if wanted not in self._kept:
            walk, at = self._walks.pop((group, leaf), (None, 0))
            if walk is None or at > number:
                walk, at = self._file.iter_batches(rows, [group], [leaf], use_threads=False), 0
            while at <= number:
                batch = next(walk, None)
                if batch is None:
                    raise IndexError("the row group ends before it")
                self._kept[group, leaf, at] = _values(batch)
                at += 1
                while len(self._kept) > _KEPT_BATCHES:
                    self._kept.popitem(last=False)
            self._walks[group, leaf] = (walk, at)
            while len(self._walks) > 2:
                self._walks.popitem(last=False)
        self._kept.move_to_end(wanted)
        return self._kept[wanted]

    def _batch_rows(self, group: int, column: str) -> int:
        facts = self._file.metadata.row_group(group)
        size = sum(
            facts.column(i).total_uncompressed_size
            for i in range(facts.num_columns)
            if facts.column(i).path_in_schema.split(".")[0] == column
        )
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES * facts.num_rows // max(1, size)))


def _open(blob: Blob) -> Any:
    import pyarrow.parquet as pq

    # buffer_size streams a column chunk instead of loading it whole.
    return pq.ParquetFile(BlobFile(blob, block=0), buffer_size=1024 * 1024, pre_buffer=False)


def _values(batch: Any) -> Any:
    import pyarrow as pa

    values = batch.column(0)
    if pa.types.is_struct(values.type):
        values = values.flatten()[0]  # flatten, unlike field, keeps the struct's own nulls
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _keys(file: Any, group: int, key: str) -> Iterator[Any]:
    import pyarrow as pa

    if not key:
        yield from [None] * file.metadata.row_group(group).num_rows
        return
    for batch in file.iter_batches(4096, [group], [key], use_threads=False):
        column = batch.column(0)
        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if pa.types.is_integer(column.type):
            yield from column.to_pylist()
        else:  # as bytes: what other writers call text need not be UTF-8
            for name in column.cast(pa.large_binary()).to_pylist():
                yield None if name is None else name.decode("utf-8", "backslashreplace")


def _key_column(schema: Any, image: str) -> str:
    import pyarrow.types as types

    for name in _KEY_NAMES:
        # A name that occurs twice (index -1) names nothing.
        if name != image and schema.get_field_index(name) >= 0:
            kind = schema.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind):
                return name
    return ""


def _has_bytes(kind: Any) -> bool:
    return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
