"""Scores of a picture against the picture it should be."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW = 11
"""Pixels: the smallest side of a picture that `ssim` takes."""


def psnr(restored: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all elements; both in [0, 1], restored is clipped to it first.

    Noise must not be clipped before restoring (the published protocol); what is scored is clipped. Infinite
    for equal pictures. Raises ValueError for different shapes.
    """
    if restored.shape != clean.shape:
        raise ValueError(f"shapes differ: {tuple(restored.shape)} and {tuple(clean.shape)}")
    error = (restored.clamp(0, 1).double() - clean.double()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(restored_BCHW: Tensor, clean_BCHW: Tensor) -> float:
    """Structural similarity, mean over batch, channels and pixels; both in [0, 1], restored is clipped first.

    Wang et al. 2004: Gaussian window of sigma 1.5 cut at 11x11, K1 = 0.01, K2 = 0.03, population covariances,
    and only windows that lie inside the picture. The same as skimage's `structural_similarity` with
    `gaussian_weights=True, use_sample_covariance=False, data_range=1` (which crops the same border).
    Raises ValueError for different shapes or pictures under 11 pixels.
    """
    if restored_BCHW.shape != clean_BCHW.shape:
        raise ValueError(f"shapes differ: {tuple(restored_BCHW.shape)} and {tuple(clean_BCHW.shape)}")
    if min(clean_BCHW.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs 11x11 pixels; the picture has {tuple(clean_BCHW.shape[-2:])}")
    x = restored_BCHW.clamp(0, 1).double().flatten(0, 1)[:, None]
    y = clean_BCHW.double().flatten(0, 1)[:, None]
    offsets = torch.arange(-5, 6, dtype=torch.float64, device=x.device)
    window = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    window = window / window.sum()

    def local(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean().item()
