from __future__ import annotations

import io
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from artgen.codecs.metadata import Metadata
from artgen.codecs.png import encode_png, encode_pngs


def whole(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    return pixels if alpha is None else np.concatenate([pixels, alpha[..., None]], axis=2)


def check(pixels: np.ndarray, alpha: np.ndarray | None) -> bytes:
    """Both libpng (all bits) and Pillow (8 bits, and 16-bit grey) must give back exactly what went in."""
    data = encode_png(pixels, alpha)
    expected = whole(pixels, alpha)
    got = imagecodecs.png_decode(data)
    assert got.dtype == pixels.dtype
    assert np.array_equal(got.reshape(expected.shape), expected)
    image = Image.open(io.BytesIO(data))
    seen = np.asarray(image)
    if pixels.dtype == np.uint8 or image.mode == "I;16":
        assert np.array_equal(seen.reshape(expected.shape), expected)
    return data


@st.composite
def pictures(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    channels, dtype = draw(st.sampled_from([1, 3])), draw(st.sampled_from([np.uint8, np.uint16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = draw(st.sampled_from([2, 255, np.iinfo(dtype).max + 1]))
    pixels = rng.integers(0, top, (height, width, channels)).astype(dtype)
    alpha = rng.integers(0, top, (height, width)).astype(dtype) if draw(st.booleans()) else None
    return pixels, alpha


@settings(max_examples=80)
@given(pictures())
def test_every_shape_decodes_back_exactly(picture):
    check(*picture)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 3), (1, 70_000, 3), (5000, 1, 3), (700, 900, 3), (3, 200_000, 1)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_of_rows_join_exactly(shape, dtype):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-2, 3, shape), axis=0) + np.cumsum(rng.integers(-2, 3, shape), axis=1)
    pixels = (smooth * 37).astype(dtype)
    check(pixels, None)
    check(pixels, np.ascontiguousarray(pixels[..., 0]))


def test_views_and_flat_pictures():
    base = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    check(base[::2, ::-3], None)
    check(np.full((300, 400, 3), 7, np.uint8), np.full((300, 400), 255, np.uint8))
    page = np.full((500, 700, 1), 255, np.uint8)
    page[100:400:7, 50:600] = 0
    assert len(check(page, None)) < 6000, "a page of lines must compress well"


def test_the_same_picture_gives_the_same_bytes():
    pixels = np.random.default_rng(2).integers(0, 256, (200, 333, 3), dtype=np.uint8)
    assert encode_png(pixels) == encode_png(pixels.copy())
    assert encode_png(np.asfortranarray(pixels)) == encode_png(pixels)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(40, 64, 64, 3), (3, 300, 500, 3), (7, 1, 1, 1), (33, 28, 29, 1), (0, 5, 5, 3)])
def test_many_at_once_are_the_files_of_each(shape, dtype, alpha):
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    pixels[:, : shape[1] // 2] //= 50  # rows of other filters
    alphas = rng.integers(0, 255, shape[:3], dtype=dtype) if alpha else None
    metadata = [Metadata(xmp=b"%d" % number) for number in range(len(pixels))]
    assert encode_pngs(pixels, alphas, metadata) == [
        encode_png(picture, None if alphas is None else alphas[number], metadata[number])
        for number, picture in enumerate(pixels)
    ]


def test_photograph_is_at_most_12_percent_larger_than_pillows_level_6():
    data = pytest.importorskip("skimage.data")
    ours = theirs = 0
    for photo in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket()):
        out = io.BytesIO()
        Image.fromarray(photo).save(out, "PNG")
        ours, theirs = ours + len(check(photo, None)), theirs + out.tell()
    assert ours <= 1.12 * theirs


def test_metadata_arrives():
    icc = bytes(range(200)) * 3
    exif = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    xmp = "<x:xmpmeta>é</x:xmpmeta>".encode()
    pixels = np.zeros((4, 5, 3), np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels, None, Metadata(icc, exif, xmp, (300.0, 150.0)))))
    image.load()
    assert image.info["icc_profile"] == icc
    assert image.info["exif"].removeprefix(b"Exif\0\0") == exif
    assert image.info["XML:com.adobe.xmp"].encode() == xmp
    assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)


def test_chunks_are_well_formed():
    data = encode_png(np.zeros((300, 1000, 3), np.uint8), None, Metadata(dpi=(72, 72)))
    at, kinds = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kinds.append(data[at + 4 : at + 8])
        body_end = at + 8 + length
        assert int.from_bytes(data[body_end : body_end + 4], "big") == zlib.crc32(data[at + 4 : body_end])
        at = body_end + 4
    assert kinds[:2] == [b"IHDR", b"pHYs"]
    assert kinds[-2:] == [b"IDAT", b"IEND"]


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_wrong_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match="pixels are"):
        encode_png(pixels)
