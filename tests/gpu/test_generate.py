"""Pictures from seeds on CUDA against the CPU's: the tolerance that `inference.sample` states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artgen.inference.sample import FORWARD_IMAGES, sample
from artgen.models.gans.weights import load_painter
from tests.generators import write_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MOST_LEVELS = 2
"""Of 255, on any value of any picture, in fp32 with torch's defaults (TF32 in convolutions where the device has it)."""


@pytest.mark.parametrize("name", ["default", "r3"])
def test_a_gpu_makes_the_pictures_of_the_cpu(name: str, tmp_path) -> None:
    model = name if name == "default" else str(write_run(tmp_path / "run"))
    seeds = [*range(2 * FORWARD_IMAGES + 5), 2**40 + 5]
    exact = sample(load_painter(model), seeds).astype(int)
    assert exact.std() > 10, "flat pictures would prove nothing"
    painter = load_painter(model).to("cuda")
    found = sample(painter, seeds)
    assert np.abs(found - exact).max() <= MOST_LEVELS
    assert np.abs(sample(painter, seeds[-3:]) - exact[-3:]).max() <= MOST_LEVELS
