from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from artgen.errors import RunError
from artgen.records import Entry, Row, Source, Unit
from artgen.sinks import manifest
from artgen.storage import atomic
from artgen.work import unit
from artgen.work.unit import Made, Publish
from tests import pictures


def entry(number: int) -> Entry:
    return Entry(Source(key=f"{number:03d}", uri="", kind="file"), name=f"{number:03d}.png")


def units(sizes: list[int]) -> Iterator[Unit]:
    first = 0
    for number, size in enumerate(sizes):
        yield Unit(f"0000abcd-{number:06d}", tuple(entry(n) for n in range(first, first + size)))
        first += size


class Maker:
    """Makes small pictures in random time; keys in `bad` fail."""

    at_once = 1

    def __init__(self, bad: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.bad, self.inside, self.most, self.lock = bad, 0, 0, threading.Lock()

    def make(self, entries: Sequence[Entry]) -> list[Made]:
        return [self.one(entry) for entry in entries]

    def one(self, entry: Entry) -> Made:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(random.random() / 200)
        with self.lock:
            self.inside -= 1
        key = entry.source.key
        failed = key in self.bad
        row = Row(
            key=key, source_uri="", source_sha256="", source_bytes=1, source_version="", width=4, height=4, mode="RGB", bits=8,
            status="failed" if failed else "ok", error_type="DecodeFailed" if failed else None,
            error_message="bad" if failed else None, output_name=entry.name, output_uri=None, output_sha256="", output_bytes=1,
            model="m", model_sha256="0", noise_before=1.0, noise_after=1.0, change_mean=0.0, change_max=0.0, seconds=0.0,
            attempts=1, notes="", unit="",
        )  # fmt: skip
        return Made(row, None if failed else pictures.png(pictures.picture(int(key), 8, 8)))


def rows(output: Path) -> list[dict]:
    return [row for batch in manifest.read(str(output)) for row in batch.to_pylist()]


@pytest.mark.parametrize("threads", [1, 4])
def test_units_are_committed_in_order_with_every_entry_once(tmp_path: Path, threads: int) -> None:
    sizes = [1, 5, 2, 7, 1, 1, 3]
    maker = Maker(bad={"003"})
    outcomes = list(unit.run(units(sizes), maker, Publish(str(tmp_path), ("png", "parquet")), threads=threads))
    assert [outcome.images for outcome in outcomes] == sizes
    assert sum(outcome.failed for outcome in outcomes) == 1
    assert [row["key"] for row in rows(tmp_path)] == [f"{n:03d}" for n in range(sum(sizes))]
    assert maker.most <= threads
    assert len(list((tmp_path / "images").iterdir())) == sum(sizes) - 1


@pytest.mark.parametrize("threads", [1, 3])
def test_a_maker_is_given_what_it_does_at_once_and_never_entries_of_two_units(tmp_path: Path, threads: int) -> None:
    class Several(Maker):
        at_once = 3

        def __init__(self) -> None:
            super().__init__()
            self.calls: list[list[str]] = []

        def make(self, entries: Sequence[Entry]) -> list[Made]:
            self.calls.append([entry.source.key for entry in entries])
            return super().make(entries)

    maker = Several()
    list(unit.run(units([7, 2, 3]), maker, Publish(str(tmp_path), ("png",)), threads=threads))
    assert sorted(maker.calls) == [
        ["000", "001", "002"], ["003", "004", "005"], ["006"], ["007", "008"], ["009", "010", "011"],
    ]  # fmt: skip
    assert [row["key"] for row in rows(tmp_path)] == [f"{n:03d}" for n in range(12)]


def test_a_slow_store_takes_pictures_of_all_threads_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=30)
    write = atomic.write

    def slow(place: str, *rest: Any, **settings: Any) -> None:
        if "/images/" in place:
            both.wait()  # a BrokenBarrierError where one is written after the other
        write(place, *rest, **settings)

    monkeypatch.setattr(atomic, "write", slow)
    list(unit.run(units([3, 5]), Maker(), Publish(str(tmp_path), ("png",)), threads=2))
    assert [row["output_uri"] for row in rows(tmp_path)] == [f"images/{n:03d}.png" for n in range(8)]
    assert len(list((tmp_path / "images").iterdir())) == 8


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux only")
def test_units_that_were_begun_keep_nothing_open(tmp_path: Path) -> None:
    """Of a run that ends early, by an error and by a caller that has had enough, and of one that ends well."""

    def open_here() -> list[str]:
        places = (Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
        return [place for place in (os.readlink(p) for p in places if p.is_symlink()) if str(tmp_path) in place]

    publish = Publish(str(tmp_path), ("png", "parquet", "webdataset"), on_error="stop")
    list(unit.run(units([2, 2]), Maker(), publish, threads=2))
    with pytest.raises(RunError, match="001"):
        list(unit.run(units([1] * 9), Maker(bad={"001"}), publish, threads=4))
    early = unit.run(units([1] * 9), Maker(), publish, threads=4)
    next(early)
    assert open_here() != []
    early.close()
    assert open_here() == []


def test_threads_do_not_change_bytes(tmp_path: Path) -> None:
    trees = []
    for threads in (1, 4):
        output = tmp_path / str(threads)
        list(unit.run(units([4, 4]), Maker(), Publish(str(output), ("parquet", "webdataset")), threads=threads))
        trees.append(
            [path.read_bytes() for folder in ("parquet", "shards") for path in sorted((output / folder).iterdir())]
        )
    assert trees[0] == trees[1]


def test_an_error_leaves_committed_units_and_no_half_of_another(tmp_path: Path) -> None:
    publish = Publish(str(tmp_path), ("parquet",), on_error="stop")
    with pytest.raises(RunError, match="004"):
        list(unit.run(units([3, 3, 3]), Maker(bad={"004"}), publish, threads=3))
    assert [row["key"] for row in rows(tmp_path)] == ["000", "001", "002"]
    assert len(list((tmp_path / "parquet").iterdir())) == 1


def test_units_are_taken_as_they_are_needed(tmp_path: Path) -> None:
    taken = []

    def endless() -> Iterator[Unit]:
        for number in range(10**9):
            taken.append(number)
            yield Unit(f"0000abcd-{number:06d}", (entry(number),))

    outcomes = unit.run(endless(), Maker(), Publish(str(tmp_path), ("png",)), threads=2)
    next(outcomes)
    assert len(taken) < 12
    outcomes.close()  # type: ignore[attr-defined]


def test_an_error_stops_the_images_under_way_before_it_waits_for_them(tmp_path: Path) -> None:
    class Endless(Maker):
        stopped = threading.Event()

        def one(self, entry: Entry) -> Made:
            if entry.source.key == "003" and not self.stopped.wait(30):
                raise TimeoutError("nobody stopped this image")
            return super().one(entry)

    maker = Endless(bad={"000"})
    publish = Publish(str(tmp_path), ("png",), on_error="stop")
    with pytest.raises(RunError, match="000"):
        list(unit.run(units([4]), maker, publish, threads=2, stop=maker.stopped.set))
    assert maker.stopped.is_set()


def test_units_of_a_plan_that_another_has_replaced_are_not_committed(tmp_path: Path) -> None:
    """The workers of a driver that was asleep, and has lost OUTPUT meanwhile."""
    current = tmp_path / "_artgen" / "current.json"
    current.parent.mkdir()
    current.write_text('{"plan": "mine"}')
    running = unit.run(units([2, 2]), Maker(), Publish(str(tmp_path), ("png", "parquet"), plan="mine"))
    assert next(running).images == 2
    current.write_text('{"plan": "another"}')
    with pytest.raises(RunError, match="another run has planned this OUTPUT anew"):
        next(running)
    assert len(list((tmp_path / "manifest").iterdir())) == len(list((tmp_path / "parquet").iterdir())) == 1
    before = sorted((tmp_path / "images").iterdir())
    with pytest.raises(RunError, match="another run has planned this OUTPUT anew"):
        list(unit.run(units([2, 2, 2]), Maker(), Publish(str(tmp_path), ("png",), plan="mine"), threads=4))
    assert sorted((tmp_path / "images").iterdir()) == before, "nothing is written of a unit that was not begun"


def test_a_failed_image_has_no_picture_of_an_attempt_that_died(tmp_path: Path) -> None:
    """Its process was killed after the picture and before the rows; then the source changed."""
    pictures.write_folder(tmp_path / "images", {"001.png": b"of the source as it was"})
    list(unit.run(units([3]), Maker(bad={"001"}), Publish(str(tmp_path), ("png",))))
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["000.png", "002.png"]
    assert [row["status"] for row in rows(tmp_path)] == ["ok", "failed", "ok"]
