"""The shipped default: a U-Net of plain 3x3 residual blocks at half resolution and below.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artgen.models.restorers.filling import box_sum, fill_where_needed
from artgen.models.restorers.params import check_number, check_widths

LINE_PX = 28
"""A line is looked along so far: less than the margin of a tile that does not count, so that all tiles see the same lines."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))); starts as the identity, since its last convolution starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # In place, twice: no gradient needs what is overwritten, and on a CPU new memory costs more than the arithmetic.
        return self.last(F.relu(self.first(x_BCHW), inplace=True)).add_(x_BCHW)


class RestoreUNet(nn.Module):
    """Blind restorer for colour pictures and, as three equal channels, for grey ones.

    Works at half resolution (pixel-unshuffle, as FFDNet: Zhang et al. 2018) with additive skips and plain
    3x3 convolutions, which are what CPUs do fastest. The net predicts what to add to its input; pixels that
    the mask marks as missing are first filled from their neighbours (`fill_missing`), so their values never
    matter. Black and white are also what impulses and unmarked holes look like, so the net is shown the filling
    of the values that stand alone at 0 and 1 (`impulses`), and where they are; it decides. What it adds to values that
    are filled or stand alone has a branch of its own (`mend`): only they make its gradient, which in the shared layers is
    a thirtieth of that of noise. Height and width must be multiples of 2 ** len(widths), and of 8.

    Args:
        widths: channels at half, quarter, eighth... resolution.
        blocks: residual blocks at each level on the way down and on the way up.
        middle_blocks: residual blocks at the bottom, where they cost least and see farthest.
    Raises ValueError for what is out of range.
    """

    def __init__(self, widths: Sequence[int] = (48, 96, 192), blocks: int = 2, middle_blocks: int = 4) -> None:
        super().__init__()
        check_widths(widths)
        check_number("blocks", blocks, 0)
        check_number("middle_blocks", middle_blocks, 0)
        self.multiple = max(8, 2 ** len(widths))

        def level(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*[ResidualBlock(width) for _ in range(count)])

        pairs = list(pairwise(widths))
        self.head = nn.Conv2d(4 * (3 + 1 + 3 + 3), widths[0], 3, padding=1)
        self.encode = nn.ModuleList(level(upper, blocks) for upper, _ in pairs)
        self.down = nn.ModuleList(nn.Conv2d(upper, lower, 2, stride=2) for upper, lower in pairs)
        self.middle = level(widths[-1], middle_blocks)
        self.up = nn.ModuleList(nn.ConvTranspose2d(lower, upper, 2, stride=2) for upper, lower in pairs)
        self.decode = nn.ModuleList(level(upper, blocks) for upper, _ in pairs)
        self.tail = nn.Conv2d(widths[0], 3 * 4, 3, padding=1)
        last = nn.Conv2d(widths[0], 3 * 4, 3, padding=1)
        self.mend = nn.Sequential(level(widths[0], blocks), last)
        for silent in (self.tail, last):
            nn.init.zeros_(silent.weight)
            nn.init.zeros_(silent.bias)  # pyright: ignore[reportArgumentType]

    @property
    def ends(self) -> list[Tensor]:
        """The kernels that read the input and those that make the output."""
        return [
            self.head.weight,
            self.tail.weight,
            *(layer.weight for layer in self.mend if isinstance(layer, nn.Conv2d)),
        ]

    def forward(self, x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """x in [0, 1] with 3 channels, mask 1 where a pixel is missing; returns the picture, not clamped."""
        # Shifted sums are slow on channels-last views.
        known_BCHW = (x_BCHW * (1 - mask_B1HW)).contiguous()
        lost_BCHW = mask_B1HW.expand_as(known_BCHW).contiguous()
        found_BCHW = impulses(known_BCHW, mask_B1HW)
        # What is lost is filled from all that is known: black that only may be an impulse is most often black.
        filled_BCHW = fill_where_needed(known_BCHW, lost_BCHW, lost_BCHW, known_BCHW)
        # In the guess, what may be an impulse counts for a thousandth: where nothing else is near it stays what it is.
        suspect_BCHW = torch.maximum(0.999 * found_BCHW, lost_BCHW)
        guess_BCHW = fill_where_needed(known_BCHW, suspect_BCHW, found_BCHW, filled_BCHW)
        doubted_BCHW = torch.maximum(found_BCHW, lost_BCHW)
        shown = torch.cat([filled_BCHW, mask_B1HW, guess_BCHW, doubted_BCHW], dim=1)
        hidden = self.head(F.pixel_unshuffle(shown, 2))
        skips = []
        for encode, down in zip(self.encode, self.down, strict=True):
            hidden = encode(hidden)
            skips.append(hidden)
            hidden = down(hidden)
        hidden = self.middle(hidden)
        for decode, up, skip in zip(reversed(self.decode), reversed(self.up), reversed(skips), strict=True):
            hidden = decode(up(hidden) + skip)
        change = self.tail(hidden)
        restored_BCHW = filled_BCHW + F.pixel_shuffle(change, 2)
        doubtful_B = doubted_BCHW.flatten(1).any(1)
        if (
            self.training
        ):  # of a batch only the pictures that need it; none is a batch of no pictures, with gradients of 0
            rows = doubtful_B.nonzero()[:, 0]
            mended = torch.zeros_like(change).index_add(0, rows, self.mend(hidden[rows]))
        elif (
            torch.compiler.is_compiling() or doubtful_B.any()
        ):  # all, as the last bit depends on the size of a batch
            mended = self.mend(hidden)
        else:
            return restored_BCHW
        return restored_BCHW + doubted_BCHW * F.pixel_shuffle(mended, 2)


def impulses(x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """1 where a value is 0 or 1 exactly and most of the 5x5 around it, mask apart, are not the same; else 0.

    Most are 70 %, and 90 % where the 5x5 has both blacks and whites: in salt and pepper of 70 % about a third of them are
    the same; in a white sky or on a page nearly all. Masked pixels get 0. Nor is a value suspected that fits a `whole_lines`.
    """
    known_B1HW = mask_B1HW < 1
    ends = torch.cat([(x_BCHW == 0) & known_B1HW, (x_BCHW == 1) & known_B1HW], dim=1)
    if not torch.compiler.is_compiling() and not ends.any():  # the rest is a twentieth of the network's whole time
        return torch.zeros_like(x_BCHW)
    ends = ends.to(x_BCHW.dtype)
    alike = box_sum(ends, 5) / box_sum(known_B1HW.to(x_BCHW.dtype), 5).clamp(min=1)
    others = alike.roll(x_BCHW.shape[1], dims=1)  # whites around a black, blacks around a white
    alone = ends * (alike < torch.where(others > 0, 0.9, 0.7)) * (1 - whole_lines(ends, known_B1HW))
    alone_black, alone_white = alone.chunk(2, dim=1)
    return alone_black + alone_white


def whole_lines(ends_B2CHW: Tensor, known_B1HW: Tensor) -> Tensor:
    """1 along rows and columns that are black (first half of the channels) or white (second half) as far as LINE_PX to both
    sides, or to the picture's edge; else 0.

    A frame of one pixel, a rule or a row of a page: of 16 known values or more every one is black or white, which impulses alone
    hardly ever make of so many pixels, and most are of one kind: salt and pepper of 70 % leaves a black line 65 % black.
    """
    lines = torch.zeros_like(ends_B2CHW)
    known_B1HW = known_B1HW.to(ends_B2CHW.dtype)
    for dim in (2, 3):
        count = line_sum(known_B1HW, dim, LINE_PX)
        share = line_sum(ends_B2CHW, dim, LINE_PX) / count.clamp(min=1)
        either = share + share.roll(ends_B2CHW.shape[1] // 2, dims=1)
        whole = (count >= 16) & (either > 0.9999) & (share > 0.5)
        lines = torch.maximum(lines, whole.to(ends_B2CHW.dtype))
    return lines


def line_sum(x_BCHW: Tensor, dim: int, reach: int) -> Tensor:
    """Sums of whole numbers over `reach` places to both sides along a dimension, as far as there are: exact in any order."""
    length = x_BCHW.shape[dim]
    sums = torch.cat([torch.zeros_like(x_BCHW.narrow(dim, 0, 1)), x_BCHW.cumsum(dim)], dim)
    places = torch.arange(length, device=x_BCHW.device)
    behind, first = (places + reach + 1).clamp(max=length), (places - reach).clamp(min=0)
    return sums.index_select(dim, behind) - sums.index_select(dim, first)
