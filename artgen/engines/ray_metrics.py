"""Numbers of a run for Prometheus, through Ray's own export: each node's metrics port, prefixed with `ray_`.

    artgen_images_done, artgen_megapixels       counters by node, of this run
    artgen_images_failed                        counter by node and reason (`error_type`), of this run
    artgen_device_busy_share                    gauge by node and worker: 0 idle, 1 never idle
    artgen_images_remaining, artgen_seconds_left, artgen_images_per_second      gauges of the driver

Rates by node are left to Prometheus: `sum by (node) (rate(ray_artgen_images_done_total[5m]))`. `artgen status` counts what
lies in OUTPUT, earlier runs included.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from typing import Any

import torch
from ray.util.metrics import Counter, Gauge
from torch import nn

from artgen.errors import WorkerDied
from artgen.records import Outcome

RATE_S = 300.0


class Busy:
    """The share of time in which a device runs a module: on CUDA by events on its stream, elsewhere by the clock,
    divided by the threads that run it at once. Thread-safe."""

    def __init__(self, module: nn.Module, device: str, threads: int = 1) -> None:
        self._cuda = device.startswith("cuda")
        self._threads = threads if device == "cpu" else 1
        self._lock = threading.Lock()
        self._begun = threading.local()
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds = 0.0
        self._since = time.monotonic()
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def share(self) -> float:
        """Since the last call, 0 to 1. What the device has not finished counts the next time."""
        with self._lock:
            while self._events and self._events[0][1].query():
                before, after = self._events.popleft()
                self._seconds += before.elapsed_time(after) / 1000
            now = time.monotonic()
            share = self._seconds / max(now - self._since, 1e-9) / self._threads
            self._seconds, self._since = 0.0, now
        return min(1.0, share)

    def _before(self, *_: Any) -> None:
        self._begun.mark = self._mark()

    def _after(self, *_: Any) -> None:
        before, after = self._begun.mark, self._mark()
        with self._lock:
            if self._cuda:
                self._events.append((before, after))
            else:
                self._seconds += after - before

    def _mark(self) -> Any:
        if not self._cuda:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Meters:
    """The numbers of one actor. `unit` is called after each commit."""

    def __init__(self, node: str, busy: Busy) -> None:
        self._busy = busy
        tags = {"node": node}
        self._done = Counter("artgen_images_done", "images restored", ("node",))
        self._failed = failures()
        self._megapixels = Counter("artgen_megapixels", "millions of pixels of the images done", ("node",))
        self._share = Gauge("artgen_device_busy_share", "share of time in which the model runs", ("node", "worker"))
        for meter in (self._done, self._failed, self._megapixels):
            meter.set_default_tags(tags)
        self._share.set_default_tags({**tags, "worker": str(os.getpid())})

    def unit(self, outcome: Outcome) -> None:
        # Ray refuses to count nothing.
        if done := outcome.images - outcome.failed:
            self._done.inc(done)
        if outcome.pixels:
            self._megapixels.inc(outcome.pixels / 1e6)
        for reason, images in outcome.reasons:
            self._failed.inc(images, {"reason": reason})
        self._share.set(self._busy.share())


class Progress:
    """What whoever drives the run knows: images left, images a second, seconds left; and the images that it gave up."""

    def __init__(self, images: int) -> None:
        self._remaining = Gauge("artgen_images_remaining", "images that are not committed yet")
        self._rate = Gauge(
            "artgen_images_per_second", f"images committed in the last {RATE_S:g} seconds, of each second"
        )
        self._seconds_left = Gauge("artgen_seconds_left", "seconds that the remaining images take at this rate")
        self._failed = failures()
        self._failed.set_default_tags({"node": socket.gethostname()})
        self._committed: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self.left(images)

    def done(self, images: int) -> None:
        """So many more are committed."""
        now = time.monotonic()
        self._committed.append((now, images))
        while len(self._committed) > 2 and now - self._committed[1][0] > RATE_S:
            self._committed.popleft()
        seconds = now - self._committed[0][0]
        rate = sum(count for _, count in list(self._committed)[1:]) / seconds if seconds else 0.0
        self.left(self._images - images)
        if rate:
            self._rate.set(rate)
            self._seconds_left.set(self._images / rate)

    def gave_up(self) -> None:
        """An image that kills its worker has got its failed row."""
        self._failed.inc(1, {"reason": WorkerDied.__name__})
        self.done(1)

    def left(self, images: int) -> None:
        """So many are left."""
        self._images = images
        self._remaining.set(images)


def failures() -> Counter:
    """The counter of failed images by node and reason, the `error_type` of their rows."""
    return Counter("artgen_images_failed", "images recorded as failed", ("node", "reason"))
