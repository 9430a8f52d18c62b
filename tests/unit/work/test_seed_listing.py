from __future__ import annotations

import time
import tracemalloc
from collections import deque
from pathlib import Path

import pytest

from artgen.errors import UsageError
from artgen.records import Row
from artgen.sinks import manifest
from artgen.storage.ledger import Ledger
from artgen.work import plan as plans
from artgen.work.plan import Plan, PlanReader
from artgen.work.seed_listing import SeedListing
from artgen.work.seeds import Seeds
from tests.outputs import row

SETTINGS = {"command": "generate", "extension": ".png"}


def prepared(output: Path, seeds: str, unit_images: int = 4) -> Plan:
    return plans.prepare(SeedListing(Seeds.parse(seeds)), str(output), SETTINGS, unit_images=unit_images)


def pending(plan: Plan) -> list[int]:
    reader = PlanReader(plan.folder)
    refs = plan.pending(Ledger(plan.output))
    return [entry.source.offset for ref in refs for entry in reader.load(ref).entries]


def commit(plan: Plan, part: str) -> None:
    rows: list[Row] = [row("any", unit=part)]
    manifest.write(plan.output, part, rows)


def test_units_are_ranges_of_the_seeds(tmp_path: Path) -> None:
    plan = prepared(tmp_path, "0-5,100-104")
    units = [PlanReader(plan.folder).load(ref) for ref in plan.refs()]
    assert [[entry.source.offset for entry in unit.entries] for unit in units] == [
        [0, 1, 2, 3], [4, 5, 100, 101], [102, 103, 104],
    ]  # fmt: skip
    assert sorted(path.name for path in Path(plan.folder).iterdir()) == ["plan.json"]


def test_the_same_command_takes_up_the_same_plan(tmp_path: Path) -> None:
    plan = prepared(tmp_path, "0-9")
    commit(plan, f"{plan.hash[:8]}-000001")
    again = prepared(tmp_path, "0-4,5-9")
    assert again == plan
    assert pending(again) == [0, 1, 2, 3, 8, 9]


def test_seeds_of_a_plan_that_is_gone_are_known_by_their_rows(tmp_path: Path) -> None:
    first = prepared(tmp_path, "0-9")
    for ref in list(first.refs())[:2]:
        rows = [
            row(str(entry.source.offset), unit=ref.id, seed=entry.source.offset)
            for entry in PlanReader(first.folder).load(ref).entries
        ]
        manifest.write(first.output, ref.id, rows)
    (Path(first.folder) / "plan.json").unlink()  # damaged, and removed as the error says
    (tmp_path / "_artgen" / "current.json").unlink()
    assert pending(prepared(tmp_path, "0-14")) == [8, 9, 10, 11, 12, 13, 14]


def test_more_seeds_are_planned_without_those_that_are_done(tmp_path: Path) -> None:
    first = prepared(tmp_path, "0-9")
    commit(first, f"{first.hash[:8]}-000000")
    commit(first, f"{first.hash[:8]}-000001.1-3")  # what is left of a unit that was split
    second = prepared(tmp_path, "2-14", unit_images=3)
    assert pending(second) == [4, 7, 8, 9, 10, 11, 12, 13, 14]
    commit(second, f"{second.hash[:8]}-000001")
    third = prepared(tmp_path, "0-14")
    assert pending(third) == [4, 7, 8, 12, 13, 14]
    assert pending(prepared(tmp_path, "5-6,9-11")) == []


def test_halves_of_a_unit_are_the_whole(tmp_path: Path) -> None:
    plan = prepared(tmp_path, "0-99", unit_images=100)
    (ref,) = plan.refs()
    whole = PlanReader(plan.folder).load(ref).entries
    halves = [entry for half in ref.halves() for entry in PlanReader(plan.folder).load(half).entries]
    assert tuple(halves) == whole


def test_other_settings_are_refused(tmp_path: Path) -> None:
    prepared(tmp_path, "0-9")
    with pytest.raises(UsageError, match=r"truncation: was None, now 0\.5"):
        plans.prepare(SeedListing(Seeds.parse("0-9")), str(tmp_path), {**SETTINGS, "truncation": 0.5})


def test_a_billion_seeds_are_planned_at_once_and_loaded_a_unit_at_a_time(tmp_path: Path) -> None:
    tracemalloc.start()
    started = time.monotonic()
    plan = prepared(tmp_path, "0-999999999", unit_images=10_016)
    assert plan.units == 99_841
    (last,) = deque(plan.refs(), maxlen=1)
    entries = PlanReader(plan.folder).load(last).entries
    assert entries[-1].source.offset == 999_999_999
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert time.monotonic() - started < 30
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10_000
