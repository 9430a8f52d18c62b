"""What a run leaves behind, made by the real sinks: for the tests of sinks and report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from artgen.records import Row
from artgen.sinks import files, manifest

_UNKNOWN = ("width", "height", "mode", "bits", "output_name", "output_uri", "output_sha256", "output_bytes")
_UNKNOWN += ("noise_before", "noise_after", "change_mean", "change_max")
UNIT = "0123abcd-000000"


def row(key: str, **values: object) -> Row:
    """A row of a restored picture; `values` replace fields."""
    plain = Row(
        key=key,
        source_uri=f"in/{key}",
        source_sha256="ab" * 32,
        source_bytes=1000,
        source_version="1000-1",
        width=4,
        height=3,
        mode="RGB",
        bits=8,
        status="ok",
        error_type=None,
        error_message=None,
        output_name=f"{key}.png",
        output_uri=f"images/{key}.png",
        output_sha256="cd" * 32,
        output_bytes=900,
        model="default",
        model_sha256="ef" * 32,
        noise_before=20.0,
        noise_after=2.0,
        change_mean=5.0,
        change_max=90.0,
        seconds=0.5,
        attempts=1,
        notes="",
        unit=UNIT,
        output_width=4,
        output_height=3,
    )
    return plain._replace(**values)


def failed(key: str, error_type: str = "DecodeFailed", message: str = "truncated: 252 bytes missing") -> Row:
    unknown = dict.fromkeys(_UNKNOWN)
    return row(key, status="failed", error_type=error_type, error_message=message, **unknown)


def png(seed: int, size: tuple[int, int] = (4, 3)) -> bytes:
    """The bytes of a picture of `size` (width, height), different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


class Output:
    """An OUTPUT that grows picture by picture: a damaged source, the 'restored' one, and its row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)
        self.sources: dict[str, bytes] = {}
        self.rows: list[Row] = []
        self._sink = files.open(self.uri, UNIT)

    def picture(
        self, key: str, clean: np.ndarray, damaged: np.ndarray, mode: str | None = None, **facts: object
    ) -> None:
        self.sources[key] = encoded(damaged, mode)
        where = self._sink.add(f"{len(self.rows)}.png", encoded(clean, mode), row(key))
        self.rows.append(row(key, output_uri=where, width=clean.shape[1], height=clean.shape[0], **facts))

    def commit(self, run: dict[str, object] | None = None) -> Output:
        manifest.write(self.uri, UNIT, self.rows)
        if run is not None:
            (self.folder / "_artgen").mkdir()
            (self.folder / "_artgen" / "run.json").write_text(json.dumps(run))
        return self

    def readers(self, keys: Iterable[str]) -> Mapping[str, Callable[[], bytes]]:
        return {key: (lambda key=key: self.sources[key]) for key in keys if key in self.sources}


def encoded(pixels: np.ndarray, mode: str | None = None) -> bytes:
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()
