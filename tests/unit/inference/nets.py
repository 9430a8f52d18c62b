"""Small networks whose answer is known, for the tests of this folder."""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artgen.models.registry import build
from artgen.models.spec import Facts, Restorer


class Identity(nn.Module):
    """Every pixel as it came, repeated `scale` times in each direction. Notes the shapes it saw."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3) if self.scale > 1 else x


class ShowMask(nn.Module):
    """x where the mask is 0, 1 where it is 1; so a value under the mask that is not 0 would show."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x + mask


class Blur(nn.Module):
    """A mean over 5x5, which sees 2 px far: tiled and untiled agree wherever the halo is 2 px or more."""

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, x.new_full((channels, 1, 5, 5), 1 / 25), padding=2, groups=channels)


class Limited(nn.Module):
    """Brightens; has memory for so many pixels in a batch, and says so as torch does beyond."""

    def __init__(self, pixels: int, error: Exception | None = None) -> None:
        super().__init__()
        self.pixels = pixels
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        self.batches: list[int] = []
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] * x.shape[2] * x.shape[3] > self.pixels:
            raise self.error
        with self.lock:
            self.batches.append(x.shape[0])
        return x * 0.5 + 0.25


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


class Returns(nn.Module):
    """Something that is not the picture that was due."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        answers = {"small": x[:, :, 1:], "nan": x * float("nan"), "tuple": (x, x), "grey": x[:, :1]}
        return answers[self.answer]


def restorer(module: nn.Module, **facts: Any) -> Restorer:
    return Restorer(module, Facts(name="test", architecture="test", **facts), sha256="0" * 64)


def fresh_default() -> Restorer:
    """The architecture of the shipped default with random weights that do something in every layer."""
    torch.manual_seed(0)
    module, facts = build("default")
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, std=0.5 / layer.weight[0].numel() ** 0.5)
    return Restorer(module, facts, sha256="0" * 64)
