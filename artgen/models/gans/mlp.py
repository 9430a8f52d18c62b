"""The article's GAN of fully connected layers, 100-128-256-512-1024-784, and its mirror.

Shape letters: B batch, L latent numbers, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.models.gans.classes import LatentInput, Verdict
from artgen.models.gans.spec import GanFacts


def _layers(first: int, widths: Sequence[int]) -> list[nn.Module]:
    if not widths:
        raise UsageError("widths is empty; give those of the hidden layers, such as [128, 256]")
    return [layer for pair in pairwise([first, *widths]) for layer in (nn.Linear(*pair), nn.LeakyReLU(0.2))]


class MlpGenerator(nn.Module):
    """Args: facts: the size and latent numbers. widths: of the hidden layers."""

    def __init__(self, facts: GanFacts, widths: Sequence[int] = (128, 256, 512, 1024)) -> None:
        super().__init__()
        self.shape = (facts.channels, facts.height, facts.width)
        self.input = LatentInput(facts.latent, len(facts.classes))
        pixels = facts.channels * facts.height * facts.width
        self.layers = nn.Sequential(*_layers(self.input.width, widths), nn.Linear(widths[-1], pixels), nn.Tanh())

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Returns x_BCHW in (-1, 1)."""
        return self.layers(self.input(z_BL, labels_B)).unflatten(1, self.shape)


class MlpDiscriminator(nn.Module):
    """Args: facts: the size. widths: of the hidden layers."""

    def __init__(self, facts: GanFacts, widths: Sequence[int] = (1024, 512, 256, 128)) -> None:
        super().__init__()
        pixels = facts.channels * facts.height * facts.width
        self.layers = nn.Sequential(nn.Flatten(), *_layers(pixels, widths))
        self.verdict = Verdict(widths[-1], len(facts.classes))

    def forward(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """x in -1..1; returns logits_B, with no sigmoid: the losses take logits."""
        return self.verdict(self.layers(x_BCHW), labels_B)
