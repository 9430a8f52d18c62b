"""Pixels to the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from artgen.codecs import marking
from artgen.codecs.marking import Mark
from artgen.codecs.metadata import PREFIX, Metadata
from artgen.codecs.png import encode_png, encode_pngs
from artgen.errors import UnsupportedImage

Format = Literal["png", "jpeg", "webp"]

_LARGEST = {"jpeg": 65500, "webp": 16383}
_SEGMENT = 65533 - 29  # what one JPEG APP1 segment holds, less the name of the longest kind (XMP)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of a file and what could not be kept in it, in words."""

    data: bytes
    notes: tuple[str, ...] = ()


def encode(
    pixels: np.ndarray, alpha: np.ndarray | None, metadata: Metadata, *, format: Format, quality: int = 90,
    mark: Mark | None = None,
) -> Encoded:  # fmt: skip
    """HxWxC pixels (C = 1 or 3) and HxW alpha, uint8 or uint16, to a file of `format`.

    PNG keeps every bit. JPEG and WebP hold 8 bits (16 are rounded), JPEG no alpha, WebP no grey and no
    resolution; `quality` is theirs, 1-100. `mark` goes into the XMP packet beside what it holds already.
    Raises UnsupportedImage when a side is too long for the format.
    """
    notes: list[str] = []
    if mark is not None:
        metadata = _marked(metadata, mark, format, notes)
    if format == "png":
        return Encoded(encode_png(pixels, alpha, metadata), tuple(notes))
    if max(pixels.shape[:2]) > _LARGEST[format]:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise UnsupportedImage(f"{size} is too large for {format} ({_LARGEST[format]} a side); use --format png")
    if pixels.dtype == np.uint16:
        notes.append(f"16 bits rounded to 8 for {format}")
        pixels, alpha = to_8_bits(pixels), None if alpha is None else to_8_bits(alpha)
    if format == "jpeg":
        return _jpeg(pixels, alpha, metadata, quality, notes)
    return _webp(pixels, alpha, metadata, quality, notes)


def encode_many(
    pixels_NHWC: np.ndarray,
    alpha_NHW: np.ndarray | None,
    marks: Sequence[Mark],
    *,
    format: Format,
    quality: int = 90,
) -> list[Encoded]:
    """`encode` of each picture with its mark and no other metadata, the same bytes in less time."""
    if format == "png":
        metadata = [Metadata(xmp=marking.packet(mark)) for mark in marks]
        return [Encoded(data) for data in encode_pngs(pixels_NHWC, alpha_NHW, metadata)]
    alphas = [None] * len(pixels_NHWC) if alpha_NHW is None else alpha_NHW
    return [
        encode(pixels, alpha, Metadata(), format=format, quality=quality, mark=mark)
        for pixels, alpha, mark in zip(pixels_NHWC, alphas, marks, strict=True)
    ]


def _marked(metadata: Metadata, mark: Mark, format: Format, notes: list[str]) -> Metadata:
    xmp, lost = marking.merged(metadata.xmp, mark)
    notes += lost
    if format == "jpeg" and len(xmp) > _SEGMENT:  # the mark is small and must not go with the rest
        notes.append(f"left out: XMP of {len(xmp)} bytes, too long for JPEG")
        xmp = marking.packet(mark)
    return replace(metadata, xmp=xmp)


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """uint16 to uint8, rounded to the nearest; uint8 as it is."""
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _jpeg(
    pixels: np.ndarray, alpha: np.ndarray | None, metadata: Metadata, quality: int, notes: list[str]
) -> Encoded:
    from PIL import Image

    if alpha is not None:
        notes.append("left out: alpha, which JPEG does not hold")
    extra: dict[str, object] = {}
    for name, value in (("exif", metadata.exif), ("xmp", metadata.xmp)):
        if value is not None and len(value) > _SEGMENT:
            notes.append(f"left out: {name.upper()} of {len(value)} bytes, too long for JPEG")
        elif value is not None:
            extra[name] = PREFIX + value if name == "exif" else value
    if metadata.icc is not None:
        extra["icc_profile"] = metadata.icc
    if metadata.dpi is not None:
        extra["dpi"] = tuple(min(65535, round(dots)) for dots in metadata.dpi)
    out = io.BytesIO()
    # from quality 90 a person asks for fidelity: full colour resolution
    subsampling = "4:4:4" if quality >= 90 else "4:2:0"
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        out, "JPEG", quality=quality, subsampling=subsampling, **extra
    )
    return Encoded(out.getvalue(), tuple(notes))


def _webp(
    pixels: np.ndarray, alpha: np.ndarray | None, metadata: Metadata, quality: int, notes: list[str]
) -> Encoded:
    from PIL import Image

    extra: dict[str, object] = {}
    grey = pixels.shape[2] == 1
    if grey:
        pixels = np.repeat(pixels, 3, axis=2)
        notes.append("grey written as RGB, as WebP holds no grey")
    if metadata.icc is not None and grey:
        notes.append("left out: a grey profile, which does not fit RGB")
    elif metadata.icc is not None:
        extra["icc_profile"] = metadata.icc
    if metadata.exif is not None:
        extra["exif"] = metadata.exif
    if metadata.xmp is not None:
        extra["xmp"] = metadata.xmp
    if metadata.dpi is not None:
        notes.append("left out: the resolution, for which WebP has no field")
    if alpha is not None:
        pixels = np.concatenate([pixels, alpha[..., None]], axis=2)
    out = io.BytesIO()
    # exact: colours under full transparency are kept
    Image.fromarray(pixels).save(out, "WEBP", quality=quality, method=4, exact=True, **extra)
    return Encoded(out.getvalue(), tuple(notes))
