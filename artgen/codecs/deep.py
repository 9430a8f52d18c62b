"""The lane for colour of more than 8 bits, which Pillow would cut to 8 without a word.

imagecodecs crashes on some bytes (empty ones, to begin with), so it sees only bytes that Pillow has
identified, sized and, where it can, decoded before.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from artgen.errors import DecodeFailed, UnsupportedImage

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY, _RGB = (0, 1), 2  # TIFF 6.0: PhotometricInterpretation; 0 is min-is-white


@dataclass(frozen=True, slots=True)
class Lane:
    """What decodes this image with all its bits. `bits` are the bits stored, of a PPM its largest value.

    channels: how many of the stored samples are colour and alpha; None: all of them.
    """

    kind: str
    bits: int = 16
    offset: int = 0
    associated: bool = False  # colour is premultiplied by alpha
    planar: bool = False  # stored plane by plane
    channels: int | None = None


def lane(image: Image, data: bytes) -> Lane | None:
    """The lane for an image that Pillow opened and did not load yet; None when Pillow keeps every bit."""
    raw = _raw_mode(image)
    if image.format == "PNG" and image.mode in ("RGB", "RGBA") and ";16" in raw:
        return Lane("png")
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
        tags = image.tag_v2  # type: ignore[attr-defined]
        if set(tags.get(258, ())) == {16} and tags.get(262) == _RGB:
            associated = 1 in extra_samples(tags)
            return Lane("tiff", associated=associated, planar=_is_planar(tags), channels=len(image.mode))
    if image.format == "PPM" and image.mode == "RGB" and image.tile[0].codec_name == "ppm":  # type: ignore[attr-defined]
        tile = image.tile[0]  # type: ignore[attr-defined]
        return Lane("ppm", bits=tile.args[1], offset=tile.offset) if tile.args[1] > 255 else None
    if image.format == "JPEG2000" and image.mode in ("RGB", "RGBA"):
        bits = _jpeg2000_bits(data)
        # sYCC and palettes need steps that only Pillow takes; those pictures are cut to 8 bits with a note
        if 8 < bits <= 16 and b"colr\x01\x00\x00\x00\x00\x00\x12" not in data[:4096] and b"pclr" not in data[:4096]:
            return Lane("jpeg2000", bits=bits)
    return None


def cut_to_8_bits(image: Image, data: bytes) -> str | None:
    """A note when the source has more than 8 bits and no lane keeps them."""
    if image.format == "JPEG2000" and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        bits = _jpeg2000_bits(data)
    elif image.format == "AVIF":
        bits = _avif_bits(data)
    else:
        tiles = getattr(image, "tile", ())
        sgi16 = any(tile.codec_name == "SGI16" for tile in tiles)
        deep = re.search(";16[BLN]", _raw_mode(image)) and not image.mode.startswith("I")
        plain = image.mode == "RGB" and any(tile.codec_name == "ppm_plain" and tile.args[1] > 255 for tile in tiles)
        bits = 16 if sgi16 or deep or plain else 8
    return f"{bits}-bit {image.mode} reduced to 8 bits" if bits > 8 else None


def decode(data: bytes, lane: Lane, size: tuple[int, int]) -> np.ndarray:
    """HxWxC uint16 over the full range. Raises DecodeFailed when the decoder refuses the bytes."""
    import imagecodecs

    width, height = size
    try:
        if lane.kind == "ppm":
            array = np.frombuffer(data, ">u2", width * height * 3, lane.offset).reshape(height, width, 3)
            return stretch(np.minimum(array.astype(np.uint16), lane.bits), lane.bits)
        decoders = {
            "png": imagecodecs.png_decode,
            "tiff": imagecodecs.tiff_decode,
            "jpeg2000": imagecodecs.jpeg2k_decode,
        }
        array = decoders[lane.kind](data)
    except (ValueError, RuntimeError) as error:
        raise DecodeFailed(f"corrupt 16-bit {lane.kind.upper()}: {error}") from error
    array = _samples_last(array, lane.planar)
    if array.shape[:2] != (height, width) or array.dtype != np.uint16:
        raise DecodeFailed(f"two decoders disagree: {array.shape} {array.dtype}, not {height} x {width} of 16 bits")
    array = array.reshape(height, width, -1)[..., : lane.channels]
    if lane.associated and array.shape[2] in (2, 4):
        array = unmultiply(array)
    return stretch(array, (1 << lane.bits) - 1) if lane.bits < 16 else array


def _samples_last(array: np.ndarray, planar: bool) -> np.ndarray:
    """HxWxC of what imagecodecs returns. The shape cannot tell: 3x3 pixels of RGB look alike either way."""
    return np.moveaxis(array, 0, 2) if planar and array.ndim == 3 else array


def stretch(values: np.ndarray, top: int) -> np.ndarray:
    """uint16 values of 0..top to 0..65535, rounded."""
    return ((values.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)


def unmultiply(array: np.ndarray) -> np.ndarray:
    """Straight alpha from associated alpha (TIFF 6.0, section 18): colour / alpha, clipped."""
    alpha = array[..., -1:].astype(np.float32) / 65535
    colour = np.divide(array[..., :-1], alpha, out=np.zeros(array[..., :-1].shape, np.float32), where=alpha > 0)
    return np.concatenate([np.minimum(colour + 0.5, 65535).astype(np.uint16), array[..., -1:]], axis=2)


def _raw_mode(image: Image) -> str:
    tiles = getattr(image, "tile", ())
    if not tiles:
        return ""
    args = tiles[0].args
    return str(args[0] if isinstance(args, tuple) and args else args)


def tag(tags: Mapping, number: int, default: int) -> int:
    """A TIFF tag that should hold one integer; `default` when it is missing or holds anything else."""
    value = tags.get(number, default)
    return value if isinstance(value, int) else default


def extra_samples(tags: Mapping) -> tuple[int, ...]:
    """What a TIFF's samples behind the colour are: 0 unspecified, 1 associated alpha, 2 alpha (TIFF 6.0, section 18)."""
    value = tags.get(338, ())
    return value if isinstance(value, tuple) else ()


def _is_planar(tags: Mapping) -> bool:
    return tag(tags, 284, 1) == 2


def _resolution(tags: Mapping) -> tuple[float, float] | None:
    """Dots per inch as a TIFF is stored; None when they are missing or broken."""
    unit = {2: 1.0, 3: 2.54}.get(tag(tags, 296, 2))
    if unit is None:
        return None
    try:
        return float(tags[282]) * unit, float(tags[283]) * unit
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _jpeg2000_bits(data: bytes) -> int:
    """Bits per sample of the first component. ISO/IEC 15444-1, A.5.1: Ssiz stands 38 bytes behind SIZ."""
    at = data.find(b"\xff\x4f\xff\x51", 0, 65536)
    return (data[at + 42] & 0x7F) + 1 if at >= 0 and len(data) > at + 42 else 8


def _avif_bits(data: bytes) -> int:
    """AV1-ISOBMFF 2.3: high_bitdepth and twelve_bit of the first av1C box."""
    at = data.find(b"av1C", 0, 65536)
    if at < 0 or len(data) < at + 7:
        return 8
    return 12 if data[at + 6] & 0x20 else 10 if data[at + 6] & 0x40 else 8


@dataclass(frozen=True, slots=True)
class BareTiff:
    """A TIFF whose layout Pillow does not know, by its tags alone.

    channels: the samples that are colour and alpha. extra: there is one more, of no known meaning.
    """

    width: int
    height: int
    photometric: int
    orientation: int
    associated: bool
    planar: bool
    channels: int
    extra: bool
    icc: bytes | None
    dpi: tuple[float, float] | None
    mode: str


def bare_tiff(data: bytes) -> BareTiff | None:
    """The first directory of a grey or RGB TIFF that Pillow does not identify (16-bit grey with alpha,
    float or 32-bit colour); None when it is no such TIFF. Raises UnsupportedImage with what it is.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = ImageFileDirectory_v2(data[:8])
        stream = io.BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        width, height = int(tags[256]), int(tags[257])
        photometric, samples, bits = int(tags[262]), int(tags.get(277, 1)), tuple(tags.get(258, (1,)))
    except (KeyError, IndexError, TypeError, ValueError, SyntaxError, OSError, struct.error):
        return None
    if width <= 0 or height <= 0:
        return None
    mode = f"{samples} x {bits[0]} bit TIFF"
    if not ((photometric in _GREY and samples <= 2) or (photometric == _RGB and samples in (3, 4))) or bits[0] < 8:
        raise UnsupportedImage(
            f"a TIFF of photometric interpretation {photometric} with {samples} samples of {bits} bits"
        )
    icc = tags.get(34675)
    extra = samples in (2, 4) and extra_samples(tags)[:1] == (0,)
    return BareTiff(
        width, height, photometric, tag(tags, 274, 1), 1 in extra_samples(tags), _is_planar(tags), samples - extra, extra,
        icc if isinstance(icc, bytes) else None, _resolution(tags), mode,
    )  # fmt: skip


def decode_bare_tiff(data: bytes, tiff: BareTiff) -> np.ndarray:
    """HxWxC of the stored type, C = 1-4. Raises DecodeFailed."""
    import imagecodecs

    try:
        array = imagecodecs.tiff_decode(data)
    except (ValueError, RuntimeError) as error:
        raise DecodeFailed(f"corrupt TIFF: {error}") from error
    array = _samples_last(array, tiff.planar)
    if array.shape[:2] != (tiff.height, tiff.width):
        raise DecodeFailed(
            f"corrupt TIFF: its pixels have the shape {array.shape}, its header {tiff.height} x {tiff.width}"
        )
    return array.reshape(tiff.height, tiff.width, -1)[..., : tiff.channels]
