"""The plan: which images are to be done, cut into units, kept in OUTPUT so that any machine can go on.

`prepare` lists INPUT once, compares it with the rows that OUTPUT has, and writes what is left to do as
`_artgen/plan-<hash>/units-<n>.parquet` (a row group for each unit) with `plan.json` last. `_artgen/current.json` names
the plan that holds; while it is absent the rows alone say what is done, so dying at any step loses nothing:

    current.json removed -> torn parts and stale rows dropped -> units written -> plan.json -> current.json

Each is on the disk before the next is begun, so that a power cut is only another death.

Memory does not grow with the listing: entries pass through a temporary SQLite database. A plan of seeds is arithmetic:
`plan.json` holds their ranges, and there are no files of units.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from artgen.errors import StorageError, UsageError
from artgen.records import Entry, Source, Unit
from artgen.storage import atomic, uri
from artgen.storage.arrow import tells_damage
from artgen.storage.ledger import Ledger, part_uri
from artgen.text import plural
from artgen.work import listing
from artgen.work.listing import Listing
from artgen.work.seeds import Seeds, seed_entries

if TYPE_CHECKING:
    from artgen.work.seed_listing import SeedListing

UNITS_PER_FILE = 256
PLAN = "plan.json"
_ANEW = "remove it and _artgen/current.json, then run the same command again, which plans anew what has no row"


@dataclass(frozen=True, slots=True)
class UnitRef:
    """Where a unit (or a part of it, entries [start, stop)) stands in a plan."""

    unit: str
    file: str
    group: int
    start: int
    stop: int
    whole: bool = True

    @property
    def id(self) -> str:
        """The name of its manifest part, and what its rows say they are of."""
        return self.unit if self.whole else f"{self.unit}.{self.start}-{self.stop}"

    @property
    def images(self) -> int:
        """How many of the unit's entries these are."""
        return self.stop - self.start

    def halves(self) -> tuple[UnitRef, UnitRef]:
        """The unit in two, to isolate an image that kills its worker. Raises ValueError for a single image."""
        if self.images < 2:
            raise ValueError(f"unit {self.id} holds one image and cannot be split")
        middle = (self.start + self.stop) // 2
        left = UnitRef(self.unit, self.file, self.group, self.start, middle, whole=False)
        return left, UnitRef(self.unit, self.file, self.group, middle, self.stop, whole=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as it stands in OUTPUT: units of `unit_images` images each, the last of what is left. `seeds`: as text, where it
    is a plan of seeds. others: committed parts of earlier plans when it was made, whose images it leaves out."""

    output: str
    hash: str
    images: int
    skipped: int
    unit_images: int
    listing: str
    settings: dict[str, Any]
    seeds: str = ""
    others: int = 0

    @property
    def units(self) -> int:
        """How many there are."""
        return math.ceil(self.images / self.unit_images) if self.images else 0

    @property
    def folder(self) -> str:
        """Where plan.json and the files of units lie."""
        return uri.join(self.output, "_artgen", f"plan-{self.hash}")

    def refs(self) -> Iterator[UnitRef]:
        """Every unit in order, whole."""
        return map(self._ref, range(self.units))

    def ref_of(self, unit: str) -> UnitRef | None:
        """The whole unit that a row of the manifest is of, by its `unit` (which may name a part); None: of another plan."""
        plan, _, number = unit.partition(".")[0].partition("-")
        if plan != self.hash[:8] or not number.isdecimal() or int(number) >= self.units:
            return None
        return self._ref(int(number))

    def _ref(self, number: int) -> UnitRef:
        stop = min(self.unit_images, self.images - number * self.unit_images)
        if self.seeds:
            file, group = PLAN, number
        else:
            file, group = f"units-{number // UNITS_PER_FILE:05d}.parquet", number % UNITS_PER_FILE
        return UnitRef(f"{self.hash[:8]}-{number:06d}", file, group, 0, stop)

    def pending(self, ledger: Ledger) -> Iterator[UnitRef]:
        """The units (or what is left of split ones) that the ledger does not hold."""
        for ref in self.refs():
            for start, stop in ledger.missing(ref.unit, ref.stop):
                whole = (start, stop) == (0, ref.stop)
                yield UnitRef(ref.unit, ref.file, ref.group, start, stop, whole)


class PlanReader:
    """Loads units of a plan; keeps the last file open, so reading in order is one pass."""

    def __init__(self, folder: str, options: dict[str, Any] | None = None) -> None:
        self._folder, self._options = folder, options
        self._name, self._file = "", None
        self._seeds: tuple[Seeds, int, str] | None = None

    def load(self, ref: UnitRef) -> Unit:
        """The entries of a unit, or of the part of it that `ref` is. Raises StorageError."""
        if ref.file == PLAN:
            return Unit(ref.id, self._seed_entries(ref))
        place = uri.join(self._folder, ref.file)
        with uri.reading(place):  # as a bare error it would be laid to an image of the unit
            try:
                rows = self._opened(ref.file).read_row_group(ref.group).to_pylist()
            except Exception as error:
                if not tells_damage(error):
                    raise
                raise StorageError(f"{uri.shown(place)!r} is damaged ({uri.explain(error)}): {_ANEW}") from error
        return Unit(ref.id, tuple(_entry(row) for row in rows[ref.start : ref.stop]))

    def _opened(self, name: str) -> Any:
        import pyarrow.parquet as pq

        if self._name != name or self._file is None:
            fs, path = uri.filesystem(uri.join(self._folder, name), self._options)
            self._name, self._file = "", None
            self._name, self._file = name, pq.ParquetFile(fs.open(path, "rb"))
        return self._file

    def _seed_entries(self, ref: UnitRef) -> tuple[Entry, ...]:
        if self._seeds is None:
            facts = _read_json(uri.join(self._folder, PLAN), self._options)
            self._seeds = Seeds.parse(facts["seeds"]), facts["unit_images"], facts["settings"]["extension"]
        seeds, unit_images, extension = self._seeds
        unit = seeds.part(ref.group * unit_images, (ref.group + 1) * unit_images)
        return tuple(seed_entries(unit, extension)[ref.start : ref.stop])


def settings_difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines that say how two settings differ, empty if they do not."""
    keys = sorted(old.keys() | new.keys())
    return [f"{key}: was {old.get(key)!r}, now {new.get(key)!r}" for key in keys if old.get(key) != new.get(key)]


def current(output: str, options: dict[str, Any] | None = None) -> Plan | None:
    """The plan that OUTPUT stands by, or None."""
    found = current_hash(output, options)
    if found is None:
        return None
    return _read_plan(output, f"plan-{found}", options)


def current_hash(output: str, options: dict[str, Any] | None = None) -> str | None:
    """Of the plan that OUTPUT stands by; None before the first and while another is made. Raises StorageError."""
    pointer = _read_json(uri.join(output, "_artgen", "current.json"), options)
    return None if pointer is None else pointer["plan"]


def all_plans(output: str, options: dict[str, Any] | None = None) -> Iterator[Plan]:
    """Every plan that OUTPUT holds, whole ones only."""
    for name in uri.names(uri.join(output, "_artgen"), options):
        if not name.startswith("plan-"):
            continue
        if (found := _read_plan(output, name, options)) is not None:
            yield found


def _read_plan(output: str, folder: str, options: dict[str, Any] | None) -> Plan | None:
    place = uri.join(output, "_artgen", folder, PLAN)
    facts = _read_json(place, options)
    try:
        return None if facts is None else Plan(output=output, **facts)
    except TypeError as error:  # more or fewer facts than this version knows
        raise StorageError(f"{uri.shown(place)!r} is damaged or of another version ({error}): {_ANEW}") from error


def prepare(
    listed: Listing | SeedListing, output: str, settings: dict[str, Any], *, unit_images: int = 0, retry_failed: bool = False,
    options: dict[str, Any] | None = None, say: Callable[[str], None] | None = None,
) -> Plan:  # fmt: skip
    """The plan for this listing and these settings: the one in OUTPUT if it still holds, else a new one.

    Parts of the manifest that cannot be read are removed, and `say` told so. Raises UsageError as `survey` does, StorageError.
    `retry_failed` drops failed rows, so they are planned again.
    """
    held = survey(listed, output, settings, retry_failed=retry_failed, options=options)
    if held is not None:
        return held
    if _read_json(_settings_uri(output), options) is None:  # before the first row, which is of these settings
        atomic.write(_settings_uri(output), _json({**settings, "input": listed.root}), options, fsync=True)
    uri.remove(uri.join(output, "_artgen", "current.json"), options)
    # Rows go next, and a plan that came back after a power cut would count their images as done.
    atomic.sync(uri.join(output, "_artgen"), ["settings.json"])
    # From here on the workers of a driver that has lost OUTPUT to this one commit nothing (`unit.run`).
    ledger = Ledger(output, options)
    if ledger.units() != listed.committed:
        listed.subtract_done(output, retry_failed=retry_failed, options=options)
    unreadable = [*ledger.torn, *listed.damaged]
    for unit in unreadable:
        uri.remove(part_uri(output, unit), options)
    if unreadable and say is not None:
        parts, units = plural(len(unreadable), "part"), plural(len(unreadable), "unit")
        say(
            f"{parts} of the manifest cannot be read, such as part-{unreadable[0]}.parquet: {units} will be done anew"
        )
    if listed.gone and say is not None:
        say(
            f"{plural(listed.gone, 'failed row')} of what INPUT no longer holds, such as {listed.first_gone!r}: dropped"
        )
    listed.drop_stale(output, options)
    return _write(listed, output, settings, listed.digest(), unit_images, options)


def survey(
    listed: Listing | SeedListing, output: str, settings: dict[str, Any], *, retry_failed: bool = False,
    options: dict[str, Any] | None = None,
) -> Plan | None:  # fmt: skip
    """The plan that OUTPUT stands by if it still holds; else None, and `listed` counts what the rows there leave to be done.
    None holds beside torn parts of the manifest, or where some are gone: they may be of an earlier plan.

    Changes nothing in OUTPUT. Raises UsageError if it was made with other settings, or of another INPUT with the same names.
    """
    before = _read_json(_settings_uri(output), options)
    root = None if before is None else before.pop("input", None)
    if before is not None and (changes := settings_difference(before, settings)):
        raise UsageError(
            f"OUTPUT {uri.shown(output)} was made with other settings ({'; '.join(changes)}): "
            "use the same settings, another OUTPUT, or --overwrite to start it anew"
        )
    held = current(output, options)
    if held is not None and held.listing == listed.digest() and not retry_failed:
        ledger = Ledger(output, options)
        others = sum(held.ref_of(unit) is None for unit in ledger.units())
        if not ledger.torn and others >= held.others:
            return held
    listed.subtract_done(output, retry_failed=retry_failed, options=options)
    if listed.changed and root is not None and root != listed.root:
        raise UsageError(
            f"OUTPUT {uri.shown(output)} was made from {root}, and {listed.changed} images of {listed.root} bear the names of "
            "other ones in it, which would be replaced: use the same INPUT, another OUTPUT, or --overwrite to start it anew"
        )
    return None


def settings_of(output: str, options: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """What OUTPUT is made with, from before its first row; None where artgen has begun nothing. Raises StorageError."""
    return _read_json(_settings_uri(output), options)


def _settings_uri(output: str) -> str:
    return uri.join(output, "_artgen", "settings.json")


def _write(
    listed: Listing | SeedListing, output: str, settings: dict[str, Any], digest: str, unit_images: int,
    options: dict[str, Any] | None,
) -> Plan:  # fmt: skip
    images = listed.count()
    size = unit_images or default_unit_images(images)
    identity = hashlib.sha256(
        _json({"settings": settings, "todo": listed.digest(todo=True), "unit": size})
    ).hexdigest()
    plan = Plan(output, identity[:16], images, listed.skipped, size, digest, settings, str(listed.seeds))
    plan = replace(plan, others=sum(plan.ref_of(unit) is None for unit in Ledger(output, options).units()))
    file_rows = size * UNITS_PER_FILE
    for number, rows in enumerate(_chunks(listed.entries(settings["extension"]), file_rows)):
        _write_units(uri.join(plan.folder, f"units-{number:05d}.parquet"), rows, size, options)
    facts = {key: value for key, value in asdict(plan).items() if key != "output"}
    atomic.write(uri.join(plan.folder, PLAN), _json(facts), options, fsync=True)
    atomic.write(uri.join(output, "_artgen", "current.json"), _json({"plan": plan.hash}), options, fsync=True)
    return plan


def default_unit_images(images: int) -> int:
    """Images per unit: 16 for small archives, so little is redone; 10,000 for a billion, so units stay about 100,000."""
    return min(max(16, round(math.sqrt(images) / 3)), 10_000)


def _chunks(entries: Iterator[Entry], size: int) -> Iterator[Iterator[Entry]]:
    """Consecutive runs of `size` entries; each run must be consumed before the next is asked for."""
    for first in entries:
        yield _run(first, entries, size)


def _run(first: Entry, rest: Iterator[Entry], size: int) -> Iterator[Entry]:
    yield first
    for _ in range(size - 1):
        entry = next(rest, None)
        if entry is None:
            return
        yield entry


def _write_units(file: str, entries: Iterable[Entry], unit_images: int, options: dict[str, Any] | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.int64() if name in _INTEGERS else pa.string()) for name in _COLUMNS])
    with (
        atomic.open_for_commit(file, options, fsync=True) as out,
        pq.ParquetWriter(out, schema, compression="zstd") as writer,
    ):
        for unit in _chunks(iter(entries), unit_images):
            writer.write_table(pa.Table.from_pylist([_row(entry) for entry in unit], schema))


_INTEGERS = ("offset", "size", "attempts")
_COLUMNS = (
    "key", "uri", "kind", "offset", "size", "detail", "version", "problem", "name", "attempts", "mask",
)  # fmt: skip


def _row(entry: Entry) -> dict[str, Any]:
    mask = None if entry.mask is None else json.dumps(asdict(entry.mask))
    return {**asdict(entry.source), "name": entry.name, "attempts": entry.attempts, "mask": mask}


def _entry(row: dict[str, Any]) -> Entry:
    mask = Source(**json.loads(row["mask"])) if row["mask"] else None
    source = Source(**{name: row[name] for name in listing.SOURCE_COLUMNS})
    return Entry(source, row["name"], mask, row["attempts"])


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()


def _read_json(file: str, options: dict[str, Any] | None) -> Any:
    """An object; None where there is no such file. Raises StorageError for one that a power cut or an editor has broken."""
    data = uri.read_or_none(file, options)
    if data is None:
        return None
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError) as error:
        settings = file.endswith("/settings.json")
        fix = (
            "remove it, then run the same command with the settings that OUTPUT was made with"
            if settings
            else _ANEW
        )
        raise StorageError(f"{uri.shown(file)!r} is damaged ({error}): {fix}") from error
