"""The preset `r3`: residual networks without normalisation, after R3GAN (Huang et al. 2024, section 4 and figure 3).

Shape letters: B batch, L latent numbers, C channels, H height, W width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.models.gans.classes import LatentInput, Verdict
from artgen.models.gans.spec import GanFacts

Size = tuple[int, int]
LAST_PX = 4


def sizes(height: int, width: int, stem: bool) -> list[Size]:
    """Heights and widths of the stages, largest first: halved, rounded up, until the shorter side is 4 or less.

    stem: the full resolution has no stage of its own.
    """
    found = [_halved((height, width)) if stem else (height, width)]
    while min(found[-1]) > LAST_PX:
        found.append(_halved(found[-1]))
    return found


def _halved(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)


class Block(nn.Module):
    """x + the 1x1 -> grouped 3x3 -> 1x1 of x. The last convolution starts at zero, so the block as the identity.

    Args:
        width: channels in and out. group: channels of a group. expansion: inner channels over width.
    """

    def __init__(self, width: int, group: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.open = nn.Conv2d(width, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=max(inner // group, 1))
        self.close = nn.Conv2d(inner, width, 1, bias=False)
        for convolution in (self.open, self.mix):
            nn.init.kaiming_normal_(convolution.weight, 0.2, nonlinearity="leaky_relu")
            nn.init.zeros_(convolution.bias)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.close.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.open(x_BCHW), 0.2)
        return x_BCHW + self.close(F.leaky_relu(self.mix(hidden), 0.2))


class Resample(nn.Module):
    """To another size by bilinear interpolation (a mean of 2x2 where a side halves) and to another width by 1x1."""

    def __init__(self, above: int, below: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.widen = nn.Conv2d(above, below, 1, bias=False)
        nn.init.kaiming_normal_(self.widen.weight, nonlinearity="linear")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # The 1x1 runs at the smaller of both sizes: it commutes with the interpolation.
        if x_BCHW.shape[-1] > self.size[1]:
            return self.widen(F.interpolate(x_BCHW, self.size, mode="bilinear"))
        return F.interpolate(self.widen(x_BCHW), self.size, mode="bilinear")


def _widths(stages: int, base: int, most: int, group: int, expansion: int) -> list[int]:
    """Channels of the stages, largest stage first. Raises UsageError where groups do not divide those within a block."""
    if min(base, most, group, expansion) < 1:
        raise UsageError(f"base {base}, most {most}, group {group} and expansion {expansion} must be at least 1")
    widths = [min(base * 2**level, most) for level in range(stages)]
    for width in widths:
        if width * expansion % group:
            name = "base" if width == base else "most"
            raise UsageError(
                f"{name} {width} times expansion {expansion} is not a multiple of group {group}; choose one that is"
            )
    return widths


class R3Generator(nn.Module):
    """A learnt picture of 4 pixels or so, scaled by the latent numbers, grown stage by stage.

    Args:
        facts: size, channels, latent numbers, classes.
        base: channels of the largest stage, doubled at each halving up to `most`.
        blocks: residual blocks of a stage. stem: leave the full resolution to one convolution; an odd side is made one
            pixel longer by it, and cut.
    """

    def __init__(
        self, facts: GanFacts, *, base: int = 48, most: int = 384, blocks: int = 1, group: int = 16,
        expansion: int = 2, stem: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size = (facts.height, facts.width)
        stages = sizes(*self.size, stem)[::-1]
        widths = _widths(len(stages), base, most, group, expansion)[::-1]
        self.input = LatentInput(facts.latent, len(facts.classes))
        self.basis = nn.Parameter(torch.randn(widths[0], *stages[0]))
        self.project = nn.Linear(self.input.width, widths[0], bias=False)
        nn.init.kaiming_normal_(self.project.weight, nonlinearity="linear")
        layers: list[nn.Module] = [Block(widths[0], group, expansion) for _ in range(blocks)]
        for (above, below), size in zip(pairwise(widths), stages[1:], strict=True):
            layers += [Resample(above, below, size), *[Block(below, group, expansion) for _ in range(blocks)]]
        if stem:
            last = nn.Conv2d(widths[-1], 4 * facts.channels, 3, padding=1)
            with torch.no_grad():
                # The four pixels that each one becomes start equal, or pictures start as checkerboards
                # (Aitken et al. 2017, ICNR).
                for values in (last.weight, last.bias):
                    values.copy_(values[::4].repeat_interleave(4, 0))  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]
            layers += [last, nn.PixelShuffle(2)]
        else:
            layers.append(nn.Conv2d(widths[-1], facts.channels, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Returns x_BCHW in (-1, 1)."""
        hidden = self.basis * self.project(self.input(z_BL, labels_B))[:, :, None, None]
        height, width = self.size
        return torch.tanh(self.layers(hidden)[..., :height, :width])


class R3Discriminator(nn.Module):
    """The generator's mirror; a last depthwise convolution over the whole remaining picture, then a verdict.

    Args: as of `R3Generator`; before a stem an odd side gets a line of zeros, as its convolution gives to both ends of a side.
    """

    def __init__(
        self, facts: GanFacts, *, base: int = 48, most: int = 384, blocks: int = 1, group: int = 16,
        expansion: int = 2, stem: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        stages = sizes(facts.height, facts.width, stem)
        widths = _widths(len(stages), base, most, group, expansion)
        self.odd = (facts.height % 2, facts.width % 2) if stem else (0, 0)
        first = nn.Conv2d(facts.channels, widths[0], 4, 2, 1) if stem else nn.Conv2d(facts.channels, widths[0], 1)
        layers: list[nn.Module] = [first, *[Block(widths[0], group, expansion) for _ in range(blocks)]]
        for (above, below), size in zip(pairwise(widths), stages[1:], strict=True):
            layers += [Resample(above, below, size), *[Block(below, group, expansion) for _ in range(blocks)]]
        gather = nn.Conv2d(widths[-1], widths[-1], stages[-1], groups=widths[-1], bias=False)
        nn.init.kaiming_normal_(gather.weight, nonlinearity="linear")
        self.layers = nn.Sequential(*layers, gather, nn.Flatten())
        self.verdict = Verdict(widths[-1], len(facts.classes))

    def forward(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """x in -1..1; returns logits_B."""
        if any(self.odd):
            x_BCHW = F.pad(x_BCHW, (0, self.odd[1], 0, self.odd[0]))
        return self.verdict(self.layers(x_BCHW), labels_B)
