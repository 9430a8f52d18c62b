"""Pixel losses by their values and, what matters in training, by how hard each picture and pixel pulls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from artgen.training.losses import LOSSES


def pulls(name: str, error_BCHW: Tensor) -> Tensor:
    """The gradient at pictures that are wrong by `error`."""
    restored = error_BCHW.clone().requires_grad_()
    LOSSES[name](restored, torch.zeros_like(error_BCHW)).backward()
    assert restored.grad is not None
    return restored.grad


@pytest.mark.parametrize(
    ("name", "value"),
    [("l1", 0.1), ("l2", 0.01), ("huber", 0.09), ("rmse", 0.1), ("psnr", 0.1)],
)
def test_the_loss_of_a_tenth_everywhere(name: str, value: float) -> None:
    loss = LOSSES[name](torch.full((2, 3, 8, 8), 0.6), torch.full((2, 3, 8, 8), 0.5))
    assert loss.item() == pytest.approx(value, rel=1e-3)
    assert LOSSES[name](torch.full((2, 3, 8, 8), 0.5), torch.full((2, 3, 8, 8), 0.5)).item() < 0.003


def test_with_rmse_every_picture_pulls_equally_hard_and_its_pixels_by_their_error() -> None:
    error = torch.stack([torch.full((3, 8, 8), 0.05), torch.full((3, 8, 8), 0.4)])
    error[1, :, :4] = 0.2
    light, heavy = pulls("rmse", error)
    assert heavy.norm().item() == pytest.approx(light.norm().item(), rel=0.01)
    assert heavy[0, 7, 0].item() == pytest.approx(2 * heavy[0, 0, 0].item(), rel=1e-4)


def test_a_picture_that_is_right_within_a_fraction_of_a_level_hardly_pulls_with_rmse_and_huber() -> None:
    error = torch.full((1, 3, 8, 8), 0.05 / 255)
    wrong = torch.full((1, 3, 8, 8), 25 / 255)
    for name, least in (("rmse", 9.0), ("huber", 20.0), ("l1", 1.0)):
        ratio = pulls(name, wrong).norm() / pulls(name, error).norm()
        assert ratio >= least - 1e-3, name


def test_with_psnr_a_picture_pulls_the_harder_the_nearer_it_is_down_to_two_levels() -> None:
    error = torch.stack([torch.full((3, 8, 8), level / 255) for level in (40.0, 20.0, 10.0, 0.1)])
    heavy, middle, light, right = (pull.norm().item() for pull in pulls("psnr", error))
    assert middle == pytest.approx(2 * heavy, rel=0.02)
    assert light == pytest.approx(2 * middle, rel=0.04)
    assert right < 0.3 * light


def test_the_value_of_psnr_shows_weights_that_break() -> None:
    clean = torch.full((2, 3, 8, 8), 0.5)
    assert LOSSES["psnr"](clean + 1.5, clean).item() > 30 * LOSSES["psnr"](clean + 0.04, clean).item()
