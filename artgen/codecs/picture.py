"""What a decoded image is. Apart from decode.py, so that a process that never decodes imports no Pillow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from artgen.codecs.metadata import Metadata
from artgen.errors import DecodeFailed

NOT_NUMBERS = "samples that are not numbers set to 0"
"""What the note of a picture says that had such samples, after their number."""

Admit = Callable[[int], object]
"""Is told how many pixels an image's header claims, before their memory is taken; may wait, or raise an ImageError."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded image, upright.

    pixels: HxWxC, C-contiguous, uint8 or uint16 over the full range; C = 1 (grey) or 3 (RGB).
    alpha: HxW of the same dtype, or None; not premultiplied.
    mode: the source's mode in Pillow's words ("RGB", "CMYK", "P", "I;16", ...).
    bits: 8 or 16, of `pixels`.
    format: "JPEG", "PNG", ...
    notes: what was converted or left out, in words.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    metadata: Metadata
    mode: str
    bits: int
    format: str
    notes: tuple[str, ...]


def all_numbers(picture: Picture) -> Picture:
    """The same picture. Raises DecodeFailed for one with samples that are not numbers: it can be restored, but nothing
    should be learned from it nor measured on it.
    """
    for note in picture.notes:
        if note.endswith(NOT_NUMBERS):
            raise DecodeFailed(f"{note.removesuffix(' set to 0')}: save it without them")
    return picture
