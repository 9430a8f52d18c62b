"""What a sink is: one output format of one unit. The module of each format has `FOLDER`, `open` (the sink of a unit) and
`read` (a picture by its output_uri).

Rows that are done again take their pictures with them: by `remove` where a picture is a file of its own (`files`), by `drop`
of the unit's keys where many share one (`parquet`, `shards`), which also has `unit_of`, the unit of such a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from artgen.codecs.marking import TERMS
from artgen.records import Row

GENERATED = TERMS + "trainedAlgorithmicMedia"


class Sink(Protocol):
    """One unit on its way into one output format: `add` in entry order, then `commit` or `abort`."""

    def add(self, name: str, data: bytes, row: Row) -> str:
        """Takes one encoded picture of `row.key`; returns its output_uri, relative to OUTPUT. Raises StorageError.

        Of `row` only what is the same in every run is stored: never times or attempts.
        """
        ...

    def commit(self) -> None:
        """What was added is published and, on a local disk, outlives a power cut. Raises StorageError."""
        ...

    def abort(self) -> None:
        """Forgets what is not published; leaves no temporary file."""
        ...


def read(output_uri: str, where: str, options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of one written picture; `where` is the `output_uri` of its manifest row.

    Raises StorageError when it is no longer there.
    """
    from artgen.sinks import files, parquet, shards

    if where.startswith(parquet.FOLDER + "/"):
        return parquet.read(output_uri, where, options)
    if where.startswith(shards.FOLDER + "/"):
        return shards.read(output_uri, where, options)
    return files.read(output_uri, where, options)


def remedy(unit_id: str) -> str:
    """For the end of a message: what a person can do about a damaged shard or Parquet part of a unit."""
    return (
        f"put it back from a copy, or remove it and manifest/part-{unit_id}.parquet: the same command then makes its "
        "pictures again"
    )


def picture_facts(row: Row) -> dict[str, Any]:
    """What goes beside a picture in Parquet and JSON; width and height are those of the written picture."""
    if row.seed is not None:
        return {
            "key": row.key,
            "width": row.output_width,
            "height": row.output_height,
            "seed": row.seed,
            "class_name": row.class_name,
            "model": row.model,
            "model_sha256": row.model_sha256,
            "digital_source_type": GENERATED,
        }
    return {
        "key": row.key,
        "width": row.output_width,
        "height": row.output_height,
        "source_sha256": row.source_sha256,
        "noise_before": row.noise_before,
        "noise_after": row.noise_after,
        "change_mean": row.change_mean,
        "change_max": row.change_max,
        "notes": row.notes,
    }
