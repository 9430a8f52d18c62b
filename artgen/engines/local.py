"""The local engine: units in this process, one image a thread, no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from artgen.codecs.pool import GuardPool
from artgen.config import RestoreConfig, worker_range
from artgen.console import Console
from artgen.records import Outcome
from artgen.work.plan import Plan, PlanReader, UnitRef

if TYPE_CHECKING:
    from artgen.models.spec import Restorer
    from artgen.work.restoration import RestoreJob
    from artgen.work.unit import Publish

# Beyond this many threads that decode and encode, one accelerator gains nothing.
MOST_FEEDERS = 32


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system (macOS)
        return os.cpu_count() or 1


class LocalEngine:
    """Opened before the model is loaded, so that the decoder processes boot meanwhile. Close it when done."""

    name = "local"

    def __init__(self, config: RestoreConfig, images: int) -> None:
        wanted = worker_range(config.workers)
        most = wanted[1] if wanted else min(cores(), MOST_FEEDERS)
        self._threads = max(1, min(most, images))
        self._guards = GuardPool(self._threads, config.max_pixels, config.image_timeout or None)

    def run(
        self, plan: Plan, refs: Iterable[UnitRef], job: RestoreJob, publish: Publish, restorer: Restorer,
        console: Console,
    ) -> Iterator[Outcome]:  # fmt: skip
        """Does the units in order; an Outcome after each commit."""
        import torch

        from artgen.work import unit
        from artgen.work.restoration import Restoration

        # On a CPU every image thread runs its own forward pass, so they share the cores.
        torch.set_num_threads(max(1, cores() // self._threads) if job.device == "cpu" else cores())
        maker = Restoration(job, restorer, self._guards)
        reader = PlanReader(plan.folder, publish.options)
        try:
            units = (reader.load(ref) for ref in refs)
            yield from unit.run(
                units, maker, publish, threads=self._threads, on_image=console.image, stop=maker.stop
            )
        finally:
            maker.close()

    def close(self) -> None:
        self._guards.close()
