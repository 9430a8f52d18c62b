"""What a restoration did, in cheap numbers that need no reference: noise before and after, and the change."""

from __future__ import annotations

import numpy as np

SAMPLE = 1 << 17  # 2x2 blocks looked at per channel; the estimate's own error is then below 1 %
_BAND = 1 << 20  # samples held at a time by `change`


def sigma(pixels_HWC: np.ndarray) -> float:
    """Estimated standard deviation of additive noise, in 0-255 units, of H x W x C uint8 or uint16 pixels.

    The median of the absolute diagonal Haar coefficients over 0.6745 (Donoho & Johnstone 1994, "Ideal spatial
    adaptation by wavelet shrinkage"), per channel, then the root of the mean square over channels, so that
    independent noise of 25 in each channel reads 25. The coefficients of integers are integers: their median is
    interpolated within its bin and the variance of rounding (1/12 per pixel) is taken off. Blocks that touch black
    or white are left out where enough others remain, since clipping hides noise. Fine texture counts as noise;
    noise that is correlated over pixels (JPEG, enlargement) hardly does.

    Looks at SAMPLE blocks on a fixed grid, so it takes milliseconds at any size. 0.0 where there is no 2x2 block.
    """
    height, width, channels = pixels_HWC.shape
    if height < 2 or width < 2:
        return 0.0
    top = int(np.iinfo(pixels_HWC.dtype).max)
    every = max(1, (height // 2) * (width // 2) // SAMPLE)
    down = min(every, height // 2)  # whole rows are skipped first: they are cheap to skip
    across = -(-every // down)
    variances = []
    for channel in range(channels):
        plane = pixels_HWC[:, :, channel]
        corners = [
            plane[i : height - 1 + i : 2 * down, j : width - 1 + j : 2 * across].astype(np.int32)
            for i in (0, 1)
            for j in (0, 1)
        ]
        variances.append(_variance(corners, top))
    return float(np.sqrt(np.mean(variances)) * 255.0 / top)


def _variance(corners: list[np.ndarray], top: int) -> float:
    """Of the noise of one pixel, from the four corners of 2x2 blocks, in squared units of the samples."""
    a, b, c, d = corners
    diagonal = np.abs(a - b - c + d).ravel()  # of four independent pixels: variance 4 sigma^2
    inner = (
        (np.minimum(np.minimum(a, b), np.minimum(c, d)) > 0)
        & (np.maximum(np.maximum(a, b), np.maximum(c, d)) < top)
    ).ravel()
    if np.count_nonzero(inner) * 10 >= inner.size:
        diagonal = diagonal[inner]
    # Values k stand for (k - 1/2, k + 1/2), folded at 0.
    cumulative = np.cumsum(np.bincount(diagonal))
    half = diagonal.size / 2
    k = int(np.searchsorted(cumulative, half))
    below = cumulative[k - 1] if k else 0
    share = (half - below) / (cumulative[k] - below)
    median = (k - 0.5 + share) if k else share / 2
    return max((median / 0.67448975) ** 2 - 4 / 12, 0.0) / 4


def change(before_HWC: np.ndarray, after_HWC: np.ndarray) -> tuple[float | None, float | None]:
    """Mean and maximum of the absolute change over all samples, in 0-255 units; by bands, without a float copy.

    (None, None) where the two have another shape or type (an enlarged picture has no pixel to compare with).
    """
    if before_HWC.shape != after_HWC.shape or before_HWC.dtype != after_HWC.dtype:
        return None, None
    total, most = 0, 0
    rows = max(1, _BAND // max(1, before_HWC[0].size))
    for start in range(0, before_HWC.shape[0], rows):
        before, after = before_HWC[start : start + rows], after_HWC[start : start + rows]
        differences = np.maximum(before, after)
        differences -= np.minimum(before, after)  # unsigned all the way: nothing wraps
        total += int(differences.sum(dtype=np.uint64))
        most = max(most, int(differences.max()))
    unit = 255.0 / float(np.iinfo(before_HWC.dtype).max)
    return total / before_HWC.size * unit, most * unit
