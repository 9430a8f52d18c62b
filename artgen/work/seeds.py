"""Sets of seeds: what `--seeds` names, as ranges, so that memory follows from the text and not from the number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from artgen.errors import UsageError
from artgen.records import Entry, Source

MOST_SEEDS = 10**9
LARGEST_SEED = 2**63 - 1
# A folder of ten thousand files is what every file system and every viewer still lists.
FOLDER_SEEDS = 10_000


@dataclass(frozen=True, slots=True)
class Seeds:
    """A set of seeds in ascending order. ranges: (first, one behind the last), apart from each other.

    before: how many seeds stand before each range, and the number of all.
    """

    ranges: tuple[tuple[int, int], ...]
    before: tuple[int, ...]

    @staticmethod
    def of(ranges: Iterable[tuple[int, int]]) -> Seeds:
        """The union of half-open ranges."""
        merged: list[tuple[int, int]] = []
        for first, stop in sorted(ranges):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
            elif first < stop:
                merged.append((first, stop))
        before = accumulate((stop - first for first, stop in merged), initial=0)
        return Seeds(tuple(merged), tuple(before))

    @staticmethod
    def parse(text: str) -> Seeds:
        """`0-9999,20000,30000-30999`; "" is the empty set, and what is named twice is in it once.

        Raises UsageError for what is no seed or range, and for more than MOST_SEEDS.
        """
        seeds = Seeds.of(_range(part.strip(), text) for part in text.split(",")) if text else Seeds.of(())
        if len(seeds) > MOST_SEEDS:
            raise UsageError(
                f"--seeds names {len(seeds)} seeds, more than {MOST_SEEDS}: give them to several OUTPUTs"
            )
        return seeds

    def __str__(self) -> str:
        return ",".join(str(first) if stop == first + 1 else f"{first}-{stop - 1}" for first, stop in self.ranges)

    def __len__(self) -> int:
        return self.before[-1]

    def __iter__(self) -> Iterator[int]:
        for first, stop in self.ranges:
            yield from range(first, stop)

    def part(self, start: int, stop: int) -> Seeds:
        """The seeds at the places [start, stop) of the ascending order."""
        found: list[tuple[int, int]] = []
        place = max(bisect_right(self.before, start) - 1, 0)
        while place < len(self.ranges) and (offset := self.before[place]) < stop:
            first, end = self.ranges[place]
            found.append((first + max(start - offset, 0), min(end, first + stop - offset)))
            place += 1
        return Seeds.of(found)

    def without(self, other: Seeds) -> Seeds:
        """The seeds that are not in `other`."""
        left: list[tuple[int, int]] = []
        passed = 0
        for first, stop in self.ranges:
            while passed < len(other.ranges) and other.ranges[passed][1] <= first:
                passed += 1
            for place in range(passed, len(other.ranges)):
                gone_first, gone_stop = other.ranges[place]
                if gone_first >= stop:
                    break
                left.append((first, gone_first))
                first = gone_stop
            left.append((first, stop))
        return Seeds.of((first, stop) for first, stop in left if first < stop)


def _range(part: str, text: str) -> tuple[int, int]:
    first, dash, last = part.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UsageError(
            f"--seeds {_short(text)!r}: {_short(part)!r} is no seed and no range; use whole numbers from 0 as in "
            "0-9999,20000"
        )
    low = _seed(first, text)
    high = _seed(last, text) if dash else low
    if high < low:
        raise UsageError(f"--seeds {_short(text)!r}: {_short(part)!r} runs backwards; use {high}-{low}")
    return low, high + 1


def _seed(digits: str, text: str) -> int:
    digits = digits.lstrip("0") or "0"
    # The length first: Python makes no number of thousands of digits.
    if len(digits) > len(str(LARGEST_SEED)) or int(digits) > LARGEST_SEED:
        raise UsageError(f"--seeds {_short(text)!r}: {_short(digits)} is too large; use 0 to {LARGEST_SEED}")
    return int(digits)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def key_of(seed: int) -> str:
    """Nine digits or more: below 10^9 keys sort as their seeds."""
    return f"seed-{seed:09d}"


def seed_entries(seeds: Seeds, extension: str) -> list[Entry]:
    """One entry for each seed, in folders of FOLDER_SEEDS."""
    found: list[Entry] = []
    for seed in seeds:
        key = key_of(seed)
        source = Source(key, f"seed:{seed}", "seed", offset=seed)
        found.append(Entry(source, f"{seed // FOLDER_SEEDS:05d}/{key}{extension}"))
    return found
