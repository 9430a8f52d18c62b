"""What travels between the layers: frozen, small, picklable, never pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["file", "tar", "targz", "zip", "parquet", "seed"]


@dataclass(frozen=True, slots=True)
class Source:
    """One image of an INPUT: where its bytes lie, never the bytes.

    `key` is the stable id (unique within an INPUT, verbatim name; bytes that are not UTF-8 stand as
    \\xNN). `uri` is the file or container, in a reversible UTF-8 form that `storage.archive.Reader`
    understands. `offset` and `size` are bytes in it (tar: of the member's data; zip: of the local header and
    the compressed size; parquet: row within the row group, size -1). `detail` is JSON that only the
    reader of that kind reads. `version` is the etag or modification time of the file or container.
    A container or member that cannot be read at all is a Source with `problem` set: it becomes a failed row.
    A picture to be generated is of kind "seed": `offset` is its seed, `detail` the seeds made in the same pass.
    """

    key: str
    uri: str
    kind: Kind
    offset: int = 0
    size: int = -1
    detail: str = ""
    version: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something in an INPUT that is not an image and gets no row (a link, a text file), with the reason."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a plan. `name` is its output path below `images/`, sanitised, unique, with extension;
    `attempts` counts this one and the failed ones before it."""

    source: Source
    name: str
    mask: Source | None = None
    attempts: int = 1

    @property
    def version(self) -> str:
        """Changes when the image or its mask does."""
        return self.source.version if self.mask is None else f"{self.source.version}|{self.mask.version}"


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker does and commits in one step."""

    id: str
    entries: tuple[Entry, ...]


class Row(NamedTuple):
    """One row of the manifest: one source image. `status` is `ok` or `failed` with a type and message.

    noise_* are estimated standard deviations, change_* absolute differences, all on a scale of 0-255; seconds is the time
    that this image took; `source_version` and `output_name` let a grown archive be told from a changed one. A generated
    picture has a seed, and a class name if its model has classes; output_width and output_height are those of the written
    picture, which an upscaler makes larger.
    """

    key: str
    source_uri: str
    source_sha256: str | None
    source_bytes: int | None
    source_version: str
    width: int | None
    height: int | None
    mode: str | None
    bits: int | None
    status: Literal["ok", "failed"]
    error_type: str | None
    error_message: str | None
    output_name: str | None
    output_uri: str | None
    output_sha256: str | None
    output_bytes: int | None
    model: str
    model_sha256: str
    noise_before: float | None
    noise_after: float | None
    change_mean: float | None
    change_max: float | None
    seconds: float
    attempts: int
    notes: str
    unit: str
    seed: int | None = None
    class_name: str | None = None
    output_width: int | None = None
    output_height: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the driver learns of a finished unit: counts, never pixels. reasons: failed images by `error_type`."""

    unit: str
    images: int
    failed: int
    pixels: int
    source_bytes: int
    output_bytes: int
    seconds: float
    first_failures: tuple[tuple[str, str], ...] = ()
    reasons: tuple[tuple[str, int], ...] = ()
