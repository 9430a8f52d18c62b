from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artgen.tiles.grid import covered, reflected, segments, weights


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, int]:
    align = draw(st.sampled_from([1, 2, 3, 8, 16]))
    step = align * draw(st.integers(1, 4))
    tile = step * draw(st.integers(1, 12)) + draw(st.integers(0, step - 1))
    longest = tile // step * step
    overlap = draw(st.integers(0, longest - align))
    return {
        "length": draw(st.integers(1, 700)),
        "tile": tile,
        "overlap": overlap,
        "quantum": step,
        "align": align,
        "minimum": draw(st.integers(1, longest)),
    }


@given(geometries())
def test_tiles_cover_the_line_and_share_the_overlap(geometry: dict[str, int]) -> None:
    parts = segments(**geometry)
    length, align, overlap = geometry["length"], geometry["align"], geometry["overlap"]
    assert parts[0].begin == 0
    lead, trail = -parts[0].start, parts[-1].start + parts[-1].size - length
    assert 0 <= lead <= trail < lead + 2 * align, "padding is shared by both ends"
    assert parts[-1].end == length == covered(parts)
    assert len({part.size for part in parts}) == 1
    size = parts[0].size
    assert geometry["minimum"] <= size <= geometry["tile"]
    assert size % geometry["quantum"] == 0
    assert all(part.start % align == 0 for part in parts), "the picture's own grid"
    if len(parts) > 1:
        assert lead + trail < align, "padded by less than the model's multiple"
    for a, b in pairwise(parts):
        assert a.start < b.start <= a.start + size - overlap
        assert a.ramp_out == b.ramp_in <= max(overlap // 2, 0)
        assert a.end == b.begin + b.ramp_in
        assert b.start <= b.begin
        assert a.end <= a.start + size


@given(geometries())
def test_weights_are_a_partition_of_unity(geometry: dict[str, int]) -> None:
    total = np.zeros(geometry["length"], np.float32)
    for part in segments(**geometry):
        weight = np.ones(part.end - part.begin, np.float32)
        weight[: part.ramp_in] = weights(part.ramp_in)
        if part.ramp_out:
            weight[weight.size - part.ramp_out :] = 1 - weights(part.ramp_out)
        total[part.begin : part.end] += weight
    assert (total == 1).all()


@given(geometries())
def test_there_are_no_fewer_tiles_than_needed(geometry: dict[str, int]) -> None:
    parts = segments(**geometry)
    step, align = geometry["quantum"], geometry["align"]
    longest = geometry["tile"] // step * step
    shared = -(-geometry["overlap"] // align) * align
    cover = -(-geometry["length"] // align) * align
    if len(parts) > 1:
        reach_of_one_less = longest + (len(parts) - 2) * (longest - shared)
        assert reach_of_one_less < cover


def test_a_line_that_fits_is_one_tile_padded_to_the_quantum() -> None:
    (part,) = segments(500, 512, 32, 8, align=8)
    assert (part.start, part.size, part.begin, part.end) == (0, 504, 0, 500)
    (part,) = segments(500, 512, 32, 512, align=8)
    assert part.size == 512


def test_halo_ramp_halo_are_a_quarter_a_half_and_a_quarter() -> None:
    a, b = segments(768, 400, 32, 8, align=8)
    assert (a.start, b.start, a.size) == (0, 368, 400)
    assert (b.begin - b.start, b.ramp_in, a.start + a.size - a.end) == (8, 16, 8)


def test_extra_overlap_is_halo() -> None:
    a, b = segments(600, 512, 32, 512, align=8)
    assert a.start + a.size - b.start == 512 - 88
    assert b.ramp_in == 16
    assert b.begin - b.start == a.start + a.size - a.end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 64, 8, 8), "length is 0"),
        ((10, 0, 8, 8), "tile is 0"),
        ((10, 64, -1, 8), "overlap is -1"),
        ((10, 64, 64, 8), "overlap 64 px must be smaller than the tile"),
        ((10, 7, 0, 8), "use a tile of at least 8 px"),
        ((10, 64, 0, 0), "quantum is 0"),
    ],
)
def test_impossible_geometry_is_refused_with_the_value(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segments(*arguments)


def test_a_tile_below_the_models_minimum_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 px"):
        segments(10, 32, 0, 8, minimum=64)


@given(st.integers(1, 40), st.integers(0, 100), st.integers(0, 100))
def test_reflection_is_numpys(length: int, before: int, beyond: int) -> None:
    line = np.arange(length)
    expected = np.pad(line, (before, beyond), mode="reflect" if length > 1 else "edge")
    assert (line[reflected(-before, length + beyond, length)] == expected).all()


def test_the_grid_needs_no_torch() -> None:
    code = "import sys, artgen.tiles.grid, artgen.tiles.blend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
