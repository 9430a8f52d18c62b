"""The one function that does units, whoever carries them: images in, rows out, committed in one step each.

Images of all units flow through one pool of threads, so a worker never idles at the end of a unit; a picture that is a file
of its own is written by the thread that made it, so that a slow store takes many at once. Results are taken in order, so the
bytes of every part are the same however the threads ran.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from artgen.errors import RunError
from artgen.records import Entry, Outcome, Row, Unit
from artgen.sinks import files, manifest, parquet, shards
from artgen.sinks.base import Sink
from artgen.work import plan

if TYPE_CHECKING:
    from artgen.codecs.pool import GuardPool

SINKS = {"parquet": parquet, "webdataset": shards}
"""Of many pictures in one file; `--to png` is `files`."""


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
        begun: deque[_Begun] = deque()
        try:
            for unit, made in _flow(units, begun, pool, maker, publish, 2 * threads):
                yield _commit(unit, made, publish, on_image)
        except BaseException:
            if stop is not None:
                stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for unit in begun:
                unit.abort()


class _Begun(NamedTuple):
    """A unit some of whose images are under way. pictures: where they go with `--to png`."""

    unit: Unit
    pictures: files.Files | None

    def abort(self) -> None:
        if self.pictures is not None:
            self.pictures.abort()


def _flow(
    units: Iterable[Unit], begun: deque[_Begun], pool: ThreadPoolExecutor, maker: Maker, publish: Publish, window: int
) -> Iterator[tuple[_Begun, Iterator[Made]]]:  # fmt: skip
    """Each unit with its results; images of later units, which stand in `begun`, start while those of earlier ones end."""
    waiting: deque[Future[list[Made]]] = deque()
    upcoming = _calls(units, begun, publish, maker.at_once)

    def fill() -> None:
        while len(waiting) < window and (call := next(upcoming, None)) is not None:
            waiting.append(pool.submit(_make, maker, *call))

    def results(unit: Unit) -> Iterator[Made]:
        for _ in range(0, len(unit.entries), maker.at_once):
            fill()
            yield from waiting.popleft().result()

    fill()
    while begun:
        first = begun.popleft()
        yield first, results(first.unit)
        fill()


def _calls(
    units: Iterable[Unit], begun: deque[_Begun], publish: Publish, at_once: int
) -> Iterator[tuple[Sequence[Entry], files.Files | None]]:
    """The entries of one call after the other, none of two units, and where their pictures go.

    Raises RunError as `_check_plan`, before anything is written of a unit.
    """
    for unit in units:
        _check_plan(publish)
        pictures = files.open(publish.output, unit.id, publish.options) if "png" in publish.to else None
        begun.append(_Begun(unit, pictures))
        for start in range(0, len(unit.entries), at_once):
            yield unit.entries[start : start + at_once], pictures


def _make(maker: Maker, entries: Sequence[Entry], pictures: files.Files | None) -> list[Made]:
    made = maker.make(entries)
    if pictures is not None:
        for entry, one in zip(entries, made, strict=True):
            if one.data is not None:
                pictures.add(entry.name, one.data, one.row)
    return made


def _commit(
    begun: _Begun, made: Iterator[Made], publish: Publish, on_image: Callable[[Row], None] | None
) -> Outcome:
    unit, pictures = begun
    sinks: list[Sink] = []
    rows: list[Row] = []
    try:
        for name in SINKS:
            if name in publish.to:
                sinks.append(SINKS[name].open(publish.output, unit.id, publish.options))
        for entry, result in zip(unit.entries, made, strict=True):
            row, uris = result.row, []
            if result.data is None and publish.on_error == "stop":
                raise stopped(row)
            if result.data is not None:
                uris = [] if pictures is None else [files.where(entry.name)]
                uris += [sink.add(entry.name, result.data, row) for sink in sinks]
            row = row._replace(unit=unit.id, output_uri=uris[0] if uris else None)
            rows.append(row)
            if on_image is not None:
                on_image(row)
        _check_plan(publish)
        if pictures is not None:
            # An attempt that died before its rows may have left a picture, of a source that has changed or is too slow now.
            for entry, row in zip(unit.entries, rows, strict=True):
                if row.status == "failed":
                    files.remove(publish.output, files.where(entry.name), publish.options)
            pictures.commit()
        for sink in sinks:
            sink.commit()
    except BaseException:
        begun.abort()
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
