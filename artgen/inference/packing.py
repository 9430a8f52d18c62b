"""Items of many threads packed into full batches, run by whichever thread fills one. No torch, no own thread.

A worker thread hands in items and waits. Whoever completes a group of one key to a full batch runs it, for all.
When every active worker waits, nobody is left to fill a batch, so the last one to wait runs a partial one.
"Active" is what `worker()` counts, which makes "every" well defined and a deadlock impossible: a thread that
leaves, also by an error, wakes the others, and one of them finds that all are waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from artgen.errors import ArtgenError, RunError

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Caller:
    """One call of `run`: how many of its jobs are not done yet."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class _Job(Generic[Item, Result]):
    __slots__ = ("caller", "done", "error", "item", "result")

    def __init__(self, item: Item, caller: _Caller) -> None:
        self.item = item
        self.caller = caller
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.done = False


class Packer(Generic[Item, Result]):
    """`execute(items)` gets 1 to `batch()` items of one key and returns one result, or one exception, per item.

    It runs in a caller's thread, never under the packer's lock, and may run in several threads at once.
    """

    def __init__(
        self,
        execute: Callable[[list[Item]], list[Result | Exception]],
        key: Callable[[Item], Hashable],
        batch: Callable[[], int],
    ) -> None:
        self._execute, self._key, self._batch = execute, key, batch
        self._waiting: dict[Hashable, list[_Job[Item, Result]]] = {}  # by key, oldest first
        self._condition = threading.Condition()
        self._active = 0
        self._asleep: set[_Caller] = set()
        self._thread = threading.local()

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Counts the calling thread as one that may hand in more items; nests."""
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = depth + 1
        if depth == 0:
            with self._condition:
                self._active += 1
        try:
            yield
        finally:
            self._thread.depth = depth
            if depth == 0:
                with self._condition:
                    self._active -= 1
                    self._condition.notify_all()

    def run(self, items: Sequence[Item]) -> list[Result]:
        """The results of `items`, in order. Raises the first error of these items, never another caller's."""
        caller = _Caller(len(items))
        jobs: list[_Job[Item, Result]] = [_Job(item, caller) for item in items]
        with self.worker(), self._condition:
            for job in jobs:
                self._waiting.setdefault(self._key(job.item), []).append(job)
            try:
                while caller.left:
                    self._work_or_wait(caller)
            finally:
                self._withdraw(jobs)
        for job in jobs:
            if job.error is not None:
                raise _own(job.error)
        return [job.result for job in jobs]  # type: ignore[misc]  # done and without error: the result is there

    def _work_or_wait(self, caller: _Caller) -> None:
        # A sleeper whose jobs are done is about to wake and to bring more: it does not count as waiting.
        waiting = sum(each.left > 0 for each in self._asleep)
        group = self._take(all_waiting=waiting + 1 >= self._active)
        if not group:
            self._asleep.add(caller)
            try:
                self._condition.wait()
            finally:
                self._asleep.discard(caller)
            return
        self._condition.release()
        try:
            self._complete(group)
        finally:
            self._condition.acquire()
            for job in group:
                job.done = True
                job.caller.left -= 1
            self._condition.notify_all()

    def _take(self, all_waiting: bool) -> list[_Job[Item, Result]]:
        """A full batch; if all are waiting, the partial one that waits longest; else nothing."""
        batch = self._batch()
        full = [key for key, jobs in self._waiting.items() if len(jobs) >= batch]
        if not full and not (all_waiting and self._waiting):
            return []
        key = full[0] if full else next(iter(self._waiting))
        jobs = self._waiting.pop(key)
        if len(jobs) > batch:
            self._waiting[key] = jobs[batch:]  # now behind the keys that wait longer
        return jobs[:batch]

    def _complete(self, group: list[_Job[Item, Result]]) -> None:
        results: list[Result | Exception] = []
        try:
            results = self._execute([job.item for job in group])
        except BaseException as error:
            for job in group:
                job.error = error
            raise
        else:
            for job, result in zip(group, results, strict=True):
                if isinstance(result, Exception):
                    job.error = result
                else:
                    job.result = result

    def _withdraw(self, jobs: list[_Job[Item, Result]]) -> None:
        """Takes out what an interrupted caller leaves behind; after a normal end nothing is left."""
        mine = {id(job) for job in jobs if not job.done}
        if mine:
            for key in list(self._waiting):
                left = [job for job in self._waiting[key] if id(job) not in mine]
                if left:
                    self._waiting[key] = left
                else:
                    del self._waiting[key]


def _own(error: BaseException) -> Exception:
    """An exception that this thread may raise: one object raised in two threads would mix their tracebacks."""
    if isinstance(error, ArtgenError):
        own: Exception = type(error)(*error.args)
    else:
        own = RunError(f"the batch this image was in ended with {type(error).__name__}: {error}")
    own.__cause__ = error
    return own
