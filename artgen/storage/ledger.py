"""The ledger: which units are done. A unit is done if and only if its manifest part exists.

Parts are named `manifest/part-<unit>.parquet`; a unit that was split to isolate a bad image leaves parts named
`part-<unit>.<start>-<stop>.parquet` that together cover its entries.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from artgen.storage import uri

_PART = re.compile(r"part-(?P<unit>[0-9a-f]{8}-\d{6,})(?:\.(?P<start>\d+)-(?P<stop>\d+))?\.parquet$")


def part_uri(output: str, unit: str) -> str:
    """Where the rows of a unit, or of a part `<unit>.<start>-<stop>` of one, are committed."""
    return uri.join(output, "manifest", f"part-{unit}.parquet")


class Ledger:
    """The parts of an OUTPUT, listed once."""

    def __init__(self, output: str, options: dict[str, Any] | None = None) -> None:
        self._whole: set[str] = set()
        self._ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for name in uri.names(uri.join(output, "manifest"), options):
            if not (match := _PART.search(name)):
                continue
            if match["start"] is None:
                self._whole.add(match["unit"])
            else:
                self._ranges[match["unit"]].append((int(match["start"]), int(match["stop"])))

    def units(self) -> list[str]:
        """Names of all committed parts, in order."""
        split = [f"{unit}.{start}-{stop}" for unit, ranges in self._ranges.items() for start, stop in ranges]
        return sorted(self._whole) + sorted(split)

    def missing(self, unit: str, images: int) -> list[tuple[int, int]]:
        """The ranges of entries [start, stop) of a unit that no part covers; empty if the unit is done."""
        if unit in self._whole:
            return []
        gaps, reached = [], 0
        for start, stop in sorted(self._ranges.get(unit, [])):
            if start > reached:
                gaps.append((reached, start))
            reached = max(reached, stop)
        if reached < images:
            gaps.append((reached, images))
        return gaps
