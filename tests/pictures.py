"""Small pictures for tests: smooth shapes with texture, made from a seed, no files needed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, width: int = 64, height: int = 48, grey: bool = False) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x * rng.uniform(0.02, 0.3) + y * rng.uniform(0.02, 0.3) + rng.uniform(0, 6)) for _ in range(3)]
    pixels = 128 + 80 * np.stack(waves, axis=2) + rng.normal(0, 15, (height, width, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.convert("L") if grey else image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def files(count: int, first: int = 0) -> dict[str, bytes]:
    """`count` files by relative path: colour and grey, PNG and JPEG, of different sizes, in two folders."""
    made = {}
    for seed in range(first, first + count):
        image = picture(seed, width=40 + 7 * (seed % 5), height=33 + 5 * (seed % 4), grey=seed % 4 == 3)
        name = f"{'ab'[seed % 2]}/picture-{seed:03d}"
        made[f"{name}.jpg" if seed % 3 == 2 else f"{name}.png"] = jpeg(image) if seed % 3 == 2 else png(image)
    return dict(sorted(made.items()))


def write_folder(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def write_tar(path: Path, contents: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def write_parquet(path: Path, contents: dict[str, bytes], rows_per_group: int = 4) -> Path:
    table = pa.table(
        {"key": list(contents), "image": [{"bytes": data, "path": name} for name, data in contents.items()]},
        schema=pa.schema({"key": pa.string(), "image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}),
    )
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path
