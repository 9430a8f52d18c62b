"""Why bytes are not a picture, in words that a person can act on."""

from __future__ import annotations

import re

from artgen.errors import DecodeFailed, ImageError, TooManyPixels, UnsupportedImage
from artgen.text import count

# Sound files of kinds that are not read. Vector formats would run a program or fetch from elsewhere.
_UNSUPPORTED = (
    (rb"%PDF-", "PDF is a document; extract its images first"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "EPS/PostScript is a program; rasterise it first"),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "WMF/EMF is a vector drawing; rasterise it first"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml.{0,900}|<!DOCTYPE svg.{0,900}|<!--.{0,900})?<svg", "SVG is a vector drawing; rasterise it first"),
    (rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", "HEIC/HEIF is not read; convert it to AVIF or PNG"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL is not read; convert it to PNG"),
    (rb"....ftyp(?!avi[fs])", "a video or ISO media file"),
    (rb"\x1aE\xdf\xa3|RIFF....AVI ", "a video file"),
    (rb"\x89HDF\r\n|SIMPLE  =|CDF[\x01\x02]", "a scientific data file (HDF5, FITS, NetCDF)"),
    (rb"v/1\x01|#\?RADIANCE|#\?RGBE", "OpenEXR/Radiance HDR is not read; convert it to 16-bit PNG or TIFF"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive, not an image"),
)  # fmt: skip

_KNOWN = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"GIF8[79]a", "GIF"),
    (rb"BM", "BMP"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\x00\x00[\x01\x02]\x00", "ICO"),
    (rb"8BPS", "PSD"),
)


def too_many(width: int, height: int, limit: int) -> TooManyPixels:
    """The error for a picture of more than `limit` pixels."""
    return TooManyPixels(f"{width} x {height} = {_beyond(width * height, limit)}")


def _beyond(pixels: int, limit: int) -> str:
    """Both in megapixels, unless those would tell nothing: of small pictures, and where the two look the same."""
    claimed, allowed = f"{pixels / 1e6:.1f}", f"{limit / 1e6:.1f}"
    unit = "megapixels"
    if limit < 1e6 or claimed == allowed:
        claimed, allowed, unit = count(pixels), count(limit), "pixels"
    return f"{claimed} {unit}, more than the limit of {allowed} (raise --max-pixels to allow it)"


def not_an_image(data: bytes) -> ImageError:
    """Why no decoder takes these bytes: a DecodeFailed or an UnsupportedImage."""
    if not data:
        return DecodeFailed("an empty file (0 bytes)")
    for pattern, words in _UNSUPPORTED:
        if re.match(pattern, data[:1024], re.DOTALL | re.IGNORECASE):
            return UnsupportedImage(words)
    for pattern, name in _KNOWN:
        if re.match(pattern, data[:64], re.DOTALL):
            larger = " or larger than its decoder takes" if name in ("AVIF", "WebP") else ""
            return DecodeFailed(
                f"corrupt: begins as {name}, but its header is damaged, incomplete, of an unknown kind{larger}"
            )
    if not data.strip(b"\0"):
        return DecodeFailed(f"not an image: {len(data)} zero bytes")
    start = data[:32].decode("latin-1") if data[:32].isascii() else data[:32]
    return DecodeFailed(f"not an image: begins with {start!r}")


def explain(error: Exception, data: bytes, label: str, limit: int) -> ImageError:
    """The ImageError for whatever a decoder raised. `label` is the format, if it was found out."""
    from PIL import Image

    if isinstance(error, ImageError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        claimed = re.search(r"\d+", str(error))
        if claimed is None:
            return TooManyPixels(f"more than the limit of {count(limit)} pixels (raise --max-pixels to allow it)")
        return TooManyPixels(_beyond(int(claimed[0]), limit))
    if isinstance(error, MemoryError):
        return DecodeFailed(f"{label or 'the image'} needs more memory than its decoder may use")
    if isinstance(error, Image.UnidentifiedImageError):
        return not_an_image(data)
    words = str(error) or type(error).__name__
    if isinstance(error, EOFError) or re.search("truncated|Truncated|too small|[Uu]nexpected end", words):
        return DecodeFailed(f"truncated: {label} of {len(data)} bytes ends too early ({words})")
    return DecodeFailed(f"corrupt {label}: {words}")
