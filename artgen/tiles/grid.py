"""Where tiles lie: integers, one axis at a time, no torch.

Neighbours share at least `overlap` pixels. The middle of what they share is a ramp over which one fades into
the other; what lies outside the ramp is halo: seen by the model, thrown away, because a convolution near a
tile's edge has not seen what lies beyond it.

    tile a   ================|halo|      '=' kept, '/' ramp
    shared               |halo|////|halo|
    tile b               |halo|////================
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class Segment:
    """One tile on one axis, in input pixels.

    start, size: what the model sees, [start, start + size); may reach past both ends of the image (padding).
    begin, end: what counts, [begin, end), inside the image; everything else of the tile is halo or padding.
    ramp_in: pixels from `begin` that are faded in over the previous tile; ramp_out: pixels up to `end` that are
    faded out under the next one. 0 at the image's edges.
    """

    start: int
    size: int
    begin: int
    end: int
    ramp_in: int
    ramp_out: int


def segments(
    length: int, tile: int, overlap: int, quantum: int, *, align: int = 1, minimum: int = 1
) -> tuple[Segment, ...]:
    """The fewest tiles of at most `tile` px that cover `length` px sharing at least `overlap` px.

    All tiles of an axis have one size: the smallest multiple of `quantum` (and of `align`) that is at least
    `minimum` and still covers with as many tiles. So with quantum = the model's multiple an image is padded by
    less than that, and with quantum = tile every tile has the same shape. Starts are multiples of `align`: a model
    that pools by 8 sees another picture when its tile starts 3 pixels later, and one that repairs JPEG finds the blocks
    of 8 where it learned them. So padding is shared by both ends only in whole `align`s.

    The ramp is half of `overlap`, or less where tiles lie so close that ramps would meet.
    Raises ValueError, quoting the value, where no such tiles exist.
    """
    for name, value, least in (
        ("length", length, 1),
        ("tile", tile, 1),
        ("overlap", overlap, 0),
        ("quantum", quantum, 1),
        ("align", align, 1),
        ("minimum", minimum, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    step = -(-quantum // align)  # from here on in units of `align` px
    longest = tile // align // step * step
    if longest * align < minimum or longest < 1:
        raise ValueError(
            f"no tile of at most {tile} px is a multiple of {step * align} px and at least {minimum} px; "
            f"use a tile of at least {_up(max(minimum, 1), step * align)} px"
        )
    cover = -(-length // align)
    shared = -(-overlap // align)
    if shared >= longest:
        raise ValueError(f"overlap {overlap} px must be smaller than the tile ({longest * align} px)")
    count = 1 if cover <= longest else -(-(cover - shared) // (longest - shared))
    size = _up(max(-(-(cover + (count - 1) * shared) // count), -(-minimum // align)), step)
    lead = ((size if count == 1 else cover) * align - length) // 2 // align * align
    starts = [i * (cover - size) // max(count - 1, 1) * align - lead for i in range(count)]
    return _with_ramps(starts, size * align, length, overlap // 2)


def covered(parts: tuple[Segment, ...]) -> int:
    """Length of the image that the segments were made for, in pixels."""
    return parts[-1].end


def weights(ramp: int) -> np.ndarray:
    """Weight of the tile that fades in: float32 of shape (ramp,), rising, symmetric; the other has 1 - weight."""
    return ((np.arange(ramp, dtype=np.float64) + 0.5) / max(ramp, 1)).astype(np.float32)


def reflected(start: int, stop: int, length: int) -> np.ndarray:
    """Indices in [0, length) of the positions start..stop of a line mirrored at its ends as often as needed.

    The edge pixel is not repeated (numpy's and torch's "reflect"), except that a line of one pixel is constant.
    """
    period = max(2 * (length - 1), 1)
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position) if length > 1 else np.zeros(stop - start, dtype=np.intp)


def _with_ramps(starts: list[int], size: int, length: int, ramp: int) -> tuple[Segment, ...]:
    gaps = [b - a for a, b in pairwise(starts)]
    ramp = min([ramp, *gaps])  # ramps of consecutive pairs must not meet: a pixel has at most two tiles
    fades = [(start + before + size - ramp) // 2 for before, start in pairwise(starts)]
    begins = [0, *fades]
    ends = [*(fade + ramp for fade in fades), length]
    last = len(starts) - 1
    return tuple(
        Segment(start, size, begins[i], ends[i], ramp if i else 0, ramp if i < last else 0)
        for i, start in enumerate(starts)
    )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
