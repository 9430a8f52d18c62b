"""Tiles back to a picture, holding one row of tiles in float, never the picture.

Legend: H, W, C height, width, channels of a tile in output pixels.
"""

from __future__ import annotations

import numpy as np

from artgen.errors import RestoreFailed
from artgen.tiles.grid import Segment, covered, weights


class BandBlender:
    """Blends tiles, put row by row and left to right, into `pixels` (height x width x channels, uint8 or uint16).

    `rows` and `cols` come from `grid.segments` in input pixels; a tile and the output are `scale` times as large.
    Fading is `a + w * (b - a)`: where two tiles agree, the result is bit for bit what they agree on.
    """

    def __init__(
        self,
        rows: tuple[Segment, ...],
        cols: tuple[Segment, ...],
        channels: int,
        *,
        scale: int = 1,
        dtype: np.dtype | type = np.uint8,
    ) -> None:
        self._rows, self._cols, self._scale = rows, cols, scale
        self._height, self._width = covered(rows) * scale, covered(cols) * scale
        self.pixels = np.empty((self._height, self._width, channels), dtype)
        self._top = float(np.iinfo(self.pixels.dtype).max)
        tallest = max(row.end - row.begin for row in rows) * scale
        self._band = np.empty((tallest, self._width, channels), np.float32)
        fade = max(row.ramp_out for row in rows) * scale
        self._carry = np.empty((fade, self._width, channels), np.float32)
        self._next = (0, 0)

    def put(self, i: int, j: int, tile_HWC: np.ndarray) -> None:
        """Takes the float32 tile of row i and column j, range [0, 1] (values outside are clipped at the end).

        Raises RestoreFailed where the tile has another size than it should or values that are no number.
        """
        if (i, j) != self._next:
            raise ValueError(f"tile {(i, j)} came out of order; expected {self._next}")
        row, col, scale = self._rows[i], self._cols[j], self._scale
        wanted = (row.size * scale, col.size * scale, self.pixels.shape[2])
        if tile_HWC.shape != wanted:
            raise RestoreFailed(f"the model returned a tile of shape {tile_HWC.shape} where {wanted} was due")
        part = tile_HWC[_within(row, scale), _within(col, scale)]
        # The least and the greatest value show NaN and inf in two fast passes without a temporary array.
        if not (np.isfinite(part.min()) and np.isfinite(part.max())):
            bad = part.size - int(np.count_nonzero(np.isfinite(part)))
            raise RestoreFailed(
                f"the model returned {bad} values that are NaN or infinite in the tile at row "
                f"{row.begin}, column {col.begin}"
            )
        self._paste(part, row, col)
        if j + 1 < len(self._cols):
            self._next = (i, j + 1)
            return
        self._finish(row)
        self._next = (i + 1, 0)

    def _paste(self, part_HWC: np.ndarray, row: Segment, col: Segment) -> None:
        scale = self._scale
        band = self._band[: (row.end - row.begin) * scale]
        left, fade = col.begin * scale, col.ramp_in * scale
        if fade:
            before = band[:, left : left + fade]
            after = part_HWC[:, :fade] * np.float32(self._top)
            _fade(before, after, weights(fade)[None, :, None])
            before[...] = after
        np.multiply(part_HWC[:, fade:], np.float32(self._top), out=band[:, left + fade : col.end * scale])

    def _finish(self, row: Segment) -> None:
        """The last tile of a row is in: fade over the row above, keep what fades under the row below, round."""
        scale = self._scale
        band = self._band[: (row.end - row.begin) * scale]
        fade, kept = row.ramp_in * scale, row.ramp_out * scale
        if fade:
            _fade(self._carry, band[:fade], weights(fade)[:, None, None])
        done = band.shape[0] - kept
        if kept:
            self._carry[...] = band[done:]
        ready = band[:done]
        ready += np.float32(0.5)  # half up: truncation below is floor, for nothing is negative after the clip
        np.clip(ready, 0.0, np.float32(self._top), out=ready)
        top = row.begin * scale
        np.copyto(self.pixels[top : top + done], ready, casting="unsafe")


def _fade(before: np.ndarray, after: np.ndarray, weight: np.ndarray) -> None:
    """after = before + weight * (after - before), in place."""
    after -= before
    after *= weight
    after += before


def _within(part: Segment, scale: int) -> slice:
    return slice((part.begin - part.start) * scale, (part.end - part.start) * scale)
