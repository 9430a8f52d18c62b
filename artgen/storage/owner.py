"""Which process of which machine made something, and whether it still runs."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache


def this_host() -> str:
    """This machine since it was started, as names of temporary files and leases tell it; a container that numbers its
    processes by itself is one of its own, whatever name it was given.

    What a machine left before it was started anew is another's: it goes by age, or by want of a sign of life.
    """
    return hashlib.sha256(f"{platform.node()} {_numbering()} {_boot()}".encode()).hexdigest()[:8]


@lru_cache(maxsize=1)
def _numbering() -> str:
    """Of processes, as this one sees them: its own never changes, that of a child may be another."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        return ""


os.register_at_fork(after_in_child=_numbering.cache_clear)


@lru_cache(maxsize=1)
def _boot() -> str:
    """Another one for each start of each machine, which names are not: clones of one image share theirs, and the first
    numbering of processes bears the same number on every Linux.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:  # no Linux
        return ""


def is_gone(host: str, pid: int) -> bool:
    """Whether `host` (as `this_host` tells it) is this machine, and no process `pid` runs on it."""
    if host != this_host():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs, as somebody else
        return False
    return False
