from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from artgen.codecs.decode import decode
from artgen.codecs.metadata import upright_exif, upright_xmp

from .samples import exif, photo, saved


@pytest.mark.parametrize("order", ["<", ">"])
def test_only_the_orientation_changes(order):
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(order + "HHII", 0x927C, 7, 30, 38)
    block = mark + struct.pack(order + "IH", 8, 2) + entries + bytes(4) + b"a maker note with offsets 1234"
    upright = upright_exif(block)
    assert [at for at in range(len(block)) if block[at] != upright[at]] == [18 if order == "<" else 19]
    tags = Image.Exif()
    tags.load(upright)
    assert tags[0x0112] == 1


@given(st.binary(max_size=200))
def test_broken_exif_raises_only_what_is_expected(tail):
    for data in (tail, b"II*\0" + tail, b"MM\0*\0\0\0\x08" + tail):
        try:
            assert len(upright_exif(data)) == len(data)
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
