"""What travels beside the pixels: colour profile, EXIF, XMP, resolution."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

ORIENTATION = 0x0112
PREFIX = b"Exif\x00\x00"

# What broken metadata raises inside Pillow. It must never fail good pixels.
BROKEN = (
    AttributeError, EOFError, IndexError, KeyError, OSError, OverflowError, SyntaxError, TypeError, ValueError,
    ZeroDivisionError, struct.error,
)  # fmt: skip

# TIFF keeps its description among the tags that say how the pixels are stored; only these describe.
_TIFF_WORDS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)
_TIFF_SUBS = (0x8769, 0x8825)  # the EXIF and GPS directories


@dataclass(frozen=True, slots=True)
class Metadata:
    """Bytes that belong to the picture as it is after decoding.

    icc: a profile whose colour space is that of the pixels (grey or RGB).
    exif: a TIFF structure without the "Exif\\0\\0" prefix; its orientation, if any, is 1.
    xmp: an UTF-8 packet; its tiff:Orientation, if any, is 1.
    dpi: horizontal and vertical dots per inch of the upright picture.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def orientation_of(image: Image) -> int:
    """EXIF orientation 1-8 that is still to be applied; 1 when it is missing, broken or out of range.

    Call after load(): getexif() before it swallows the decode error of some damaged PNGs.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read(image: Image, orientation: int) -> tuple[Metadata, list[str]]:
    """The metadata of a loaded Pillow image whose pixels will be turned by `orientation`, and notes."""
    notes: list[str] = []
    exif = _guarded(_exif, image, "EXIF", notes)
    xmp = _guarded(_xmp, image, "XMP", notes)
    icc = image.info.get("icc_profile") or None
    if icc is not None and (not isinstance(icc, bytes) or len(icc) < 128 or icc[36:40] != b"acsp"):
        notes.append("left out: a broken ICC profile")
        icc = None
    dpi = _dpi(image.info.get("dpi"))
    if dpi is not None and orientation >= 5:
        dpi = (dpi[1], dpi[0])
    return Metadata(icc, exif, xmp, dpi), notes + _left_out(image)


def _guarded(read_one, image: Image, name: str, notes: list[str]) -> bytes | None:
    try:
        return read_one(image)
    except BROKEN as error:
        notes.append(f"left out: broken {name} ({error})")
        return None


def _exif(image: Image) -> bytes | None:
    raw = image.info.get("exif")
    if raw is None and "Raw profile type exif" in image.info:  # ImageMagick writes it so, in hexadecimal
        raw = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    if raw is None and hasattr(image, "tag_v2"):
        raw = _tiff_exif(image.getexif())
    if not raw:
        return None
    return upright_exif(raw.removeprefix(PREFIX))


def _tiff_exif(tags: Exif) -> bytes | None:
    from PIL.Image import Exif

    kept = Exif()
    for tag in _TIFF_WORDS:
        if tag in tags:
            kept[tag] = tags[tag]
    for tag in _TIFF_SUBS:
        if sub := tags.get_ifd(tag):
            kept.get_ifd(tag).update(sub)
            kept[tag] = kept.get_ifd(tag)
    return kept.tobytes() if len(kept) else None


def upright_exif(exif: bytes) -> bytes:
    """The same EXIF with the orientation of its first directory set to 1, every other byte untouched.

    Writing the directory anew would break maker notes, which hold offsets.
    Raises ValueError when it is not a TIFF structure.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise ValueError(f"begins with {exif[:4]!r}, not with a TIFF header")
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, start)
    patched = bytearray(exif)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, at)
        if tag == ORIENTATION:
            struct.pack_into(order + ("I" if kind == 4 else "H"), patched, at + 8, 1)
    return bytes(patched)


def _xmp(image: Image) -> bytes | None:
    raw = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not raw:
        return None
    text = raw if isinstance(raw, str) else bytes(raw).rstrip(b"\0").decode("utf-8")
    return upright_xmp(text.encode("utf-8"))


def upright_xmp(xmp: bytes) -> bytes:
    """The same packet with every tiff:Orientation set to 1."""
    return re.sub(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[0-9]", rb"\g<1>1", xmp)


def _dpi(value: object) -> tuple[float, float] | None:
    try:
        x, y = (float(v) for v in value)  # type: ignore[union-attr]
    except BROKEN:
        return None
    # 1 and below: the unit was missing, so the field says an aspect ratio at most
    return (x, y) if math.isfinite(x) and math.isfinite(y) and 1 < x < 1e6 and 1 < y < 1e6 else None


def _left_out(image: Image) -> list[str]:
    left = []
    if image.info.get("photoshop") or 33723 in (getattr(image, "tag_v2", None) or ()):
        left.append("Photoshop/IPTC block")
    if image.info.get("comment"):
        left.append("comment")
    texts = [key for key, value in (getattr(image, "text", None) or {}).items() if _is_words(key, value)]
    if texts:
        left.append("text " + ", ".join(repr(key[:40]) for key in texts[:5]) + (" ..." if len(texts) > 5 else ""))
    gamma = image.info.get("gamma")
    if isinstance(gamma, float) and abs(gamma - 0.45455) > 0.005 and "icc_profile" not in image.info:
        left.append(f"PNG gamma {gamma:g}")
    return ["left out: " + "; ".join(left)] if left else []


def _is_words(key: str, value: object) -> bool:
    return bool(value) and key not in ("XML:com.adobe.xmp", "Raw profile type exif")
