"""DCGAN: strided convolutions and batch norm (Radford et al. 2016), at any size that halves twice or more.

Shape letters: B batch, L latent numbers, C channels, H height, W width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.models.gans.classes import LatentInput, Verdict
from artgen.models.gans.spec import GanFacts

LEAST_HALVINGS = 2
MULTIPLE = 2**LEAST_HALVINGS
"""Of both sides, in pixels."""


def halvings(height: int, width: int) -> int:
    """How often both sides halve without a rest, down to about 4 pixels. Raises UsageError under LEAST_HALVINGS."""
    count = 0
    while height % 2 == width % 2 == 0 and min(height, width) > 4:
        height, width, count = height // 2, width // 2, count + 1
    if count < LEAST_HALVINGS:
        raise UsageError(
            f"dcgan halves a picture at least twice and cannot halve one of {height * 2**count}x{width * 2**count} "
            f"pixels so; choose a height and width divisible by {MULTIPLE}, or the recipe r3"
        )
    return count


def _start(network: nn.Module) -> None:
    """Weights from N(0, 0.02), as section 3 of the paper."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


class DcganGenerator(nn.Module):
    """Args: facts: size, channels, latent numbers. base: filters before the last layer, doubled at each halving."""

    def __init__(self, facts: GanFacts, base: int = 32) -> None:
        super().__init__()
        steps = halvings(facts.height, facts.width)
        self.input = LatentInput(facts.latent, len(facts.classes))
        widths = [base * 2**level for level in reversed(range(steps))]
        self.shape = (widths[0], facts.height >> steps, facts.width >> steps)
        self.project = nn.Linear(self.input.width, widths[0] * self.shape[1] * self.shape[2], bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for above, below in pairwise(widths):
            layers += [nn.ConvTranspose2d(above, below, 4, 2, 1, bias=False), nn.BatchNorm2d(below), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(base, facts.channels, 4, 2, 1))
        _start(self)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Returns x_BCHW in (-1, 1). In train mode a picture depends on the others of its batch."""
        hidden = self.project(self.input(z_BL, labels_B)).unflatten(1, self.shape)
        return torch.tanh(self.layers(hidden))


class DcganDiscriminator(nn.Module):
    """Args: facts: size and channels. base: filters of the first layer. norm: batch norm but in the first layer."""

    def __init__(self, facts: GanFacts, base: int = 32, norm: bool = True) -> None:
        super().__init__()
        steps = halvings(facts.height, facts.width)
        widths = [base * 2**level for level in range(steps)]
        layers: list[nn.Module] = [nn.Conv2d(facts.channels, base, 4, 2, 1), nn.LeakyReLU(0.2)]
        for above, below in pairwise(widths):
            layers.append(nn.Conv2d(above, below, 4, 2, 1, bias=not norm))
            # A discriminator only ever runs in training, so running statistics would never be read.
            layers += [nn.BatchNorm2d(below, track_running_stats=False)] if norm else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Flatten())
        _start(self)
        self.verdict = Verdict(widths[-1] * (facts.height >> steps) * (facts.width >> steps), len(facts.classes))

    def forward(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """x in -1..1; returns logits_B."""
        return self.verdict(self.layers(x_BCHW), labels_B)
