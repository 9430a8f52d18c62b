"""The process of `cell`: opens a job, then does units as they are asked for, until its input is closed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any

from artgen import heap
from artgen.child import cores
from artgen.engines import wire
from artgen.engines.answer import Answer
from artgen.engines.cell import Orders
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.storage import uri
from artgen.storage.arrow import leave_pandas_out
from artgen.work.plan import PlanReader, UnitRef
from artgen.work.unit import Maker

_MOST_OOM_SCORE = "1000"


def main() -> None:
    """Serves until the parent closes its end, dies, or asks for the end by SIGTERM."""
    signal.signal(signal.SIGTERM, _interrupt)
    _offer_to_the_kernel()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not be taken for an answer
    with suppress(KeyboardInterrupt, BrokenPipeError):
        _serve(Requests(), answers)


def _serve(requests: Requests, answers: IO[str]) -> None:
    work = Work()

    def answer(unit: str, do: Callable[[], Outcome | None]) -> None:
        said = Answer.of(unit, do).to_text()
        requests.done()
        answers.write(said + "\n")
        answers.flush()

    try:
        if (told := requests.next()) is not None:
            answer("", lambda: work.open(wire.from_text(told)))
        while (line := requests.next()) is not None:
            ref = UnitRef(**json.loads(line))
            answer(ref.id, lambda ref=ref: work.do(ref))
    finally:
        work.close()


class Requests:
    """Lines of standard input. When that is closed under way, the parent has died, and this process ends at once: another
    may do the same unit any moment, and would meet it.
    """

    def __init__(self) -> None:
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._under_way = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self) -> str | None:
        """Waits for a line, which is under way until `done`; None at the end."""
        return self._lines.get()

    def done(self) -> None:
        """It is: the answer may go out, which the parent waits for."""
        self._under_way.clear()

    def _listen(self) -> None:
        # Unbuffered: the lock of a buffer would be held here when the interpreter ends.
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as lines:
            while line := lines.readline():
                self._under_way.set()
                self._lines.put(line.decode())
        if self._under_way.is_set():
            os._exit(1)
        self._lines.put(None)


class Work:
    """The job, once it is opened in this process."""

    _maker: Maker | None = None

    def open(self, orders: Orders) -> None:
        import torch

        heap.keep()
        leave_pandas_out()
        job, threads = orders.job, orders.threads
        torch.set_num_threads(job.torch_threads(cores(), threads))
        model = job.load(job.model)
        if model.sha256 != job.model_sha256:
            raise RunError(f"the model {uri.shown(job.model)!r} has changed since this command began: run it again")
        self._publish, self._threads = orders.publish, threads
        self._reader = PlanReader(orders.plan_folder, orders.publish.options)
        self._maker = job.open(model.to(job.device), threads)

    def do(self, ref: UnitRef) -> Outcome:
        """The outcome of a unit, committed."""
        from artgen.work import unit

        assert self._maker is not None
        units = [self._reader.load(ref)]
        (outcome,) = unit.run(units, self._maker, self._publish, threads=self._threads, stop=self._maker.stop)
        return outcome

    def close(self) -> None:
        if self._maker is not None:
            self._maker.close()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _offer_to_the_kernel() -> None:
    """Where memory ends Linux is to kill this process, not the parent that would see it, nor a neighbour."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(_MOST_OOM_SCORE)
