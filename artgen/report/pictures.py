"""Pictures as a page shows them: small, in sRGB, as data URIs of a bounded size; and where they changed most."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from artgen.codecs.decode import Picture
from artgen.codecs.encode import to_8_bits

LONGEST_PX = 800
# As wide as half a card, so that a page shows it pixel for pixel.
DETAIL_WIDTH_PX, DETAIL_HEIGHT_PX = 280, 176
# Up to this size an overview shows every pixel already: its detail is enlarged.
_ENLARGED_UP_TO_PX = 640
_ENLARGED = 2
SMALL_PX = 240
_BLOCK_PX = 16
_QUALITIES = (85, 75, 60, 45, 30)
# A set of four pictures: two overviews, two details. An overview may take this share of what the set may take.
_OVERVIEW_SHARE = 0.38
_DETAIL_SHARE = 0.12


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as data URIs. `before` is None when the source is gone; then there are no details either.

    `width`, `height`: pixels of the overviews. `spot`: where the detail lies, in percent of the overview
    (left, top, width, height). `detail_*`: that place, one pixel of the picture to `zoom` of the page.
    """

    after: str
    width: int
    height: int
    before: str | None = None
    spot: tuple[float, float, float, float] | None = None
    detail_before: str | None = None
    detail_after: str | None = None
    zoom: int = 1


def show(before: Picture | None, after: Picture, max_bytes: int) -> Shown:
    """Makes what the page shows of one restored picture, in at most about `max_bytes` of data URIs."""
    raw_bytes = max_bytes * 3 // 4  # base64
    height, width = after.pixels.shape[:2]
    overview = _fitted(width, height)
    after_uri = _encode(_small(after, overview), int(raw_bytes * _OVERVIEW_SHARE))
    if before is None:
        return Shown(after_uri, *overview)
    before_uri = _encode(_small(before, overview), int(raw_bytes * _OVERVIEW_SHARE))
    if max(width, height) < SMALL_PX:
        return Shown(after_uri, *overview, before=before_uri)
    zoom = _ENLARGED if max(width, height) <= _ENLARGED_UP_TO_PX else 1
    box = most_changed(before.pixels, after.pixels, DETAIL_WIDTH_PX // zoom, DETAIL_HEIGHT_PX // zoom)
    detail = (box.width * zoom, box.height * zoom)
    detail_bytes = int(raw_bytes * _DETAIL_SHARE)
    return Shown(
        after_uri,
        *overview,
        before=before_uri,
        spot=(100 * box.left / width, 100 * box.top / height, 100 * box.width / width, 100 * box.height / height),
        detail_before=_encode(_detail(before, box, width).resize(detail, Image.Resampling.NEAREST), detail_bytes),
        detail_after=_encode(srgb(after, box).resize(detail, Image.Resampling.NEAREST), detail_bytes),
        zoom=zoom,
    )


def most_changed(before: np.ndarray, after: np.ndarray, box_width: int, box_height: int) -> Box:
    """The box of that size (no larger than the picture) with the largest summed difference.

    before, after: HxWxC, uint8 or uint16, C = 1 or 3; `before` may be smaller by a whole factor (an upscaler).
    Works on a grid of 16 pixels, band by band, so it needs no copy of the picture.
    """
    height, width = after.shape[:2]
    box_width, box_height = min(box_width, width), min(box_height, height)
    factor = max(1, round(width / before.shape[1]))
    sums = np.array([_band_sums(before, after, top, factor) for top in range(0, height, _BLOCK_PX)], np.float64)
    integral = np.pad(sums, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    rows, columns = max(1, box_height // _BLOCK_PX), max(1, box_width // _BLOCK_PX)
    windows = (
        integral[rows:, columns:]
        - integral[:-rows, columns:]
        - integral[rows:, :-columns]
        + integral[:-rows, :-columns]
    )
    row, column = np.unravel_index(int(np.argmax(windows)), windows.shape)
    # A change smaller than the box fits in many places: it is shown in the middle.
    weights = sums[row : row + rows, column : column + columns] + 1e-9
    middle_y = _BLOCK_PX * (row + 0.5 + np.average(np.arange(rows), weights=weights.sum(axis=1)))
    middle_x = _BLOCK_PX * (column + 0.5 + np.average(np.arange(columns), weights=weights.sum(axis=0)))
    left = min(max(0, round(middle_x - box_width / 2)), width - box_width)
    top = min(max(0, round(middle_y - box_height / 2)), height - box_height)
    return Box(left, top, box_width, box_height)


def _band_sums(before: np.ndarray, after: np.ndarray, top: int, factor: int) -> np.ndarray:
    """Summed absolute differences of a band of blocks: one number for each block of its width."""
    band = to_8_bits(after[top : top + _BLOCK_PX]).astype(np.int16)
    rows = np.minimum(np.arange(top, top + band.shape[0]) // factor, before.shape[0] - 1)
    columns = np.minimum(np.arange(band.shape[1]) // factor, before.shape[1] - 1)
    source = before[rows[0] : rows[-1] + 1][rows - rows[0]]
    source = to_8_bits(source if factor == 1 and source.shape[1] == band.shape[1] else source[:, columns])
    line = np.abs(band - source.astype(np.int16)).sum(axis=(0, 2), dtype=np.float64)
    return np.add.reduceat(line, np.arange(0, len(line), _BLOCK_PX))


def _detail(before: Picture, box: Box, width: int) -> Image.Image:
    """The box of the picture before, in its own pixels: fewer where the model enlarged it."""
    factor = max(1, round(width / before.pixels.shape[1]))
    small = Box(box.left // factor, box.top // factor, max(1, box.width // factor), max(1, box.height // factor))
    return srgb(before, small)


def srgb(picture: Picture, box: Box | None) -> Image.Image:
    """The picture, or a box of it, as 8-bit RGB in sRGB, lying on a checkerboard where it is transparent."""
    cut = slice(None), slice(None)
    if box is not None:
        cut = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    pixels = to_8_bits(picture.pixels[cut])
    image = _from_profile(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), picture.metadata.icc)
    if picture.alpha is None:
        return image
    alpha = Image.fromarray(np.ascontiguousarray(to_8_bits(picture.alpha[cut])))
    y, x = np.ogrid[: image.height, : image.width]
    board = Image.fromarray(np.where((y // 8 + x // 8) % 2, 255, 225).astype(np.uint8)).convert("RGB")
    return Image.composite(image, board, alpha)


def _from_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the picture's own colour profile to sRGB: WebP in a page is taken as sRGB."""
    if profile is not None:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return converted or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError):
            # A profile that is broken, or made for another kind of picture: viewers ignore it, so does the page.
            return image.convert("RGB")
    return image.convert("RGB")


def _fitted(width: int, height: int) -> tuple[int, int]:
    """The size of an overview: as it is, or with its longer side at LONGEST_PX."""
    scale = min(1.0, LONGEST_PX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _small(picture: Picture, size: tuple[int, int]) -> Image.Image:
    """The picture in the size of an overview. Large ones are halved, or divided by more, strip by strip first (to twice that
    size at least, as Pillow's reducing_gap): as Pillow's images they would take three times the memory of their pixels.
    """
    height, width = picture.pixels.shape[:2]
    factor = width // (2 * size[0])
    if factor < 2:
        return srgb(picture, None).resize(
            size, Image.Resampling.LANCZOS if width > size[0] else Image.Resampling.NEAREST
        )
    rows = 16 * factor  # the checkerboard goes on from strip to strip
    halved = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, rows):
        strip = srgb(picture, Box(0, top, width, min(rows, height - top)))
        halved.paste(strip.reduce(factor), (0, top // factor))
    return halved.resize(size, Image.Resampling.LANCZOS, box=(0, 0, width / factor, height / factor))


def _encode(image: Image.Image, max_bytes: int) -> str:
    """A WebP data URI: the best quality that fits; smaller pixels count only when no quality fits."""
    data = _webp(image, _QUALITIES[0])
    for quality in _QUALITIES[1:]:
        if len(data) <= max_bytes:
            break
        data = _webp(image, quality)
    while len(data) > max_bytes and max(image.size) > 64:
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BOX)
        data = _webp(image, _QUALITIES[-1])
    return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=3)
    return buffer.getvalue()
