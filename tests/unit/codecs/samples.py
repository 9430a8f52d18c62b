"""Real files of every kind, made on the spot by real encoders."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photo(height: int = 48, width: int = 64, channels: int = 3, dtype=np.uint8) -> np.ndarray:
    """A smooth coloured gradient with an unmistakable corner, so that every turn is seen."""
    y, x = np.mgrid[0:height, 0:width]
    stack = np.stack([x / max(1, width - 1), y / max(1, height - 1), (x + y) / (width + height)], axis=2)
    image = (stack[..., :channels] * np.iinfo(dtype).max).astype(dtype)
    image[: height // 6, : width // 6] = np.iinfo(dtype).max
    return image


def saved(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F] = "a maker"
    tags[0x0112] = orientation
    return tags


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(data: bytes, chunk: bytes) -> bytes:
    """A PNG with one more chunk straight behind its header."""
    return data[:33] + chunk + data[33:]


def tiff(
    array: np.ndarray,
    photometric: int,
    extra: tuple[int, ...] = (),
    orientation: int | None = 1,
    more: dict[int, list[int] | bytes] | None = None,
    planar: bool = False,
) -> bytes:
    """An uncompressed little-endian TIFF of any integer or float type, written by hand (TIFF 6.0).

    more: further tags; bytes are of type UNDEFINED, integers SHORT, those of the resolution RATIONAL.
    """
    height, width = array.shape[:2]
    samples = array.shape[2] if array.ndim == 3 else 1
    stored = np.moveaxis(array, 2, 0) if planar else array
    body = np.ascontiguousarray(stored).astype(array.dtype.newbyteorder("<")).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    bits = [array.dtype.itemsize * 8] * samples
    strips = samples if planar else 1
    size = len(body) // strips
    tags: dict[int, list[int] | bytes] = {
        256: [width], 257: [height], 258: bits, 259: [1], 262: [photometric], 273: [0] * strips, 277: [samples],
        278: [height], 279: [size] * strips, 284: [2 if planar else 1], 339: [kind] * samples,
    }  # fmt: skip
    if orientation is not None:
        tags[274] = [orientation]
    if extra:
        tags[338] = list(extra)
    tags |= more or {}
    kinds = dict.fromkeys((256, 257, 273, 278, 279), 4) | {282: 5, 283: 5}
    tail_at = 8 + 2 + 12 * len(tags) + 4
    tail, entries = b"", b""
    packed = {
        tag: v if isinstance(v, bytes) else struct.pack(f"<{len(v)}{'I' if tag in kinds else 'H'}", *v)
        for tag, v in tags.items()
    }
    body_at = tail_at + sum(len(p) for p in packed.values() if len(p) > 4)
    packed[273] = struct.pack(f"<{strips}I", *(body_at + strip * size for strip in range(strips)))
    for tag in sorted(tags):
        value = packed[tag]
        kind = 7 if isinstance(tags[tag], bytes) else kinds.get(tag, 3)
        count = len(tags[tag]) // 2 if kind == 5 else len(tags[tag])
        if len(value) > 4:
            value, tail = struct.pack("<I", tail_at + len(tail)), tail + value
        entries += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + tail + body


def cmyk_profile() -> bytes:
    """A tiny CMYK profile (ICC.1:2001, lut8): white paper, full black and full magenta both to black.

    Nothing like the plain formula, so a test sees which of the two was taken.
    """
    corners = np.zeros((2, 2, 2, 2, 3), np.uint8)
    corners[..., 1:] = 128
    corners[:, 0, :, 0, 0] = 255  # no magenta and no black: white, whatever cyan and yellow say
    identity = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut += identity * 4 + corners.tobytes() + identity * 3
    text = b"text" + bytes(4) + b"test\0"
    desc = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    parts = [(b"desc", desc), (b"cprt", text), (b"wtpt", white), (b"A2B0", lut)]
    table, body, at = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for name, part in parts:
        padded = part + bytes(-len(part) % 4)
        table += name + struct.pack(">II", at + len(body), len(part))
        body += padded
    total = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s", total, b"test", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body
