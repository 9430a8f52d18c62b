"""Damage as operators: what training repairs, what `artgen damage` applies, what tests measure.

Every operator is `operator(x_BCHW, strength, dice) -> (y_BCHW, mask_B1HW)`: x is float with 0..1 as the range of the
picture and 1 or 3 channels, strength one number or B of them, the mask is 1 where the picture was lost and its
value says nothing (all zeros for damage without holes). All randomness comes from `training.dice`, so a picture gets
the same damage whatever the batch. All but holes, scratches and JPEG are computed on x's device, a whole batch at once;
those three are drawn or coded by Pillow, picture by picture. Strengths are in the units of the command line: sigma and
quantisation steps on the 0-255 scale, shares 0..1, JPEG quality 1..100.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from artgen.errors import UnsupportedImage
from artgen.training.dice import Dice

Strength = float | Tensor


JPEG_MAX_DIMENSION = 65_500  # of libjpeg


class Damaged(NamedTuple):
    """A damaged picture and the mask of what it lost (1 = lost)."""

    image: Tensor
    mask: Tensor


Operator = Callable[[Tensor, Strength, Dice], Damaged]


def _each(strength: Strength, x_BCHW: Tensor) -> Tensor:
    """B x 1 x 1 x 1 on x's device."""
    values = torch.as_tensor(strength, dtype=torch.float32, device=x_BCHW.device)
    return values.expand(len(x_BCHW)).view(-1, 1, 1, 1)


def _listed(strength: Strength, x_BCHW: Tensor) -> list[float]:
    return _each(strength, x_BCHW).flatten().tolist()


def _unmasked(x_BCHW: Tensor) -> Damaged:
    return Damaged(x_BCHW, torch.zeros_like(x_BCHW[:, :1]))


def round_to_file(x_BCHW: Tensor) -> Tensor:
    """What an 8-bit file keeps of the picture: clipped to 0..1 and rounded to 255 steps."""
    return x_BCHW.clamp(0, 1).mul(255).round().div(255)


def noise(x_BCHW: Tensor, sigma: Strength, dice: Dice) -> Damaged:
    """White Gaussian noise, neither clipped nor rounded: the protocol of the published tables."""
    return _unmasked(x_BCHW + dice.normal(*x_BCHW.shape[1:]) * (_each(sigma, x_BCHW) / 255))


def noise_in_file(x_BCHW: Tensor, sigma: Strength, dice: Dice) -> Damaged:
    """White Gaussian noise as an 8-bit file holds it: clipped and rounded."""
    return _unmasked(round_to_file(noise(x_BCHW, sigma, dice).image))


def salt_pepper(x_BCHW: Tensor, share: Strength, dice: Dice) -> Damaged:
    """A share of the pixels becomes black or white, in all channels at once; no mask: which ones is unknown."""
    return _impulses(x_BCHW, share, dice.uniform(1, *x_BCHW.shape[2:]))


def salt_pepper_per_channel(x_BCHW: Tensor, share: Strength, dice: Dice) -> Damaged:
    """Salt and pepper that hits each channel by itself."""
    return _impulses(x_BCHW, share, dice.uniform(*x_BCHW.shape[1:]))


def _impulses(x_BCHW: Tensor, share: Strength, thrown: Tensor) -> Damaged:
    half = _each(share, x_BCHW) / 2
    salted = torch.where(thrown < half, 1.0, x_BCHW)
    return _unmasked(torch.where(thrown >= 1 - half, 0.0, salted))


def missing(x_BCHW: Tensor, share: Strength, dice: Dice) -> Damaged:
    """A share of the pixels is lost (0 in the picture, 1 in the mask)."""
    mask = (dice.uniform(1, *x_BCHW.shape[2:]) < _each(share, x_BCHW)).float()
    return Damaged(x_BCHW * (1 - mask), mask)


def holes(x_BCHW: Tensor, share: Strength, dice: Dice) -> Damaged:
    """Strokes of a brush, discs and rectangles until about `share` of the picture is lost."""
    return _drawn(x_BCHW, share, dice, _draw_hole)


def scratches(x_BCHW: Tensor, share: Strength, dice: Dice) -> Damaged:
    """Thin, nearly straight scratches until about `share` of the picture is lost."""
    return _drawn(x_BCHW, share, dice, _draw_scratch)


_Draw = Callable[[ImageDraw.ImageDraw, int, int, np.random.Generator], float]
"""Draws one mark; returns a bound of the pixels that it covers."""


def _drawn(x_BCHW: Tensor, share: Strength, dice: Dice, draw: _Draw) -> Damaged:
    batch, _, height, width = x_BCHW.shape
    masks = np.zeros((batch, 1, height, width), np.float32)
    for mask_HW, lost, seed in zip(masks[:, 0], _listed(share, x_BCHW), dice.seeds(), strict=True):
        generator = np.random.default_rng(seed)
        canvas = Image.new("L", (width, height))
        painter = ImageDraw.Draw(canvas)
        # So many marks at most: a share near 1 would otherwise look long for its last pixels.
        covered = 0.0
        for _ in range(max(4096, height * width // 50)):
            covered += draw(painter, width, height, generator)
            if (
                covered >= lost * height * width
            ):  # counted only where it may be reached: each time all pixels are looked at
                covered = sum(canvas.histogram()[1:])
                if covered >= lost * height * width:
                    break
        mask_HW[:] = np.asarray(canvas) > 0
    mask = torch.from_numpy(masks).to(x_BCHW.device)
    return Damaged(x_BCHW * (1 - mask), mask)


def _draw_hole(painter: ImageDraw.ImageDraw, width: int, height: int, generator: np.random.Generator) -> float:
    shape = generator.integers(4)
    x, y = generator.uniform(0, width), generator.uniform(0, height)
    radius = generator.uniform(2, 9)
    if shape == 0:
        painter.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        return (2 * radius + 2) ** 2
    if shape == 1:
        other = generator.uniform(2, 9)
        painter.rectangle((x - radius, y - other, x + radius, y + other), fill=255)
        return (2 * radius + 2) * (2 * other + 2)
    thickness = int(generator.integers(2, 10))
    angle = generator.uniform(0, 2 * math.pi)
    points, bound = [(x, y)], 0.0
    for _ in range(generator.integers(1, 5)):
        angle += generator.uniform(-1, 1)
        length = generator.uniform(8, 40)
        bound += _line_bound(length, thickness)
        x, y = x + length * math.cos(angle), y + length * math.sin(angle)
        points.append((x, y))
    painter.line(points, fill=255, width=thickness, joint="curve")
    return bound


def _line_bound(length: float, thickness: int) -> float:
    return (length + 2 * thickness + 2) * (thickness + 2) * 1.5  # slanted, its edges take pixels in part


def _draw_scratch(painter: ImageDraw.ImageDraw, width: int, height: int, generator: np.random.Generator) -> float:
    x, y = generator.uniform(0, width), generator.uniform(0, height)
    length = generator.uniform(0.2, 1.0) * max(width, height)
    # Most scratches of film and prints run along the transport, the rest anywhere.
    upright = generator.uniform() < 0.7
    angle = math.pi / 2 + generator.uniform(-0.15, 0.15) if upright else generator.uniform(0, math.pi)
    end = (x + length * math.cos(angle), y + length * math.sin(angle))
    thickness = int(generator.integers(1, 4))
    painter.line([(x, y), end], fill=255, width=thickness)
    return _line_bound(length, thickness)


def jpeg(x_BCHW: Tensor, quality: Strength, dice: Dice) -> Damaged:
    """Saved as JPEG by Pillow and read back, colour at half resolution (4:2:0), as cameras and the web do."""
    return _through_jpeg(x_BCHW, _listed(quality, x_BCHW), "4:2:0")


def jpeg_full_colour(x_BCHW: Tensor, quality: Strength, dice: Dice) -> Damaged:
    """Saved as JPEG with colour at full resolution (4:4:4)."""
    return _through_jpeg(x_BCHW, _listed(quality, x_BCHW), "4:4:4")


def _through_jpeg(x_BCHW: Tensor, qualities: Sequence[float], subsampling: str) -> Damaged:
    if max(x_BCHW.shape[-2:]) > JPEG_MAX_DIMENSION:
        height, width = x_BCHW.shape[-2:]
        raise UnsupportedImage(
            f"JPEG holds at most {JPEG_MAX_DIMENSION} pixels a side, and this is {width}x{height}"
        )
    pictures = []
    pixels_BHWC = x_BCHW.clamp(0, 1).mul(255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    for pixels_HWC, quality in zip(pixels_BHWC, qualities, strict=True):
        buffer = io.BytesIO()
        grey = pixels_HWC.shape[2] == 1
        picture = Image.fromarray(pixels_HWC[:, :, 0] if grey else np.ascontiguousarray(pixels_HWC))
        picture.save(buffer, "JPEG", quality=round(quality), **({} if grey else {"subsampling": subsampling}))
        decoded = np.array(Image.open(buffer))
        pictures.append(decoded[:, :, None] if grey else decoded)
    y_BCHW = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return _unmasked(y_BCHW.to(x_BCHW.device, torch.float32).div(255))


def blur(x_BCHW: Tensor, sigma_px: Strength, dice: Dice) -> Damaged:
    """Gaussian blur of sigma_px pixels, edges mirrored."""
    sigmas = _listed(sigma_px, x_BCHW)
    radius = min(math.ceil(3 * max(sigmas)), min(x_BCHW.shape[-2:]) - 1)
    if radius < 1:
        return _unmasked(x_BCHW)
    batch, channels, height, width = x_BCHW.shape
    offsets = torch.arange(-radius, radius + 1, device=x_BCHW.device)
    sigma_B1 = _each(sigma_px, x_BCHW).view(-1, 1).clamp_min(1e-3)
    # Every kernel ends at its own three sigmas, whatever the widest of the batch needs.
    kernels = torch.exp(-0.5 * (offsets / sigma_B1) ** 2) * (offsets.abs() <= (3 * sigma_B1).ceil())
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]
    # One group for each channel of each picture: every picture has its own kernel.
    padded = F.pad(x_BCHW, (radius,) * 4, mode="reflect").reshape(
        1, batch * channels, *[n + 2 * radius for n in (height, width)]
    )
    rows = F.conv2d(padded, kernels[:, :, None], groups=batch * channels)
    return _unmasked(F.conv2d(rows, kernels[..., None], groups=batch * channels).view(x_BCHW.shape))


def fade(x_BCHW: Tensor, amount: Strength, dice: Dice) -> Damaged:
    """An old print: contrast shrinks by `amount` (0..1) towards a light tone, which is yellowish in colour."""
    tone = torch.tensor([0.75, 0.68, 0.55] if x_BCHW.shape[1] == 3 else [0.7], device=x_BCHW.device)
    return _unmasked(x_BCHW + _each(amount, x_BCHW) * 0.8 * (tone.view(1, -1, 1, 1) - x_BCHW))


def poisson(x_BCHW: Tensor, peak: Strength, dice: Dice) -> Damaged:
    """Photon noise: `peak` photons at white (small = strong)."""
    photons = x_BCHW.clamp(0, 1) * _each(peak, x_BCHW)
    counted = [
        torch.poisson(expected, generator=torch.Generator(x_BCHW.device).manual_seed(seed))
        for expected, seed in zip(photons, dice.seeds(), strict=True)
    ]
    return _unmasked(torch.stack(counted) / _each(peak, x_BCHW))


def speckle(x_BCHW: Tensor, sigma: Strength, dice: Dice) -> Damaged:
    """Noise that grows with brightness: x * (1 + n), n Gaussian with sigma / 255."""
    return _unmasked(x_BCHW * (1 + dice.normal(*x_BCHW.shape[1:]) * (_each(sigma, x_BCHW) / 255)))


def quantise(x_BCHW: Tensor, levels: Strength, dice: Dice) -> Damaged:
    """Only `levels` values per channel remain (banding)."""
    steps = _each(levels, x_BCHW).round().clamp_min(2) - 1
    return _unmasked(x_BCHW.clamp(0, 1).mul(steps).round().div(steps))


def resample(x_BCHW: Tensor, factor: Strength, dice: Dice) -> Damaged:
    """Made smaller by `factor` and enlarged again (bicubic, anti-aliased)."""
    height, width = x_BCHW.shape[-2:]
    pictures = []
    for x_CHW, times in zip(x_BCHW, _listed(factor, x_BCHW), strict=True):
        small = (max(round(height / times), 1), max(round(width / times), 1))
        shrunk = F.interpolate(x_CHW[None], size=small, mode="bicubic", antialias=True)
        pictures.append(F.interpolate(shrunk, size=(height, width), mode="bicubic").clamp(0, 1))
    return _unmasked(torch.cat(pictures))


OPERATORS: dict[str, Operator] = {
    "noise": noise,
    "noise-in-file": noise_in_file,
    "salt-pepper": salt_pepper,
    "salt-pepper-per-channel": salt_pepper_per_channel,
    "missing": missing,
    "holes": holes,
    "scratches": scratches,
    "jpeg": jpeg,
    "jpeg-full-colour": jpeg_full_colour,
    "blur": blur,
    "fade": fade,
    "poisson": poisson,
    "speckle": speckle,
    "quantise": quantise,
    "resample": resample,
}

# Kept out of training on purpose: bench/quality.py measures by them how far a restorer generalises. Named here so that a
# test can prove that no mixture uses them.
UNSEEN = ("blur", "fade", "poisson", "speckle", "quantise", "resample")
