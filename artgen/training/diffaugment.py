"""Augmentation that a gradient passes: the discriminator sees only changed pictures, real and generated alike.

Zhao et al. 2020 (DiffAugment), colour, translation and cutout. Each is applied to a picture with a probability, which
Karras et al. 2020 (ADA), section 3.1, adapt to how far the discriminator overfits.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

ADA_IMAGES = 500_000
"""Images in which the probability can go from 0 to 1 (ADA, section 3.1)."""


def throw(count: int, generator: Generator) -> Tensor:
    """The chance in `augment` for `count` pictures: dice_KB in [0, 1), K numbers for each."""
    return torch.rand(10, count, generator=generator)


def augment(x_BCHW: Tensor, probability: float, dice_KB: Tensor) -> Tensor:
    """x in -1..1; every kind of change happens to every picture with `probability`, as its dice fall (see `throw`).

    At 0 the pictures come back as they are. A fourth channel (alpha) is moved and cut, not coloured.
    """
    if probability <= 0:
        return x_BCHW
    dice_KB = dice_KB.to(x_BCHW.device)
    which_3B = dice_KB[7:] < probability
    x_BCHW = torch.where(which_3B[0, :, None, None, None], _coloured(x_BCHW, dice_KB[:3]), x_BCHW)
    x_BCHW = _moved(x_BCHW, (dice_KB[3:5] * 2 - 1) * which_3B[1])
    return torch.where(which_3B[2, :, None, None, None], _cut(x_BCHW, dice_KB[5:7]), x_BCHW)


def _coloured(x_BCHW: Tensor, dice_3B: Tensor) -> Tensor:
    """Brightness +-0.5 (a quarter of the range), saturation x 0..2, contrast x 0.5..1.5, as the authors' code has them for
    pictures in -1..1."""
    colours, alpha = x_BCHW[:, :3], x_BCHW[:, 3:]
    brightness, saturation, contrast = dice_3B[:, :, None, None, None]
    colours = colours + (brightness - 0.5)
    grey = colours.mean(1, keepdim=True)
    colours = grey + (colours - grey) * 2 * saturation
    mean = colours.mean((1, 2, 3), keepdim=True)
    colours = mean + (colours - mean) * (contrast + 0.5)
    return torch.cat([colours, alpha], 1)


def _moved(x_BCHW: Tensor, shift_2B: Tensor) -> Tensor:
    """Moved by shift (-1..1) times an eighth of the side, whole pixels; -1, which is black, moves in."""
    height, width = x_BCHW.shape[2:]
    up, left = (round(height / 8), round(width / 8))
    down_B = (shift_2B[0] * up).round().long()
    right_B = (shift_2B[1] * left).round().long()
    padded = F.pad(x_BCHW, (left, left, up, up), value=-1.0)
    rows = torch.arange(height, device=x_BCHW.device) + up - down_B[:, None]
    columns = torch.arange(width, device=x_BCHW.device) + left - right_B[:, None]
    batch = torch.arange(len(x_BCHW), device=x_BCHW.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cut(x_BCHW: Tensor, place_2B: Tensor) -> Tensor:
    """A rectangle of half the sides, centred anywhere, becomes 0, which is mid-grey."""
    inside = []
    for side, place_B in zip(x_BCHW.shape[2:], place_2B, strict=True):
        right_B1 = torch.arange(side, device=x_BCHW.device) - (place_B * side).floor()[:, None]
        inside.append((-side / 4 <= right_B1) & (right_B1 < side / 4))
    hole_BHW = inside[0][:, :, None] & inside[1][:, None, :]
    return x_BCHW.masked_fill(hole_BHW[:, None], 0.0)


def adapted(probability: float, overfit: float, target: float, images: int) -> float:
    """The next probability after `images` more: up while `overfit` exceeds `target`, else down (ADA, section 3.1).

    overfit: the mean sign, -1..1, of the discriminator's logits of real pictures (equation 1, r_t).
    """
    step = images / ADA_IMAGES
    return min(max(probability + (step if overfit > target else -step), 0.0), 1.0)
