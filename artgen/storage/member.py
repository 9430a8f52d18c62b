"""A member of an archive, as the indexers of tar, zip and Parquet report it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """What an indexer found. `name` is as stored (undecodable bytes as surrogates); "" with `problem` set
    speaks of the container itself. At most one of `skip` (not an image, why) and `problem` is set.
    """

    name: str = ""
    offset: int = 0
    size: int = -1
    detail: str = ""
    skip: str = ""
    problem: str = ""


def to_json(**values: Any) -> str:
    """The `detail` of a Source."""
    return json.dumps(values, separators=(",", ":"))
