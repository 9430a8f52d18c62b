from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from artgen.metrics.pairs import psnr, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    clean = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 7, generator=generator), (54, 41), mode="bicubic")
    clean = clean.clamp(0, 1)
    return (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(0, 1), clean


def test_psnr_is_that_of_skimage(pair):
    noisy, clean = pair
    assert psnr(noisy, clean) == pytest.approx(
        peak_signal_noise_ratio(clean.double().numpy(), noisy.double().numpy(), data_range=1), abs=1e-6
    )


def test_psnr_clips_what_was_restored_but_not_the_truth(pair):
    _, clean = pair
    beyond = torch.where(clean > 0.5, 7.0, clean)
    assert psnr(beyond, clean) == psnr(beyond.clamp(0, 1), clean)
    assert psnr(clean, clean) == math.inf


def test_ssim_is_that_of_skimage(pair):
    noisy, clean = pair
    expected = structural_similarity(
        clean[0].double().numpy(),
        noisy[0].double().numpy(),
        channel_axis=0,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(noisy, clean) == pytest.approx(expected, abs=1e-6)
    assert ssim(clean, clean) == pytest.approx(1)


def test_shapes_must_agree_and_be_large_enough():
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="11x11"):
        ssim(torch.zeros(1, 1, 10, 40), torch.zeros(1, 1, 10, 40))
    assert np.isfinite(ssim(torch.zeros(1, 1, 11, 11), torch.zeros(1, 1, 11, 11)))
