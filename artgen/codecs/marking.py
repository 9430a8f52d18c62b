"""What a file says of how its picture was made: IPTC's digital source type, in the XMP packet."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

# IPTC NewsCodes, https://cv.iptc.org/newscodes/digitalsourcetype/; the AI properties are of the photo standard 2025.1.
TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SourceType = Literal["trainedAlgorithmicMedia", "algorithmicallyEnhanced", "compositeWithTrainedAlgorithmicMedia"]
# What a machine has drawn stays so when another one repairs it.
_LASTING = {
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "compositeSynthetic",
    "algorithmicMedia",
}

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


@lru_cache(maxsize=256)  # all but the prompt are the same in every picture of a run
def _quoted(text: str) -> str:
    return quoteattr(_NOT_XML.sub("\ufffd", text))


_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_START_TAG = re.compile(rb"""<[^"'>]*(?:"[^"]*"[^"'>]*|'[^']*'[^"'>]*)*>""")
_ATTRIBUTE = re.compile(rb"""(?<!\s)\s++(?:([^\s=:"']+):)?([^\s=:"']+)\s*=\s*(?:"[^"]*"|'[^']*')""")
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="'
    + _RDF + '">{}</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """source_type: a term of IPTC's digital source types. system, version: what made the picture (a name, `sha256:...`).
    prompt: what it was told.
    """

    source_type: SourceType
    system: str
    version: str
    prompt: str = ""

    def properties(self) -> dict[str, str]:
        """Values by the names of the IPTC extension schema; empty ones are left out."""
        values = {
            "DigitalSourceType": TERMS + self.source_type, "AISystemUsed": self.system,
            "AISystemVersionUsed": self.version, "AIPromptInformation": self.prompt,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value}


def packet(mark: Mark) -> bytes:
    """An XMP packet that holds the mark alone."""
    return _PACKET.format(_description(mark.properties(), "")).encode()


def in_gif(gif: bytes, mark: Mark) -> bytes:
    """A sound GIF89a without XMP, with the mark as its first block (XMP specification part 3, section 1.1.2).

    The packet stands there in one piece, and not in blocks with their lengths: what follows it leads a reader that takes
    any of its bytes for a length to the end.
    """
    flags = gif[10]
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # header, and the table of colours
    trailer = bytes([1, *range(255, -1, -1), 0])
    return gif[:start] + b"\x21\xff\x0bXMP DataXMP" + packet(mark) + trailer + gif[start:]


def merged(xmp: bytes | None, mark: Mark) -> tuple[bytes, tuple[str, ...]]:
    """The packet with the mark in it, every other byte as it was, and notes on what could not be kept.

    An older source type is replaced, unless it says that a machine drew the picture; other properties that are there
    already stay. What is not a sound packet (XML with one rdf:RDF, XMP specification part 1, section 7) is left out.
    """
    if not xmp:
        return packet(mark), ()
    found = _look(xmp)
    if found is None:
        return packet(mark), ("left out: XMP that is not well-formed",)
    if found.source_type.rpartition("/")[2] in _LASTING:
        return xmp, ()
    wanted = {name: text for name, text in mark.properties().items() if name not in found.others}
    made = found.spliced(_description(wanted, found.about).encode())
    if _look(made) is None:
        return packet(mark), ("left out: XMP that takes no mark",)
    return made, ()


def _description(properties: dict[str, str], about: str) -> str:
    attributes = " ".join(f"Iptc4xmpExt:{name}={_quoted(value)}" for name, value in properties.items())
    return (
        f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about={_quoted(about)} xmlns:Iptc4xmpExt="{_IPTC}" {attributes}/>'
    )


@dataclass(slots=True)
class _Packet:
    """Where things stand in the bytes of a packet. cuts: ranges of source types that are there. rdf: of the start tag
    of rdf:RDF; end: where its end tag begins."""

    xmp: bytes
    about: str = ""
    source_type: str = ""
    others: set[str] = field(default_factory=set)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    rdf: tuple[int, int] | None = None
    end: int = -1
    roots: int = 0

    def spliced(self, description: bytes) -> bytes:
        """Without `cuts`, and with `description` as the last of rdf:RDF."""
        assert self.rdf is not None
        start, stop = self.rdf
        if self.xmp[stop - 2 : stop] == b"/>":
            name = self.xmp[start + 1 : stop - 2].split()[0]
            edits = [(stop - 2, stop, b">" + description + b"</" + name + b">")]
        else:
            edits = [(self.end, self.end, description)]
        made = self.xmp
        for first, last, new in sorted(edits + [(*cut, b"") for cut in self.cuts], reverse=True):
            made = made[:first] + new + made[last:]
        return made


def _look(xmp: bytes) -> _Packet | None:
    """What is to know of a packet; None when it is not sound XML, holds a document type, or not one rdf:RDF."""
    found = _Packet(xmp)
    reader = _Reader(found)
    try:
        reader.parser.Parse(xmp, True)
    except (expat.ExpatError, ValueError):
        return None
    return found if found.roots == 1 and found.rdf is not None else None


class _Reader:
    """Walks a packet once; the properties of a picture are children or attributes of rdf:RDF/rdf:Description."""

    def __init__(self, found: _Packet) -> None:
        self._found = found
        self._open: list[tuple[str, int]] = []
        self._prefixes: set[bytes] = set()
        self._text: list[str] | None = None
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self.parser.StartNamespaceDeclHandler = self._namespace
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _refuse(self, *_: Any) -> None:
        raise ValueError("XMP has no document type")

    def _namespace(self, prefix: str | None, name: str) -> None:
        if name == _IPTC and prefix:
            self._prefixes.add(prefix.encode())

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        found, at = self._found, self.parser.CurrentByteIndex
        parents = [opened for opened, _ in self._open[-2:]]
        self._open.append((name, at))
        if name == f"{_RDF} RDF":
            found.roots += 1
            found.rdf = self._tag(at)
        elif parents[-1:] == [f"{_RDF} RDF"] and name == f"{_RDF} Description":
            found.about = found.about or attributes.get(f"{_RDF} about", "")
            self._attributes(at, attributes)
        elif parents == [f"{_RDF} RDF", f"{_RDF} Description"] and name.startswith(_IPTC):
            if name == f"{_IPTC} DigitalSourceType":
                self._text = [attributes.get(f"{_RDF} resource", "")]
            else:
                found.others.add(name.split()[1])

    def _attributes(self, at: int, attributes: dict[str, str]) -> None:
        names = {name.split()[1] for name in attributes if name.startswith(_IPTC + " ")}
        self._found.others |= names - {"DigitalSourceType"}
        if "DigitalSourceType" not in names:
            return
        self._found.source_type = attributes[f"{_IPTC} DigitalSourceType"].strip()
        start, stop = self._tag(at)
        for match in _ATTRIBUTE.finditer(self._found.xmp, start, stop):
            if match[1] in self._prefixes and match[2] == b"DigitalSourceType":
                self._found.cuts.append(match.span())

    def _end(self, name: str) -> None:
        _, at = self._open.pop()
        if name == f"{_RDF} RDF":
            self._found.end = self.parser.CurrentByteIndex
        elif self._text is not None and name == f"{_IPTC} DigitalSourceType":
            self._found.source_type, self._text = "".join(self._text).strip(), None
            _, stop = self._tag(at)
            if self._found.xmp[stop - 2 : stop] != b"/>":
                stop = self._found.xmp.index(b">", self.parser.CurrentByteIndex) + 1
            self._found.cuts.append((at, stop))

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _tag(self, at: int) -> tuple[int, int]:
        match = _START_TAG.match(self._found.xmp, at)
        if match is None:
            raise ValueError(f"no tag at byte {at}")
        return match.span()
