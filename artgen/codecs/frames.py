"""How many pictures a file holds, counted without decoding any of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

CAP = 1000  # a chain of 3,000 pages takes Pillow a third of a second; nobody needs the exact number


def note(image: Image, data: bytes) -> str | None:
    """What to tell about the pictures that are not restored; None when there is only one."""
    if image.format == "PSD":
        layers = len(getattr(image, "layers", ()))
        return f"the merged picture of {layers} layers" if layers else None
    sizes = image.info.get("sizes", ())
    if len(sizes) > 1:
        return f"the largest of {len(sizes)} sizes"
    if image.format == "GIF":
        count = gif_frames(data)
    elif image.format == "TIFF":
        count = tiff_pages(data)
    else:
        count = getattr(image, "n_frames", 1)
    if count <= 1:
        return None
    return f"the first of {f'more than {CAP}' if count > CAP else count} {'pages' if image.format == 'TIFF' else 'frames'}"


def tiff_pages(data: bytes) -> int:
    """Pages of a TIFF or BigTIFF, at most CAP + 1. TIFF 6.0, section 2; a loop in the chain ends the count."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    head, step, offset = ("Q", 20, "Q") if big else ("H", 12, "I")
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
        while at and at not in seen and len(seen) <= CAP:
            (entries,) = struct.unpack_from(order + head, data, at)
            seen.add(at)
            (at,) = struct.unpack_from(order + offset, data, at + struct.calcsize(head) + step * entries)
    except struct.error:
        return len(seen)
    return len(seen)


def gif_frames(data: bytes) -> int:
    """Frames of a GIF, at most CAP + 1. GIF89a, sections 18-26."""
    count = 0
    try:
        at = 13 + _table(data[10])
        while count <= CAP:
            if data[at] == 0x21:
                at = _skip_blocks(data, at + 2)
            elif data[at] == 0x2C:
                count += 1
                at = _skip_blocks(data, at + 11 + _table(data[at + 9]))
            else:
                break
    except IndexError:
        return count
    return count


def _table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1
