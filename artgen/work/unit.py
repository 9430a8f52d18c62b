"""The one function that does units, whoever carries them: images in, rows out, committed in one step each.

Images of all units flow through one pool of threads, so a worker never idles at the end of a unit; results are taken
in order, so the bytes of every part are the same however the threads ran.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from artgen.errors import RunError
from artgen.records import Entry, Outcome, Row, Unit
from artgen.sinks import files, manifest, parquet, shards
from artgen.work import plan

if TYPE_CHECKING:
    from artgen.codecs.pool import GuardPool

SINKS = {"png": files, "parquet": parquet, "webdataset": shards}


@dataclass(frozen=True, slots=True)
class Made:
    """One image done: its row (without the fields of the output) and the encoded picture, None if it failed."""

    row: Row
    data: bytes | None


class Maker(Protocol):
    """Does entries; thread-safe. Raises nothing for a bad image: that is a Made with a failed row. `stop` ends the
    entries under way soon, with a RunError each. at_once: how many of a unit's entries one call of `make` is given, fewer at
    the unit's end."""

    at_once: int

    def make(self, entries: Sequence[Entry]) -> list[Made]: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class Job(Protocol):
    """What a worker needs to be told to make pictures; picklable, the same on every machine."""

    @property
    def model(self) -> str: ...
    @property
    def model_sha256(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def image_timeout(self) -> float:
        """Seconds after which a picture is given up, 0 for none."""
        ...

    @property
    def named(self) -> bool:
        """Whether `model` is the name of shipped weights, not a place."""
        ...

    @property
    def advice(self) -> str:
        """What a person can do about a picture that kills its worker."""
        ...

    def load(self, model: str) -> Any:
        """The model at a place, with its `sha256` and a `to(device)`. Raises UsageError."""
        ...

    def torch_threads(self, cores: int, threads: int) -> int:
        """Threads of torch for a maker whose `make` is called by `threads` threads on so many cores."""
        ...

    def open(self, model: Any, threads: int, guards: GuardPool | None = None) -> Maker:
        """The maker on this machine. guards: decoder processes that are up already."""
        ...


@dataclass(frozen=True, slots=True)
class Publish:
    """Where and how units are committed. plan: the hash of the one that they are of; "": whatever OUTPUT stands by."""

    output: str
    to: tuple[str, ...]
    on_error: str = "record"
    plan: str = ""
    options: dict[str, Any] | None = field(
        default=None, repr=False
    )  # may hold secrets, and Ray logs what it is given


def run(
    units: Iterable[Unit], maker: Maker, publish: Publish, *, threads: int = 1,
    on_image: Callable[[Row], None] | None = None, stop: Callable[[], None] | None = None,
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Does the units in order and yields an Outcome after each commit.

    At most 2 * threads calls of the maker are in flight. Raises RunError for a failed image
    on `on_error="stop"`; whatever ends it early, the units already yielded are committed and no other leaves a
    part behind. `stop` is then called to end the images under way, which this waits for.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="artgen-image") as pool:
        flowing = _flow(units, pool, maker, 2 * threads)
        try:
            for unit, made in flowing:
                yield _commit(unit, made, publish, on_image)
        except BaseException:
            if stop is not None:
                stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _flow(
    units: Iterable[Unit], pool: ThreadPoolExecutor, maker: Maker, window: int
) -> Iterator[tuple[Unit, Iterator[Made]]]:  # fmt: skip
    """Each unit with its results; images of later units start while those of earlier ones end."""
    waiting: deque[Future[list[Made]]] = deque()
    units_begun: deque[Unit] = deque()
    upcoming = _calls(units, units_begun, maker.at_once)

    def fill() -> None:
        while len(waiting) < window and (entries := next(upcoming, None)) is not None:
            waiting.append(pool.submit(maker.make, entries))

    def results(unit: Unit) -> Iterator[Made]:
        for _ in range(0, len(unit.entries), maker.at_once):
            fill()
            yield from waiting.popleft().result()

    fill()
    while units_begun:
        unit = units_begun.popleft()
        yield unit, results(unit)
        fill()


def _calls(units: Iterable[Unit], begun: deque[Unit], at_once: int) -> Iterator[Sequence[Entry]]:
    """The entries of one call after the other, none of two units."""
    for unit in units:
        begun.append(unit)
        for start in range(0, len(unit.entries), at_once):
            yield unit.entries[start : start + at_once]


def _commit(unit: Unit, made: Iterator[Made], publish: Publish, on_image: Callable[[Row], None] | None) -> Outcome:
    sinks = [SINKS[name].open(publish.output, unit.id, publish.options) for name in SINKS if name in publish.to]
    rows: list[Row] = []
    try:
        for entry, result in zip(unit.entries, made, strict=True):
            row = result.row
            if result.data is None and publish.on_error == "stop":
                raise stopped(row)
            uris = [] if result.data is None else [sink.add(entry.name, result.data, row) for sink in sinks]
            row = row._replace(unit=unit.id, output_uri=uris[0] if uris else None)
            rows.append(row)
            if on_image is not None:
                on_image(row)
        _check_plan(publish)
        if "png" in publish.to:
            # An attempt that died before its rows may have left a picture, of a source that has changed or is too slow now.
            for entry, row in zip(unit.entries, rows, strict=True):
                if row.status == "failed":
                    files.remove(publish.output, f"{files.FOLDER}/{entry.name}", publish.options)
        for sink in sinks:
            sink.commit()
    except BaseException:
        for sink in sinks:
            sink.abort()
        raise
    _check_plan(publish)
    manifest.write(publish.output, unit.id, rows, publish.options)
    return outcome(unit.id, rows)


def _check_plan(publish: Publish) -> None:
    """A driver that was held up (a machine asleep, a network gone) may have lost OUTPUT to another, whose plan gives the same
    images to other units, while its workers go on. Raises RunError; nothing of the unit counts then.
    """
    if publish.plan and plan.current_hash(publish.output, publish.options) != publish.plan:
        raise RunError(
            "another run has planned this OUTPUT anew meanwhile: this one ends, and the same command goes on from what is done"
        )


def stopped(row: Row) -> RunError:
    """What ends a run at a failed row on `on_error="stop"`."""
    return RunError(f"{row.key}: {row.error_type}: {row.error_message} (--on-error stop; the same command resumes)")


def outcome(unit_id: str, rows: list[Row]) -> Outcome:
    """The sums over the rows of a unit, its failures by reason, and the first five of them."""
    failed = [row for row in rows if row.status == "failed"]
    reasons = Counter(row.error_type or "Failed" for row in failed)
    return Outcome(
        unit=unit_id,
        images=len(rows),
        failed=len(failed),
        pixels=sum((row.width or 0) * (row.height or 0) for row in rows if row.status == "ok"),
        source_bytes=sum(row.source_bytes or 0 for row in rows),
        output_bytes=sum(row.output_bytes or 0 for row in rows),
        seconds=sum(row.seconds for row in rows),
        first_failures=tuple((row.key, f"{row.error_type}: {row.error_message}") for row in failed[:5]),
        reasons=tuple(reasons.most_common()),
    )
