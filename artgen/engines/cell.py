"""A process of its own in which units are done, one at a time, and which may die of them while this one looks on.

Orders go in by its standard input, so that secrets show in no list of processes; answers come out by its standard output, a line
of JSON each. It ends with this process, however that ends: its input is closed then.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, cast

from artgen import child
from artgen.engines import wire
from artgen.engines.answer import Answer
from artgen.errors import RunError
from artgen.work.plan import UnitRef
from artgen.work.unit import Job, Publish

# Images under way end soon when the run does: a batch of tiles each.
_GRACE_S = 60.0


@dataclass(frozen=True, slots=True)
class Orders:
    """All that a cell is told. threads: images in work at once."""

    plan_folder: str
    job: Job
    publish: Publish
    threads: int


class Cell:
    """Starts the process and waits until it has opened its job. Raises RunError where it cannot, TypeError for orders that
    hold what is no data. Not thread-safe.
    """

    def __init__(self, orders: Orders) -> None:
        told = wire.to_text(orders)
        self._busy = True
        self._child = subprocess.Popen(
            child.command("artgen.engines.cell_child"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for this process alone, which ends the cell in its own time
        )  # fmt: skip
        self._requests, self._answers = cast(IO[str], self._child.stdin), cast(IO[str], self._child.stdout)
        try:
            answer = self._ask(told)
            if answer is None or answer.crash:
                why = self.how_it_died() if answer is None else f"raised {answer.crash}"
                raise RunError(f"a process that was to do units {why} at its start")
            answer.raise_error()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def do(self, ref: UnitRef) -> Answer | None:
        """Does a unit; None: the process died of it."""
        return self._ask(json.dumps(asdict(ref)))

    def how_it_died(self) -> str:
        """In words, once `do` has said that it did."""
        return child.how_it_died(self._child.wait())

    def close(self) -> None:
        """Ends the process; the images under way first, if there are any. May be called again."""
        try:
            if self._busy:
                self._child.terminate()
            with suppress(BrokenPipeError):
                self._requests.close()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_GRACE_S)
        finally:  # Ctrl-C pressed once more comes here at once
            self._child.kill()
            self._child.wait()
            self._answers.close()

    def _ask(self, line: str) -> Answer | None:
        self._busy = True
        try:
            self._requests.write(line + "\n")
            self._requests.flush()
            told = self._answers.readline()
        except BrokenPipeError:
            return None
        if not told.endswith("\n"):
            return None
        self._busy = False
        return Answer.from_text(told)
