from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, TiffImagePlugin

from artgen.codecs.decode import decode, turn
from artgen.errors import DecodeFailed, TooManyPixels, UnsupportedImage

from .samples import cmyk_profile, exif, photo, png_chunk, png_with, saved, tiff


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(orientation, format):
    stored = photo()
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    data = saved(stored, format, exif=exif(orientation), **options)
    picture = decode(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(picture.pixels, expected)
    assert picture.pixels.shape[:2] == ((64, 48) if orientation >= 5 else (48, 64))
    assert any("orientation" in note for note in picture.notes) == (orientation > 1)
    # a reader that honours EXIF must not turn the output a second time
    out = Image.Exif()
    out.load(picture.metadata.exif)
    assert out.get(0x0112, 1) == 1
    assert out[0x010F] == "a maker"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_orientation_turns_alpha_and_deep_tiffs_too(orientation, dtype):
    stored = photo(dtype=dtype)
    alpha = np.ascontiguousarray(stored[..., 0] // 2)
    both = np.concatenate([stored, alpha[..., None]], axis=2)
    picture = decode(tiff(both, 2, extra=(2,), orientation=orientation))
    assert np.array_equal(picture.pixels, turn(stored, orientation))
    assert np.array_equal(picture.alpha, turn(alpha, orientation))
    assert picture.pixels.dtype == dtype


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_agrees_with_pillow(orientation):
    image = Image.fromarray(photo())
    image.getexif()[0x0112] = orientation
    assert np.array_equal(turn(photo(), orientation), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_kept(channels):
    rng = np.random.default_rng(channels)
    array = rng.integers(0, 65536, (37, 53, channels)).astype(np.uint16)
    colours = 3 if channels >= 3 else 1
    files = [
        imagecodecs.png_encode(array.squeeze()),
        tiff(array, 2 if colours == 3 else 1, extra=(2,) * (channels - colours)),
    ]
    for data in files:
        picture = decode(data)
        assert np.array_equal(picture.pixels, array[..., :colours])
        assert (picture.bits, picture.pixels.dtype) == (16, np.uint16)
        assert picture.alpha is None if channels == colours else np.array_equal(picture.alpha, array[..., -1])


def test_sixteen_bit_ppm_and_jpeg_2000_are_kept():
    array = photo(dtype=np.uint16)
    ppm = b"P6\n64 48\n65535\n" + array.astype(">u2").tobytes()
    assert np.array_equal(decode(ppm).pixels, array)
    assert np.array_equal(decode(imagecodecs.jpeg2k_encode(array, level=0, reversible=True)).pixels, array)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_extra_channel_of_no_known_meaning_is_no_alpha(channels):
    array = np.random.default_rng(1).integers(0, 65536, (6, 5, channels + 1)).astype(np.uint16)
    picture = decode(tiff(array, 2 if channels == 3 else 1, extra=(0,)))
    assert np.array_equal(picture.pixels, array[..., :channels])
    assert picture.alpha is None
    assert "left out: an extra channel" in picture.notes


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_samples_stay_in_place_where_the_shape_cannot_tell_them(channels, dtype):
    array = np.random.default_rng(2).integers(0, 65536, (channels,) * 3).astype(dtype)
    if dtype == np.float32:
        array /= np.float32(65535)
    files = [tiff(array, 2, extra=(2,) * (channels - 3), planar=planar) for planar in (False, True)]
    if dtype == np.uint16:
        files += [imagecodecs.png_encode(array), imagecodecs.jpeg2k_encode(array, level=0, reversible=True)]
    for data in files:
        picture = decode(data)
        both = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
        assert np.array_equal(both, array if dtype == np.uint16 else np.rint(array.astype(float) * 65535))


def test_a_deep_tiff_turned_by_its_xmp_alone():
    array = photo(dtype=np.uint16)
    picture = decode(tiff(array, 2, orientation=None, more={700: b'<r tiff:Orientation="6"/>'}))
    assert np.array_equal(picture.pixels, turn(array, 6))
    assert "TIFF orientation 6 applied" in picture.notes


def test_plain_ppm_of_more_than_8_bits_says_that_it_is_cut():
    assert decode(b"P3 1 1 65535\n65535 256 0\n").notes == ("16-bit RGB reduced to 8 bits",)
    assert decode(b"P3 1 1 255\n255 1 0\n").notes == ()
    assert decode(b"P1 1 1\n1\n").notes == ("1-bit converted to 8-bit grey",)


def test_what_is_cut_to_8_bits_is_said():
    array = (photo(dtype=np.uint16) >> 6).astype(np.uint16)
    picture = decode(imagecodecs.avif_encode(array, bitspersample=10))
    assert (picture.bits, picture.notes) == (8, ("10-bit RGB reduced to 8 bits",))


def test_twelve_bit_and_inverted_grey():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(decode(tiff(values, 0)).pixels[..., 0], 65535 - values)
    assert np.array_equal(decode(tiff(values, 1)).pixels[..., 0], values)


@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 32768, 65535], "x 65535"),
        (np.array([[0.0, 127.5, 255.0]], np.float32), [0, 32768, 65535], "x 257"),
        (np.array([[0.0, 1000.0, 65535.0]], np.float32), [0, 1000, 65535], "up to 65535"),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 32768, 65535], "-1 to 1 stretched"),
        (np.array([[np.nan, 0.5, np.inf]], np.float32), [0, 32768, 0], "2 samples that are not numbers"),
        (np.array([[0, 1000, 65535]], np.int32), [0, 1000, 65535], "32-bit integer"),
        (np.array([[-100, 0, 100]], np.int32), [0, 32768, 65535], "stretched"),
    ],
)
def test_floats_and_long_integers(values, expected, words):
    picture = decode(tiff(values, 1))
    assert picture.pixels[0, :, 0].tolist() == expected
    assert words in " ".join(picture.notes)


@pytest.mark.parametrize("beyond", [1.02, 50.0, 100_000.0, -0.1])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_few_floats_beyond_1_are_clipped_and_the_rest_stays(beyond, channels):
    values = photo(channels=channels).astype(np.float32) / 255
    values[3, 4, 0] = beyond
    picture = decode(tiff(values, 2 if channels == 3 else 1))
    assert np.array_equal(picture.pixels, np.rint(np.clip(values.astype(float), 0, 1) * 65535))
    assert f"; 1 of {values.size} outside 0..1 clipped" in picture.notes[0]


def test_the_alpha_of_floats_is_converted_by_itself():
    alpha = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    alpha[0, 0] = 1.5
    for unit in (1, 255):  # of the colour
        colour = photo().astype(np.float32) / np.float32(255 / unit)
        picture = decode(tiff(np.dstack([colour, alpha]), 2, extra=(2,)))
        assert np.array_equal(picture.pixels, photo().astype(np.uint16) * 257)
        assert np.array_equal(picture.alpha, np.rint(np.clip(alpha.astype(float), 0, 1) * 65535))
        assert "1 samples of alpha outside 0..1 clipped" in picture.notes


def test_float_colour_that_pillow_does_not_know():
    picture = decode(tiff(photo().astype(np.float32) / 255, 2))
    assert picture.pixels.shape == (48, 64, 3)
    assert np.array_equal(picture.pixels // 257, photo())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_every_mode_becomes_grey_or_rgb(mode):
    format = "PNG" if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    source = Image.fromarray(photo())
    image = (
        source.convert("L").convert("I;16")
        if mode == "I;16"
        else source.convert(mode)
        if mode != "LAB"
        else lab(source)
    )
    picture = decode(saved(image, format))
    grey = mode in ("1", "L", "LA", "I;16")
    assert picture.pixels.shape == (48, 64, 1 if grey else 3)
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable
    assert (picture.alpha is not None) == (mode in ("LA", "RGBA"))
    assert bool(picture.notes) == (mode in ("1", "P", "CMYK", "YCbCr", "LAB"))
    if mode in ("RGB", "RGBA", "LAB", "YCbCr", "CMYK"):
        assert np.abs(picture.pixels.astype(int) - photo()).mean() < 4


def lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    made = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert made is not None
    return made


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_goes_through_its_profile(format):
    image = Image.new("CMYK", (8, 8), (255, 0, 255, 0))  # the profile says white, the plain formula green
    options = {"quality": 100} if format == "JPEG" else {}
    through = decode(saved(image, format, icc_profile=cmyk_profile(), **options))
    assert through.pixels.min() > 245
    assert through.metadata.icc is None
    assert any("through its own profile" in note for note in through.notes)
    plain = decode(saved(image, format, **options))
    assert plain.pixels[0, 0].tolist() == pytest.approx([0, 255, 0], abs=4)
    assert any("plain formula" in note for note in plain.notes)


def test_a_profile_that_is_no_cmyk_profile_does_not_fail_the_picture():
    broken = cmyk_profile()[:300]
    picture = decode(saved(Image.new("CMYK", (8, 8), (255, 0, 255, 0)), "TIFF", icc_profile=broken))
    assert any("cannot be used" in note for note in picture.notes)


def test_profiles_travel_with_pixels_they_fit():
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(saved(photo(), "JPEG", icc_profile=srgb)).metadata.icc == srgb
    grey = decode(saved(photo()[..., 0], "JPEG", icc_profile=srgb))
    assert grey.metadata.icc is None
    assert any("profile" in note for note in grey.notes)
    assert decode(saved(photo(), "JPEG", icc_profile=b"no profile")).metadata.icc is None


def test_palettes():
    grey = Image.fromarray(photo()[..., 0]).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    ramp = Image.fromarray(np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) % 4, "L")
    ramp = ramp.copy()
    ramp.putpalette([0, 0, 0, 80, 80, 80, 160, 160, 160, 255, 255, 255])
    assert decode(saved(ramp, "PNG")).pixels.shape == (48, 64, 1)
    assert decode(saved(ramp, "PNG")).pixels[0, :4, 0].tolist() == [0, 80, 160, 255]
    clear = decode(saved(grey, "PNG", transparency=int(np.asarray(grey)[0, 0])))
    assert clear.alpha is not None
    assert clear.alpha[0, 0] == 0
    assert clear.alpha[-1, 0] == 255
    assert decode(saved(grey, "GIF")).alpha is None


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_counts_in_its_own_depth(depth):
    top = (1 << depth) - 1
    row = np.array([0, top, 0, top, 0, top, 0, top])
    bits = np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(8, 16)[:, 16 - depth :]
    packed = b"\0" + np.packbits(bits.ravel()).tobytes()
    header = struct.pack(">IIBBBBB", 8, 1, depth, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"tRNS", struct.pack(">H", top))
    data += png_chunk(b"IDAT", zlib.compress(packed)) + png_chunk(b"IEND", b"")
    picture = decode(data)
    full = 65535 if depth == 16 else 255
    assert picture.pixels[0, :, 0].tolist() == [0, full] * 4
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [full, 0] * 4


def test_the_transparent_colour_of_a_png():
    colour = photo()[20, 30]
    picture = decode(png_with(saved(photo(), "PNG"), png_chunk(b"tRNS", struct.pack(">3H", *map(int, colour)))))
    assert picture.alpha is not None
    assert picture.alpha[20, 30] == 0
    assert np.array_equal(picture.alpha == 0, (photo() == colour).all(axis=2))


@pytest.mark.parametrize(
    ("format", "word"), [("GIF", "frames"), ("TIFF", "pages"), ("PNG", "frames"), ("WEBP", "frames")]
)
def test_the_first_frame_is_taken(format, word):
    frames = [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (200, 100, 50)]
    picture = decode(saved(frames[0], format, save_all=True, append_images=frames[1:]))
    assert np.abs(picture.pixels.astype(int) - 200).max() <= 2
    assert picture.notes[0] == f"the first of 3 {word}"


def test_the_pixel_limit_holds_before_anything_is_decoded():
    with pytest.raises(
        TooManyPixels, match=r"64 x 48 = 3,072 pixels, more than the limit of 3,071 \(.*--max-pixels"
    ):
        decode(saved(photo(), "PNG"), max_pixels=64 * 48 - 1)
    assert decode(saved(photo(), "PNG"), max_pixels=64 * 48).pixels.size
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    with pytest.raises(TooManyPixels, match=r"3600\.0 megapixels"):
        decode(huge)
    with pytest.raises(TooManyPixels, match=r"= 3,600,000,000 pixels, more than the limit of 3,599,999,999"):
        decode(huge, max_pixels=60_000**2 - 1)
    with pytest.raises(DecodeFailed):  # allowed by the limit, but the rows are not there
        decode(png_chunk_limited(), max_pixels=10**9)


def png_chunk_limited() -> bytes:
    header = struct.pack(">IIBBBBB", 20_000, 100, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", DecodeFailed, "empty file"),
        (b"<!DOCTYPE html><html>404", DecodeFailed, "begins with '<!DOCTYPE html>"),
        (b"\0" * 500, DecodeFailed, "500 zero bytes"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedImage, "SVG"),
        (b"%PDF-1.7 ...", UnsupportedImage, "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UnsupportedImage, "PostScript"),
        (b"\xd7\xcd\xc6\x9a" + bytes(40), UnsupportedImage, "WMF"),
        (b"\0\0\0\x18ftypheic" + bytes(40), UnsupportedImage, "HEIC"),
        (b"PK\x03\x04" + bytes(40), UnsupportedImage, "archive"),
        (b"\x89PNG\r\n\x1a\n", DecodeFailed, "begins as PNG"),
        (b"II*\0\x08\0\0\0", DecodeFailed, "begins as TIFF"),
    ],
)
def test_what_is_no_image_is_said_in_words(data, error, words):
    with pytest.raises(error, match=words):
        decode(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "JPEG2000", "PPM", "QOI"])
def test_every_truncation_is_an_error(format):
    data = saved(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), format)
    assert decode(data).pixels.shape == (60, 80, 3)
    for keep in (0.1, 0.5, 0.9):
        with pytest.raises(DecodeFailed):
            decode(data[: int(len(data) * keep)])


def test_truncation_is_called_so():
    with pytest.raises(DecodeFailed, match=r"truncated: JPEG of \d+ bytes ends too early"):
        decode(saved(photo(600, 800), "JPEG")[:-3000])
    with pytest.raises(DecodeFailed, match=r"truncated|corrupt"):
        decode(imagecodecs.png_encode(photo(dtype=np.uint16))[:-300])


def test_broken_metadata_does_not_fail_good_pixels():
    good = saved(photo(), "PNG")
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(8 << 20)))
    bad_crc = b"\0\0\0\x05tEXta\0bcd" + b"\0\0\0\0"
    for chunk in (bomb, bad_crc, png_chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f"), png_chunk(b"iCCP", b"x")):
        picture = decode(png_with(good, chunk))
        assert np.array_equal(picture.pixels, photo())
    assert any("broken" in note for note in decode(png_with(good, bomb)).notes)


def test_a_limit_above_pillows_own_is_honoured():
    code = (
        "import struct,zlib,io\nfrom PIL import Image\nfrom artgen.codecs.decode import decode\n"
        "out = io.BytesIO(); Image.new('1', (20000, 20000)).save(out, 'PNG')\n"
        "try: decode(out.getvalue())\nexcept Exception as e: print(type(e).__name__)\n"
        "print(Image.MAX_IMAGE_PIXELS == 89478485)\n"
        "try: decode(out.getvalue()[:2000], max_pixels=500_000_000)\nexcept Exception as e: print(type(e).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["TooManyPixels", "True", "DecodeFailed"]


def test_codecs_never_import_torch():
    code = (
        "import sys, artgen.codecs.decode, artgen.codecs.encode, artgen.codecs.guard, artgen.codecs.guard_child\n"
        "print([m for m in ('torch', 'torchvision', 'ray', 'pyarrow', 'imagecodecs') if m in sys.modules])\n"
        "print([m for m in sys.modules if m.endswith(('EpsImagePlugin', 'WmfImagePlugin'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_the_parent_of_a_guard_needs_no_pillow():
    code = "import sys, artgen.codecs.guard, artgen.codecs.png\nprint('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def tiff_of(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_unsigned_32_bit_grey_does_not_wrap_around(byteorder):
    ramp = np.linspace(0, 2**32 - 1, 64 * 16).astype(np.uint32).reshape(64, 16)
    picture = decode(tiff_of(ramp, byteorder=byteorder))
    values = picture.pixels[..., 0].astype(int).ravel()
    assert (np.diff(values) > 0).all()
    assert (values[0], values[-1]) == (0, 65535)
    assert "32-bit integer samples: 0 to 4.29497e+09 stretched to 16-bit integers" in picture.notes
    signed = decode(tiff_of((ramp.astype(np.int64) - 2**31).astype(np.int32), byteorder=byteorder))
    assert np.array_equal(signed.pixels, picture.pixels)


def test_signed_8_bit_grey_does_not_wrap_around():
    ramp = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    picture = decode(tiff_of(ramp))
    assert np.array_equal(picture.pixels[..., 0].ravel(), np.arange(256))
    assert "signed 8-bit samples: 128 added" in picture.notes


def camera_raw(kind: str) -> bytes:
    """A preview in the first directory, as cameras write it; what they saw lies in one below it."""
    preview = Image.fromarray(photo())
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if kind == "DNG":
        tags[50706] = b"\x01\x04\0\0"
    else:
        tags[254] = 1
        tags[330] = 4096
    return saved(preview, "TIFF", tiffinfo=tags)


@pytest.mark.parametrize("kind", ["DNG", "NEF"])
def test_a_camera_raw_is_not_restored_as_its_preview(kind):
    with pytest.raises(
        UnsupportedImage, match="a camera raw file, of which only a preview can be read; develop it"
    ):
        decode(camera_raw(kind))


def test_colours_that_only_a_png_chunk_tells_are_left_out_in_words():
    plain = saved(photo(), "PNG")
    wide = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)  # Adobe RGB
    srgb = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    for chunk, note in (
        (png_chunk(b"cICP", bytes((9, 16, 0, 1))), "left out: PNG cICP (the colours are not those of sRGB)"),
        (png_chunk(b"cHRM", wide), "left out: PNG primaries (cHRM) other than sRGB's"),
    ):
        assert note in decode(png_with(plain, chunk)).notes
    for chunk in (png_chunk(b"cICP", bytes((1, 13, 0, 1))), png_chunk(b"cHRM", srgb)):
        assert decode(png_with(plain, chunk)).notes == ()
