from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from artgen.codecs.frames import CAP, gif_frames, tiff_pages

from .samples import saved


@pytest.mark.parametrize("count", [1, 2, 31])
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_counts_agree_with_what_was_written(count, mode):
    frames = [Image.fromarray(np.full((9, 11, 3), index * 7, np.uint8)).convert(mode) for index in range(count)]
    assert gif_frames(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])) == count
    assert tiff_pages(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])) == count
    assert tiff_pages(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:], big_tiff=True)) == count


def test_chains_without_end():
    loop = b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8)
    assert tiff_pages(loop) == 1
    pages = b"".join(struct.pack("<HI", 0, 8 + 6 * (index + 1)) for index in range(5000))
    assert tiff_pages(b"II*\0\x08\0\0\0" + pages) == CAP + 1


@pytest.mark.parametrize("keep", [0, 5, 12, 20, 60])
def test_truncated_files_are_counted_as_far_as_they_go(keep):
    frames = [Image.fromarray(np.full((9, 11), index, np.uint8)) for index in range(4)]
    assert 0 <= gif_frames(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])[:keep]) <= 4
    assert 0 <= tiff_pages(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])[:keep]) <= 4
