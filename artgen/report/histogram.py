"""Histograms that grow with the stream and are drawn at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Measures are on a scale of 0-255 and are shown with one decimal, so a tenth is as fine as anyone can see.
_STEP = 0.1
_BINS = 2551
_WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_MAX_BARS = 32


class Histogram:
    """Counts of values in 0-255, in steps of 0.1. NaN (not measured) is not counted."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        """values: of any shape; what lies outside of 0-255 counts in the first or the last bin."""
        finite = values[np.isfinite(values)]
        bins = np.clip(np.floor(finite / _STEP + 1e-6), 0, _BINS - 1).astype(np.int64)
        self.counts += np.bincount(bins, minlength=_BINS)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float | None:
        """The value that `share` (0-1) of the counted values do not exceed, to a tenth; None without values."""
        if not self.total:
            return None
        return round(int(np.searchsorted(np.cumsum(self.counts), share * self.total)) * _STEP, 1)


@dataclass(frozen=True, slots=True)
class Series:
    """One histogram as drawn: `path` is an SVG outline in a box of 100 x 100; `heights` are counts of the bars."""

    label: str
    path: str
    heights: tuple[int, ...]
    median: float | None
    median_percent: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Series over one axis from 0; `ticks` are (percent of the width, label). The last bar holds all above."""

    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...]
    top: int


def chart(histograms: dict[str, Histogram]) -> Chart | None:
    """Draws histograms by label over a common axis that ends where 99.5 % of all values do; None without values."""
    total = sum(histogram.counts for histogram in histograms.values())
    if not np.any(total):
        return None
    cumulated = np.cumsum(total)
    last = int(np.searchsorted(cumulated, 0.995 * cumulated[-1])) + 1
    width = next(width for width in _WIDTHS if last <= width * _MAX_BARS)
    bars = 4 * max(1, -(-last // (4 * width)))  # so that the quarters of the axis are round numbers
    binned = {label: _rebin(histogram.counts, width, bars) for label, histogram in histograms.items()}
    top = max(int(heights.max()) for heights in binned.values())
    end = bars * width * _STEP
    series = tuple(
        Series(
            label=label,
            path=_outline(heights, top),
            heights=tuple(int(height) for height in heights),
            median=(median := histograms[label].quantile(0.5)),
            median_percent=min(100.0, 100 * (median or 0.0) / end),
        )
        for label, heights in binned.items()
    )
    ticks = tuple((25.0 * quarter, f"{end * quarter / 4:g}") for quarter in range(5))
    return Chart(series, ticks, top)


def _rebin(counts: np.ndarray, width: int, bars: int) -> np.ndarray:
    padded = np.zeros(max(bars * width, len(counts)), np.int64)
    padded[: len(counts)] = counts
    heights = padded[: bars * width].reshape(bars, width).sum(axis=1)
    heights[-1] += padded[bars * width :].sum()
    return heights


def _outline(heights: np.ndarray, top: int) -> str:
    """A closed step outline; a bar that is not empty is never thinner than half a percent."""
    step = 100 / len(heights)
    parts = ["M0 100"]
    for index, height in enumerate(heights):
        y = 100 - (max(0.5, 100 * height / top) if height else 0)
        parts.append(f"V{y:.2f}H{(index + 1) * step:.3f}")
    return "".join(parts) + "V100Z"
