"""The seeds of a command as `plan.prepare` sees them: arithmetic in place of a listing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from artgen.records import Entry, Skipped
from artgen.sinks import manifest
from artgen.storage.ledger import Ledger
from artgen.work.plan import all_plans
from artgen.work.seeds import Seeds


class SeedListing:
    """As `listing.Listing`, of seeds: none is skipped, and none changes."""

    root = "seeds"
    skipped = changed = masked = gone = 0
    first_gone = ""
    first_skipped: tuple[Skipped, ...] = ()

    def __init__(self, seeds: Seeds) -> None:
        self._all = self.seeds = seeds
        self.damaged: list[str] = []
        self.committed: list[str] = []

    def count(self) -> int:
        """Pictures still to be done."""
        return len(self.seeds)

    def digest(self, *, todo: bool = False) -> str:
        """SHA-256 of all seeds or of those still to be done."""
        return hashlib.sha256(f"seeds {self.seeds if todo else self._all}".encode()).hexdigest()

    def subtract_done(self, output: str, *, retry_failed: bool, options: dict[str, Any] | None = None) -> None:
        """Leaves in `seeds` those that no committed unit in OUTPUT holds. Rows are read only of units whose plan is gone, and
        those that cannot be read are named in `damaged`."""
        ledger = Ledger(output, options)
        done: list[tuple[int, int]] = []
        planless = self.committed = ledger.units()
        for plan in all_plans(output, options):
            planless = [unit for unit in planless if plan.ref_of(unit) is None]
            planned = Seeds.parse(plan.seeds)
            left: list[tuple[int, int]] = []
            for ref in plan.pending(ledger):
                first = ref.group * plan.unit_images
                left += planned.part(first + ref.start, first + ref.stop).ranges
            done += planned.without(Seeds.of(left)).ranges
        self.damaged.clear()
        for batch in manifest.read(output, ["seed"], units=planless, damaged=self.damaged, options=options):
            done += [(seed, seed + 1) for seed in batch.column(0).drop_null().to_pylist()]
        self.seeds = self._all.without(Seeds.of(done))

    def drop_stale(self, output: str, options: dict[str, Any] | None = None) -> None:
        """A picture follows from its seed and the settings, so none is ever stale."""

    def entries(self, extension: str) -> Iterator[Entry]:
        """A plan of seeds holds the seeds themselves and no entries."""
        return iter(())
