"""Where in a picture something is lost: small windows to work on in place of all of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MARGIN = 5
"""Pixels: so far a window reaches beyond what is lost in it, unless the picture ends before, and what is lost in two windows
is farther apart."""
# A picture is looked at by squares of so many pixels; what is lost within MARGIN is at most two of them away.
_CELL = 4
_SIDES = (16, 32, 64, 128, 256)
# Windows of so much of a picture's pixels are not worth their calls.
_MOST_SHARE = 0.7
# Of a longer chain of cells the whole picture is worked on.
_MOST_STEPS = 48

Place = tuple[slice, slice]


def patches(lost_CHW: Tensor) -> list[tuple[list[Place], Tensor]] | None:
    """Windows (rows, columns) of equal sizes that together hold all pixels where lost is above 0, in groups of one size, and
    for each window own_1HW: 1 where its pixels are its own, 0 where another window has them, float, stacked for the group.

    None: all of the picture.
    """
    lost_HW = (lost_CHW > 0).any(0).numpy()
    height, width = lost_HW.shape
    if not lost_HW.any():
        return []
    cells = np.zeros((-(-height // _CELL) * _CELL, -(-width // _CELL) * _CELL), bool)
    cells[:height, :width] = lost_HW
    cells = cells.reshape(cells.shape[0] // _CELL, _CELL, cells.shape[1] // _CELL, _CELL).max((1, 3))
    if cells.mean() > _MOST_SHARE or (labels := _connected(cells)) is None:
        return None
    groups: dict[tuple[int, int], list[tuple[Place, np.ndarray]]] = {}
    for label, (top, bottom, left, right) in _boxes(labels):
        rows, columns = _window(top, bottom, height), _window(left, right, width)
        if rows is None or columns is None:
            return None
        size = (rows.stop - rows.start, columns.stop - columns.start)
        groups.setdefault(size, []).append(((rows, columns), _pixels(labels == label, rows, columns)))
    if sum(h * w * len(found) for (h, w), found in groups.items()) > _MOST_SHARE * height * width:
        return None
    return [
        ([place for place, _ in found], torch.from_numpy(np.stack([own for _, own in found]))[:, None])
        for found in groups.values()
    ]


def _connected(cells: np.ndarray) -> np.ndarray | None:
    """A number above 0 for all cells with at most one between them, step by step; 0 where `cells` is not. None: a long chain."""
    labels = np.arange(1, cells.size + 1, dtype=np.int32).reshape(cells.shape) * cells
    for _ in range(_MOST_STEPS):
        wider = _greatest_of_5x5(labels) * cells
        if np.array_equal(wider, labels):
            return labels
        labels = wider
    return None


def _greatest_of_5x5(values: np.ndarray) -> np.ndarray:
    """Of each value, 0 or more, and those at most two places away."""
    padded = np.pad(values, 2)
    rows = np.maximum.reduce([padded[shift : shift + len(values)] for shift in range(5)])
    return np.maximum.reduce([rows[:, shift : shift + values.shape[1]] for shift in range(5)])


def _boxes(labels: np.ndarray) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Of each label in order: its first row of cells, the one behind its last, the same of columns."""
    rows, columns = labels.nonzero()
    names, which = np.unique(labels[rows, columns], return_inverse=True)
    least = np.full((2, len(names)), labels.size)
    most = np.zeros((2, len(names)), int)
    for axis, places in enumerate((rows, columns)):
        np.minimum.at(least[axis], which, places)
        np.maximum.at(most[axis], which, places + 1)
    return [
        (int(name), (int(least[0, n]), int(most[0, n]), int(least[1, n]), int(most[1, n])))
        for n, name in enumerate(names)
    ]


def _window(first: int, behind: int, length: int) -> slice | None:
    """Pixels of one of the sizes around the cells [first, behind), within a picture of `length` pixels."""
    start, stop = max(first * _CELL - MARGIN, 0), min(behind * _CELL + MARGIN, length)
    side = next((side for side in _SIDES if side >= stop - start), None)
    if side is None:
        return None
    side = min(side, length)
    start = min(start, length - side)
    return slice(start, start + side)


def _pixels(cells: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """float32 H x W of the pixels of a window: whether their cells are."""
    across, down = (np.arange(part.start, part.stop) // _CELL for part in (columns, rows))
    return cells[np.ix_(down, across)].astype(np.float32)
