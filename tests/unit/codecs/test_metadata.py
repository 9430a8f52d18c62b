from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from artgen.codecs.decode import decode
from artgen.codecs.metadata import C2PA_LEFT_OUT, PREFIX, Metadata, enlarged, upright_exif, upright_xmp

from .samples import exif, photo, png_chunk, png_with, saved, tiff


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_the_orientation_changes(order):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(order + "HHII", 0x927C, 7, 30, 38)
    block = mark + struct.pack(order + "IH", 8, 2) + entries + bytes(4) + b"a maker note with offsets 1234"
    upright, had_thumbnail = upright_exif(block, 6)
    assert not had_thumbnail
    assert [at for at in range(len(block)) if block[at] != upright[at]] == [18 if order == "<" else 19]
    tags = Image.Exif()
    tags.load(upright)
    assert tags[0x0112] == 1


def exif_of_a_camera(orientation: int) -> bytes:
    """With 64 x 48 pixels in its EXIF directory and a second directory, which has an orientation of its own."""
    first = struct.pack("<H", 2) + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    first += struct.pack("<HHII", 0x8769, 4, 1, 38) + struct.pack("<I", 68)
    sub = struct.pack("<HHHIHHHHII", 2, 0xA002, 3, 1, 64, 0, 0xA003, 4, 1, 48) + bytes(4)
    second = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + bytes(4)
    return b"II*\0\x08\0\0\0" + first + sub + second


@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 48)), (3, (64, 48)), (6, (48, 64)), (8, (48, 64))])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_describes_the_picture_as_it_is_now(format, orientation, size):
    picture = decode(saved(photo(), format, exif=PREFIX + exif_of_a_camera(orientation)))
    assert "left out: the EXIF thumbnail" in picture.notes
    tags = Image.Exif()
    tags.load(picture.metadata.exif or b"")
    sub = tags.get_ifd(0x8769)
    assert (sub[0xA002], sub[0xA003]) == size == picture.pixels.shape[1::-1]
    assert tags.get_ifd(ExifTags.IFD.IFD1) == {}


@pytest.mark.parametrize(("scale", "size"), [(1, (64, 48)), (4, (256, 192)), (2000, (128_000, 96_000))])
def test_exif_of_an_enlarged_picture_says_its_size_and_every_other_byte_stays(scale, size):
    before = exif_of_a_camera(1)
    after = enlarged(Metadata(exif=before), scale).exif or b""
    tags = Image.Exif()
    tags.load(after)
    sub = tags.get_ifd(0x8769)
    assert (sub[0xA002], sub[0xA003]) == size
    entries = 38 + 2, 38 + 2 + 24  # of the two sizes
    assert after[: entries[0]] == before[: entries[0]]
    assert after[entries[1] :] == before[entries[1] :]
    assert enlarged(Metadata(dpi=(72, 72)), scale) == Metadata(dpi=(72, 72))


@given(st.binary(max_size=200))
def test_an_enlarged_picture_keeps_exif_that_leads_anywhere(tail):
    for order, head in (("<", b"II*\0\x08\0\0\0\1\0"), (">", b"MM\0*\0\0\0\x08\0\1")):
        for start in (26, 60, 2**31):
            block = head + struct.pack(order + "HHII", 0x8769, 4, 1, start) + bytes(4) + tail
            exif_block, _ = upright_exif(block, 1)
            assert len(enlarged(Metadata(exif=exif_block), 2).exif or b"") == len(block)


def test_no_thumbnail_is_left_out_where_there_was_none():
    assert "thumbnail" not in " ".join(decode(saved(photo(), "JPEG", exif=exif(6))).notes)


@given(st.binary(max_size=200))
def test_broken_exif_raises_only_what_is_expected(tail):
    sub = b"\x87\x69\0\4\0\0\0\1"  # leads anywhere
    for data in (tail, b"II*\0" + tail, b"MM\0*\0\0\0\x08" + tail, b"MM\0*\0\0\0\x08\0\1" + sub + tail):
        try:
            assert len(upright_exif(data, 6)[0]) == len(data)
        except (ValueError, struct.error):
            continue


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'<r tiff:Orientation="6" x="6"/>', b'<r tiff:Orientation="1" x="6"/>'),
        (b"<tiff:Orientation>8</tiff:Orientation>", b"<tiff:Orientation>1</tiff:Orientation>"),
        (b"<r tiff:Orientation='3'/>", b"<r tiff:Orientation='1'/>"),
    ],
)
def test_xmp_orientation(before, after):
    assert upright_xmp(before) == after


def test_xmp_orientation_is_applied_and_not_written_again():
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><d tiff:Orientation=\"6\"/></x:xmpmeta>"
    picture = decode(saved(photo(), "WEBP", lossless=True, xmp=packet))
    assert picture.pixels.shape == (64, 48, 3)
    assert picture.metadata.xmp is not None
    assert b'Orientation="1"' in picture.metadata.xmp


def test_resolution_turns_with_the_picture():
    picture = decode(saved(photo(), "JPEG", exif=exif(6), dpi=(300, 150)))
    assert picture.metadata.dpi == (150, 300)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_resolution_of_a_tiff_turns_too(dtype):
    values = photo(dtype=np.uint16).astype(dtype)
    more: dict[int, list[int] | bytes] = {282: [300, 1], 283: [150, 1], 296: [2]}
    picture = decode(tiff(values, 2, orientation=6, more=more))
    assert picture.pixels.shape == (64, 48, 3)
    assert picture.metadata.dpi == (150, 300)


def test_a_rare_tiff_keeps_its_grey_profile_and_resolution():
    profile = bytes(16) + b"GRAY" + bytes(16) + b"acsp" + bytes(88)
    more: dict[int, list[int] | bytes] = {282: [100, 1], 283: [200, 1], 296: [3], 34675: profile}
    picture = decode(tiff(photo(channels=2, dtype=np.uint16), 1, extra=(2,), more=more))
    assert picture.metadata.icc == profile
    assert picture.metadata.dpi == pytest.approx((254, 508))
    colour = decode(tiff(photo().astype(np.float32), 2, more={34675: profile, 282: [0, 0], 283: [1, 1]}))
    assert (colour.metadata.icc, colour.metadata.dpi) == (None, None)
    assert "left out: a GRAY profile that does not fit the pixels" in colour.notes


@pytest.mark.parametrize("dpi", [(0, 0), (1, 1)])
def test_a_resolution_without_meaning_is_none(dpi):
    assert decode(saved(photo(), "JPEG", dpi=dpi)).metadata.dpi is None


def test_a_tiffs_description_travels_without_its_layout():
    info = {0x010E: "a scan of a letter", 0x013B: "an archivist"}
    picture = decode(saved(photo(), "TIFF", tiffinfo=info))
    tags = Image.Exif()
    tags.load(picture.metadata.exif or b"")
    assert dict(tags) == info


@pytest.mark.parametrize(
    "raw", [b"II*\0\xff\xff\xff\x7f", b"Exif\0\0garbage", b"II*\0\x08\0\0\0\xff\xff" + bytes(9)]
)
def test_broken_exif_does_not_fail_the_picture(raw):
    picture = decode(saved(photo(), "PNG", exif=raw))
    assert picture.pixels.shape == (48, 64, 3)


def test_what_is_left_out_is_said():
    picture = decode(saved(photo(), "JPEG", comment=b"hello"))
    assert picture.notes == ("left out: comment",)


def test_extended_xmp_and_credentials_that_are_left_out_are_said():
    def with_segment(marker: int, body: bytes) -> bytes:
        data = saved(photo(), "JPEG")
        return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]

    extended = with_segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40))
    assert decode(extended).notes == ("left out: extended XMP",)
    box = struct.pack(">I4sI4s", 40, b"jumb", 32, b"jumd") + b"c2pa" + bytes(20)
    signed = with_segment(0xEB, b"JP\0\1\0\0\0\1" + box)
    for data in (signed, png_with(saved(photo(), "PNG"), png_chunk(b"caBX", box))):
        assert decode(data).notes == (C2PA_LEFT_OUT,)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_text_of_a_tiff_that_is_not_ascii_keeps_its_bytes(dtype):
    said = {
        0x8298: "\u00a9 1987 M\u00fcller".encode(),
        0x013B: "J\u00fcrgen Gr\u00f6\u00dfe".encode("latin-1"),
        0x010D: b"roll 12",
        0x9C9B: "\u00c9t\u00e9".encode("utf-16-le"),
    }
    stream = io.BytesIO()
    extra = [(tag, 1 if tag == 0x9C9B else 2, len(text), text, True) for tag, text in said.items()]
    tifffile.imwrite(stream, photo(dtype=dtype), photometric="rgb", extratags=extra)
    tags = Image.Exif()
    tags.load(decode(stream.getvalue()).metadata.exif or b"")
    found = {
        tag: value.encode("latin-1") if isinstance(value, str) else bytes(value) for tag, value in tags.items()
    }
    assert {tag: found[tag].rstrip(b"\0") if tag != 0x9C9B else found[tag] for tag in said} == said
