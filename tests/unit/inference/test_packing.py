from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from artgen.errors import RestoreFailed, RunError
from artgen.inference.packing import Packer

TIMEOUT = 20.0


class Doubler:
    """Doubles numbers, notes the groups it got; fails items or whole groups on demand."""

    def __init__(self, batch: int = 4, error: Callable[[list[int]], Exception | None] = lambda items: None) -> None:
        self.groups: list[list[int]] = []
        self.error = error
        self.packer: Packer[int, int] = Packer(self.execute, lambda item: item % 2, lambda: batch)

    def execute(self, items: list[int]) -> list[int | Exception]:
        self.groups.append(items)
        time.sleep(0.001)
        error = self.error(items)
        if error is not None:
            raise error
        return [RestoreFailed("13 is bad") if item == 13 else 2 * item for item in items]


def in_threads(jobs: list[Callable[[], object]]) -> list[object]:
    """Results, or exceptions; a deadlock fails instead of hanging."""
    pool = ThreadPoolExecutor(len(jobs))
    futures = [pool.submit(job) for job in jobs]
    _, stuck = wait(futures, timeout=TIMEOUT)
    pool.shutdown(wait=not stuck, cancel_futures=True)
    assert not stuck, f"{len(stuck)} threads wait for ever"
    return [future.exception() or future.result() for future in futures]


def test_one_caller_gets_its_results_in_order() -> None:
    doubler = Doubler()
    assert doubler.packer.run([5, 2, 3, 4, 7, 9, 11]) == [10, 4, 6, 8, 14, 18, 22]
    assert [len(group) for group in doubler.groups] == [4, 2, 1]
    assert doubler.packer.run([]) == []


def test_no_group_mixes_keys_or_exceeds_the_batch() -> None:
    doubler = Doubler()
    doubler.packer.run(list(range(20, 60)))
    assert all(len({item % 2 for item in group}) == 1 and len(group) <= 4 for group in doubler.groups)


def test_batches_are_filled_from_several_threads() -> None:
    doubler = Doubler(batch=8)
    start = threading.Barrier(8)

    def work(k: int) -> list[list[int]]:
        with doubler.packer.worker():
            start.wait(TIMEOUT)
            return [doubler.packer.run([100 * k + 2 * step]) for step in range(50)]

    results = in_threads([lambda k=k: work(k) for k in range(8)])
    assert results == [[[200 * k + 4 * step] for step in range(50)] for k in range(8)]
    assert len(doubler.groups) == 50, "8 threads with one item each fill every batch of 8"


def test_the_last_one_to_wait_runs_a_partial_batch() -> None:
    doubler = Doubler(batch=100)
    start = threading.Barrier(3)

    def work(k: int) -> list[int]:
        with doubler.packer.worker():
            start.wait(TIMEOUT)
            return doubler.packer.run([2 * k])

    assert in_threads([lambda k=k: work(k) for k in range(3)]) == [[0], [4], [8]]
    assert sorted(doubler.groups[0]) == [0, 2, 4]


def test_a_worker_that_leaves_or_fails_does_not_block_the_others() -> None:
    doubler = Doubler(batch=4)
    start = threading.Barrier(4)

    def work(k: int) -> list[int]:
        with doubler.packer.worker():
            start.wait(TIMEOUT)
            if k == 0:
                time.sleep(0.05)  # the others are waiting by now
                raise KeyError("gone")
            return doubler.packer.run([2 * k])

    results = in_threads([lambda k=k: work(k) for k in range(4)])
    assert isinstance(results[0], KeyError)
    assert results[1:] == [[4], [8], [12]]


def test_one_bad_item_fails_its_owner_only() -> None:
    doubler = Doubler(batch=4)
    start = threading.Barrier(4)

    def work(k: int) -> list[int]:
        with doubler.packer.worker():
            start.wait(TIMEOUT)
            return doubler.packer.run([[11, 13, 15, 17][k]])

    results = in_threads([lambda k=k: work(k) for k in range(4)])
    assert isinstance(results[1], RestoreFailed)
    assert [results[0], results[2], results[3]] == [[22], [30], [34]]


def test_a_group_that_raises_ends_every_caller_in_it_and_no_other() -> None:
    doubler = Doubler(batch=3, error=lambda items: ZeroDivisionError("broken") if 1 in items else None)
    start = threading.Barrier(6)

    def work(k: int) -> list[int]:
        with doubler.packer.worker():
            start.wait(TIMEOUT)
            return doubler.packer.run([k])

    results = in_threads([lambda k=k: work(k) for k in range(6)])
    assert [results[0], results[2], results[4]] == [[0], [4], [8]]
    raised = [results[k] for k in (1, 3, 5)]
    assert sum(isinstance(each, ZeroDivisionError) for each in raised) == 1, "the thread that ran the group"
    assert sum(isinstance(each, RunError) and "broken" in str(each) for each in raised) == 2


def test_many_threads_of_uneven_work_never_deadlock() -> None:
    doubler = Doubler(batch=5)

    def work(k: int) -> int:
        total = 0
        for step in range(40):
            with doubler.packer.worker():
                items = list(range(k, k + (k * step) % 7 + 1))
                total += doubler.packer.run(items) == [2 * item for item in items]
                if step % 11 == k % 11:
                    time.sleep(0.002)
        return total

    # 13 is a bad item for its owner, so numbers stay clear of it.
    assert in_threads([lambda k=k: work(20 * k + 20) for k in range(12)]) == [40] * 12


def test_an_interrupted_caller_leaves_nothing_behind() -> None:
    doubler = Doubler(batch=2, error=lambda items: KeyboardInterrupt() if 1 in items else None)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        doubler.packer.run([1, 3, 5, 7])
    doubler.groups.clear()
    assert doubler.packer.run([2]) == [4]
    assert doubler.packer.run([9]) == [18]
    assert doubler.groups == [[2], [9]]
