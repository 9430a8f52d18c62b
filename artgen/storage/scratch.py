"""The temporary folder of this process. What a killed process left of its own, the next one removes: at once if the machine
has not been started anew since, else when it is old.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import tempfile
import time
from functools import lru_cache

from artgen.storage.owner import is_gone, this_host

# Of other machines, which may share the temporary folder, and of this one before it was started anew: nothing in it has
# changed for this time. A training holds its folder for days without a change.
_OLD_S = 30 * 24 * 3600.0
_NAME = re.compile(r"artgen-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")


def folder() -> str:
    """The path of a folder that only its owner can read, always the same one; it goes when the process ends."""
    made = _folder(os.getpid())
    os.makedirs(made, mode=0o700, exist_ok=True)  # on a long run somebody may have cleared the temporary folder
    return made


@lru_cache(maxsize=1)  # by process: one that was forked needs another
def _folder(pid: int) -> str:
    _sweep()
    made = os.path.join(tempfile.gettempdir(), f"artgen-{this_host()}-{pid}-{secrets.token_hex(4)}")
    os.mkdir(made, 0o700)
    atexit.register(_remove, made, pid)
    return made


def _remove(made: str, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(made, ignore_errors=True)


def _sweep() -> None:
    """Removes the folders of processes of this machine that are gone, and old ones, if they are this user's."""
    with os.scandir(tempfile.gettempdir()) as found:
        for entry in found:
            name = _NAME.fullmatch(entry.name)
            # mkdir and rmtree follow no link, so nobody can point this elsewhere.
            if not name or not entry.is_dir(follow_symlinks=False):
                continue
            old = name[1] != this_host() and _changed(entry.path) <= time.time() - _OLD_S
            if old or is_gone(name[1], int(name[2])):
                shutil.rmtree(entry.path, ignore_errors=True)


def _changed(top: str) -> float:
    """When anything below a folder changed last, in seconds since 1970; now, where that cannot be seen."""
    latest = 0.0
    try:
        for folder, _, names in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                latest = max(latest, os.lstat(path).st_mtime)
    except OSError:
        return time.time()
    return latest
