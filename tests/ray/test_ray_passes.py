"""Who is blamed when workers die, and in what portions units are carried: the pipelines are played, Ray is not started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from artgen.engines import isolation, ray_cluster, ray_passes
from artgen.engines.answer import Answer
from artgen.engines.isolation import Task
from artgen.engines.ray_cluster import Pool
from artgen.engines.ray_worker import Worker
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.sinks import manifest
from artgen.work.plan import UnitRef
from artgen.work.unit import Publish


class Played:
    """Every image kills its worker but those of units in `good`."""

    def __init__(self, output: Path, monkeypatch: pytest.MonkeyPatch, good: frozenset[str] = frozenset()) -> None:
        self.output, self.good = str(output), good
        self.passes: list[list[Task]] = []
        self.left: list[int] = []
        played = SimpleNamespace(left=self.left.append, done=lambda _: None, gave_up=lambda: None)
        monkeypatch.setattr(ray_passes, "Progress", lambda _: played)
        monkeypatch.setattr(ray_passes, "_pass", self._pass)
        monkeypatch.setattr(isolation, "give_up", self._give_up)
        monkeypatch.setattr(ray_passes.ray, "nodes", list)
        monkeypatch.setattr(ray_cluster, "pool", lambda *_, **__: Pool(2, 2, 1, 0))

    def run(self, units: list[str]) -> list[str]:
        """The units of which there is an outcome."""
        tasks = [Task(UnitRef(unit, "units-00000.parquet", n, 0, 1)) for n, unit in enumerate(units)]
        job = SimpleNamespace(device="cpu")
        orders: Any = SimpleNamespace(plan_folder="", publish=Publish(self.output, ("png",)), job=job)
        events = ray_passes.passes(tasks, orders, "2", False, Worker)
        return [event.unit for event in events if isinstance(event, Outcome)]

    def committed(self) -> set[str]:
        return {path.stem.removeprefix("part-") for path in Path(self.output, "manifest").glob("part-*")}

    def _pass(self, tasks: list[Task], *_: Any) -> Iterator[Answer]:
        self.passes.append(tasks)
        for task in tasks:
            if task.ref.id in self.good:
                manifest.write(self.output, task.ref.id, [])
                yield Answer(task.ref.id, "host", Outcome(task.ref.id, 1, 0, 0, 0, 0, 0.0))

    def _give_up(self, ref: UnitRef, *_: Any) -> Outcome:
        manifest.write(self.output, ref.id, [])
        return Outcome(ref.id, 1, 1, 0, 0, 0, 0.0)


def units(count: int) -> list[str]:
    return [f"00000000-{number:06d}" for number in range(count)]


def test_units_that_all_die_at_the_first_try_are_laid_to_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch)
    with pytest.raises(RunError, match="no image is to blame"):
        played.run(units(ray_passes.FEWEST_UNITS))
    assert played.committed() == set()


def test_poison_that_is_left_of_an_earlier_run_gets_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed after its good units, an archive grown by bad images, --retry-failed."""
    played = Played(tmp_path, monkeypatch)
    manifest.write(str(tmp_path), "00000000-999999", [])
    poison = units(ray_passes.FEWEST_UNITS)
    assert sorted(played.run(poison)) == poison
    assert played.committed() == {*poison, "00000000-999999"}


def test_more_poison_than_a_run_bears_is_done_by_running_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, good = units(isolation.MOST_DIED + 5), "00000000-999999"
    played = Played(tmp_path, monkeypatch, frozenset({good}))
    with pytest.raises(RunError, match="look at the machines first"):
        played.run([*poison, good])
    rest = [unit for unit in poison if unit not in played.committed()]
    assert len(rest) == 5
    assert sorted(played.run(rest)) == rest


def test_before_a_gpu_is_up_only_a_unit_for_each_actor_is_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = units(10)
    played = Played(tmp_path, monkeypatch, frozenset(every))
    pools = iter([Pool(2, 16, 4, 1, guessed=True), Pool(2, 16, 15, 1)])
    monkeypatch.setattr(ray_cluster, "pool", lambda *_, **__: next(pools))
    assert played.run(every) == every
    assert [len(tasks) for tasks in played.passes] == [2, 8]


def test_many_units_go_in_portions_and_what_is_left_counts_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_passes, "UNITS_AT_ONCE", 4)
    monkeypatch.setattr(ray_passes, "UNITS_FOR_ACTOR", 1)
    every = units(10)
    played = Played(tmp_path, monkeypatch, frozenset(every))
    assert played.run(every) == every
    assert [len(tasks) for tasks in played.passes] == [4, 4, 2]
    assert played.left == [6, 2, 0]
