"""After a worker has died: what is to be done again, and in what pieces, until an image that kills is alone.

A death is laid to a unit only where that unit was the only one in its worker. A unit of n images that always
kills is done whole in one pass as it came, twice alone, then in quarters; so a culprit is known after at most
4 + ceil(log4(n)) passes, and every pass makes every unit smaller, or counts a death of it, or does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from artgen.errors import RunError, WorkerDied
from artgen.records import Entry, Outcome, Row
from artgen.sinks import manifest
from artgen.storage import uri
from artgen.storage.ledger import Ledger
from artgen.work import unit as work
from artgen.work.plan import PlanReader, UnitRef
from artgen.work.unit import Job, Publish

# Deaths of a unit, alone in its worker, before it is split, and of an image before it is recorded as failed.
DEATHS = 2
# A run ends with a RunError when more images than these have killed their workers: then the machines are to blame.
MOST_DIED = 100


@dataclass(frozen=True, slots=True)
class Task:
    """A unit to be done and how often it has killed its worker, alone in it."""

    ref: UnitRef
    deaths: int = 0


def left(ref: UnitRef, ledger: Ledger) -> list[UnitRef]:
    """The parts of `ref` that are not committed."""
    parts = []
    for start, stop in ledger.missing(ref.unit, ref.stop):
        start, stop = max(start, ref.start), min(stop, ref.stop)
        if start < stop:
            whole = ref.whole and (start, stop) == (ref.start, ref.stop)
            parts.append(UnitRef(ref.unit, ref.file, ref.group, start, stop, whole))
    return parts


def replan(lost: dict[Task, list[UnitRef]], *, alone: bool) -> tuple[list[Task], list[UnitRef]]:
    """From what is left of each task after a pass: tasks for the next pass, and single images that are given up.

    `alone`: each task was the only one in its worker.
    """
    tasks: list[Task] = []
    culprits: list[UnitRef] = []
    for task, parts in lost.items():
        deaths = task.deaths + 1 if alone and parts == [task.ref] else task.deaths
        for part in parts:
            if not alone or (deaths < DEATHS and (part.whole or part.images == 1)):
                tasks.append(Task(part, deaths))
            elif part.images == 1:
                culprits.append(part)
            else:
                tasks += [Task(quarter) for half in part.halves() for quarter in _halves(half)]
    return tasks, culprits


def _halves(ref: UnitRef) -> Iterator[UnitRef]:
    yield from ref.halves() if ref.images > 1 else (ref,)


def unsaid(task: Task, parts: list[UnitRef]) -> Outcome | None:
    """Of what is not in `parts`, the rest of a task whose worker died before it could say that it was committed (or of one
    that another run did): counted, all else unknown.
    """
    images = task.ref.images - sum(part.images for part in parts)
    return Outcome(task.ref.id, images, 0, 0, 0, 0, 0.0) if images else None


def give_up(ref: UnitRef, plan_folder: str, job: Job, publish: Publish, why: str = "") -> Outcome:
    """Commits the failed row of an image that kills its worker. why: as of `died`. Raises RunError on `on_error="stop"`."""
    (entry,) = PlanReader(plan_folder, publish.options).load(ref).entries
    row = died(entry, job, ref.id, why)
    if publish.on_error == "stop":
        raise work.stopped(row)
    manifest.write(publish.output, ref.id, [row], publish.options)
    return work.outcome(ref.id, [row])


def too_many_died() -> RunError:
    """What ends a run beyond MOST_DIED images; the others have their rows, so the same command gets further each time."""
    return RunError(f"more than {MOST_DIED} images ended their workers: look at the machines first")


def died(entry: Entry, job: Job, unit_id: str, why: str = "") -> Row:
    """The failed row of an image that killed its worker DEATHS times, alone. why: how it died, as far as is known."""
    why = why or "its process was killed, crashed or ran out of memory"
    known: dict[str, Any] = {
        "key": entry.source.key, "source_uri": uri.shown(entry.source.uri), "source_version": entry.version, "status": "failed",
        "error_type": WorkerDied.__name__, "model": uri.shown(job.model), "model_sha256": job.model_sha256, "seconds": 0.0,
        "attempts": entry.attempts, "notes": "", "unit": unit_id,
        "error_message": f"this image alone ended its worker {DEATHS} times ({why}): {job.advice}",
    }  # fmt: skip
    return Row(**{**dict.fromkeys(Row._fields), **known})
