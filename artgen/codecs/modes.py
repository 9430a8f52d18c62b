"""Every mode of Pillow to grey or RGB with straight alpha; what that takes is noted."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from artgen.codecs.deep import stretch
from artgen.codecs.picture import NOT_NUMBERS
from artgen.errors import UnsupportedImage

if TYPE_CHECKING:
    from PIL.Image import Image

Planes = tuple[np.ndarray, np.ndarray | None]
_BAND_PIXELS = 1 << 22  # Pillow exports a whole picture through three copies of it; bands keep that small


def planes(image: Image, icc: bytes | None, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None, bytes | None]:
    """Pixels (HxWxC), alpha (HxW or None) and the profile that now describes them, from a loaded image."""
    mode = image.mode
    if mode in ("L", "RGB", "LA", "RGBA"):
        pixels, alpha = split(image)
        if _samples_are(_SIGNED, image):
            notes.append("signed 8-bit samples: 128 added")
            pixels ^= 0x80
        return pixels, _colour_key(image, pixels) if alpha is None else alpha, icc
    if mode in ("La", "RGBa"):
        notes.append("premultiplied alpha made straight")
        return *split(image.convert({"La": "LA", "RGBa": "RGBA"}[mode])), icc
    if mode == "1":
        notes.append("1-bit converted to 8-bit grey")
        pixels, _ = split(image.convert("L"))
        return pixels, _colour_key(image, pixels), icc
    if mode in ("P", "PA"):
        return *_palette(image, icc, notes), icc
    if mode == "CMYK":
        return _cmyk(image, icc, notes), None, None
    if mode == "LAB":
        return _lab(image, notes), None, None
    if mode in ("YCbCr", "HSV", "RGBX"):
        notes.append(f"{mode} converted to RGB")
        return *split(image.convert("RGB")), icc
    if mode.startswith("I;16"):
        pixels = _sixteen(image, notes)
        return pixels, _colour_key(image, pixels), icc
    if mode in ("I", "F"):
        values = np.asarray(image)
        if values.dtype == np.int32 and _samples_are(_UNSIGNED, image):
            values = values.view(np.uint32)  # Pillow has no mode for it: it gives the same bits as signed numbers
        return to_16_bits(values, image.format == "PPM", notes)[..., None], None, icc
    raise UnsupportedImage(f"Pillow's mode {mode!r} ({image.format}) is not supported; convert it to RGB first")


# TIFF 6.0, section 19: the values of SampleFormat; where it is missing, samples are unsigned.
_UNSIGNED, _SIGNED = 1, 2


def _samples_are(kind: int, image: Image) -> bool:
    """Whether all samples of a TIFF are of this SampleFormat."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and set(tags.get(339, (_UNSIGNED,))) == {kind}


def split(image: Image) -> Planes:
    """Pixels and alpha of an L, RGB, LA or RGBA image, each C-contiguous, in bands of rows."""
    width, height = image.size
    colours = 3 if image.mode.startswith("RGB") else 1
    pixels = np.empty((height, width, colours), np.uint8)
    alpha = np.empty((height, width), np.uint8) if image.mode.endswith("A") else None
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        whole = rows >= height
        band = np.asarray(image if whole else image.crop((0, top, width, bottom))).reshape(bottom - top, width, -1)
        pixels[top:bottom] = band[..., :colours]
        if alpha is not None:
            alpha[top:bottom] = band[..., -1]
    return pixels, alpha


def _colour_key(image: Image, pixels: np.ndarray) -> np.ndarray | None:
    """Alpha from the one colour that is declared transparent (PNG tRNS, GIF)."""
    key = image.info.get("transparency")
    if key is None or isinstance(key, bytes):
        return None
    key = np.atleast_1d(np.asarray(key))
    if image.format == "PNG" and image.mode == "L":
        # tRNS counts in the file's own bit depth, 1-8; Pillow has spread the samples to 0..255
        key = key * 255 // _PNG_TOP.get(image.info.get("artgen_bit_depth", 8), 255)
    if len(key) != pixels.shape[2]:
        return None
    top = np.iinfo(pixels.dtype).max
    return np.where((pixels == key).all(axis=2), 0, top).astype(pixels.dtype)


_PNG_TOP = {1: 1, 2: 3, 4: 15, 8: 255}


def _palette(image: Image, icc: bytes | None, notes: list[str]) -> Planes:
    colours = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    # a grey picture with an RGB profile would lose the profile
    grey = (colours == colours[:, :1]).all() and (icc is None or icc[16:20] == b"GRAY")
    palette = image.palette
    clear = image.mode == "PA" or "transparency" in image.info or (palette and palette.mode == "RGBA")
    pixels, alpha = split(image.convert("RGBA" if clear else "RGB"))
    if alpha is not None and image.mode == "P" and (alpha == 255).all():
        alpha = None
    if grey:
        pixels = np.ascontiguousarray(pixels[..., :1])
    target = ("grey" if grey else "RGB") + ("" if alpha is None else " with alpha")
    notes.append(f"palette of {len(colours)} colours converted to {target}")
    return pixels, alpha


def _cmyk(image: Image, icc: bytes | None, notes: list[str]) -> np.ndarray:
    from PIL import ImageCms

    if icc is not None:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            done = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            notes.append(f"the CMYK profile cannot be used ({error})")
        else:
            notes.append("CMYK converted to sRGB through its own profile")
            return split(done)[0]  # type: ignore[arg-type]
    notes.append("CMYK without a profile converted to RGB by the plain formula; colours are approximate")
    return split(image.convert("RGB"))[0]


def _lab(image: Image, notes: list[str]) -> np.ndarray:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    done = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    notes.append("CIE Lab converted to sRGB")
    return split(done)[0]  # type: ignore[arg-type]


def _sixteen(image: Image, notes: list[str]) -> np.ndarray:
    values = np.array(image).astype(np.uint16, copy=False)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))
    if tuple(bits) == (12,):
        notes.append("12-bit grey stretched to 16 bits")
        values = stretch(values, 4095)
    if tags.get(262) == 0:
        notes.append("16-bit min-is-white grey inverted")
        values = 65535 - values
    return values[..., None]


def channels_to_16_bits(array: np.ndarray, notes: list[str]) -> np.ndarray:
    """HxWxC, C = 1-4, as `to_16_bits`. The alpha of floats is 0..1 whatever the range of the colour is."""
    if array.dtype.kind != "f" or array.shape[2] in (1, 3):
        return to_16_bits(array, False, notes)
    colour = to_16_bits(array[..., :-1], False, notes)
    alpha = _numbers(array[..., -1:], notes)
    if clipped := _outside(alpha):
        notes.append(f"{clipped} samples of alpha outside 0..1 clipped")
    return np.concatenate([colour, _scaled(alpha, 0, 65535)], axis=2)


def to_16_bits(values: np.ndarray, full_range: bool, notes: list[str]) -> np.ndarray:
    """Float or 32-bit integer samples to uint16; not-a-number becomes 0. The rule, by the range that is found:

    0..1 in floats: x 65535; 0..255 in floats: x 257; 0..65535: kept; anything else: its minimum to 0, its
    maximum to 65535. Floats are 0..1 also where up to a hundredth of them lie outside, which is clipped: a few highlights
    above 1 must not make all else black. `full_range` says that the decoder has brought integers to 0..65535 already.
    """
    if full_range and values.dtype.kind in "iu":
        return np.clip(values, 0, 65535).astype(np.uint16)
    name = f"{values.dtype.itemsize * 8}-bit {'float' if values.dtype.kind == 'f' else 'integer'} samples"
    floats = values.dtype.kind == "f"
    if floats:
        values = _numbers(values, notes)
    low, high = float(values.min()), float(values.max())
    if floats and (clipped := _outside(values)) * 100 <= values.size:
        said = f"; {clipped} of {values.size} outside 0..1 clipped" if clipped else ""
        notes.append(f"{name} (up to {high:g}) x 65535, to 16-bit integers{said}")
        return _scaled(values, 0, 65535)
    if low >= 0 and high <= 65535:
        unit = 257 if floats and high <= 255 else 1
        notes.append(f"{name} (up to {high:g}) {f'x {unit}, ' if unit > 1 else ''}to 16-bit integers")
        return _scaled(values, 0, unit)
    notes.append(f"{name}: {low:g} to {high:g} stretched to 16-bit integers")
    return _scaled(values, low, 65535 / (high - low) if high > low else 0)


def _numbers(values: np.ndarray, notes: list[str]) -> np.ndarray:
    bad = int(values.size - np.isfinite(values).sum())
    if not bad:
        return values
    notes.append(f"{bad} {NOT_NUMBERS}")
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0)


def _outside(values: np.ndarray) -> int:
    """How many lie outside 0..1."""
    return int(np.count_nonzero(values < 0) + np.count_nonzero(values > 1))


def _scaled(values: np.ndarray, low: float, scale: float) -> np.ndarray:
    """(values - low) * scale to uint16, rounded and clipped."""
    out = np.empty(values.shape, np.uint16)
    rows = max(1, _BAND_PIXELS // max(1, values[0].size))
    for top in range(0, len(values), rows):
        band = values[top : top + rows].astype(np.float64)
        out[top : top + rows] = np.clip((band - low) * scale + 0.5, 0, 65535)
    return out
