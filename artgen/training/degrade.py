"""Damage as operators: what training repairs, what `artgen damage` applies, what tests measure.

Every operator is `operator(x_BCHW, strength, generator) -> (y_BCHW, mask_B1HW)`: x is float with 0..1 as the
range of the picture and 1 or 3 channels, the mask is 1 where the picture was lost and its value says nothing
(all zeros for damage without holes). All randomness comes from the generator, which lives on x's device, so
one generator per image gives the same damage whatever the batch. Strengths are in the units of the command
line: sigma and quantisation steps on the 0-255 scale, shares 0..1, JPEG quality 1..100.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Generator, Tensor


class Damaged(NamedTuple):
    """A damaged picture and the mask of what it lost (1 = lost)."""

    image: Tensor
    mask: Tensor


Operator = Callable[[Tensor, float, Generator], Damaged]


def uniform(generator: Generator, low: float, high: float) -> float:
    """One number in [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device).item()


def integer(generator: Generator, low: int, high: int) -> int:
    """One whole number in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator, device=generator.device).item())


def _unmasked(x_BCHW: Tensor) -> Damaged:
    return Damaged(x_BCHW, torch.zeros_like(x_BCHW[:, :1]))


def _rand(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def round_to_file(x_BCHW: Tensor) -> Tensor:
    """What an 8-bit file keeps of the picture: clipped to 0..1 and rounded to 255 steps."""
    return x_BCHW.clamp(0, 1).mul(255).round().div(255)


def noise(x_BCHW: Tensor, sigma: float, generator: Generator) -> Damaged:
    """White Gaussian noise, neither clipped nor rounded: the protocol of the published tables."""
    normal = torch.randn(x_BCHW.shape, generator=generator, device=generator.device)
    return _unmasked(x_BCHW + normal * (sigma / 255))


def noise_in_file(x_BCHW: Tensor, sigma: float, generator: Generator) -> Damaged:
    """White Gaussian noise as an 8-bit file holds it: clipped and rounded."""
    return _unmasked(round_to_file(noise(x_BCHW, sigma, generator).image))


def salt_pepper(x_BCHW: Tensor, share: float, generator: Generator) -> Damaged:
    """A share of the pixels becomes black or white, in all channels at once; no mask: which ones is unknown."""
    batch, _, height, width = x_BCHW.shape
    return _impulses(x_BCHW, share, _rand((batch, 1, height, width), generator))


def salt_pepper_per_channel(x_BCHW: Tensor, share: float, generator: Generator) -> Damaged:
    """Salt and pepper that hits each channel by itself."""
    return _impulses(x_BCHW, share, _rand(tuple(x_BCHW.shape), generator))


def _impulses(x_BCHW: Tensor, share: float, dice: Tensor) -> Damaged:
    salted = torch.where(dice < share / 2, 1.0, x_BCHW)
    return _unmasked(torch.where(dice > 1 - share / 2, 0.0, salted))


def missing(x_BCHW: Tensor, share: float, generator: Generator) -> Damaged:
    """A share of the pixels is lost (0 in the picture, 1 in the mask)."""
    batch, _, height, width = x_BCHW.shape
    mask = (_rand((batch, 1, height, width), generator) < share).float()
    return Damaged(x_BCHW * (1 - mask), mask)


def holes(x_BCHW: Tensor, share: float, generator: Generator) -> Damaged:
    """Strokes of a brush, discs and rectangles until about `share` of the picture is lost."""
    return _drawn(x_BCHW, share, generator, _draw_hole)


def scratches(x_BCHW: Tensor, share: float, generator: Generator) -> Damaged:
    """Thin, nearly straight scratches until about `share` of the picture is lost."""
    return _drawn(x_BCHW, share, generator, _draw_scratch)


_Draw = Callable[[ImageDraw.ImageDraw, int, int, Generator], None]


def _drawn(x_BCHW: Tensor, share: float, generator: Generator, draw: _Draw) -> Damaged:
    batch, _, height, width = x_BCHW.shape
    masks = np.zeros((batch, 1, height, width), np.float32)
    for mask_HW in masks[:, 0]:
        canvas = Image.new("L", (width, height))
        painter = ImageDraw.Draw(canvas)
        # At most 4096 marks: a share near 1 would otherwise look long for its last pixels.
        for _ in range(4096):
            draw(painter, width, height, generator)
            if sum(canvas.histogram()[1:]) >= share * height * width:
                break
        mask_HW[:] = np.asarray(canvas) > 0
    mask = torch.from_numpy(masks).to(x_BCHW.device)
    return Damaged(x_BCHW * (1 - mask), mask)


def _draw_hole(painter: ImageDraw.ImageDraw, width: int, height: int, generator: Generator) -> None:
    shape = integer(generator, 0, 3)
    x, y = uniform(generator, 0, width), uniform(generator, 0, height)
    radius = uniform(generator, 2, 9)
    if shape == 0:
        painter.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        return
    if shape == 1:
        other = uniform(generator, 2, 9)
        painter.rectangle((x - radius, y - other, x + radius, y + other), fill=255)
        return
    thickness = integer(generator, 2, 9)
    angle = uniform(generator, 0, 2 * math.pi)
    points = [(x, y)]
    for _ in range(integer(generator, 1, 4)):
        angle += uniform(generator, -1, 1)
        length = uniform(generator, 8, 40)
        x, y = x + length * math.cos(angle), y + length * math.sin(angle)
        points.append((x, y))
    painter.line(points, fill=255, width=thickness, joint="curve")


def _draw_scratch(painter: ImageDraw.ImageDraw, width: int, height: int, generator: Generator) -> None:
    x, y = uniform(generator, 0, width), uniform(generator, 0, height)
    length = uniform(generator, 0.2, 1.0) * max(width, height)
    # Most scratches of film and prints run along the transport, the rest anywhere.
    upright = uniform(generator, 0, 1) < 0.7
    angle = math.pi / 2 + uniform(generator, -0.15, 0.15) if upright else uniform(generator, 0, math.pi)
    end = (x + length * math.cos(angle), y + length * math.sin(angle))
    painter.line([(x, y), end], fill=255, width=integer(generator, 1, 3))


def jpeg(x_BCHW: Tensor, quality: float, generator: Generator) -> Damaged:
    """Saved as JPEG by Pillow and read back, colour at half resolution (4:2:0), as cameras and the web do."""
    return _through_jpeg(x_BCHW, quality, "4:2:0")


def jpeg_full_colour(x_BCHW: Tensor, quality: float, generator: Generator) -> Damaged:
    """Saved as JPEG with colour at full resolution (4:4:4)."""
    return _through_jpeg(x_BCHW, quality, "4:4:4")


def _through_jpeg(x_BCHW: Tensor, quality: float, subsampling: str) -> Damaged:
    pictures = []
    for pixels_HWC in x_BCHW.clamp(0, 1).mul(255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        grey = pixels_HWC.shape[2] == 1
        picture = Image.fromarray(pixels_HWC[:, :, 0] if grey else np.ascontiguousarray(pixels_HWC))
        picture.save(buffer, "JPEG", quality=round(quality), **({} if grey else {"subsampling": subsampling}))
        decoded = np.array(Image.open(buffer))
        pictures.append(decoded[:, :, None] if grey else decoded)
    y_BCHW = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return _unmasked(y_BCHW.to(x_BCHW.device, torch.float32).div(255))


def blur(x_BCHW: Tensor, sigma_px: float, generator: Generator) -> Damaged:
    """Gaussian blur of sigma_px pixels, edges mirrored."""
    radius = min(math.ceil(3 * sigma_px), min(x_BCHW.shape[-2:]) - 1)
    if radius < 1 or sigma_px <= 0:
        return _unmasked(x_BCHW)
    offsets = torch.arange(-radius, radius + 1, device=x_BCHW.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    channels = x_BCHW.shape[1]
    padded = F.pad(x_BCHW, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return _unmasked(F.conv2d(rows, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels))


def fade(x_BCHW: Tensor, amount: float, generator: Generator) -> Damaged:
    """An old print: contrast shrinks by `amount` (0..1) towards a light tone, which is yellowish in colour."""
    tone = torch.tensor([0.75, 0.68, 0.55] if x_BCHW.shape[1] == 3 else [0.7], device=x_BCHW.device)
    return _unmasked(x_BCHW + amount * 0.8 * (tone.view(1, -1, 1, 1) - x_BCHW))


def poisson(x_BCHW: Tensor, peak: float, generator: Generator) -> Damaged:
    """Photon noise: `peak` photons at white (small = strong)."""
    return _unmasked(torch.poisson(x_BCHW.clamp(0, 1) * peak, generator=generator) / peak)


def speckle(x_BCHW: Tensor, sigma: float, generator: Generator) -> Damaged:
    """Noise that grows with brightness: x * (1 + n), n Gaussian with sigma / 255."""
    normal = torch.randn(x_BCHW.shape, generator=generator, device=generator.device)
    return _unmasked(x_BCHW * (1 + normal * (sigma / 255)))


def quantise(x_BCHW: Tensor, levels: float, generator: Generator) -> Damaged:
    """Only `levels` values per channel remain (banding)."""
    steps = max(round(levels), 2) - 1
    return _unmasked(x_BCHW.clamp(0, 1).mul(steps).round().div(steps))


def resample(x_BCHW: Tensor, factor: float, generator: Generator) -> Damaged:
    """Made smaller by `factor` and enlarged again (bicubic, anti-aliased)."""
    height, width = x_BCHW.shape[-2:]
    small = (max(round(height / factor), 1), max(round(width / factor), 1))
    shrunk = F.interpolate(x_BCHW, size=small, mode="bicubic", antialias=True)
    return _unmasked(F.interpolate(shrunk, size=(height, width), mode="bicubic").clamp(0, 1))


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

# Kept out of training on purpose: they measure how far a restorer generalises.
UNSEEN = ("blur", "fade", "poisson", "speckle", "quantise", "resample")
