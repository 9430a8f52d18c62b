"""RUN/skipped/rank-N.json: the pictures of DATA that could not be used, by key, and why; each rank writes those it met."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from artgen.storage import atomic, uri
from artgen.training.rank import Rank

_NAME = re.compile(r"rank-(\d+)\.json")


class Skipped:
    """The file of one rank, and of ranks that are no more: rank r of W takes over those of r + W, r + 2W, ...

    before: what they said when this rank began, its own last.
    """

    def __init__(self, run: str, rank: Rank, options: uri.Options | None) -> None:
        self._folder, self._name, self._options = uri.join(run, "skipped"), f"rank-{rank.number}.json", options
        self._others = [
            name for name in uri.names(self._folder, options)
            if (found := _NAME.fullmatch(name)) and int(found[1]) % rank.world == rank.number and name != self._name
        ]  # fmt: skip
        self._told = _read(self._folder, self._name, options)
        self.before: dict[str, str] = {}
        for name in self._others:
            self.before |= _read(self._folder, name, options)
        self.before |= self._told

    def tell(self, unusable: Mapping[str, str]) -> None:
        """Writes what can not be used by now, where that is something else than before."""
        now = dict(unusable)  # in one step: other threads may add to it
        if now != self._told:
            text = json.dumps(dict(sorted(now.items())), indent=1, ensure_ascii=False)
            atomic.write(uri.join(self._folder, self._name), text.encode(), self._options)
            self._told = now
        for name in self._others:
            uri.remove(uri.join(self._folder, name), self._options)
        self._others = []


def read_skipped(run: str, options: uri.Options | None = None) -> dict[str, str]:
    """What the files of all ranks say."""
    folder = uri.join(run, "skipped")
    skipped: dict[str, str] = {}
    for name in filter(_NAME.fullmatch, uri.names(folder, options)):
        skipped |= _read(folder, name, options)
    return dict(sorted(skipped.items()))


def _read(folder: str, name: str, options: uri.Options | None) -> dict[str, str]:
    return json.loads(uri.read_or_none(uri.join(folder, name), options) or b"{}")
