"""A stream some things of which take a while to find out: a few threads do so ahead of who reads it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from artgen.child import cores

AT_ONCE = 16
"""Tasks that wait for a store, which answers many at a time. Of those that keep a core busy no more than there are cores."""

MOST_TASKS = 4 * AT_ONCE
MOST_THINGS = 2048
"""How far ahead of its reader a stream is looked into: so many tasks, and so many things of any kind."""

T = TypeVar("T")


class Task(Generic[T]):
    """Something that takes a while to find out.

    ahead: whether a thread does it; otherwise nobody does before it is read. busy: it keeps a core busy, rather than wait.
    """

    ahead = True
    busy = False
    _future: Future[Any] | None = None

    def work(self, stop: threading.Event) -> Any:
        """Finds it out, in a thread; returns early when `stop` is set, for then nobody reads it."""
        raise NotImplementedError

    def found(self) -> Iterator[T]:
        """What it puts into the stream, in the thread of who reads that; `work` may still be at it."""
        raise NotImplementedError

    def result(self) -> Any:
        """What `work` has returned, or raises what it has raised. Waits for its end."""
        assert self._future is not None
        return self._future.result()

    def close(self) -> None:
        """No thread is at work on it any more, and nobody reads it."""


def through(stream: Iterator[T | Task[T]]) -> Generator[T]:
    """All of `stream` in its order, of each task what it has found. The tasks are begun ahead.

    What `stream` or a task raises comes out in its place. Without a task that is done ahead there is no thread, and nothing
    is taken from `stream` before it is asked for. When the generator is closed all tasks are told to stop, and waited for.
    """
    window = _Window(stream)
    try:
        for thing in stream:
            if not isinstance(thing, Task):
                yield thing
                continue
            window.add(thing)
            while window.has_next():
                first = window.waiting[0]
                if isinstance(first, Task):
                    yield from first.found()
                else:
                    yield first
                window.drop()
    finally:
        window.close()


class _Window(Generic[T]):
    """What has been taken from a stream and not yet been read, the next thing first."""

    def __init__(self, stream: Iterator[T | Task[T]]) -> None:
        self.waiting: deque[T | Task[T]] = deque()
        self._stream = stream
        self._failure: Exception | None = None
        self._at_end = False
        self._begun = 0
        self._stop = threading.Event()
        self._pools: dict[bool, ThreadPoolExecutor] = {}

    def add(self, thing: T | Task[T]) -> None:
        self.waiting.append(thing)
        if isinstance(thing, Task) and thing.ahead:
            self._begun += 1
            thing._future = self._pool(thing.busy).submit(thing.work, self._stop)

    def has_next(self) -> bool:
        while self._begun and self._begun < MOST_TASKS and len(self.waiting) < MOST_THINGS and not self._at_end:
            self._take()
        if not self.waiting and self._failure is not None:
            raise self._failure
        return bool(self.waiting)

    def drop(self) -> None:
        first = self.waiting[0]
        if isinstance(first, Task) and first.ahead:
            assert first._future is not None
            first._future.exception()  # waits for the end of its thread
            self._begun -= 1
        self.waiting.popleft()
        if isinstance(first, Task):
            first.close()

    def close(self) -> None:
        self._stop.set()
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)
        for thing in self.waiting:
            if isinstance(thing, Task):
                thing.close()

    def _take(self) -> None:
        try:
            self.add(next(self._stream))
        except StopIteration:
            self._at_end = True
        except Exception as error:  # noqa: BLE001 - raised when all before it has been read
            self._at_end, self._failure = True, error

    def _pool(self, busy: bool) -> ThreadPoolExecutor:
        if busy not in self._pools:
            threads = min(AT_ONCE, cores()) if busy else AT_ONCE
            self._pools[busy] = ThreadPoolExecutor(threads, thread_name_prefix="artgen-ahead")
        return self._pools[busy]
