"""Values for what a picture has lost, from what is known around them: what the default restorer starts from.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from artgen.models.restorers.patches import patches


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

    What is farther than 5 pixels from a lost value has no part in it, so on a CPU a picture that lost little is worked on in
    the patches where it did.
    """
    if torch.compiler.is_compiling() or y_BCHW.device.type != "cpu":
        return _swept(y_BCHW, lost_BCHW, sweeps)
    filled_BCHW, whole = y_BCHW.clone(), []
    for row, lost_CHW in enumerate(lost_BCHW):
        groups = patches(lost_CHW)
        if groups is None:
            whole.append(row)
            continue
        for places, own_P1HW in groups:
            lost_PCHW = torch.stack([lost_CHW[:, rows, columns] for rows, columns in places]) * own_P1HW
            part_PCHW = torch.stack([y_BCHW[row, :, rows, columns] for rows, columns in places])
            part_PCHW = _swept(part_PCHW, lost_PCHW, sweeps)
            for (rows, columns), part_CHW, own_CHW in zip(places, part_PCHW, lost_PCHW > 0, strict=True):
                here_CHW = filled_BCHW[row, :, rows, columns]
                here_CHW.copy_(torch.where(own_CHW, part_CHW, here_CHW))
    if whole:
        filled_BCHW[whole] = _swept(y_BCHW[whole], lost_BCHW[whole], sweeps)
    return filled_BCHW


def _swept(y_BCHW: Tensor, lost_BCHW: Tensor, sweeps: int) -> Tensor:
    """`follow_edges` over all pixels; those where lost is 0 stay bit for bit."""
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
