from __future__ import annotations

from pathlib import Path

import pytest

from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.errors import StorageError
from artgen.storage import uri
from artgen.storage.ledger import Ledger
from artgen.work import plan as plans
from artgen.work import traces
from artgen.work.plan import Plan, UnitRef
from artgen.work.traces import Traces
from tests import pictures


def refs(count: int) -> list[UnitRef]:
    return [UnitRef(f"0123abcd-{n:06d}", "units-00000.parquet", n, 0, 4) for n in range(count)]


def standing(output: str) -> list[str]:
    return uri.names(uri.join(output, "_artgen", "begun"))


@pytest.mark.parametrize("store", ["local", "memory"])
def test_a_trace_stands_from_before_a_unit_until_its_commit(tmp_path: Path, store: str) -> None:
    output = str(tmp_path) if store == "local" else f"memory://{tmp_path.name}"
    kept = Traces(output)
    units = kept.begun(refs(5))
    assert standing(output) == []
    first = next(units)
    assert first.id in standing(output)
    others = [next(units)]
    kept.ended(first.id)
    others += [next(units), next(units)]  # the trace of the last was put after the removal, by the same thread
    assert first.id not in standing(output)
    assert {ref.id for ref in others} <= set(standing(output))
    kept.drop()
    kept.close()
    assert standing(output) == []


def test_a_run_that_was_killed_leaves_what_was_under_way(tmp_path: Path) -> None:
    kept = Traces(str(tmp_path))
    units = kept.begun(refs(4))
    (begun, _) = next(units), next(units)
    kept.ended(begun.id)
    kept.close()
    assert standing(str(tmp_path)) == [ref.id for ref in refs(4)[1:3]]
    traces.clear(str(tmp_path))
    assert standing(str(tmp_path)) == []
    traces.clear(str(tmp_path))


def test_no_unit_begins_without_its_trace(tmp_path: Path) -> None:
    (tmp_path / "_artgen").write_bytes(b"a file where the folder goes")
    kept = Traces(str(tmp_path))
    with pytest.raises(StorageError):
        next(kept.begun(refs(1)))
    kept.ended("0123abcd-000000")
    kept.close()


def planned(source: Path, output: Path) -> tuple[Plan, list[UnitRef]]:
    plan = plans.current(str(output))
    assert plan is not None
    return plan, list(plan.pending(Ledger(str(output))))


def leave(output: Path, names: list[str]) -> None:
    begun = output / "_artgen" / "begun"
    begun.mkdir()
    for name in names:
        (begun / name).touch()


def test_suspects_are_units_that_are_not_done(tmp_path: Path) -> None:
    source, output = pictures.write_folder(tmp_path / "in", pictures.files(8)), tmp_path / "out"
    config = RestoreConfig(input=str(source), output=str(output), model="identity", unit_images=2)
    assert restore(config, Console(quiet=True)) == 0
    plan, _ = planned(source, output)
    every = list(plan.refs())
    for ref in every[2:]:
        (output / "manifest" / f"part-{ref.id}.parquet").unlink()
    leave(output, [every[0].id, every[2].id, f"{every[3].unit}.0-1", ".artgen-half.tmp", "notes.txt"])
    plan, pending = planned(source, output)
    assert traces.suspects(plan, pending) == every[2:]


def test_suspects_are_known_by_their_keys_in_a_new_plan(tmp_path: Path) -> None:
    """An archive that grows every night must not put the isolation off for ever."""
    contents = pictures.files(8)
    source, output = pictures.write_folder(tmp_path / "in", contents), tmp_path / "out"
    config = RestoreConfig(input=str(source), output=str(output), model="identity", unit_images=2)
    assert restore(config, Console(quiet=True)) == 0
    before, _ = planned(source, output)
    (gone,) = [ref for ref in before.refs() if ref.group == 2]
    (output / "manifest" / f"part-{gone.id}.parquet").unlink()
    leave(output, [gone.id])
    keys = {entry.source.key for entry in plans.PlanReader(before.folder).load(gone).entries}
    pictures.write_folder(source, {f"0/{name}": data for name, data in pictures.files(5, first=20).items()})
    plan, found = None, []

    def look(*told: object) -> list[UnitRef]:
        nonlocal plan, found
        plan, pending = told[0], told[1]
        found = traces.suspects(plan, pending)  # pyright: ignore[reportArgumentType]
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("artgen.engines.local.suspects_of", look)
        assert restore(config, Console(quiet=True)) == 0
    assert plan is not None
    assert plan.hash != before.hash
    reader = plans.PlanReader(plan.folder)
    held = [{entry.source.key for entry in reader.load(ref).entries} & keys for ref in found]
    assert set().union(*held) == keys
    assert all(held)
    assert len(found) < plan.units
    assert standing(str(output)) == []
