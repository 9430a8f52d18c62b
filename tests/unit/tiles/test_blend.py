from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artgen.errors import RestoreFailed
from artgen.tiles.blend import BandBlender
from artgen.tiles.grid import Segment, segments


def tile_of(values: np.ndarray, row: Segment, col: Segment, scale: int) -> np.ndarray:
    """The float tile of an output picture, filled with grey where it reaches past an end."""
    top = np.float32(np.iinfo(values.dtype).max)
    tile = np.full((row.size * scale, col.size * scale, values.shape[2]), 0.5, np.float32)
    down, right = max(-row.start, 0) * scale, max(-col.start, 0) * scale
    inside = values[max(row.start, 0) * scale : (row.start + row.size) * scale]
    inside = inside[:, max(col.start, 0) * scale : (col.start + col.size) * scale]
    tile[down : down + inside.shape[0], right : right + inside.shape[1]] = inside / top
    return tile


@settings(max_examples=150)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(8, 40),
    st.integers(0, 39),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from([1, 4]),
)
def test_cutting_and_blending_is_the_identity(
    height: int, width: int, tile: int, overlap: int, channels: int, scale: int, dtype: type, align: int
) -> None:
    overlap = min(overlap, tile // align * align - align)
    rows = segments(height, tile, overlap, align, align=align)
    cols = segments(width, tile, overlap, tile, align=align) if tile % align == 0 else rows
    height, width = rows[-1].end, cols[-1].end
    shape = (height * scale, width * scale, channels)
    wanted = np.random.default_rng(height * width).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    blender = BandBlender(rows, cols, channels, scale=scale, dtype=dtype)
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            blender.put(i, j, tile_of(wanted, row, col, scale))
    assert blender.pixels.dtype == dtype
    assert (blender.pixels == wanted).all()


def test_neighbours_fade_into_each_other_without_a_step() -> None:
    cols = segments(96, 64, 32, 8, align=8)
    rows = segments(8, 64, 32, 8, align=8)
    blender = BandBlender(rows, cols, 1)
    left = np.zeros((8, cols[0].size, 1), np.float32)
    for j, value in enumerate((0.0, 1.0)):
        blender.put(0, j, left + np.float32(value))
    line = blender.pixels[0, :, 0].astype(int)
    assert line[0] == 0
    assert line[-1] == 255
    steps = np.diff(line)
    assert steps.min() >= 0
    assert steps.max() <= 17


def test_values_round_half_up_and_clip() -> None:
    part = segments(4, 8, 0, 4)
    blender = BandBlender(segments(1, 8, 0, 1), part, 1)
    blender.put(0, 0, np.array([[[-3.0], [0.5 / 255], [0.49 / 255], [7.0]]], np.float32))
    assert blender.pixels[0, :, 0].tolist() == [0, 1, 0, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_fails_the_image(bad: float) -> None:
    part = segments(16, 16, 0, 8)
    blender = BandBlender(part, part, 3)
    tile = np.zeros((16, 16, 3), np.float32)
    tile[5, 6, 1] = bad
    with pytest.raises(RestoreFailed, match="1 values that are NaN or infinite"):
        blender.put(0, 0, tile)


def test_a_tile_of_another_size_fails_the_image() -> None:
    part = segments(16, 16, 0, 8)
    with pytest.raises(RestoreFailed, match=r"\(15, 16, 3\) where \(16, 16, 3\)"):
        BandBlender(part, part, 3).put(0, 0, np.zeros((15, 16, 3), np.float32))


def test_tiles_out_of_order_are_refused() -> None:
    part = segments(64, 32, 8, 8)
    with pytest.raises(ValueError, match="out of order"):
        BandBlender(part, part, 1).put(1, 0, np.zeros((part[0].size, part[0].size, 1), np.float32))


def test_memory_is_the_output_and_a_band() -> None:
    rows, cols = segments(4000, 256, 32, 8), segments(3000, 256, 32, 8)
    tile = np.zeros((rows[0].size, cols[0].size, 3), np.float32)
    tracemalloc.start()
    blender = BandBlender(rows, cols, 3)
    for i in range(len(rows)):
        for j in range(len(cols)):
            blender.put(i, j, tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    output, band = 4000 * 3000 * 3, 256 * 3000 * 3 * 4
    assert peak < output + 1.3 * band
