"""A lease on a store: one holder at a time, who renews it; when it is not renewed any more, the next takes over.

The leases of a folder are numbered, `<name>-000001`, `<name>-000002`, ...; who creates the next number (a conditional put,
so only one can) is the holder, and removes the earlier ones. A lease that was given back says `ended`. Whoever waits goes by
changes of the bytes, never by clocks. A holder that slept too long finds at its next renewal that the last lease is another's.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from artgen.errors import RunError, StorageError
from artgen.storage import atomic
from artgen.storage import uri as uris
from artgen.storage.owner import is_gone, this_host

# A holder without a sign of life for this time is taken for dead (on its own machine at once, when its process is gone).
LEASE_S = 30.0
RENEW_S = 5.0
POLL_S = 1.0
# How long a store without conditional puts is given to show who wrote last.
SETTLE_S = 3.0


class _Lost(BaseException):
    """Comes into the thread that holds as Ctrl-C does, wherever it is, so no `except Exception` on its way takes it for its
    own, and nothing that is written after an error or an interruption is written after it.
    """


@contextmanager
def hold(folder: str, name: str, say: Callable[[str], None], options: uris.Options | None = None) -> Iterator[None]:
    """Holds the lease `name` of `folder`; waits while another holds it, and says so. Raises StorageError, and RunError when
    another took the lease over: it breaks off the block at the next renewal, or when the call under way then returns.
    """
    facts = {
        "host": this_host(), "machine": platform.node(), "pid": os.getpid(), "token": secrets.token_hex(8),
        "renewed": 0, "ended": False,
    }  # fmt: skip
    place = _acquire(folder, name, facts, say, options)
    ended, holder = threading.Event(), threading.get_ident()
    told = (folder, name, place, facts, ended, holder, options)
    renewal = threading.Thread(target=_renew, args=told, daemon=True)
    renewal.start()
    try:
        try:
            yield
        finally:
            ended.set()
            renewal.join()
    except _Lost:
        raise RunError(
            f"this artgen has lost its lease on {uris.shown(folder)} and writes no more: it gave no sign for {LEASE_S:g} s "
            "(asleep, or cut off from the store) and another took over, or the lease was removed; what is done is kept, and "
            "the same command goes on from there"
        ) from None


def _acquire(
    folder: str, name: str, facts: dict[str, Any], say: Callable[[str], None], options: uris.Options | None
) -> str:
    seen, since = b"", time.monotonic()
    while True:
        number, data = _latest(folder, name, options)
        unchanged_s = time.monotonic() - since if data == seen else 0.0
        if number == 0 or (data is not None and _is_free(data, unchanged_s)):
            place = uris.join(folder, f"{name}-{number + 1:06d}")
            if _create(place, facts, options):
                if _latest(folder, name, options)[0] > number + 1:
                    # Others came and went since we looked, and took our number away behind them: it was free to be made again.
                    uris.remove(place, options)
                    continue
                for earlier in range(max(1, number - 1), number + 1):
                    uris.remove(uris.join(folder, f"{name}-{earlier:06d}"), options)
                return place
            continue
        if data is not None and data != seen:
            if not seen:
                holder = json.loads(data)
                say(
                    f"another artgen (process {holder['pid']} on {holder['machine']}) is at work on {uris.shown(folder)}: "
                    f"waiting for its end, or for {LEASE_S:g} s without a sign of it"
                )
            seen, since = data, time.monotonic()
        time.sleep(POLL_S)


def _latest(folder: str, name: str, options: uris.Options | None) -> tuple[int, bytes | None]:
    """The highest number, 0 if there is none, and its bytes, None if it went meanwhile."""
    pattern = re.compile(re.escape(name) + r"-(\d{6,})")
    matches = [match for found in uris.names(folder, options) if (match := pattern.fullmatch(found))]
    if not matches:
        return 0, None
    number = max(int(match[1]) for match in matches)
    return number, uris.read_or_none(uris.join(folder, f"{name}-{number:06d}"), options)


def _is_free(data: bytes, unchanged_s: float) -> bool:
    facts = json.loads(data)
    return facts["ended"] or unchanged_s >= LEASE_S or is_gone(facts["host"], facts["pid"])


def _create(place: str, facts: dict[str, Any], options: uris.Options | None) -> bool:
    """Whether this process made the lease. What is read back decides, as a put may have been repeated."""
    fs, path = uris.filesystem(place, options)
    with suppress(
        Exception
    ):  # stores say in many ways that it exists, or that they know no such put: the bytes tell
        fs.pipe_file(path, _json(facts), mode="create")
    data = uris.read_or_none(place, options)
    if data is None:
        # Of several who write now the last one holds the lease: whoever looked before anything was there has written by then.
        atomic.write(place, _json(facts), options)
        time.sleep(SETTLE_S)
        data = uris.read_or_none(place, options)
    return data is not None and json.loads(data)["token"] == facts["token"]


def _renew(
    folder: str, name: str, place: str, facts: dict[str, Any], ended: threading.Event, holder: int,
    options: uris.Options | None,
) -> None:  # fmt: skip
    """Renews the lease and at the end gives it back, as long as it is ours; tells the thread `holder` when it is not."""
    while not facts["ended"]:
        facts["ended"] = ended.wait(RENEW_S)
        facts["renewed"] += 1
        with suppress(StorageError):  # the next renewal may get through; after the last, who is next waits LEASE_S
            _, data = _latest(folder, name, options)
            if data is not None and facts["token"].encode() in data:
                atomic.write(place, _json(facts), options)
            elif not facts["ended"]:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(holder), ctypes.py_object(_Lost))
                return


def _json(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True).encode()
