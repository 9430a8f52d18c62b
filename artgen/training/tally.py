"""Means over the steps since the last report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Tally:
    """Counts steps between two reports. bad_in_a_row: steps that were skipped since the last one that was not."""

    def __init__(self, batch_images: int) -> None:
        self.batch_images = batch_images
        self.bad_in_a_row = 0
        self._clear()

    def _clear(self) -> None:
        self._sums: Counter[str] = Counter()
        self._good = self._skipped = 0
        self._wait_s = 0.0
        self._since = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        began = time.monotonic()
        yield
        self._wait_s += time.monotonic() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of the block does not count: a report may come with a validation."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def add(self, numbers: Mapping[str, float] | None) -> None:
        """The numbers of a step; None for one that was skipped."""
        if numbers is None:
            self._skipped += 1
            self.bad_in_a_row += 1
        else:
            self._sums.update(numbers)
            self._good += 1
            self.bad_in_a_row = 0

    def flush(self) -> dict[str, float]:
        """The means since the last report; the next one begins. data_wait: share of the time, if it is measured."""
        seconds = time.monotonic() - self._since
        numbers = {name: total / self._good for name, total in self._sums.items()}
        numbers |= {
            "images_per_s": (self._good + self._skipped) * self.batch_images / seconds,
            "skipped": float(self._skipped),
        }
        if self._wait_s:
            numbers["data_wait"] = self._wait_s / seconds
        self._clear()
        return numbers
