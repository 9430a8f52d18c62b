from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from artgen.errors import StorageError
from artgen.storage import ahead
from artgen.storage.ahead import AT_ONCE, MOST_TASKS, MOST_THINGS, Task, through


class Late(Task[int]):
    """A task that takes as long as it says, and counts how many are at work."""

    at_work = most = 0
    lock = threading.Lock()

    def __init__(
        self, number: int, wait_s: float = 0.0, error: Exception | None = None, busy: bool = False
    ) -> None:
        self.number, self.wait_s, self.error, self.busy = number, wait_s, error, busy
        self.stopped = self.closed = False

    def work(self, stop: threading.Event) -> int:
        with Late.lock:
            Late.at_work += 1
            Late.most = max(Late.most, Late.at_work)
        self.stopped = stop.wait(self.wait_s)
        with Late.lock:
            Late.at_work -= 1
        if self.error is not None:
            raise self.error
        return self.number

    def found(self) -> Iterator[int]:
        yield self.result()

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@pytest.fixture(autouse=True)
def nobody_at_work():
    Late.at_work = Late.most = 0


def crew() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("artgen-ahead")]


def test_the_order_is_that_of_the_stream_whatever_is_done_first():
    draw = random.Random(1)
    things = [n if draw.random() < 0.5 else Late(n, draw.random() / 50) for n in range(200)]
    assert list(through(iter(things))) == list(range(200))
    assert Late.most > 4
    assert all(thing.closed for thing in things if isinstance(thing, Late))
    assert not crew()


def test_what_is_ahead_is_bounded():
    taken = 0

    def stream(tasks: bool):
        nonlocal taken
        for number in range(20_000):
            taken += 1
            yield Late(number, busy=number % 2 > 0) if tasks or not number else number

    for tasks, most in ((True, MOST_TASKS), (False, MOST_THINGS)):
        taken = 0
        found = through(stream(tasks))
        assert next(found) == 0
        assert taken == most
        found.close()


def test_as_many_are_busy_as_there_are_cores(monkeypatch):
    monkeypatch.setattr(ahead, "cores", lambda: 3)
    assert len(list(through(Late(n, 0.01, busy=True) for n in range(40)))) == 40
    assert Late.most == 3
    Late.most = 0
    assert len(list(through(Late(n, 0.01) for n in range(80)))) == 80
    assert 3 < Late.most <= AT_ONCE


def test_without_tasks_there_is_no_thread_and_nothing_is_taken_early(monkeypatch):
    monkeypatch.setattr(ahead, "ThreadPoolExecutor", lambda *_, **__: pytest.fail("a thread"))
    here = Late(2)
    here.ahead = False
    monkeypatch.setattr(here, "result", lambda: 2)
    stream = iter([1, here, 3, 4])
    found = through(stream)
    assert [next(found), next(found)] == [1, 2]
    assert next(stream) == 3
    assert list(found) == [4]
    assert here.closed


def test_errors_come_out_in_their_place():
    def stream():
        yield from (0, Late(1, 0.05), 2)
        raise StorageError("of the stream")

    for things, wanted, error in (
        (stream(), [0, 1, 2], "of the stream"),
        (iter([0, Late(1), Late(2, error=StorageError("of a task")), 3]), [0, 1], "of a task"),
    ):
        found = through(things)
        assert [next(found) for _ in wanted] == wanted
        with pytest.raises(StorageError, match=error):
            next(found)
        assert not crew()


@pytest.mark.parametrize("ending", ["closed", "failed"])
def test_an_early_end_stops_the_tasks(ending):
    things = [Late(n, 60) for n in range(100)]
    things[0].wait_s = 0
    found = through(iter(things))
    assert next(found) == 0
    if ending == "closed":
        found.close()
    else:
        with pytest.raises(ZeroDivisionError):
            found.throw(ZeroDivisionError())
    assert not crew()
    assert 0 < sum(thing.stopped for thing in things) <= AT_ONCE
    assert [thing.closed for thing in things] == [n < MOST_TASKS for n in range(100)]
