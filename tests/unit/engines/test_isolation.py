from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from artgen.engines import isolation
from artgen.engines.isolation import DEATHS, Task
from artgen.inference.restore import RestoreOptions
from artgen.records import Entry, Source
from artgen.sinks import manifest
from artgen.storage.ledger import Ledger
from artgen.work.plan import UnitRef
from artgen.work.restoration import RestoreJob

UNIT = "0123abcd-000000"


def ref(start: int, stop: int, whole: bool = False) -> UnitRef:
    return UnitRef(UNIT, "units-00000.parquet", 0, start, stop, whole)


def commit(output: Path, *ids: str) -> Ledger:
    for unit_id in ids:
        manifest.write(str(output), unit_id, [])
    return Ledger(str(output))


def test_left_of_a_unit_is_what_no_part_covers(tmp_path: Path) -> None:
    assert isolation.left(ref(0, 16, whole=True), commit(tmp_path / "none")) == [ref(0, 16, whole=True)]
    split = commit(tmp_path / "split", f"{UNIT}.0-4", f"{UNIT}.8-12")
    assert isolation.left(ref(0, 16, whole=True), split) == [ref(4, 8), ref(12, 16)]
    assert isolation.left(ref(0, 4), split) == []
    assert isolation.left(ref(2, 6), split) == [ref(4, 6)]
    assert isolation.left(ref(4, 8), split) == [ref(4, 8)]
    assert isolation.left(ref(0, 16, whole=True), commit(tmp_path / "whole", UNIT)) == []


@pytest.mark.parametrize("images", [1, 2, 3, 16, 100, 10_000])
def test_culprits_are_found_in_the_stated_number_of_passes(images: int, tmp_path: Path) -> None:
    """Passes over a unit with two images that always kill, the committed parts kept as ranges."""
    killers = {0, images - 1}
    nothing = commit(tmp_path)
    tasks, found, done, deaths = [Task(ref(0, images, whole=True))], set(), set(), 0
    passes = 0
    while tasks:
        alone, passes = passes > 0, passes + 1
        following = []
        for task in tasks:
            covered = set(range(task.ref.start, task.ref.stop))
            if covered & killers:
                deaths += 1
                lost = {task: isolation.left(task.ref, nothing)}
                more, culprits = isolation.replan(lost, alone=alone)
                following += more
                found |= {culprit.start for culprit in culprits}
            else:
                assert not done & covered
                done |= covered
        tasks = following
    assert found == killers
    assert done == set(range(images)) - killers
    assert passes <= 1 + DEATHS + math.ceil(math.log(images, 4)) + DEATHS
    assert deaths <= 2 * passes


def test_a_death_beside_others_is_laid_to_nobody() -> None:
    task = Task(ref(3, 4))
    assert isolation.replan({task: [task.ref]}, alone=False) == ([task], [])
    once = Task(task.ref, 1)
    assert isolation.replan({task: [task.ref]}, alone=True) == ([once], [])
    assert isolation.replan({once: [task.ref]}, alone=True) == ([], [task.ref])


def test_the_row_of_a_culprit_is_a_row_of_the_manifest(tmp_path: Path) -> None:
    entry = Entry(Source("a/bad.png", "in/a/bad.png", "file", 0, 9, "", "9-1"), "a/bad.png", None, 3)
    job = RestoreJob("default", "ab" * 32, RestoreOptions(tile=512, overlap=32))
    row = isolation.died(entry, job, f"{UNIT}.3-4", "ValueError: no")
    manifest.write(str(tmp_path), f"{UNIT}.3-4", [row])
    (read,) = pq.read_table(tmp_path / "manifest" / f"part-{UNIT}.3-4.parquet").to_pylist()
    assert (read["key"], read["status"], read["error_type"], read["attempts"]) == (
        "a/bad.png",
        "failed",
        "WorkerDied",
        3,
    )
    assert "ValueError: no" in read["error_message"]
    assert read["source_version"] == "9-1"
