"""Archives and helpers for the tests of storage."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artgen.errors import SourceUnreadable
from artgen.records import Skipped, Source
from artgen.storage.archive import Reader, scan

PNG = b"\x89PNG\r\n\x1a\n"


def bytes_of(count: int = 5, size: int = 3000) -> dict[str, bytes]:
    """Files by name that differ from each other and begin like a PNG."""
    return {f"{i:03}.png": PNG + bytes([i]) * (size + 7 * i) for i in range(count)}


def tar(path: Path, files: dict[str, bytes], mode: str = "w", **kwargs) -> Path:
    with tarfile.open(path, mode, **kwargs) as archive:
        for name, data in files.items():
            add(archive, name, data)
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(data))


def damaged(parquet: bytes, where: str) -> bytes:
    """A Parquet file whose bytes are gone: all, or those of its pages or of its footer, with all else as it was."""
    pages = len(parquet) - 8 - int.from_bytes(parquet[-8:-4], "little")
    return {
        "all": b"torn",
        "pages": parquet[:4] + bytes(pages - 4) + parquet[pages:],
        "footer": parquet[:pages] + b"\xff" * (len(parquet) - 8 - pages) + parquet[-8:],
    }[where]


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def parquet(path: Path, columns: dict, **kwargs) -> Path:
    pq.write_table(pa.table(columns), path, **kwargs)
    return path


def contents(uri, **kwargs) -> dict[str, bytes | str]:
    """What every source holds, or the reason why it cannot be read, by key, in order."""
    found: dict[str, bytes | str] = {}
    with Reader(cache_dir=kwargs.get("cache_dir")) as reader:
        for item in sources(uri, **kwargs):
            assert item.key not in found
            try:
                found[item.key] = reader.read(item)
            except SourceUnreadable as error:
                found[item.key] = str(error)
    return found


def sources(uri, **kwargs) -> list[Source]:
    return [item for item in scan(str(uri), **kwargs) if isinstance(item, Source)]


def skipped(uri) -> dict[str, str]:
    return {item.key: item.reason for item in scan(str(uri)) if isinstance(item, Skipped)}
