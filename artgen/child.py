"""Python processes that this one starts: they run its own code, and their end is told in words; and the cores there are."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

# -c, not -m: the child then takes over this process's sys.path, which a Ray worker or a notebook has changed.
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main(*sys.argv[2:])"


def command(module: str, *args: str, flags: tuple[str, ...] = ()) -> list[str]:
    """The command line that calls `main(*args)` of a module of artgen. flags: of the interpreter."""
    home = str(Path(__file__).resolve().parents[1])  # an editable install may hang on no path at all
    path = json.dumps([home, *(entry or os.getcwd() for entry in sys.path)])
    return [sys.executable, *flags, "-c", _BOOT.format(module=module), path, *args]


def how_it_died(code: int) -> str:
    """What a person is told of a process that ended with this code, as of Popen."""
    if code >= 0:
        return f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL: perhaps the system ran out of memory)"
    return f"crashed ({signal.Signals(-code).name})"


def cores() -> int:
    """CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system (macOS)
        return os.cpu_count() or 1
