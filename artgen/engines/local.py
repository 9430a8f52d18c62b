"""The local engine: units in this process, one image a thread, no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from artgen.codecs.pool import GuardPool
from artgen.config import RestoreConfig, RunConfig, worker_range
from artgen.console import Console
from artgen.records import Outcome
from artgen.work.plan import Plan, PlanReader, UnitRef

if TYPE_CHECKING:
    from artgen.work.unit import Job, Publish

# Beyond this many threads that decode and encode, one accelerator gains nothing.
MOST_FEEDERS = 32


class Devices(NamedTuple):
    """Where the model runs: in whoever carries the units, and the copy of it in this process."""

    carriers: str
    here: str


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system (macOS)
        return os.cpu_count() or 1


def image_threads(workers: str, images: int) -> int:
    """Threads that do one image each, for `--workers` and so many images."""
    wanted = worker_range(workers)
    return max(1, min(wanted[1] if wanted else min(cores(), MOST_FEEDERS), images))


class LocalEngine:
    """Opened before the model is loaded, so that the decoder processes boot meanwhile; a job that reads no images has
    none. Close it when done."""

    name = "local"

    def __init__(self, config: RunConfig, images: int) -> None:
        self._device = config.device
        self._threads = image_threads(config.workers, images)
        self._guards: GuardPool | None = None
        if isinstance(config, RestoreConfig):
            self._guards = GuardPool(self._threads, config.max_pixels, config.image_timeout or None)

    def devices(self) -> Devices:
        """Of --device, on this machine. Raises UsageError for one that does not work here."""
        from artgen.training.rank import pick_device

        device = pick_device(self._device)
        return Devices(device, device)

    def run(
        self, plan: Plan, refs: Iterable[UnitRef], job: Job, publish: Publish, model: Any, console: Console
    ) -> Iterator[Outcome]:  # fmt: skip
        """Does the units in order; an Outcome after each commit."""
        import torch

        from artgen.work import unit

        threads = torch.get_num_threads()
        torch.set_num_threads(job.torch_threads(cores(), self._threads))
        maker = job.open(model, self._threads, self._guards)
        reader = PlanReader(plan.folder, publish.options)
        try:
            units = (reader.load(ref) for ref in refs)
            yield from unit.run(
                units, maker, publish, threads=self._threads, on_image=console.image, stop=maker.stop
            )
        finally:
            maker.close()
            torch.set_num_threads(threads)  # a notebook that called us has its own work to do

    def close(self) -> None:
        """Ends the decoder processes."""
        if self._guards is not None:
            self._guards.close()
