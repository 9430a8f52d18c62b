"""A lease that is lost to another, as by a laptop that slept: its holder stops, and leaves the other's lease alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from artgen.errors import RunError
from artgen.storage import atomic, lease
from artgen.storage import uri as uris

FOLDER = "memory://lease-test/out/_artgen"
FACTS = {"host": "h", "machine": "m", "pid": 1, "token": "other", "renewed": 0, "ended": False}
OTHERS = json.dumps(FACTS).encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    monkeypatch.setattr(lease, "SETTLE_S", 0.3)
    yield
    uris.remove("memory://lease-test")


def test_it_is_renewed_and_given_back() -> None:
    with lease.hold(FOLDER, "lock", lambda _: None):
        at_work(0.5)
        first = json.loads(uris.read_or_none(f"{FOLDER}/lock-000001") or b"")
        assert (first["ended"], first["renewed"] > 0) == (False, True)
    assert json.loads(uris.read_or_none(f"{FOLDER}/lock-000001") or b"")["ended"]
    with lease.hold(FOLDER, "lock", lambda _: None):
        assert uris.names(FOLDER) == ["lock-000002"]


def test_on_a_store_without_conditional_puts_one_of_two_who_come_at_once_holds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, write, put = threading.Barrier(2, timeout=20), atomic.write, MemoryFileSystem.pipe_file
    inside, most, writers = [], [], []

    def no_create(self: MemoryFileSystem, path: str, value: bytes, mode: str = "overwrite", **rest: Any) -> None:
        if mode == "create":
            raise NotImplementedError("A header you provided implies functionality that is not implemented")
        put(self, path, value, mode=mode, **rest)

    def slowly(place: str, data: bytes, options: Any = None) -> None:
        writers.append(place)
        if len(writers) <= 2 and both.wait():  # both have seen that nothing is there, and one is held up
            time.sleep(0.15)
        write(place, data, options)

    def run(delay_s: float) -> None:
        with lease.hold(FOLDER, "lock", lambda _: None):
            inside.append(delay_s)
            most.append(len(inside))
            at_work(delay_s)
            inside.remove(delay_s)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", no_create)
    monkeypatch.setattr(atomic, "write", slowly)
    drivers = [threading.Thread(target=run, args=(delay_s,)) for delay_s in (0.4, 0.5)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(30)
    assert most == [1, 1]


def taken_over() -> None:
    uris.remove(f"{FOLDER}/lock-000001")
    MemoryFileSystem().pipe_file("/lease-test/out/_artgen/lock-000002", OTHERS)


def written_over() -> None:
    MemoryFileSystem().pipe_file("/lease-test/out/_artgen/lock-000001", OTHERS)


def removed() -> None:
    uris.remove(f"{FOLDER}/lock-000001")


@pytest.mark.parametrize("lose", [taken_over, written_over, removed])
def test_a_holder_that_lost_it_stops_and_leaves_it_alone(lose: Callable[[], None]) -> None:
    said = "lost its lease on memory://lease-test/out/_artgen .* the same command goes on"
    left, wrote_on = [], []

    def run() -> None:
        with lease.hold(FOLDER, "lock", lambda _: None):
            lose()
            left.extend(uris.names(FOLDER))
            try:
                at_work(10.0)
            except (Exception, KeyboardInterrupt):  # after these something is written
                wrote_on.append(True)

    with pytest.raises(RunError, match=said):
        run()
    assert not wrote_on
    assert uris.names(FOLDER) == left
    assert all(uris.read_or_none(f"{FOLDER}/{name}") == OTHERS for name in left)


def test_a_lease_lost_at_the_very_end_is_left_alone() -> None:
    with lease.hold(FOLDER, "lock", lambda _: None):
        taken_over()
    assert uris.names(FOLDER) == ["lock-000002"]
    assert uris.read_or_none(f"{FOLDER}/lock-000002") == OTHERS


def at_work(seconds: float) -> None:
    """In steps, as it cannot be stopped within one call."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
