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


def tiff(array: np.ndarray, photometric: int, extra: tuple[int, ...] = (), orientation: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of any integer or float type, written by hand (TIFF 6.0)."""
    height, width = array.shape[:2]
    samples = array.shape[2] if array.ndim == 3 else 1
    body = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    bits = [array.dtype.itemsize * 8] * samples
    tags = {256: [width], 257: [height], 258: bits, 259: [1], 262: [photometric], 273: [0], 274: [orientation],
            277: [samples], 278: [height], 279: [len(body)], 284: [1], 339: [kind] * samples}  # fmt: skip
    if extra:
        tags[338] = list(extra)
    longs = {256, 257, 273, 278, 279}
    tail_at = 8 + 2 + 12 * len(tags) + 4
    tail, entries = b"", b""
    packed = {tag: struct.pack(f"<{len(v)}{'I' if tag in longs else 'H'}", *v) for tag, v in tags.items()}
    size_of_tails = sum(len(p) for p in packed.values() if len(p) > 4)
    packed[273] = struct.pack("<I", tail_at + size_of_tails)
    for tag in sorted(tags):
        value = packed[tag]
        if len(value) > 4:
            value, tail = struct.pack("<I", tail_at + len(tail)), tail + value
        entries += struct.pack("<HHI", tag, 4 if tag in longs else 3, len(tags[tag])) + value.ljust(4, b"\0")
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
