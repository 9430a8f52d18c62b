"""What a person or a program sees: a progress bar on a terminal, plain lines elsewhere, one JSON object on --json."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from artgen.records import Outcome, Row
from artgen.text import plural

PLAIN_EVERY_S = 10.0
T = TypeVar("T")


class Console:
    """Progress and messages on stderr; with `as_json` the one result goes to stdout as JSON."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._total = self._done = self._failed = self._begun_with = 0
        self._pixels = 0.0
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """A message on stderr, above the bar where there is one; nothing with `quiet`."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def result(self, facts: dict[str, Any], text: str | None = None) -> None:
        """The outcome of the command: JSON on stdout with --json, otherwise `text` (or key: value lines)."""
        if self.as_json:
            print(json.dumps(facts, sort_keys=True, default=str))  # noqa: T201
        elif not self.quiet:
            print(text if text is not None else _lines(facts), flush=True)  # noqa: T201

    def unfinished(self, facts: dict[str, Any], text: str) -> None:
        """What there is to tell of a command that did not come to its end: `text` on stderr, whatever the flags, and with
        --json the facts on stdout.
        """
        if self.as_json:
            self.result(facts)
        self.error(text)

    def error(self, text: str) -> None:
        """What went wrong, on stderr."""
        print(f"artgen: {text}", file=sys.stderr, flush=True)  # noqa: T201

    def begin(self, total: int, done: int, doing: str = "restoring") -> None:
        """`done` of `total` images were finished by earlier runs; `doing`: what is done to them now."""
        self._total, self._done, self._begun_with = total, done, done
        self._started = self._last_line = time.monotonic()
        if done:
            rest = "going on with the rest" if done < total else "nothing is left to do"
            self.say(f"{done} of {plural(total, 'image')} already done; {rest}")
        if total == done or self.quiet or self.as_json or not sys.stderr.isatty():
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            doing,
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=RichConsole(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task(doing, total=total, completed=done, rate="")

    def image(self, row: Row) -> None:
        """For engines that report each image."""
        failed = row.status == "failed"
        self.advance(1, failed, 0 if failed else (row.width or 0) * (row.height or 0))

    def unit(self, outcome: Outcome) -> None:
        """For engines that report units and not images."""
        self.advance(outcome.images, outcome.failed, outcome.pixels)

    def advance(self, images: int, failed: int, pixels: int = 0) -> None:
        """So many more are done, `failed` of them in vain; without pixels the rate is one of images."""
        self._done += images
        self._failed += failed
        self._pixels += pixels
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate())
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_S:
            self._last_line = time.monotonic()
            self.say(f"{self._done}/{plural(self._total, 'image')}, {self._rate()}, {self._left()} left")

    def counted(self, things: Iterable[T], done: str, pictures: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
        """The same things; says now and then how many pictures have gone by, of which each thing holds so many. done: what has
        been done to them, "measured".
        """
        last_line, number = time.monotonic(), 0
        for thing in things:
            if time.monotonic() - last_line >= PLAIN_EVERY_S:
                last_line = time.monotonic()
                self.say(f"{plural(number, 'picture')} {done}")
            yield thing
            number += pictures(thing)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        failed = f", {self._failed} failed" if self._failed else ""
        made = (
            f"{self._pixels / 1e6 / seconds:.2f} MP/s"
            if self._pixels
            else f"{(self._done - self._begun_with) / seconds:.1f}/s"
        )
        return f"{made}{failed}"

    def _left(self) -> str:
        made = max(self._done - self._begun_with, 1)
        seconds = round((time.monotonic() - self._started) / made * (self._total - self._done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def end(self) -> None:
        """Takes the bar away; what is said later is a plain line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _lines(facts: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", _lines(value, indent + "  ")] if value else [f"{indent}{key}: none"]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            lines.append(f"{indent}{key}: {'none' if shown is None else shown}")
    return "\n".join(lines)
