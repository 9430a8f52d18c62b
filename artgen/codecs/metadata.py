"""What travels beside the pixels: colour profile, EXIF, XMP, resolution."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Exif, Image

ORIENTATION = 0x0112
PREFIX = b"Exif\x00\x00"

# What broken metadata raises inside Pillow. It must never fail good pixels.
BROKEN = (
    AttributeError, EOFError, IndexError, KeyError, OSError, OverflowError, SyntaxError, TypeError, ValueError,
    ZeroDivisionError, struct.error,
)  # fmt: skip

C2PA_LEFT_OUT = "left out: the source's C2PA credentials"
"""A note on its own: whoever signs what is written takes them along (`credentials`)."""

# TIFF keeps its description among the tags that say how the pixels are stored; only these describe.
# Description, make, model, software, date, artist, host, copyright; names of document and page; Windows' XPTitle to XPSubject.
_TIFF_WORDS = (
    *(0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x010D, 0x011D),
    *range(0x9C9B, 0x9CA0),
)
_EXIF_SUB = 0x8769
_TIFF_SUBS = (_EXIF_SUB, 0x8825)  # the EXIF and GPS directories
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"


@dataclass(frozen=True, slots=True)
class Metadata:
    """Bytes that belong to the picture as it is after decoding.

    icc: a profile whose colour space is that of the pixels (grey or RGB).
    exif: a TIFF structure without the "Exif\\0\\0" prefix, as of `upright_exif`.
    xmp: an UTF-8 packet; its tiff:Orientation, if any, is 1.
    dpi: horizontal and vertical dots per inch of the upright picture.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def orientation_of(image: Image) -> int:
    """EXIF orientation 1-8 that is still to be applied; 1 when it is missing, broken or out of range.

    Call after load(): getexif() before it swallows the decode error of some damaged PNGs. Of a TIFF, which load() turns,
    this is 1 then, and before it what load() is going to apply.
    """
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read(image: Image, orientation: int) -> tuple[Metadata, list[str]]:
    """The metadata of a loaded Pillow image whose stored pixels have been or will be turned by `orientation`, and notes."""
    notes: list[str] = []
    exif = _guarded(lambda: _exif(image, orientation, notes), "EXIF", notes)
    xmp = _guarded(lambda: _xmp(image), "XMP", notes)
    icc = profile(image.info.get("icc_profile"), notes)
    return Metadata(icc, exif, xmp, resolution(image.info.get("dpi"), orientation)), notes + _left_out(image)


def profile(icc: object, notes: list[str]) -> bytes | None:
    """An ICC profile, unless it is missing or broken."""
    if not icc:
        return None
    if not isinstance(icc, bytes) or len(icc) < 128 or icc[36:40] != b"acsp":
        notes.append("left out: a broken ICC profile")
        return None
    return icc


def resolution(dpi: object, orientation: int) -> tuple[float, float] | None:
    """Dots per inch of the upright picture from those of the stored one; None when they are missing or broken."""
    try:
        x, y = (float(v) for v in dpi)  # type: ignore[union-attr]
    except BROKEN:
        return None
    # 1 and below: the unit was missing, so the field says an aspect ratio at most
    if not (math.isfinite(x) and math.isfinite(y) and 1 < x < 1e6 and 1 < y < 1e6):
        return None
    return (y, x) if orientation >= 5 else (x, y)


def _guarded(read_one: Callable[[], bytes | None], name: str, notes: list[str]) -> bytes | None:
    try:
        return read_one()
    except BROKEN as error:
        notes.append(f"left out: broken {name} ({error})")
        return None


def _exif(image: Image, orientation: int, notes: list[str]) -> bytes | None:
    raw = image.info.get("exif")
    if raw is None and "Raw profile type exif" in image.info:  # ImageMagick writes it so, in hexadecimal
        raw = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    if raw is None and hasattr(image, "tag_v2"):
        raw = _tiff_exif(image.getexif())
    if not raw:
        return None
    upright, had_thumbnail = upright_exif(raw.removeprefix(PREFIX), orientation)
    if had_thumbnail:
        notes.append("left out: the EXIF thumbnail")
    return upright


def _tiff_exif(tags: Exif) -> bytes | None:
    from PIL.Image import Exif

    kept = Exif()
    for tag in _TIFF_WORDS:
        if tag in tags:
            kept[tag] = _as_stored(tags[tag])
    for tag in _TIFF_SUBS:
        if sub := tags.get_ifd(tag):
            kept.get_ifd(tag).update({name: _as_stored(value) for name, value in sub.items()})
            kept[tag] = kept.get_ifd(tag)
    return kept.tobytes() if len(kept) else None


def _as_stored(value: Any) -> Any:
    """Pillow reads text as Latin-1, so any bytes pass; it would write it as ASCII, with ? for the rest."""
    return value.encode("latin-1") if isinstance(value, str) else value


def upright_exif(exif: bytes, turned: int) -> tuple[bytes, bool]:
    """The same EXIF for the picture once it is turned by the orientation `turned`, and whether it had a thumbnail.

    The orientation of its first directory is 1. PixelXDimension and PixelYDimension change places at a quarter turn.
    Nothing leads to the second directory any more: it describes a thumbnail of the picture as it was. Every other byte
    is untouched, and none moves: writing the directories anew would break maker notes, which hold offsets.
    Raises ValueError when it is not a TIFF structure, struct.error when it ends before its first directory.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        raise ValueError(f"begins with {exif[:4]!r}, not with a TIFF header")
    (start,) = struct.unpack_from(order + "I", exif, 4)
    entries, behind = _directory(exif, order, start)
    patched = bytearray(exif)
    for tag, at in entries:
        if tag == ORIENTATION:
            (kind,) = struct.unpack_from(order + "H", exif, at + 2)
            struct.pack_into(order + ("I" if kind == 4 else "H"), patched, at + 8, 1)
        elif tag == _EXIF_SUB and turned >= 5:
            _swap_dimensions(patched, order, *struct.unpack_from(order + "I", exif, at + 8))
    following = struct.unpack_from(order + "I", exif, behind)[0] if behind + 4 <= len(exif) else 0
    # an offset that leads out of the block is none: some writers forget the field, and values stand in its place
    had_thumbnail = 8 <= following <= len(exif) - 2
    if had_thumbnail:
        struct.pack_into(order + "I", patched, behind, 0)
    return bytes(patched), had_thumbnail


def _directory(exif: bytes | bytearray, order: str, start: int) -> tuple[list[tuple[int, int]], int]:
    """Tag and place of each entry that is there, and the place of the offset of the next directory."""
    (count,) = struct.unpack_from(order + "H", exif, start)
    behind = start + 2 + 12 * count
    places = range(start + 2, min(behind, len(exif) - 11), 12)
    return [(struct.unpack_from(order + "H", exif, at)[0], at) for at in places], behind


def enlarged(metadata: Metadata, scale: int) -> Metadata:
    """That of the picture at `scale` times its height and width: its EXIF says so too, where it gives a size.

    The resolution stays: more dots, and a picture that is printed larger.
    """
    if metadata.exif is None or scale == 1:
        return metadata
    patched = bytearray(metadata.exif)
    order = ">" if patched[:2] == b"MM" else "<"
    (start,) = struct.unpack_from(order + "I", patched, 4)
    for tag, at in _directory(patched, order, start)[0]:
        if tag == _EXIF_SUB:
            _scale_dimensions(patched, order, struct.unpack_from(order + "I", patched, at + 8)[0], scale)
    return replace(metadata, exif=bytes(patched))


def _scale_dimensions(patched: bytearray, order: str, start: int, scale: int) -> None:
    """PixelXDimension and PixelYDimension of the EXIF directory at `start`: one SHORT (3) or LONG (4) each (EXIF 2.3, 4.6.5)."""
    if start + 2 > len(patched):
        return
    for tag, at in _directory(patched, order, start)[0]:
        kind, count = struct.unpack_from(order + "HI", patched, at + 2)
        if tag in (_PIXEL_X, _PIXEL_Y) and kind in (3, 4) and count == 1:
            (size,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), patched, at + 8)
            # as a LONG it always fits, and the value's field has four bytes for either
            struct.pack_into(order + "HII", patched, at + 2, 4, 1, min(size * scale, 2**32 - 1))


def _swap_dimensions(patched: bytearray, order: str, start: int) -> None:
    """PixelXDimension and PixelYDimension of the EXIF directory at `start`, where it has both."""
    if start + 2 > len(patched):
        return
    places = dict(_directory(patched, order, start)[0])
    if _PIXEL_X in places and _PIXEL_Y in places:
        x, y = (slice(places[tag] + 2, places[tag] + 12) for tag in (_PIXEL_X, _PIXEL_Y))
        patched[x], patched[y] = patched[y], patched[x]


def _xmp(image: Image) -> bytes | None:
    raw = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not raw:
        return None
    text = raw if isinstance(raw, str) else bytes(raw).rstrip(b"\0").decode("utf-8")
    return upright_xmp(text.encode("utf-8"))


def upright_xmp(xmp: bytes) -> bytes:
    """The same packet with every tiff:Orientation set to 1."""
    return re.sub(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[0-9]", rb"\g<1>1", xmp)


def _left_out(image: Image) -> list[str]:
    left = []
    segments = getattr(image, "applist", ())  # of a JPEG
    if any(name == "APP1" and body.startswith(_EXTENDED_XMP) for name, body in segments):
        left.append("extended XMP")
    if image.info.get("photoshop") or 33723 in (getattr(image, "tag_v2", None) or ()):
        left.append("Photoshop/IPTC block")
    if image.info.get("comment"):
        left.append("comment")
    texts = [key for key, value in (getattr(image, "text", None) or {}).items() if _is_words(key, value)]
    if texts:
        left.append("text " + ", ".join(repr(key[:40]) for key in texts[:5]) + (" ..." if len(texts) > 5 else ""))
    primaries = image.info.get("chromaticity")  # of a PNG (cHRM): white, red, green, blue
    unlike = primaries and any(abs(a - b) > 0.005 for a, b in zip(primaries, _SRGB_PRIMARIES, strict=False))
    if unlike and not {"icc_profile", "srgb"} & image.info.keys():
        left.append("PNG primaries (cHRM) other than sRGB's")
    gamma = image.info.get("gamma")
    if isinstance(gamma, float) and abs(gamma - 0.45455) > 0.005 and "icc_profile" not in image.info:
        left.append(f"PNG gamma {gamma:g}")
    notes = ["left out: " + "; ".join(left)] if left else []
    # C2PA specification 2.2, appendix A.3: a JUMBF box in APP11 of a JPEG, in the chunk caBX of a PNG
    boxed = any(name == "APP11" and b"jumb" in body[:32] for name, body in segments)
    if boxed or any(chunk[0] == b"caBX" for chunk in getattr(image, "private_chunks", ())):
        notes.append(C2PA_LEFT_OUT)
    return notes


def _is_words(key: str, value: object) -> bool:
    return bool(value) and key not in ("XML:com.adobe.xmp", "Raw profile type exif")
