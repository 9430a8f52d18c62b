"""Which pictures of DATA are kept out of training, to validate on: found by looking, as some cannot be used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from artgen.training.pictures import Pictures

MOST_HELD = 64
"""Most pictures that are kept out of training to validate on, however large DATA is."""
MOST_TRIED = 16
"""Most pictures of a part of the listing that are looked at once one is held out: all ranks wait meanwhile."""
HELD_PX = 192
"""Side of the centre of such a picture that `validate` looks at."""


class HeldOut(NamedTuple):
    """numbers: of the pictures that are held out. centres: of the same ones. rest: whether another one can be used."""

    numbers: list[int]
    centres: list[np.ndarray]
    rest: bool


def stretches(count: int, holdout: int) -> list[range]:
    """The listing of `count` pictures in parts of `holdout` (0: none), at most MOST_HELD, of each of which one is held out."""
    if not holdout:
        return []
    every = max(holdout, -(-count // MOST_HELD))
    return [range(first, min(first + every, count)) for first in range(0, count, every)]


def hold_out(pictures: Pictures, holdout: int) -> HeldOut:
    """The first picture of each stretch that can be used, with no more of it than `validate` looks at: a run keeps that to
    its end, and scans are large. Of a stretch whose first MOST_TRIED cannot be used there is none."""
    numbers: list[int] = []
    centres: list[np.ndarray] = []
    for stretch in stretches(len(pictures), holdout):
        for number in stretch if not numbers else stretch[:MOST_TRIED]:
            pixels = pictures[number]
            if pixels is not None:
                numbers.append(number)
                centres.append(_centre(pixels).copy())
                break
    others = (number for number in range(len(pictures)) if number not in numbers)
    return HeldOut(numbers, centres, any(pictures[number] is not None for number in others))


def _centre(pixels: np.ndarray) -> np.ndarray:
    # As much from both ends, so that the middle stays where it was: a side may be one longer than HELD_PX.
    top, left = (max(side - HELD_PX, 0) // 2 for side in pixels.shape[:2])
    return pixels[top : pixels.shape[0] - top, left : pixels.shape[1] - left]
