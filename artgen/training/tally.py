"""Means over the steps since the last report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Tally:
    """Counts steps between two reports. bad_in_a_row: steps without a loss since the last one with."""

    def __init__(self, batch_images: int) -> None:
        self.batch_images = batch_images
        self.bad_in_a_row = 0
        self._clear()

    def _clear(self) -> None:
        self._losses: list[float] = []
        self._skipped = 0
        self._wait_s = 0.0
        self._since = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        began = time.monotonic()
        yield
        self._wait_s += time.monotonic() - began

    def add(self, loss: float | None) -> None:
        """A step and its loss; None for one that was skipped."""
        if loss is None:
            self._skipped += 1
            self.bad_in_a_row += 1
        else:
            self._losses.append(loss)
            self.bad_in_a_row = 0

    def flush(self) -> dict[str, float]:
        """The numbers of a report; the next one begins. data_wait: share of the time, 0..1."""
        steps = len(self._losses) + self._skipped
        seconds = time.monotonic() - self._since
        numbers = {
            "loss": sum(self._losses) / max(len(self._losses), 1),
            "images_per_s": steps * self.batch_images / seconds,
            "data_wait": self._wait_s / seconds,
            "skipped": float(self._skipped),
        }
        self._clear()
        return numbers
