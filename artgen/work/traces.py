"""Traces of units under way: OUTPUT/_artgen/begun/<unit> stands from before the first image of the unit until its commit.

What a process left there that died is under suspicion: one of the images may have killed it, and would kill the next. Traces
are hints and no records, so nothing waits for the disk, and one of a unit that is committed by now means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from artgen.errors import StorageError
from artgen.records import Entry
from artgen.sinks import manifest
from artgen.storage import atomic, uri
from artgen.storage.ledger import Ledger, is_unit
from artgen.work import plan as plans
from artgen.work.plan import Plan, PlanReader, UnitRef

_TEXT = b"Under way. If no artgen runs: the one that began this unit has died, and the next one does it in a process of its own.\n"


class Traces:
    """Those of one run. They are put and removed by a thread of their own, in order: on a store each takes a round trip."""

    def __init__(self, output: str, options: dict[str, Any] | None = None) -> None:
        self._folder, self._options = _folder(output), options
        self._begun: set[str] = set()
        self._keeper = ThreadPoolExecutor(1, "artgen-traces")

    def begun(self, refs: Iterable[UnitRef]) -> Iterator[UnitRef]:
        """Each unit once its trace stands; that of the next one is put meanwhile. Raises StorageError."""
        ahead: tuple[UnitRef, Future[None]] | None = None
        for ref in refs:
            following = ref, self._keeper.submit(self._put, ref.id)
            if ahead is not None:
                yield self._standing(*ahead)
            ahead = following
        if ahead is not None:
            yield self._standing(*ahead)

    def ended(self, unit: str) -> None:
        """The unit is committed: its trace goes, if it has one of its own."""
        if unit in self._begun:
            self._keeper.submit(self._remove, unit)

    def drop(self) -> None:
        """The run ends in order, so nothing that is under way has killed it: all that was put goes."""
        self._keeper.submit(self._remove_all)

    def close(self) -> None:
        """Waits for what is still to be put or removed."""
        self._keeper.shutdown()

    def _standing(self, ref: UnitRef, put: Future[None]) -> UnitRef:
        put.result()
        return ref

    def _put(self, unit: str) -> None:
        self._begun.add(unit)
        atomic.write(uri.join(self._folder, unit), _TEXT, self._options)

    def _remove(self, unit: str) -> None:
        with suppress(StorageError):  # it stays, and means nothing
            uri.remove(uri.join(self._folder, unit), self._options)
        self._begun.discard(unit)

    def _remove_all(self) -> None:
        for unit in sorted(self._begun):
            self._remove(unit)


def suspects(plan: Plan, refs: list[UnitRef], options: dict[str, Any] | None = None) -> list[UnitRef]:
    """Those of the units that are still to be done whose images were under way when an earlier run died. Its plan may have
    been another, of an archive that has grown since: then the keys tell. Raises StorageError.
    """
    left = _left(plan.output, options)
    here = {unit for unit in left if plan.ref_of(unit) is not None}
    keys = {entry.source.key for entry in _entries(plan, left - here, options)}
    if not keys:
        return [ref for ref in refs if ref.unit in here]
    reader = PlanReader(plan.folder, options)
    return [
        ref
        for ref in refs
        if ref.unit in here or any(entry.source.key in keys for entry in reader.load(ref).entries)
    ]


def clear(output: str, options: dict[str, Any] | None = None) -> None:
    """The run is done: whatever traces are left are of units that were done by parts, or by another engine."""
    uri.remove(_folder(output), options)


def forsaken(plan: Plan, options: dict[str, Any] | None = None) -> set[str]:
    """Names of pictures that a process which died may have written for an earlier plan, and that no row has: those of its
    units under way, where this plan is of other images. Raises StorageError.
    """
    dead = {unit for unit in _left(plan.output, options) if plan.ref_of(unit) is None}
    if dead:  # as after nearly no run: the rows need not be listed
        dead -= {unit.partition(".")[0] for unit in Ledger(plan.output, options).units()}
    found = {entry.name for entry in _entries(plan, dead, options)}
    damaged: list[str] = []
    if found:
        for batch in manifest.read(plan.output, ["output_name"], damaged=damaged, options=options):
            found.difference_update(batch.column(0).to_pylist())
    return set() if damaged else found  # which may name them


def _left(output: str, options: dict[str, Any] | None) -> set[str]:
    return {name.partition(".")[0] for name in uri.names(_folder(output), options) if is_unit(name)}


def _entries(plan: Plan, units: set[str], options: dict[str, Any] | None) -> list[Entry]:
    """Of units of earlier plans, as far as those plans can be read."""
    found: list[Entry] = []
    with suppress(StorageError):
        for other in plans.all_plans(plan.output, options) if units else ():
            for ref in filter(None, map(other.ref_of, units)):
                found += PlanReader(other.folder, options).load(ref).entries
    return found


def _folder(output: str) -> str:
    return uri.join(output, "_artgen", "begun")
