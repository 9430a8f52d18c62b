"""What a decoded image is. Apart from decode.py, so that a process that never decodes imports no Pillow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from artgen.codecs.metadata import Metadata

Admit = Callable[[int], object]
"""Is told how many pixels an image's header claims and may wait, before their memory is taken."""


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
