"""The ledger: which units are done. A unit is done if and only if its manifest part exists.

Parts are named `manifest/part-<unit>.parquet`; a unit that was split to isolate a bad image leaves parts named
`part-<unit>.<start>-<stop>.parquet` that together cover its entries. A part that is torn (a power cut may leave a name
without its data) counts as absent.
"""

from __future__ import annotations

import errno
import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from artgen.storage import uri

# A Parquet file begins and ends with these bytes; the least holds them twice and the length of its footer.
_MAGIC, _LEAST_BYTES = b"PAR1", 12
# Looks at a network file system wait for it, many at once.
_LOOKERS, _CHUNK = 16, 256
_UNIT = r"(?P<unit>[0-9a-f]{8}-\d{6,})(?:\.(?P<start>\d+)-(?P<stop>\d+))?"
_PART = re.compile(rf"part-{_UNIT}\.parquet")


def part_uri(output: str, unit: str) -> str:
    """Where the rows of a unit, or of a part `<unit>.<start>-<stop>` of one, are committed."""
    return uri.join(output, "manifest", f"part-{unit}.parquet")


def is_unit(name: str) -> bool:
    """Whether this may be the name of a unit, or of a part of one."""
    return re.fullmatch(_UNIT, name) is not None


class Ledger:
    """The parts of an OUTPUT, listed once. torn: what is not counted, named as the units of parts are."""

    def __init__(self, output: str, options: dict[str, Any] | None = None) -> None:
        self._whole: set[str] = set()
        self._ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.torn: list[str] = []
        for name, sound in _parts(uri.join(output, "manifest"), options).items():
            if not (match := _PART.fullmatch(name)):  # a copy that somebody keeps beside them is none
                continue
            if not sound:
                self.torn.append(name.removeprefix("part-").removesuffix(".parquet"))
            elif match["start"] is None:
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


def _parts(folder: str, options: dict[str, Any] | None) -> dict[str, bool]:
    """The names in `folder` in order, and whether each looks like Parquet: local files by their last bytes, which cost
    20 us each; objects, which stores publish whole, by their sizes, which the listing tells.
    """
    if not uri.is_local(folder):
        sizes = uri.sizes(folder, options)
        return {name: size is None or size >= _LEAST_BYTES for name, size in sizes.items()}
    names, top = uri.names(folder), uri.local_path(folder)
    chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(_LOOKERS, "ledger") as pool:
        looked = pool.map(lambda chunk: [_is_whole(os.path.join(top, name)) for name in chunk], chunks)
        return dict(zip(names, (sound for chunk in looked for sound in chunk), strict=True))


def _is_whole(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(-_LEAST_BYTES, os.SEEK_END)
            return file.read().endswith(_MAGIC)
    except FileNotFoundError:  # removed since it was listed
        return False
    except OSError as error:
        # Before the beginning: it is shorter. Any other trouble is told by whoever reads the part.
        return error.errno != errno.EINVAL
