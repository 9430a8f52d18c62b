from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from artgen.codecs.decode import decode
from artgen.codecs.encode import encode, to_8_bits
from artgen.codecs.metadata import Metadata
from artgen.errors import UnsupportedImage


@pytest.fixture(scope="module")
def metadata() -> Metadata:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif[0x0112] = 1
    return Metadata(
        icc=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        exif=exif.tobytes().removeprefix(b"Exif\0\0"),
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
        dpi=(300.0, 300.0),
    )


def smooth(dtype, channels: int) -> np.ndarray:
    ramp = np.linspace(0, np.iinfo(dtype).max, 64 * 96 * channels).reshape(64, 96, channels)
    return ramp.astype(dtype)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_metadata_survives_every_format(format, metadata):
    made = encode(smooth(np.uint8, 3), None, metadata, format=format)
    back = decode(made.data).metadata
    assert (back.icc, back.exif, back.xmp) == (metadata.icc, metadata.exif, metadata.xmp)
    if format == "webp":
        assert any("resolution" in note for note in made.notes)
    else:
        assert back.dpi == pytest.approx((300, 300), abs=0.02)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_pixels_survive(format, channels, dtype, with_alpha):
    pixels = smooth(dtype, channels)
    alpha = np.ascontiguousarray(smooth(dtype, 1)[::-1, :, 0]) if with_alpha else None
    made = encode(pixels, alpha, Metadata(), format=format, quality=95)
    back = decode(made.data)
    if format == "png":
        assert np.array_equal(back.pixels, pixels)
        assert alpha is None if back.alpha is None else np.array_equal(back.alpha, alpha)
        assert made.notes == ()
        return
    expected = to_8_bits(pixels) if dtype == np.uint16 else pixels
    assert back.bits == 8
    assert any("16 bits" in note for note in made.notes) == (dtype == np.uint16)
    assert np.abs(back.pixels.astype(int) - expected).mean() < 2
    if format == "jpeg":
        assert back.alpha is None
        assert any("alpha" in note for note in made.notes) == with_alpha
    elif alpha is not None:
        assert np.array_equal(back.alpha, to_8_bits(alpha) if dtype == np.uint16 else alpha)


def test_rounding_to_8_bits():
    exact = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_8_bits(exact), np.floor(exact / 257 + 0.5).astype(np.uint8))


def test_what_does_not_fit_is_said():
    wide = np.zeros((1, 16384, 3), np.uint8)
    with pytest.raises(UnsupportedImage, match=r"16384 x 1 .*--format png"):
        encode(wide, None, Metadata(), format="webp")
    long = Metadata(exif=b"II*\0\x08\0\0\0" + bytes(70_000))
    made = encode(wide[:, :8], None, long, format="jpeg")
    assert any("70008 bytes" in note for note in made.notes)
    assert decode(made.data).metadata.exif is None


@pytest.mark.parametrize("alpha", [None, np.full((64, 96), 9, np.uint8)])
def test_webp_says_that_it_holds_no_grey(alpha):
    made = encode(smooth(np.uint8, 1), alpha, Metadata(), format="webp")
    assert made.notes == ("grey written as RGB, as WebP holds no grey",)
    assert encode(smooth(np.uint8, 3), alpha, Metadata(), format="webp").notes == ()
