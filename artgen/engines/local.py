"""The local engine: units in this process, one image a thread, no Ray."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from artgen.child import cores
from artgen.codecs.pool import GuardPool
from artgen.config import RestoreConfig, RunConfig, worker_range
from artgen.console import Console
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.text import plural
from artgen.work.plan import Plan, PlanReader, UnitRef
from artgen.work.traces import Traces
from artgen.work.traces import suspects as suspects_of

if TYPE_CHECKING:
    from artgen.work.unit import Job, Publish

# Beyond this many threads that decode and encode, one accelerator gains nothing.
MOST_FEEDERS = 32


class Devices(NamedTuple):
    """Where the model runs: in whoever carries the units, and the copy of it in this process."""

    carriers: str
    here: str


def image_threads(workers: str, images: int) -> int:
    """Threads that do one image each, for `--workers` and so many images."""
    wanted = worker_range(workers)
    return max(1, min(wanted[1] if wanted else min(cores(), MOST_FEEDERS), images))


class LocalEngine:
    """Opened before the model is loaded, so that the decoder processes boot meanwhile; a job that reads no images has
    none. Close it when done."""

    name = "local"

    def __init__(self, config: RunConfig, images: int) -> None:
        self._device, self._reads = config.device, config.reads
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
        """Does the units in order; an Outcome after each commit. Units that were under way when an earlier run died come first,
        in a process of their own, and so do all others where that dies as well: an image that kills becomes a failed row.
        """
        refs, traces = list(refs), Traces(publish.output, publish.options)
        try:
            suspects = self._suspects(plan, refs, job, publish)
            if suspects:
                orders = (plan.folder, job, publish, self._threads)
                refs = yield from _apart(
                    suspects, [ref for ref in refs if ref not in suspects], orders, traces, console
                )
            if refs:
                yield from self._here(plan, refs, job, publish, model, traces, console)
        finally:
            traces.close()

    def close(self) -> None:
        """Ends the decoder processes."""
        if self._guards is not None:
            self._guards.close()

    def _suspects(self, plan: Plan, refs: list[UnitRef], job: Job, publish: Publish) -> list[UnitRef]:
        """None where only this process sees the pictures."""
        here = any("memory://" in place for place in (*self._reads, publish.output, job.model))
        return [] if here else suspects_of(plan, refs, publish.options)

    def _here(
        self, plan: Plan, refs: list[UnitRef], job: Job, publish: Publish, model: Any, traces: Traces, console: Console
    ) -> Iterator[Outcome]:  # fmt: skip
        """The units in this process."""
        import torch

        from artgen.work import unit

        threads = torch.get_num_threads()
        torch.set_num_threads(job.torch_threads(cores(), self._threads))
        maker = job.open(model, self._threads, self._guards)
        reader = PlanReader(plan.folder, publish.options)
        try:
            units = (reader.load(ref) for ref in traces.begun(refs))
            done = unit.run(units, maker, publish, threads=self._threads, on_image=console.image, stop=maker.stop)
            with closing(done) as outcomes:
                for outcome in outcomes:
                    traces.ended(outcome.unit)
                    yield outcome
        except (Exception, KeyboardInterrupt, GeneratorExit):  # not where OUTPUT was lost to another run
            traces.drop()
            raise
        finally:
            maker.close()
            torch.set_num_threads(threads)  # a notebook that called us has its own work to do


def _apart(
    suspects: list[UnitRef], rest: list[UnitRef], orders: tuple[str, Job, Publish, int], traces: Traces, console: Console
) -> Generator[Outcome, None, list[UnitRef]]:  # fmt: skip
    """The suspects in a process of their own; returns what is left to be done in this one. Their traces go with their commits
    alone: a run that ends before has proven nothing.
    """
    from artgen.engines.cell import Orders
    from artgen.engines.quarantine import Quarantine

    images = plural(sum(ref.images for ref in suspects), "image")
    console.say(f"{images} under way when the last run died: doing them first, in a process of their own")
    try:
        quarantine = Quarantine(Orders(*orders), console.say)
    except (RunError, TypeError) as error:
        console.say(f"{error}; doing them in this one")
        return [*suspects, *rest]

    with quarantine:
        for outcome in quarantine.run(traces.begun(suspects), traces.begun(rest)):
            traces.ended(outcome.unit)
            console.unit(outcome)
            yield outcome
    return [] if quarantine.deaths else rest
