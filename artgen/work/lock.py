"""One driver at a time on an OUTPUT: two that plan at once could each give a row to the same image."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from artgen.storage import lease, uri

NAME = "lock"


@contextmanager
def only_driver(
    output: str, say: Callable[[str], None], options: uri.Options | None = None, folder: str = "_artgen"
) -> Iterator[None]:
    """Holds OUTPUT/<folder>/lock, which the kernel frees with the process, however it ends. The folder must exist.

    Waits while another process holds it, and says so: after its end there is nothing left to do, or the rest.
    Stores have a lease instead (storage/lease.py), which can be lost: RunError; file systems without locks have neither.
    """
    if not uri.is_local(output):
        with lease.hold(uri.join(output, folder), NAME, say, options):
            yield
        return
    fd = os.open(uri.local_path(uri.join(output, folder, NAME)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with suppress(OSError):  # a file system without locks
            _acquire(fd, output, say)
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, output: str, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace") or "unknown"
        say(f"another artgen (process {holder}) is at work on OUTPUT {output}: waiting for its end")
        fcntl.flock(fd, fcntl.LOCK_EX)
    os.ftruncate(fd, 0)  # the number only makes the message above more useful
    os.pwrite(fd, str(os.getpid()).encode(), 0)
