"""The weights that the package ships."""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data as pictures

from artgen.inference.forward import Forward
from artgen.inference.restore import RestoreOptions, restore
from artgen.metrics.pairs import psnr
from artgen.models.spec import Restorer
from artgen.models.weights import load
from artgen.training.degrade import OPERATORS
from artgen.training.dice import Dice

CASES = [
    ("noise-in-file", 25, 8.0),
    ("salt-pepper", 0.5, 15.0),
    ("missing", 0.8, 13.0),
    ("holes", 0.15, 8.0),
    ("jpeg", 10, 0.0),
]


@pytest.fixture(scope="module")
def default() -> Restorer:
    return load("default")


def damaged(kind: str, strength: float, side: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    clean = pictures.astronaut()[:side, 100 : 100 + side]
    x = torch.from_numpy(clean.copy()).permute(2, 0, 1)[None].float().div(255)
    image, mask = OPERATORS[kind](x, strength, Dice(4))
    pixels = image[0].permute(1, 2, 0).clamp(0, 1).mul(65535).round().numpy().astype(np.uint16)
    return pixels, mask[0, 0].numpy() > 0 if mask.any() else None, clean


def score(pixels: np.ndarray, clean: np.ndarray) -> float:
    return psnr(torch.from_numpy(pixels / 65535), torch.from_numpy(clean / 255))


def test_the_file_is_small_and_has_its_card():
    folder = resources.files("artgen.models").joinpath("weights")
    data = folder.joinpath("default.safetensors").read_bytes()
    assert len(data) < 10 * 1024**2
    card = folder.joinpath("default.md").read_text("utf-8")
    for word in ("CBSD432", "wallpapers48", "CC-BY-SA", "research", "CBSD68"):
        assert word in card
    assert f"sha256 `{hashlib.sha256(data).hexdigest()}`" in card


@pytest.mark.parametrize(("kind", "strength", "gain_db"), CASES)
def test_it_repairs(default, kind, strength, gain_db):
    before, mask, clean = damaged(kind, strength, 160)
    after = restore(before, mask, Forward(default), RestoreOptions()).pixels
    assert score(after, clean) > score(before, clean) + gain_db


def test_it_hardly_changes_a_sound_picture(default):
    clean = pictures.astronaut()[:160, :160]
    after = restore(clean, None, Forward(default), RestoreOptions()).pixels
    assert np.abs(after.astype(int) - clean).mean() < 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "strength", "gain_db"), CASES)
def test_tiled_is_untiled_within_one_level(default, kind, strength, gain_db):
    before, mask, _ = damaged(kind, strength, 264)
    forward = Forward(default)
    whole = restore(before, mask, forward, RestoreOptions(tile=512)).pixels.astype(int)
    tiled = restore(before, mask, forward, RestoreOptions(tile=128)).pixels.astype(int)
    assert np.abs(tiled - whole).max() <= 257  # 1/255 of the 16-bit range


def test_grey_stays_grey(default):
    grey = pictures.camera()[:128, :128, None]
    after = restore(grey, None, Forward(default), RestoreOptions()).pixels
    assert after.shape == grey.shape


def test_black_print_on_white_paper_stays(default):
    page = Image.new("L", (200, 120), 255)
    draw = ImageDraw.Draw(page)
    for line, size in enumerate((30, 20, 16)):
        draw.text((6, 6 + 36 * line), "The quick brown fox 0123", fill=0, font=ImageFont.load_default(size))
    before = np.asarray(page)[..., None].repeat(3, 2)
    after = restore(before, None, Forward(default), RestoreOptions()).pixels
    assert psnr(torch.from_numpy(after / 255), torch.from_numpy(before / 255)) > 30
