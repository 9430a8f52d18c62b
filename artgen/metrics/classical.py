"""Classical repairs of one picture, the peers of `artgen evaluate`: float in [0, 1] in and out, H x W or H x W x 3.

OpenCV and SciPy come with the extra `evaluate`; BM3D is not free for all uses and is used where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from scipy.interpolate import CloughTocher2DInterpolator, LinearNDInterpolator
from scipy.ndimage import median_filter

Repair = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def by_channel(repair: Repair) -> Repair:
    """A repair of grey pictures for colour ones too, each channel by itself."""

    def repaired(image: np.ndarray, other: np.ndarray) -> np.ndarray:
        if image.ndim == 2:
            return repair(image, other)
        return np.stack([repair(image[..., c], other[..., c]) for c in range(image.shape[2])], axis=2)

    return repaired


@by_channel
def best_median(image: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """The plain median of the size (3 to 9) that scores best against the truth: an upper bound for medians."""
    tries = [median_filter(image, size) for size in (3, 5, 7, 9)]
    return min(tries, key=lambda t: float(np.mean((t - clean) ** 2)))


@by_channel
def adaptive_median(image: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Switching median: each 0 or 255 becomes the median of the sound pixels in the smallest window with three."""
    out, todo = image.copy(), (image <= 0) | (image >= 1)
    sound = np.where(todo, np.nan, image)
    for radius in range(1, 20):
        rows, columns = np.nonzero(todo)
        if rows.size == 0:
            break
        padded = np.pad(sound, radius, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2)[rows, columns]
        flat = windows.reshape(len(rows), -1)
        enough = np.count_nonzero(~np.isnan(flat), axis=1) >= 3
        out[rows[enough], columns[enough]] = np.nanmedian(flat[enough], axis=1)
        todo[rows[enough], columns[enough]] = False
    return out


@by_channel
def detect_and_interpolate(image: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Pixels at 0 or 255 count as lost and are interpolated linearly."""
    return _interpolate(image, (image <= 0) | (image >= 1), LinearNDInterpolator)


def cubic_interpolation(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Lost pixels from a piecewise cubic surface through the known ones."""
    return _interpolate(image, mask > 0, CloughTocher2DInterpolator)


def _interpolate(image: np.ndarray, lost: np.ndarray, kind: type) -> np.ndarray:
    known = np.argwhere(~lost)
    values = image[~lost]
    out = image.copy()
    out[lost] = kind(known, values)(np.argwhere(lost))
    # Outside the hull of the known pixels: the median, as no interpolation reaches there.
    return np.clip(np.where(np.isnan(out), np.median(values), out), 0, 1)


def telea(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's inpainting after Telea 2004."""
    return cv2.inpaint(_bytes(image), mask.astype(np.uint8), 3, cv2.INPAINT_TELEA) / 255.0


def navier_stokes(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """OpenCV's inpainting after Bertalmio et al. 2001."""
    return cv2.inpaint(_bytes(image), mask.astype(np.uint8), 3, cv2.INPAINT_NS) / 255.0


def non_local_means(image: np.ndarray, sigma: float) -> np.ndarray:
    """OpenCV's non-local means with the strength its documentation advises (h near sigma); it is told sigma.

    Colour goes in as three channels, whose distances add up. OpenCV's own way for colour (fastNlMeansDenoisingColored, in
    CIE Lab) is 2 to 3 dB weaker on noise that is alike in red, green and blue.
    """
    return cv2.fastNlMeansDenoising(_bytes(image), None, 0.9 * sigma, 7, 21) / 255.0


def bm3d_known_sigma(image: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D (the PyPI package, if it is installed), told the true sigma. Raises ImportError without the package."""
    import bm3d  # pyright: ignore[reportMissingImports]

    run = bm3d.bm3d if image.ndim == 2 else bm3d.bm3d_rgb
    return np.asarray(run(image, sigma / 255))
