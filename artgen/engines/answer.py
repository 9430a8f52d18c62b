"""What comes back of a unit from the process that did it: as JSON, over Ray or a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from artgen import errors
from artgen.errors import ArtgenError, RunError
from artgen.records import Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome, an error that ends the run, or the crash of this unit alone (its text). host: the machine that did it."""

    unit: str
    host: str = ""
    outcome: Outcome | None = None
    error: tuple[str, str] | None = None
    crash: str = ""

    @staticmethod
    def of(unit: str, do: Callable[[], Outcome | None], host: str = "") -> Answer:
        """What comes of doing a unit. Errors travel as data: who waits for the answer is to raise them, not this process."""
        try:
            return Answer(unit, host, do())
        except ArtgenError as error:
            return Answer(unit, host, error=(type(error).__name__, str(error)))
        except Exception as error:  # noqa: BLE001  (whatever it is, the driver isolates the image that raises it)
            return Answer(unit, host, crash=f"{type(error).__name__}: {error}"[:500])

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_text(text: str) -> Answer:
        values = json.loads(text)
        if values["outcome"] is not None:
            facts = values["outcome"]
            for name in ("first_failures", "reasons"):  # JSON has no tuples
                facts[name] = tuple(map(tuple, facts[name]))
            values["outcome"] = Outcome(**facts)
        return Answer(**values)

    def raise_error(self) -> None:
        """Raises the error that ended the run where the unit was done, with its own message, as if it had been raised here."""
        if self.error is not None:
            kind, message = self.error
            found = getattr(errors, kind, RunError)
            raise (found if issubclass(found, RunError) else RunError)(message)
