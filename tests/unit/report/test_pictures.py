from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from artgen.codecs.decode import Picture, decode
from artgen.codecs.metadata import Metadata
from artgen.report import pictures


def picture(pixels: np.ndarray, icc: bytes | None = None) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", icc_profile=icc)
    return decode(buffer.getvalue())


def opened(data_uri: str | None) -> np.ndarray:
    assert data_uri is not None
    kind, data = data_uri.split(",", 1)
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def noisy(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def flat(height: int, width: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_the_most_changed_place_is_found_wherever_it_lies() -> None:
    before = flat(700, 900)
    for top, left in ((0, 0), (400, 600), (650, 850), (333, 71)):
        after = before.copy()
        after[top : top + 40, left : left + 40] = 255
        box = pictures.most_changed(before, after, 280, 176)
        assert (box.width, box.height) == (280, 176)
        assert 0 <= box.left <= 900 - 280
        assert 0 <= box.top <= 700 - 176
        seen = after[box.top : box.top + 176, box.left : box.left + 280]
        assert np.count_nonzero(seen == 255) == np.count_nonzero(after == 255)


@pytest.mark.parametrize("size", [(1, 1), (5, 900), (900, 3), (176, 280), (177, 281)])
def test_the_most_changed_place_lies_in_pictures_of_any_size(size: tuple[int, int]) -> None:
    box = pictures.most_changed(flat(*size), noisy(*size), 280, 176)
    assert (box.height, box.width) == (min(176, size[0]), min(280, size[1]))
    assert 0 <= box.top <= size[0] - box.height
    assert 0 <= box.left <= size[1] - box.width


def test_a_large_picture_is_shown_small_with_a_detail_pixel_for_pixel() -> None:
    before = flat(1200, 1600, 100)
    after = before.copy()
    after[800:900, 1000:1100] = 200
    shown = pictures.show(picture(before), picture(after), 500_000)
    assert (shown.width, shown.height, shown.zoom) == (800, 600, 1)
    assert opened(shown.before).shape == opened(shown.after).shape == (600, 800, 3)
    detail = opened(shown.detail_after)
    assert detail.shape == opened(shown.detail_before).shape == (176, 280, 3)
    assert np.count_nonzero(detail[..., 0] > 150) == pytest.approx(100 * 100, rel=0.02)
    assert shown.spot is not None
    left, top, width, height = shown.spot
    assert left <= 100 * 1000 / 1600
    assert left + width >= 100 * 1100 / 1600
    assert top <= 100 * 800 / 1200
    assert top + height >= 100 * 900 / 1200


def test_the_detail_of_a_medium_picture_is_enlarged_and_a_small_picture_has_none() -> None:
    shown = pictures.show(picture(flat(321, 481)), picture(noisy(321, 481)), 500_000)
    assert (shown.width, shown.zoom) == (481, 2)
    assert opened(shown.detail_after).shape == (176, 280, 3)
    small = pictures.show(picture(flat(28, 28)), picture(noisy(28, 28)), 500_000)
    assert (small.width, small.height, small.spot, small.detail_after) == (28, 28, None, None)
    assert opened(small.before).shape == (28, 28, 3)


def test_16_bits_grey_and_alpha_look_as_they_are() -> None:
    grey16 = picture(np.full((300, 300), 40_000, np.uint16))
    assert grey16.pixels.dtype == np.uint16
    assert abs(int(opened(pictures.show(None, grey16, 500_000).after)[150, 150, 0]) - 156) <= 2
    rgba = np.zeros((300, 300, 4), np.uint8)
    rgba[:, :150] = (200, 0, 0, 255)
    see_through = opened(pictures.show(None, picture(rgba), 500_000).after)
    assert see_through[100, 50, 0] > 180
    assert see_through[100, 50, 2] < 30
    assert see_through[100, 160:].mean() > 215


def test_colours_go_through_the_profile_of_the_picture() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    same = opened(pictures.show(None, picture(flat(300, 300, 90), lab.tobytes()), 500_000).after)
    broken = opened(pictures.show(None, picture(flat(300, 300, 90), b"not a profile" * 20), 500_000).after)
    assert abs(same.astype(int) - 90).max() <= 2
    assert abs(broken.astype(int) - 90).max() <= 2


def test_an_upscaled_picture_is_compared_at_its_own_size() -> None:
    before = flat(300, 400)
    after = flat(600, 800)
    after[500:560, 700:780] = 0
    shown = pictures.show(picture(before), picture(after), 500_000)
    assert opened(shown.before).shape == opened(shown.after).shape == (600, 800, 3)
    assert opened(shown.detail_before).shape == opened(shown.detail_after).shape
    assert (opened(shown.detail_after) < 60).any()
    assert not (opened(shown.detail_before) < 60).any()


@pytest.mark.parametrize("max_bytes", [400_000, 20_000])
def test_the_worst_picture_stays_within_its_bytes(max_bytes: int) -> None:
    shown = pictures.show(picture(noisy(600, 800, 1)), picture(noisy(600, 800, 2)), max_bytes)
    uris = [shown.before, shown.after, shown.detail_before, shown.detail_after]
    assert sum(len(uri or "") for uri in uris) <= max_bytes * 1.1


@pytest.mark.parametrize("alpha", [False, True])
def test_an_overview_made_strip_by_strip_is_the_picture_made_small(alpha: bool) -> None:
    y, x = np.mgrid[0:3001, 0:4003]
    pixels = np.stack([127 + 100 * np.sin(x / a + y / b) for a, b in ((90, 140), (70, 230), (200, 150))], 2)
    whole = Picture(
        pixels.astype(np.uint8),
        (255 * (x > y)).astype(np.uint8) if alpha else None,
        Metadata(),
        "RGB",
        8,
        "PNG",
        (),
    )
    made = np.asarray(pictures._small(whole, (800, 600)), np.int16)
    expected = np.asarray(pictures.srgb(whole, None).resize((800, 600), Image.Resampling.LANCZOS), np.int16)
    assert made.shape == expected.shape
    off = np.abs(made - expected)[3:-3, 3:-3]
    assert off.mean() < 0.5  # of 255 levels: rounding
    assert np.percentile(off, 99) <= 3
