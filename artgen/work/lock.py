"""One driver at a time on an OUTPUT: two that plan at once could each give a row to the same image."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from artgen.errors import UsageError
from artgen.storage import uri

NAME = "lock"


@contextmanager
def only_driver(output: str) -> Iterator[None]:
    """Holds OUTPUT/_artgen/lock, which the kernel frees with the process, however it ends. The folder must exist.

    Raises UsageError while another process holds it. Stores, and file systems without locks, have none.
    """
    if not uri.is_local(output):
        yield
        return
    fd = os.open(uri.local_path(uri.join(output, "_artgen", NAME)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 20).decode(errors="replace") or "unknown"
            raise UsageError(
                f"another artgen (process {holder}) is at work on OUTPUT {output}: wait for its end, stop it, or "
                "choose another OUTPUT"
            ) from None
        except OSError:
            yield
            return
        with suppress(OSError):  # the number only makes the message above more useful
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)
