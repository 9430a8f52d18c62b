"""Units that may hold an image that kills, done in a cell one after the other, in passes until each has its rows.

The cell is started anew only after a death. An image that ends it, alone in it, again and again gets a failed row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager

from artgen.engines import isolation
from artgen.engines.answer import Answer
from artgen.engines.cell import Cell, Orders
from artgen.engines.isolation import Task
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.storage import atomic
from artgen.storage.ledger import Ledger
from artgen.text import plural
from artgen.work.plan import UnitRef

# A run ends with a RunError when so many units have died without one done, and none was ever done in this OUTPUT.
FEWEST_UNITS = 8


class Quarantine(AbstractContextManager["Quarantine"]):
    """say: is told of deaths, which are counted as `deaths`. Starts the first cell, and raises what Cell raises."""

    def __init__(self, orders: Orders, say: Callable[[str], None]) -> None:
        self._orders, self._say = orders, say
        self._publish = orders.publish
        self._machine_works = bool(self._ledger().units())
        self._given_up = 0
        self._last_death = ""
        self.deaths = 0
        self._cell: Cell | None = Cell(orders)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._cell is not None:
            self._cell.close()
        if self.deaths and error is None:
            atomic.sweep(self._publish.output, self._publish.options)  # what the dead left

    def run(self, suspects: Iterable[UnitRef], others: Iterable[UnitRef]) -> Iterator[Outcome]:
        """Does the suspects, and the others too if one of those ends a cell: they may hold more of the kind. An Outcome after
        each commit, of a part where a unit had to be split. Raises RunError.
        """

        def whole() -> Iterator[Task]:
            yield from map(Task, suspects)
            if self.deaths:
                yield from map(Task, others)

        lost = yield from self._pass(whole(), first=True)
        while lost:
            images = plural(sum(task.ref.images for task in lost), "image")
            self._say(f"{images} lost with the process that did them (it {self._last_death}); doing them again")
            lost = yield from self._pass(lost)

    def _pass(self, tasks: Iterable[Task], *, first: bool = False) -> Generator[Outcome, None, list[Task]]:
        """Each of the tasks once; returns what is to be done again. first: they are whole units that nobody has tried."""
        lost: list[Task] = []
        for task in tasks:
            answer = self._ask(task.ref)
            if answer is not None and answer.outcome is not None:
                self._machine_works |= answer.outcome.failed < answer.outcome.images
                yield answer.outcome
                continue
            self.deaths += 1
            parts = isolation.left(task.ref, self._ledger())
            if (outcome := isolation.unsaid(task, parts)) is not None:
                yield outcome
            again, culprits = isolation.replan({task: parts}, alone=True)
            for culprit in culprits:
                yield self._give_up(culprit)
            lost += again
            if first and len(lost) >= FEWEST_UNITS and not self._machine_works:
                raise RunError(
                    f"the first {len(lost)} units all ended the process that did them, so no image is to blame "
                    f"(it {self._last_death}): look at this machine and its memory, and whether the model runs on it at all"
                )
        return lost

    def _ask(self, ref: UnitRef) -> Answer | None:
        """The answer of a cell, None if it died."""
        if self._cell is None:
            self._cell = Cell(self._orders)
        answer = self._cell.do(ref)
        if answer is not None:
            answer.raise_error()
            self._last_death = f"raised {answer.crash}"
            return answer
        self._last_death = self._cell.how_it_died()
        self._cell.close()
        self._cell = None
        return None

    def _give_up(self, culprit: UnitRef) -> Outcome:
        if self._given_up == isolation.MOST_DIED:
            raise isolation.too_many_died()
        self._given_up += 1
        folder, why = self._orders.plan_folder, f"its process {self._last_death}"
        return isolation.give_up(culprit, folder, self._orders.job, self._publish, why)

    def _ledger(self) -> Ledger:
        return Ledger(self._publish.output, self._publish.options)
