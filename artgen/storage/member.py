"""A member of an archive, as the indexers of tar, zip and Parquet report it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """What an indexer found. `name` is as `plain` leaves the stored one (undecodable bytes as surrogates); "" with `problem`
    set speaks of the container itself. At most one of `skip` (not an image, why) and `problem` is set.
    """

    name: str = ""
    offset: int = 0
    size: int = -1
    detail: str = ""
    skip: str = ""
    problem: str = ""


_HERE = re.compile(r"(?:\./+)+")


def plain(stored: str) -> str:
    """The name of a member of a tar or zip: as it is stored, without what says "from here" before it. `tar -C DIR .` writes
    `./a.png` for what other tools call `a.png`, and `.//a.png` and `././a.png` are the same place; all else is data and is
    kept: `/a.png`, `../a.png`, `a/./b.png`.
    """
    found = _HERE.match(stored)
    return (stored[found.end() :] if found else "") or stored


def to_json(**values: Any) -> str:
    """The `detail` of a Source."""
    return json.dumps(values, separators=(",", ":"))
