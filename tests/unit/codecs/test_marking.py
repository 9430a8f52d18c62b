from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from xml.dom import minidom

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from artgen.codecs.decode import decode
from artgen.codecs.encode import encode
from artgen.codecs.marking import TERMS, Mark, in_gif, merged, packet
from artgen.codecs.metadata import Metadata

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
DC = "{http://purl.org/dc/elements/1.1/}"
ENHANCED = Mark("algorithmicallyEnhanced", "artgen default", "sha256:12ab")
DRAWN = Mark("trainedAlgorithmicMedia", 'a "<&>" model', "sha256:12ab", "seed 4, class <cat>")


def xmp(inside: str, about: str = "uuid:1", tail: str = "") -> bytes:
    """A packet as cameras and editors write it, padding and all."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="a > b">'
        '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><!-- kept -->'
        f'<r:Description r:about="{about}" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/png"'
        f' xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {inside}'
        f"</r:RDF></x:xmpmeta>{tail}{' ' * 50}\n<?xpacket end='w'?>"
    ).encode()


def properties(data: bytes) -> dict[str, list[str]]:
    """Values of all properties of the picture, by name; fails for what is no sound packet."""
    root = ET.fromstring(data)
    (rdf,) = root.iter(f"{RDF}RDF")
    found: dict[str, list[str]] = {}
    abouts = set()
    for description in rdf:
        assert description.tag == f"{RDF}Description"
        abouts.add(description.get(f"{RDF}about"))
        for name, value in description.items():
            found.setdefault(name, []).append(value)
        for child in description:
            found.setdefault(child.tag, []).append((child.text or "") + child.get(f"{RDF}resource", ""))
    assert len(abouts) == 1, "all descriptions of a packet are about one thing"
    return found


def test_a_packet_of_its_own_holds_every_property() -> None:
    found = properties(packet(DRAWN))
    assert found[f"{IPTC}DigitalSourceType"] == [f"{TERMS}trainedAlgorithmicMedia"]
    assert found[f"{IPTC}AISystemUsed"] == ['a "<&>" model']
    assert found[f"{IPTC}AISystemVersionUsed"] == ["sha256:12ab"]
    assert found[f"{IPTC}AIPromptInformation"] == ["seed 4, class <cat>"]
    assert TERMS == "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.mark.parametrize(
    "inside",
    [
        "/>",
        "><dc:rights>me</dc:rights></r:Description>",
        f"e:DigitalSourceType='{TERMS}digitalCapture' />",
        f"dc:title='a > b' e:DigitalSourceType = \"{TERMS}negativeFilm\"><dc:rights>me</dc:rights></r:Description>",
        f"><e:DigitalSourceType>{TERMS}digitalCapture</e:DigitalSourceType></r:Description>",
        f"><e:DigitalSourceType r:resource='{TERMS}print'/><dc:rights>me</dc:rights></r:Description>",
        f"/><r:Description r:about='uuid:1'><i:DigitalSourceType xmlns:i='{IPTC[1:-1]}'>x</i:DigitalSourceType></r:Description>",
    ],
)
def test_the_mark_joins_what_is_there(inside: str) -> None:
    before = xmp(inside)
    made, notes = merged(before, ENHANCED)
    assert notes == ()
    was, now = properties(before), properties(made)
    assert now[f"{IPTC}DigitalSourceType"] == [f"{TERMS}algorithmicallyEnhanced"]
    assert now[f"{IPTC}AISystemUsed"] == ["artgen default"]
    ours = {f"{IPTC}{name}" for name in ("DigitalSourceType", "AISystemUsed", "AISystemVersionUsed")}
    other = [
        {name: values for name, values in some.items() if name not in ours and "about" not in name}
        for some in (was, now)
    ]
    assert other[0] == other[1]
    assert b"<!-- kept -->" in made
    assert made.endswith(b" " * 50 + b"\n<?xpacket end='w'?>")


def test_every_byte_that_is_not_ours_stays() -> None:
    before = xmp("><dc:rights>  me \n</dc:rights></r:Description>")
    made, _ = merged(before, ENHANCED)
    at = made.index(b"<rdf:Description")
    end = made.index(b"/>", at) + 2
    assert made[:at] + made[end:] == before


@pytest.mark.parametrize(
    "older", ["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicMedia"]
)
def test_repairing_does_not_hide_that_a_machine_drew_the_picture(older: str) -> None:
    before = xmp(f"e:DigitalSourceType='{TERMS}{older}'/>")
    assert merged(before, ENHANCED) == (before, ())


def test_properties_of_parts_of_a_picture_are_not_its_own() -> None:
    part = f"><dc:source r:parseType='Resource'><e:DigitalSourceType>{TERMS}print</e:DigitalSourceType></dc:source></r:Description>"
    made, _ = merged(xmp(part), ENHANCED)
    assert f"<e:DigitalSourceType>{TERMS}print<".encode() in made
    assert properties(made)[f"{IPTC}DigitalSourceType"] == [f"{TERMS}algorithmicallyEnhanced"]


def test_an_other_system_that_is_named_stays_named() -> None:
    made, _ = merged(xmp("e:AISystemUsed='another'/>"), ENHANCED)
    assert properties(made)[f"{IPTC}AISystemUsed"] == ["another"]


def test_an_empty_list_of_descriptions_is_opened() -> None:
    empty = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><q:RDF xmlns:q='http://www.w3.org/1999/02/22-rdf-syntax-ns#'/></x:xmpmeta>"
    made, notes = merged(empty, ENHANCED)
    assert notes == ()
    assert properties(made)[f"{IPTC}DigitalSourceType"] == [f"{TERMS}algorithmicallyEnhanced"]


@pytest.mark.parametrize(
    "broken",
    [
        b"<x:xmpmeta", b"not xml", b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", b"\xff\xfe<\x00", xmp("/>").replace(b"</r:RDF>", b""),
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + xmp("/>")[60:],
        b"<!DOCTYPE a><a xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><r:RDF/></a>",
        xmp("/>", tail="<more/>"),
    ],
)  # fmt: skip
def test_what_is_no_packet_is_left_out_and_said(broken: bytes) -> None:
    made, notes = merged(broken, ENHANCED)
    assert made == packet(ENHANCED)
    assert notes == ("left out: XMP that is not well-formed",)


@settings(max_examples=150)
@given(st.integers(0, 400), st.binary(max_size=6), st.integers(0, 6))
@example(221, b"}", 0)  # in the name of a namespace, where ElementTree takes no such bracket
def test_whatever_comes_in_a_sound_packet_goes_out(at: int, new: bytes, cut: int) -> None:
    whole = xmp(f"><e:DigitalSourceType>{TERMS}print</e:DigitalSourceType></r:Description>")
    made, _ = merged(whole[:at] + new + whole[at + cut :], ENHANCED)
    (rdf,) = minidom.parseString(made).getElementsByTagNameNS(RDF.strip("{}"), "RDF")
    assert f"{TERMS}".encode() in made
    assert rdf.hasChildNodes()


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_every_format_carries_the_mark_to_readers(format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    old = Metadata(xmp=xmp("><dc:rights>me</dc:rights></r:Description>"))
    made = encode(pixels, None, old, format=format, mark=ENHANCED)  # type: ignore[arg-type]
    back = decode(made.data).metadata.xmp
    assert back is not None
    found = properties(back)
    assert (found[f"{IPTC}DigitalSourceType"], found[f"{DC}rights"]) == (
        [f"{TERMS}algorithmicallyEnhanced"],
        ["me"],
    )


def test_in_a_jpeg_the_mark_is_kept_where_the_rest_is_too_long() -> None:
    long = Metadata(xmp=xmp(f"><dc:rights>{'x' * 70_000}</dc:rights></r:Description>"))
    made = encode(np.zeros((8, 8, 3), np.uint8), None, long, format="jpeg", mark=ENHANCED)
    assert any("too long for JPEG" in note for note in made.notes)
    assert decode(made.data).metadata.xmp == packet(ENHANCED)


def test_without_a_mark_the_packet_is_not_touched() -> None:
    odd = Metadata(xmp=b"<x:xmpmeta")
    assert decode(encode(np.zeros((8, 8, 3), np.uint8), None, odd, format="png").data).metadata.xmp == b"<x:xmpmeta"


@pytest.mark.timeout(60)  # each took hours once: the time grew with the square of what a file may hold
@pytest.mark.parametrize("filler", ["spaces", "depth"])
def test_no_packet_holds_the_run_up(filler: str) -> None:
    inside = " " * 1_000_000 if filler == "spaces" else ""
    deep = 200_000 if filler == "depth" else 0
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" I:DigitalSourceType="a"'
        f"{inside}>{'<a>' * deep}{'</a>' * deep}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    made, notes = merged(xmp.encode(), ENHANCED)
    assert TERMS.encode() + ENHANCED.source_type.encode() in made
    assert notes == ()


def blocks(gif: bytes, at: int) -> tuple[bytes, int]:
    """The data of the sub-blocks that begin at `at`, and where the next block begins (GIF89a, section 15)."""
    found = b""
    while length := gif[at]:
        found += gif[at + 1 : at + 1 + length]
        at += 1 + length
    return found, at + 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_gif_holds_the_mark_and_plays_on(mode: str) -> None:
    dice, file = np.random.default_rng(0), io.BytesIO()
    shape = (8, 9) if mode == "L" else (8, 9, 3)
    frames = [Image.fromarray(dice.integers(0, 256, shape, np.uint8)) for _ in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)
    plain = file.getvalue()
    marked = in_gif(plain, DRAWN)
    at = marked.index(b"\x21\xff\x0bXMP DataXMP") + 14
    assert marked[at:].startswith(packet(DRAWN))
    # A reader that takes the packet for sub-blocks ends at the end of the trailer, wherever in it they lead.
    _, after = blocks(marked, at)
    assert marked[after:] == plain[after - len(marked) :]
    assert len(marked) - len(plain) == 14 + len(packet(DRAWN)) + 258
    with Image.open(io.BytesIO(plain)) as before, Image.open(io.BytesIO(marked)) as film:
        assert (film.n_frames, film.info["loop"]) == (3, 0)  # pyright: ignore[reportAttributeAccessIssue]
        for number in range(3):
            before.seek(number)
            film.seek(number)
            assert np.array_equal(np.array(film.convert("RGB")), np.array(before.convert("RGB")))
            assert film.info["duration"] == 80


def test_a_name_with_characters_that_xml_has_not_leaves_the_mark_readable() -> None:
    name = "a\x01b\ufffe\ud800 <&> \U0001f600"
    mark = Mark("trainedAlgorithmicMedia", "artgen", "1", f"class {name}")
    xmp, notes = merged(packet(mark), Mark("algorithmicallyEnhanced", "artgen", "1"))
    assert (xmp, notes) == (packet(mark), ()), "still drawn by a machine"
    assert "a\ufffdb\ufffd\ufffd &lt;&amp;&gt; \U0001f600" in xmp.decode()
