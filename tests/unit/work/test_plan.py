from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from artgen.errors import StorageError, UsageError
from artgen.records import Row, Source
from artgen.sinks import manifest
from artgen.storage.ledger import Ledger
from artgen.work import listing
from artgen.work import plan as plans
from artgen.work.listing import Listing, stem
from artgen.work.plan import Plan, PlanReader
from tests.unit.storage import packs

SETTINGS = {"extension": ".png", "model_sha256": "0", "strength": 1.0}


def sources(count: int, version: str = "1") -> list[Source]:
    return [Source(f"d/{n:04d}.jpg", f"in/d/{n:04d}.jpg", "file", size=10, version=version) for n in range(count)]


def prepare(output: Path, found: list[Source], settings: dict[str, Any] = SETTINGS, **flags: Any) -> Plan:
    with Listing("in", found) as listed:
        return plans.prepare(listed, str(output), settings, unit_images=3, **flags)


def commit(plan: Plan, status: str = "ok", most: int = 10**9) -> None:
    """Writes the manifest parts of the first `most` pending units."""
    reader = PlanReader(plan.folder)
    for ref in list(plan.pending(Ledger(plan.output)))[:most]:
        unit = reader.load(ref)
        manifest.write(plan.output, unit.id, [row(entry, status, unit.id) for entry in unit.entries])


def row(entry: Any, status: str, unit: str) -> Row:
    values: dict[str, Any] = dict.fromkeys(Row._fields)
    values |= {"key": entry.source.key, "source_uri": "", "source_version": entry.version, "status": status, "model": "",
               "model_sha256": "", "seconds": 0.0, "attempts": entry.attempts, "notes": "", "unit": unit,
               "output_name": entry.name if status == "ok" else None}  # fmt: skip
    return Row(**values)


def keys(plan: Plan) -> list[str]:
    reader = PlanReader(plan.folder)
    return [entry.source.key for ref in plan.pending(Ledger(plan.output)) for entry in reader.load(ref).entries]


def test_a_plan_holds_every_source_once_and_is_found_again(tmp_path: Path) -> None:
    plan = prepare(tmp_path, sources(8))
    assert (plan.images, plan.units) == (8, 3)
    assert keys(plan) == [source.key for source in sources(8)]
    assert prepare(tmp_path, sources(8)) == plan
    commit(plan, most=1)
    assert keys(prepare(tmp_path, sources(8))) == [source.key for source in sources(8)][3:]


def test_grown_archive_plans_only_what_is_new_even_when_the_first_run_was_cut_short(tmp_path: Path) -> None:
    commit(prepare(tmp_path, sources(8)), most=2)
    grown = prepare(tmp_path, sources(11))
    assert keys(grown) == [source.key for source in sources(11)][6:]
    commit(grown)
    assert keys(prepare(tmp_path, sources(11))) == []
    assert len([r for batch in manifest.read(str(tmp_path)) for r in batch.to_pylist()]) == 11


def test_changed_sources_lose_their_row_and_are_planned(tmp_path: Path) -> None:
    commit(prepare(tmp_path, sources(8)))
    changed = [
        replace(source, version="2") if source.key in ("d/0001.jpg", "d/0007.jpg") else source
        for source in sources(8)
    ]
    plan = prepare(tmp_path, changed)
    assert keys(plan) == ["d/0001.jpg", "d/0007.jpg"]
    left = [r["key"] for batch in manifest.read(str(tmp_path)) for r in batch.to_pylist()]
    assert len(left) == 6
    assert not set(left) & {"d/0001.jpg", "d/0007.jpg"}


def test_retry_failed_plans_failed_rows_with_their_attempts(tmp_path: Path) -> None:
    commit(prepare(tmp_path, sources(4)), status="failed", most=1)
    commit(prepare(tmp_path, sources(4)))
    assert keys(prepare(tmp_path, sources(4))) == []
    plan = prepare(tmp_path, sources(4), retry_failed=True)
    entries = PlanReader(plan.folder).load(next(plan.refs())).entries
    assert [(entry.source.key, entry.attempts) for entry in entries] == [(f"d/000{n}.jpg", 2) for n in range(3)]


def test_failures_that_are_retried_again_and_again_keep_their_rows(tmp_path: Path) -> None:
    """The second retry is a plan of the same images as the first, so its units have the same ids."""
    commit(prepare(tmp_path, sources(4)), status="failed")
    for attempt in (2, 3, 4):
        plan = prepare(tmp_path, sources(4), retry_failed=True)
        assert keys(plan) == [source.key for source in sources(4)]
        commit(plan, status="failed")
        found = [r for batch in manifest.read(str(tmp_path)) for r in batch.to_pylist()]
        assert sorted((r["key"], r["attempts"]) for r in found) == [(f"d/000{n}.jpg", attempt) for n in range(4)]


@pytest.mark.parametrize("at", range(1, 5))
def test_dying_while_a_new_plan_is_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The process dies before the at-th write to storage; the next run must plan all that has no row."""
    commit(prepare(tmp_path, sources(5)))
    changed = [replace(sources(5)[0], version="2"), *sources(7)[1:]]
    writes = 0

    def dying(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == at:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "open_for_commit"):
            patch.setattr(plans.atomic, name, dying(getattr(plans.atomic, name)))
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, changed)
    plan = prepare(tmp_path, changed)
    assert keys(plan) == ["d/0000.jpg", "d/0005.jpg", "d/0006.jpg"]


def test_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    prepare(tmp_path, sources(2))
    with pytest.raises(UsageError, match=r"strength: was 1\.0, now 0\.5"):
        prepare(tmp_path, sources(2), {**SETTINGS, "strength": 0.5})


def test_split_units_are_done_when_their_parts_cover_them(tmp_path: Path) -> None:
    plan = prepare(tmp_path, sources(3))
    (ref,) = plan.pending(Ledger(str(tmp_path)))
    left, right = ref.halves()
    assert (left.images, right.images) == (1, 2)
    unit = PlanReader(plan.folder).load(right)
    manifest.write(plan.output, unit.id, [row(entry, "ok", unit.id) for entry in unit.entries])
    assert [r.id for r in plan.pending(Ledger(str(tmp_path)))] == [left.id]
    manifest.write(plan.output, left.id, [])
    assert list(plan.pending(Ledger(str(tmp_path)))) == []


def test_a_row_tells_its_unit(tmp_path: Path) -> None:
    plan = prepare(tmp_path, sources(8))
    refs = list(plan.refs())
    assert [plan.ref_of(ref.id) for ref in refs] == refs
    assert [plan.ref_of(half.id) for half in refs[1].halves()] == [refs[1], refs[1]]
    for other in (f"{plan.hash[:8]}-000003", "89abcdef-000000", f"{plan.hash[:8]}-", ""):
        assert plan.ref_of(other) is None, other


def test_masks_are_found_by_stem_and_change_the_version(tmp_path: Path) -> None:
    masks = [Source("d/0001.png", "masks/d/0001.png", "file", version="m1")]

    def listed(mask: list[Source]) -> Iterator[Any]:
        with Listing("in", sources(3), mask) as found:
            assert found.masked == 1
            yield plans.prepare(found, str(tmp_path), SETTINGS)

    (plan,) = listed(masks)
    entries = PlanReader(plan.folder).load(next(plan.refs())).entries
    assert [entry.mask is not None for entry in entries] == [False, True, False]
    assert entries[1].version == "1|m1"
    commit(plan)
    (again,) = listed([replace(masks[0], version="m2")])
    assert keys(again) == ["d/0001.jpg"]


def test_units_grow_with_the_archive() -> None:
    assert plans.default_unit_images(10) == 16
    assert plans.default_unit_images(10**9) == 10_000
    assert 10**9 / plans.default_unit_images(10**9) <= 100_000


@pytest.mark.parametrize(
    ("key", "expected"), [("a/b.jpg", "a/b"), ("a.tar/b.c.png", "a.tar/b.c"), (".hidden", ".hidden"), ("..", "..")]
)
def test_stem(key: str, expected: str) -> None:
    assert stem(key) == expected


@pytest.mark.parametrize("left", [b"", b"PAR1 torn", None])
def test_what_a_power_cut_tore_is_done_anew_also_of_an_earlier_plan(tmp_path: Path, left: bytes | None) -> None:
    """None: torn within, which shows only to whoever reads the rows."""
    commit(prepare(tmp_path, sources(6)))
    commit(prepare(tmp_path, sources(9)))
    first = sorted((tmp_path / "manifest").iterdir(), key=lambda part: part.stat().st_mtime_ns)[0]
    data = first.read_bytes()
    first.write_bytes(data[:4] + bytes(len(data) - 12) + data[-8:] if left is None else left)
    if left is None:
        with pytest.raises(StorageError, match="same command again"):
            manifest.totals(str(tmp_path))
    said: list[str] = []
    plan = prepare(tmp_path, sources(9), say=said.append)
    assert keys(plan) == [source.key for source in sources(3)]
    assert said == [f"1 part of the manifest cannot be read, such as {first.name}: 1 unit will be done anew"]
    commit(plan)
    assert manifest.totals(str(tmp_path)) == {"ok": 9, "failed": 0}
    assert list(prepare(tmp_path, sources(9), say=said.append).pending(Ledger(str(tmp_path)))) == []
    assert len(said) == 1


def test_a_part_of_an_earlier_plan_that_is_gone_is_done_anew(tmp_path: Path) -> None:
    commit(prepare(tmp_path, sources(9)))
    gone = min((tmp_path / "manifest").iterdir())
    commit(prepare(tmp_path, sources(12)))
    assert list(prepare(tmp_path, sources(12)).pending(Ledger(str(tmp_path)))) == []
    gone.unlink()  # by hand, or by an interrupted copy of OUTPUT
    plan = prepare(tmp_path, sources(12))
    assert keys(plan) == [source.key for source in sources(3)]
    commit(plan)
    assert manifest.totals(str(tmp_path)) == {"ok": 12, "failed": 0}
    assert prepare(tmp_path, sources(12)) == plan


def test_rows_that_come_while_a_run_plans_anew_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a driver that has lost OUTPUT: its workers may commit until the plan is taken away."""
    first = prepare(tmp_path, sources(6))
    survey = plans.survey

    def late(*given: Any, **flags: Any) -> Plan | None:
        held = survey(*given, **flags)
        commit(first, most=1)
        return held

    monkeypatch.setattr(plans, "survey", late)
    assert keys(prepare(tmp_path, sources(9))) == [source.key for source in sources(9)[3:]]


def test_what_failed_is_looked_for_in_no_part_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[set[str]] = []
    for sink in (listing.parquet, listing.shards):
        monkeypatch.setattr(sink, "drop", lambda output, unit, keys, options: dropped.append(keys))
    commit(prepare(tmp_path, sources(6)), status="failed")
    assert len(keys(prepare(tmp_path, sources(6), retry_failed=True))) == 6
    assert dropped == []


def test_a_part_damaged_within_is_done_anew_when_rows_are_read(tmp_path: Path) -> None:
    commit(prepare(tmp_path, sources(6)))
    part = min((tmp_path / "manifest").iterdir())
    data = part.read_bytes()
    part.write_bytes(data[:4] + bytes(len(data) - 12) + data[-8:])
    commit(prepare(tmp_path, sources(9)))
    assert manifest.totals(str(tmp_path)) == {"ok": 9, "failed": 0}


def test_a_part_damaged_in_a_column_that_planning_does_not_read_is_done_anew_by_the_next_run(
    tmp_path: Path,
) -> None:
    commit(prepare(tmp_path, sources(6)))
    part = min((tmp_path / "manifest").iterdir())
    column = pq.ParquetFile(part).metadata.row_group(0).column(manifest.SCHEMA.names.index("model"))
    data = bytearray(part.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    part.write_bytes(data)
    changed = [replace(source, version="2") for source in sources(6)]
    with pytest.raises(StorageError, match=r"run the command .* again"):
        prepare(tmp_path, changed)
    commit(prepare(tmp_path, changed))
    assert manifest.totals(str(tmp_path)) == {"ok": 6, "failed": 0}


def test_a_plan_of_other_facts_is_told_with_the_fix(tmp_path: Path) -> None:
    folder = tmp_path / "_artgen" / "plan-0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text('{"seeds": "0-3"}')
    (tmp_path / "_artgen" / "current.json").write_text('{"plan": "0123456789abcdef"}')
    for read in (plans.current, lambda output: list(plans.all_plans(output))):
        with pytest.raises(StorageError, match=r"of another version .*remove it and _artgen/current.json"):
            read(str(tmp_path))


@pytest.mark.parametrize("where", ["all", "pages", "footer"])
def test_a_damaged_file_of_units_is_told_with_the_fix(tmp_path: Path, where: str) -> None:
    plan = prepare(tmp_path, sources(4))
    (file,) = (tmp_path / "_artgen").glob("plan-*/units-*.parquet")
    file.write_bytes(packs.damaged(file.read_bytes(), where))
    with pytest.raises(StorageError, match=r"is damaged .*remove it and _artgen/current.json"):
        PlanReader(plan.folder).load(next(plan.refs()))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("current.json", "_artgen/current.json"),
        ("settings.json", "with the settings"),
        ("plan-*/plan.json", "plans anew"),
    ],
)
@pytest.mark.parametrize("left", [b"", b"null", b'{"pl'])
def test_a_broken_file_of_the_plan_is_named_with_the_fix(tmp_path: Path, name: str, fix: str, left: bytes) -> None:
    commit(prepare(tmp_path, sources(4)), most=1)
    (broken,) = (tmp_path / "_artgen").glob(name)
    broken.write_bytes(left)
    with pytest.raises(StorageError, match=f"{broken.name}.*{fix}"):
        prepare(tmp_path, sources(4))
    broken.unlink()
    (tmp_path / "_artgen/current.json").unlink(missing_ok=True)
    assert keys(prepare(tmp_path, sources(4))) == [sources(4)[3].key]


def test_a_broken_file_of_units_is_named_with_the_fix(tmp_path: Path) -> None:
    plan = prepare(tmp_path, sources(4))
    (tmp_path / "_artgen" / f"plan-{plan.hash}" / "units-00000.parquet").write_bytes(b"")
    with pytest.raises(StorageError, match=r"units-00000\.parquet.*_artgen/current\.json"):
        PlanReader(plan.folder).load(next(plan.refs()))
