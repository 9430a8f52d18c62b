"""The shipped default: a U-Net of plain 3x3 residual blocks at half resolution and below.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artgen.models.restorers.params import check_number, check_widths


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
    """1 along rows and columns that are black (first half of the channels) or white (second half) from end to end; else 0.

    A frame of one pixel or a row of a page: of 16 known values or more every one is black or white, which impulses alone hardly
    ever make of a row of a picture, and 57 % are of one kind: salt and pepper of 70 % leaves a black line 65 % black.
    """
    lines = torch.zeros_like(ends_B2CHW)
    for dim in (2, 3):
        count = known_B1HW.sum(dim, keepdim=True).to(ends_B2CHW.dtype)
        share = ends_B2CHW.sum(dim, keepdim=True) / count.clamp(min=1)
        either = share + share.roll(ends_B2CHW.shape[1] // 2, dims=1)
        whole = (count >= 16) & (either > 0.9999) & (share >= 0.57)
        lines = torch.maximum(lines, whole.to(ends_B2CHW.dtype).expand_as(lines))
    return lines


def fill_where_needed(x_BCHW: Tensor, mask_BCHW: Tensor, needed_BCHW: Tensor, otherwise_BCHW: Tensor) -> Tensor:
    """`fill_missing` of the pictures where `needed` is not all 0, the others as they are in `otherwise`: filling takes a fifth
    of the whole time.

    How many they are differs from batch to batch: what is compiled, for one shape, fills all.
    """
    needy_B = needed_BCHW.flatten(1).any(1)
    if torch.compiler.is_compiling() or needy_B.all():
        return fill_missing(x_BCHW, mask_BCHW)
    y_BCHW = otherwise_BCHW.clone()
    if needy_B.any():
        y_BCHW[needy_B] = fill_missing(x_BCHW[needy_B], mask_BCHW[needy_B])
    return y_BCHW


def fill_missing(x_BCHW: Tensor, mask_BCHW: Tensor) -> Tensor:
    """Replaces values where the mask is above 0 by what fits the ones near them, channel by channel.

    A short pull-push pyramid (Gortler et al. 1996, "The Lumigraph"): means over blocks of 8, 4 and 2 pixels and
    over 3x3 pixels, where the coarser mean counts as a small share of one pixel. From blocks of 4 on, a few sweeps follow
    edges, first between the blocks that know nothing, at last between pixels; the last are worth 1.7 dB at 80 % missing and
    2.1 dB at 50 %, the others 0.2 dB at 80 % and 1 dB in holes. A value counts for 1 - mask in the means; where the mask is
    0 it stays bit for bit. The blocks of 8 are averaged over 3x3 and spread into wide holes,
    64 pixels from their edge; what is deeper inside is grey. The mask has the channels of x; height and width are multiples of 8.
    """
    channels = x_BCHW.shape[1]
    known_BCHW = 1 - mask_BCHW
    full = torch.cat([x_BCHW * known_BCHW, known_BCHW], dim=1)
    half = halved(full)
    quarter = halved(half)
    eighth = box_sum(halved(quarter), 3) / 9
    fill = _spread(
        eighth[:, :channels] / (eighth[:, channels:] + 1e-6),
        (eighth[:, channels:] > 0).to(x_BCHW.dtype),
    )
    for finer, share in ((quarter, 0.03), (half, 0.03)):
        fill = (finer[:, :channels] + share * doubled(fill)) / (finer[:, channels:] + share)
        # One pixel that is known is a sixteenth of a block; one that is only suspected a thousandth of that.
        fill = follow_edges(fill, (finer[:, channels:] < 0.01).to(x_BCHW.dtype))
    near = box_sum(full, 3) / 9
    fill = (near[:, :channels] + 0.02 * doubled(fill)) / (near[:, channels:] + 0.02)
    y_BCHW = torch.where(mask_BCHW > 0, fill, full[:, :channels])
    return follow_edges(y_BCHW, (mask_BCHW > 0).to(x_BCHW.dtype))


def follow_edges(y_BCHW: Tensor, lost_BCHW: Tensor, sweeps: int = 12) -> Tensor:
    """Smooths the values where lost is 1: along edges where there are edges, as a thin plate elsewhere.

    Edge-enhancing diffusion (Weickert 1998; for missing pixels Galic et al. 2008): where the structure tensor, over all
    channels and 9x9 pixels, has one direction, only the second derivative along it counts, so edges close without
    being blurred; where it has none the biharmonic operator, which carries slopes on. With heavy-ball momentum (Polyak 1964).
    """
    before_BCHW = y_BCHW
    alongxx_B1HW, alongyy_B1HW, alongxy_B1HW, flat_B1HW = _along_edges(y_BCHW)
    for sweep in range(sweeps):
        if sweep and sweep % 4 == 0:  # what was filled so far shows better where edges go
            alongxx_B1HW, alongyy_B1HW, alongxy_B1HW, flat_B1HW = _along_edges(y_BCHW)
        padded = F.pad(y_BCHW, (2, 2, 2, 2), mode="replicate")
        inner = padded[..., 1:-1, 1:-1]
        yxx = torch.sub(padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:], inner, alpha=2)
        yyy = torch.sub(padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1], inner, alpha=2)
        yxy = (padded[..., 1:-3, 1:-3] + padded[..., 3:-1, 3:-1]) - (
            padded[..., 1:-3, 3:-1] + padded[..., 3:-1, 1:-3]
        )
        change_BCHW = alongxx_B1HW * yxx[..., 1:-1, 1:-1]
        change_BCHW = torch.addcmul(change_BCHW, alongyy_B1HW, yyy[..., 1:-1, 1:-1])
        change_BCHW = torch.addcmul(change_BCHW, alongxy_B1HW, yxy)
        change_BCHW = torch.addcmul(change_BCHW, flat_B1HW, laplacian(yxx + yyy))
        after_BCHW = torch.addcmul(torch.lerp(before_BCHW, y_BCHW, 1.5), lost_BCHW, change_BCHW)
        before_BCHW, y_BCHW = y_BCHW, after_BCHW
    return y_BCHW


def _along_edges(y_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a sweep counts at each pixel: d2/dx2, d2/dy2, four times d2/dxdy (all along the edge); the biharmonic."""
    padded = F.pad(y_BCHW, (1, 1, 1, 1), mode="replicate")
    gx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    gy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    products = torch.cat([(gx * gx).mean(1, True), (gy * gy).mean(1, True), (gx * gy).mean(1, True)], dim=1)
    xx_B1HW, yy_B1HW, xy_B1HW = (box_sum(products, 9) / 324).chunk(3, dim=1)
    difference = xx_B1HW - yy_B1HW
    gap_B1HW = torch.sqrt(difference.square() + 4 * xy_B1HW.square())  # of the eigenvalues
    # 0 where all directions are alike, 1 on a straight edge; a contrast of about 2 levels of 255 counts for half.
    one_way_B1HW = gap_B1HW / (xx_B1HW + yy_B1HW + 1e-4)
    cosine, sine = difference / (gap_B1HW + 1e-8), 2 * xy_B1HW / (gap_B1HW + 1e-8)  # of twice the gradient's angle
    weight_B1HW = 0.5 * one_way_B1HW
    alongxx_B1HW, alongyy_B1HW = weight_B1HW * (0.5 - 0.5 * cosine), weight_B1HW * (0.5 + 0.5 * cosine)
    return alongxx_B1HW, alongyy_B1HW, -0.25 * weight_B1HW * sine, -0.5 / 20 * (1 - one_way_B1HW)


def _spread(fill_BCHW: Tensor, known_BCHW: Tensor, steps: int = 6) -> Tensor:
    """Values where known is 1, and from there one place further with each step; 0.5 beyond."""
    for _ in range(steps):
        near_BCHW = box_sum(known_BCHW, 3)
        mean_BCHW = box_sum(fill_BCHW * known_BCHW, 3) / near_BCHW.clamp(min=1)
        fill_BCHW = torch.where(known_BCHW > 0, fill_BCHW, mean_BCHW)
        known_BCHW = (near_BCHW > 0).to(known_BCHW.dtype)
    return torch.where(known_BCHW > 0, fill_BCHW, 0.5)


# Plain sums of shifted views: several times as fast on a CPU as the pooling and convolution kernels for so few channels,
# and the same bits with any number of threads.


def laplacian(x_BCHW: Tensor) -> Tensor:
    """Sum of the four nearest less four times the pixel, for all pixels but the outermost: two rows and columns fewer."""
    up, down = x_BCHW[..., :-2, 1:-1], x_BCHW[..., 2:, 1:-1]
    left, right = x_BCHW[..., 1:-1, :-2], x_BCHW[..., 1:-1, 2:]
    return torch.sub((up + down) + (left + right), x_BCHW[..., 1:-1, 1:-1], alpha=4)


def box_sum(x_BCHW: Tensor, size: int) -> Tensor:
    """Sum over size x size pixels (odd) around each one, zeros beyond the edges."""
    passes = ((3, 1), (3, 3)) if size == 9 else ((size, 1),)  # three sums of three, four additions for eight
    for dim, edges in ((3, (size // 2, size // 2)), (2, (0, 0, size // 2, size // 2))):
        x_BCHW = F.pad(x_BCHW, edges)
        for count, stride in passes:
            length = x_BCHW.shape[dim] - (count - 1) * stride
            sums_BCHW = x_BCHW.narrow(dim, 0, length)
            for shift in range(1, count):
                sums_BCHW = sums_BCHW + x_BCHW.narrow(dim, shift * stride, length)
            x_BCHW = sums_BCHW
    return x_BCHW


def halved(x_BCHW: Tensor) -> Tensor:
    """Means over blocks of 2x2 pixels: half the height and width, both even."""
    rows = x_BCHW[..., 0::2, :] + x_BCHW[..., 1::2, :]
    return 0.25 * (rows[..., 0::2] + rows[..., 1::2])


def doubled(x_BCHW: Tensor) -> Tensor:
    """Twice the height and width, bilinear with repeated edges: `F.interpolate(x, scale_factor=2.0, mode="bilinear")`, whose
    last bit on a CPU depends on the number of threads; these plain sums do not.
    """
    for dim in (2, 3):
        size = x_BCHW.shape[dim]
        before = torch.cat([x_BCHW.narrow(dim, 0, 1), x_BCHW.narrow(dim, 0, size - 1)], dim)
        after = torch.cat([x_BCHW.narrow(dim, 1, size - 1), x_BCHW.narrow(dim, size - 1, 1)], dim)
        most = 0.75 * x_BCHW
        x_BCHW = torch.stack([0.25 * before + most, most + 0.25 * after], dim + 1).flatten(dim, dim + 1)
    return x_BCHW
