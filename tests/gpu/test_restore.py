"""Restored pictures on CUDA against the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artgen.inference.forward import Forward
from artgen.inference.restore import RestoreOptions, restore
from artgen.models.weights import load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MOST_LEVELS = 1
"""Of 255, on any value of a picture, in fp32 with torch's defaults (TF32 in convolutions where the device has it). It has
not been measured on a GPU yet."""


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_gpu_restores_as_the_cpu_does(channels: int, masked: bool) -> None:
    dice = np.random.default_rng(0)
    rows, columns = np.mgrid[0:200, 0:300]
    clean = 120 + 60 * np.sin(rows / 17) + 40 * np.cos(columns / 11)
    noisy = clean[..., None] + dice.normal(0, 25, (200, 300, channels))
    before = noisy.clip(0, 255).astype(np.uint8)
    mask = dice.random((200, 300)) < 0.1 if masked else None
    options = RestoreOptions(tile=128)
    exact = restore(before, mask, Forward(load("default")), options).pixels.astype(int)
    assert np.abs(exact - before).mean() > 5, "a model that does nothing would prove nothing"
    found = restore(before, mask, Forward(load("default"), "cuda", batch=8), options).pixels
    assert np.abs(found - exact).max() <= MOST_LEVELS
