"""`python -m tests.poison restore|generate ...`: the program, with images that kill the process which makes them, whichever it
is. Which ones the name of the picture says, or its seed; the product knows nothing of it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from artgen.records import Entry
from artgen.work import generation, restoration
from artgen.work.unit import Made, Maker

POISON = [sys.executable, "-m", "tests.poison"]
SEED = 13
PIDS = "ARTGEN_TEST_PIDS"
"""The environment variable that names a file for the ids of the processes that make something."""


class Poisonous:
    """Kills before anything is made; `slow` ones take their time first."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self.at_once = 1  # the picture that kills is the one whose turn it is
        self.stop, self.close = maker.stop, maker.close

    def make(self, entries: Sequence[Entry]) -> list[Made]:
        (entry,) = entries
        if PIDS in os.environ:
            with Path(os.environ[PIDS]).open("a") as file:
                file.write(f"{os.getpid()}\n")
        if "slow" in entry.source.key:
            time.sleep(0.5)
        if "killer" in entry.source.key or (entry.source.kind == "seed" and entry.source.offset == SEED):
            os.kill(os.getpid(), signal.SIGKILL)
        return self._maker.make(entries)


class RestoreJob(restoration.RestoreJob):
    def open(self, *args: Any, **kwargs: Any) -> Any:
        return Poisonous(super().open(*args, **kwargs))


class GenerateJob(generation.GenerateJob):
    def open(self, *args: Any, **kwargs: Any) -> Any:
        return Poisonous(super().open(*args, **kwargs))


def main() -> int:
    """The command line of `artgen`."""
    from artgen import cli

    restoration.RestoreJob = RestoreJob
    generation.GenerateJob = GenerateJob
    return cli.main()


if __name__ == "__main__":
    from tests import poison  # its classes are to be known by a name that another process can import

    raise SystemExit(poison.main())
