from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from artgen.training import degrade
from artgen.training.degrade import OPERATORS
from artgen.training.dice import Dice

STRENGTHS = {
    "noise": 25,
    "noise-in-file": 25,
    "salt-pepper": 0.4,
    "salt-pepper-per-channel": 0.4,
    "missing": 0.6,
    "holes": 0.15,
    "scratches": 0.05,
    "jpeg": 20,
    "jpeg-full-colour": 20,
    "blur": 1.5,
    "fade": 0.5,
    "poisson": 30,
    "speckle": 40,
    "quantise": 8,
    "resample": 2,
}


def picture(channels: int = 3) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 5, 80), indexing="ij")
    return (0.5 + 0.4 * torch.sin(rows * columns))[None, None].repeat(1, channels, 1, 1)


def seeded(*seeds: int) -> Dice:
    return Dice(seeds or (5,))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_damages_repeatably(name, channels):
    clean = picture(channels)
    image, mask = OPERATORS[name](clean, STRENGTHS[name], seeded())
    again, _ = OPERATORS[name](clean, STRENGTHS[name], seeded())
    assert image.shape == clean.shape
    assert image.dtype == torch.float32
    assert mask.shape == (1, 1, 64, 80)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(image, again)
    assert not torch.equal(image, clean)
    assert torch.equal(clean, picture(channels)), "the input was changed in place"
    assert (image * mask).abs().sum() == 0


def test_noise_has_its_sigma_and_is_not_clipped():
    image, _ = degrade.noise(torch.full((1, 3, 200, 200), 0.98), 50, seeded())
    assert (image - 0.98).std().item() * 255 == pytest.approx(50, rel=0.02)
    assert image.max() > 1
    in_file, _ = degrade.noise_in_file(picture(), 50, seeded())
    assert in_file.min() >= 0
    assert in_file.max() <= 1
    assert torch.allclose(in_file * 255, (in_file * 255).round(), atol=1e-4)


@pytest.mark.parametrize(("name", "whole"), [("salt-pepper", True), ("salt-pepper-per-channel", False)])
def test_salt_and_pepper_hits_its_share(name, whole):
    clean = torch.full((1, 3, 200, 200), 0.5)
    image, _ = OPERATORS[name](clean, 0.3, seeded())
    hit = image != 0.5
    assert hit.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert (image == 1).float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(hit.any(1), hit.all(1)) is whole


def test_missing_hits_its_share():
    _, mask = degrade.missing(picture(), 0.8, seeded())
    assert mask.mean().item() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(("name", "most"), [("holes", 0.35), ("scratches", 0.15)])
def test_drawn_damage_reaches_its_share_and_little_more(name, most):
    for seed in range(8):
        mask = OPERATORS[name](picture(), 0.1, seeded(seed)).mask
        assert 0.1 <= mask.mean().item() < most


@pytest.mark.parametrize("draw", [degrade._draw_hole, degrade._draw_scratch])
def test_drawing_ends_with_the_first_mark_that_reaches_the_share(draw):
    for seed in range(6):
        generator, canvas = np.random.default_rng(seeded(seed).seeds()[0]), Image.new("L", (300, 200))
        while np.count_nonzero(np.asarray(canvas)) < 0.12 * 300 * 200:  # counted after every mark
            draw(ImageDraw.Draw(canvas), 300, 200, generator)
        mask = degrade._drawn(torch.zeros(1, 1, 200, 300), 0.12, seeded(seed), draw).mask
        assert np.array_equal(mask[0, 0].numpy() > 0, np.asarray(canvas) > 0)


def test_holes_reach_their_share_of_a_large_scan():
    assert 0.15 <= degrade.holes(torch.zeros(1, 1, 3000, 4000), 0.15, seeded(1)).mask.mean().item() < 0.16


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_a_picture_is_damaged_the_same_alone_and_in_a_batch(name):
    batch = torch.cat([picture(), 1 - picture(), picture().flip(3)])
    strengths = torch.tensor([STRENGTHS[name] * share for share in (1.0, 0.5, 0.8)])
    image, mask = OPERATORS[name](batch, strengths, seeded(3, 1, 4))
    for row, seed in enumerate((3, 1, 4)):
        alone = OPERATORS[name](batch[row : row + 1], strengths[row].item(), seeded(seed))
        torch.testing.assert_close(alone.image[0], image[row], rtol=0, atol=1e-6)
        assert torch.equal(alone.mask[0], mask[row])


def test_pictures_of_a_batch_get_their_own_holes():
    mask = degrade.holes(picture().repeat(2, 1, 1, 1), 0.1, seeded(1, 2)).mask
    assert not torch.equal(mask[0], mask[1])


def test_jpeg_is_that_of_pillow():
    clean = picture(1)
    buffer = io.BytesIO()
    pixels = clean[0, 0].mul(255).round().byte().numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=10)
    image, _ = degrade.jpeg(clean, 10, seeded())
    assert np.array_equal(np.asarray(Image.open(buffer)), image[0, 0].mul(255).round().byte().numpy())


def test_blur_keeps_a_constant_and_fade_shrinks_contrast():
    flat = torch.full((1, 3, 20, 20), 0.3)
    assert torch.allclose(degrade.blur(flat, 2, seeded()).image, flat, atol=1e-6)
    clean = picture()
    assert degrade.fade(clean, 0.5, seeded()).image.std() == pytest.approx(
        0.6 * clean[:, :1].std().item(), rel=0.15
    )
