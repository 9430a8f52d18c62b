"""Bytes to upright pixels, in this process. `guard` does the same in a process that can be killed."""

from __future__ import annotations

import importlib
import io
import struct
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin

from artgen.codecs import deep, frames, metadata, modes, reason
from artgen.codecs.metadata import Metadata
from artgen.codecs.picture import Admit, Picture
from artgen.config import MAX_PIXELS
from artgen.errors import DecodeFailed, TooManyPixels, UnsupportedImage

__all__ = ["Picture", "decode"]

# Formats with a decoder that reads pixels and does nothing else. Left out on purpose: EPS (runs Ghostscript),
# WMF, the stubs (BUFR, GRIB, HDF5, MPEG, FITS) and those recognised by guesswork (IMT, IPTC, MCIDAS).
_COMMON = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM")
_RARE = {
    "AVIF": "Avif", "JPEG2000": "Jpeg2K", "ICO": "Ico", "CUR": "Cur", "ICNS": "Icns", "PSD": "Psd", "QOI": "Qoi",
    "DDS": "Dds", "SGI": "Sgi", "SUN": "Sun", "PCX": "Pcx", "DCX": "Dcx", "DIB": "Bmp", "FLI": "Fli", "FTEX": "Ftex",
    "BLP": "Blp", "GBR": "Gbr", "IM": "Im", "MSP": "Msp", "PCD": "Pcd", "PIXAR": "Pixar", "SPIDER": "Spider",
    "XBM": "Xbm", "XPM": "Xpm", "XVTHUMB": "XVThumb", "TGA": "Tga",
}  # fmt: skip
_REGISTERED = (
    TiffImagePlugin,
    WebPImagePlugin,
)  # importing a plugin registers it; Image.open brings the other five

_EXTRA_CHANNEL = "left out: an extra channel"

ImageFile.LOAD_TRUNCATED_IMAGES = False  # a truncated image is an error, whatever another library has set


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, admit: Admit | None = None) -> Picture:
    """One image file to pixels; of an animation or a document, the first picture. `admit` is called once the header is
    known, and again where a broken file is tried in another way.

    Raises DecodeFailed (corrupt, truncated, not an image), UnsupportedImage (a sound file of a kind that is
    not read) and TooManyPixels (by the header, before any pixel is decoded).
    """
    if max_pixels > 2 * (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)  # Pillow raises at twice its limit; ours must come first
    try:
        return _decode(data, max_pixels, admit)
    except TooManyPixels:
        raise
    except Exception as error:
        bare = pixels_only(data)
        if bare is not None:
            try:
                picture = _decode(bare, max_pixels, admit)
            except Exception:  # noqa: BLE001 - the first error says what is wrong with the file itself
                raise error from None
            note = f"left out: all PNG metadata, as it is broken ({error})"
            return replace(picture, notes=(*picture.notes, note))
        raise


def _decode(data: bytes, max_pixels: int, admit: Admit | None) -> Picture:
    image = None
    try:
        image = _open(data)
        if image is None:
            return _decode_bare_tiff(data, max_pixels, admit)
        if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_camera_raw(image, data):
            raise UnsupportedImage(
                "a camera raw file, of which only a preview can be read; develop it to TIFF first"
            )
        _check_size(image.size, max_pixels, admit)
        return _read(image, data, max_pixels)
    except Exception as error:
        label = (image.format if image else None) or "image"
        compression = image.info.get("compression") if image and image.format == "TIFF" else None
        if compression not in (None, "raw"):
            label += f" ({compression} compression)"
        raise reason.explain(error, data, label, max_pixels) from error


def _open(data: bytes) -> ImageFile.ImageFile | None:
    """Identify and read the header; None for a TIFF that Pillow does not know."""
    stream = io.BytesIO(data)
    try:
        return Image.open(stream, formats=_COMMON)
    except Image.UnidentifiedImageError:
        if data[:4] in (b"II*\0", b"MM\0*"):
            return None
    if not data:
        raise reason.not_an_image(data)
    for plugin in dict.fromkeys(_RARE.values()):
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
    return Image.open(stream, formats=tuple(_RARE))


def _is_camera_raw(image: TiffImagePlugin.TiffImageFile, data: bytes) -> bool:
    """Whether a TIFF's first directory is the preview of what a camera saw: DNG by its version (DNG 1.4, tag 50706), CR2 by its
    mark, others (NEF, ARW, PEF...) by a reduced picture (TIFF 6.0, NewSubfileType) that leads to others below it.
    """
    tags = image.tag_v2
    reduced = isinstance(tags.get(254), int) and tags[254] & 1
    return 50706 in tags or data[8:10] == b"CR" or bool(reduced and 330 in tags)


def _check_size(size: tuple[int, int], max_pixels: int, admit: Admit | None = None) -> None:
    width, height = size
    if width <= 0 or height <= 0:
        raise DecodeFailed(f"corrupt: its header says {width} x {height} pixels")
    if width * height > max_pixels:
        raise reason.too_many(width, height, max_pixels)
    if admit is not None:
        admit(width * height)


def _read(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> Picture:
    lane = deep.lane(image, data)
    notes = [note] if lane is None and (note := deep.cut_to_8_bits(image, data)) else []
    if image.format == "PNG" and len(data) > 24:
        image.info["artgen_bit_depth"] = data[24]
    mode = image.mode
    turned = 1
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        turned = metadata.orientation_of(image)  # load() turns it so and forgets it
        if 0 in deep.extra_samples(image.tag_v2):
            notes.append(_EXTRA_CHANNEL)
    image.load()
    _check_size(image.size, max_pixels)  # an ICO knows its size only now
    if image.format == "PNG" and _has_cicp(data):
        notes.append("left out: PNG cICP (the colours are not those of sRGB)")
    if (note := frames.note(image, data)) is not None:
        notes.insert(0, note)
    orientation = metadata.orientation_of(image)
    facts, left_out = metadata.read(image, turned if turned > 1 else orientation)
    if lane is None:
        pixels, alpha, icc = modes.planes(image, facts.icc, notes)
    else:
        orientation = turned if turned > 1 else orientation  # the lane's pixels lie as they are stored
        width, height = image.size
        stored = (height, width) if turned >= 5 else (width, height)
        image.im = None  # type: ignore[assignment]  # frees Pillow's copy before the second decoder starts
        pixels, alpha = _divide(deep.decode(data, lane, stored))
        icc = facts.icc
        mode = f"{mode};16"
    icc = _fitting(icc, pixels, notes)
    if turned > 1:
        notes.append(f"TIFF orientation {turned} applied")
    elif orientation > 1:
        notes.append(f"EXIF orientation {orientation} applied")
    if orientation > 1:
        pixels, alpha = turn(pixels, orientation), None if alpha is None else turn(alpha, orientation)
    facts = Metadata(icc, facts.exif, facts.xmp, facts.dpi)
    bits = pixels.dtype.itemsize * 8
    return Picture(pixels, alpha, facts, mode, bits, image.format or "", tuple(notes + left_out))


def _fitting(icc: bytes | None, pixels: np.ndarray, notes: list[str]) -> bytes | None:
    """The profile, unless it describes other colours than the pixels have."""
    if icc is None or icc[16:20] == (b"GRAY" if pixels.shape[2] == 1 else b"RGB "):
        return icc
    notes.append(f"left out: a {icc[16:20].decode('latin-1').strip()} profile that does not fit the pixels")
    return None


def _divide(array: np.ndarray) -> modes.Planes:
    """HxWxC with C = 1-4 to pixels and alpha."""
    colours = 3 if array.shape[2] >= 3 else 1
    alpha = np.ascontiguousarray(array[..., colours]) if array.shape[2] > colours else None
    return np.ascontiguousarray(array[..., :colours]), alpha


def turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """HxW... as stored to upright. `orientation` as in EXIF 2.32, tag 0x0112 (where row 0 and column 0 are seen)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    right = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(array[:: -1 if down else 1, :: -1 if right else 1])


def _decode_bare_tiff(data: bytes, max_pixels: int, admit: Admit | None) -> Picture:
    tiff = deep.bare_tiff(data)
    if tiff is None:
        raise reason.not_an_image(data)
    _check_size((tiff.width, tiff.height), max_pixels, admit)
    array = deep.decode_bare_tiff(data, tiff)
    notes: list[str] = []
    if array.dtype not in (np.uint8, np.uint16):
        if array.dtype.kind not in "iuf":
            raise UnsupportedImage(f"a TIFF with samples of type {array.dtype}")
        array = modes.channels_to_16_bits(array, notes)
    if tiff.associated and array.dtype == np.uint16:
        array = deep.unmultiply(array)
    orientation = tiff.orientation if 1 <= tiff.orientation <= 8 else 1
    pixels, alpha = _divide(turn(array, orientation))
    if tiff.photometric == 0:
        pixels = np.iinfo(pixels.dtype).max - pixels
    if count := frames.tiff_pages(data) - 1:
        notes.append(f"the first of {count + 1} pages")
    if tiff.extra:
        notes.append(_EXTRA_CHANNEL)
    icc = _fitting(metadata.profile(tiff.icc, notes), pixels, notes)
    notes.append("left out: EXIF, XMP and descriptions of a rare TIFF layout")
    facts = Metadata(icc=icc, dpi=metadata.resolution(tiff.dpi, orientation))
    return Picture(pixels, alpha, facts, tiff.mode, pixels.dtype.itemsize * 8, "TIFF", tuple(notes))


def _has_cicp(data: bytes) -> bool:
    """Whether a PNG says its colours in a chunk that Pillow does not know, and other ones than sRGB's.

    PNG 3, section 11.3.2.6: before PLTE and IDAT; primaries and transfer as in ITU-T H.273, where sRGB is 1 and 13.
    """
    at = 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"cICP":
            return data[at + 8 : at + 10] != bytes((1, 13))
        if kind in (b"PLTE", b"IDAT"):
            break
        at += 12 + length
    return False


def pixels_only(data: bytes) -> bytes | None:
    """A PNG without the chunks that its pixels do not need, so that a broken comment or profile cannot fail it.

    None when it is no PNG or holds no such chunk. PNG 1.2, section 3.3: a lower-case first letter is ancillary.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if not kind[:1].islower() or kind == b"tRNS":
            kept.append(data[at:end])
        at = end
    bare = b"".join(kept)
    return bare if len(bare) < len(data) else None
