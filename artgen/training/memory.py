"""How much memory is left, where the system tells: Linux, and containers with a limit of their own."""

from __future__ import annotations

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def available_bytes() -> int | None:
    """What this process may still take: the least of what the machine has and what its container allows.

    Without Linux's figures all of the machine's memory, of which some is taken already; None where nothing is told.
    """
    told = [figure for figure in (_of_machine(), _of_container()) if figure is not None]
    return min(told) if told else None


def _of_machine() -> int | None:
    try:
        return _table(_MEMINFO)["MemAvailable:"] * 1024
    except (OSError, ValueError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _of_container() -> int | None:
    """By cgroup v2; files that are only cached in memory give way, so they do not count."""
    try:
        limit = int((_CONTAINER / "memory.max").read_text())  # "max" without one
        used = int((_CONTAINER / "memory.current").read_text())
        return max(limit - used + _table(_CONTAINER / "memory.stat")["inactive_file"], 0)
    except (OSError, ValueError, KeyError):
        return None


def _table(file: Path) -> dict[str, int]:
    return {fields[0]: int(fields[1]) for line in file.read_text().splitlines() if len(fields := line.split()) > 1}
