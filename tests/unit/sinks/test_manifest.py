from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from artgen.errors import StorageError
from artgen.records import Row
from artgen.sinks import manifest
from artgen.storage import atomic, uri
from artgen.storage.ledger import Ledger
from tests.outputs import failed, files_below, row

UNITS = [f"0123abcd-{index:06d}" for index in range(40)]


def keys(output: Path, damaged: list[str] | None = None) -> list[str]:
    batches = manifest.read(str(output), ["key"], damaged=damaged)
    return [key for batch in batches for key in batch.column("key").to_pylist()]


def test_the_schema_has_the_columns_of_a_row() -> None:
    assert manifest.SCHEMA.names == [*Row._fields]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row("new\nline ü", notes="a; b"), failed("bad", message="why"), row("c", noise_before=None, bits=16)]
    manifest.write(str(tmp_path), UNITS[0], rows)
    assert list(files_below(tmp_path)) == [f"manifest/part-{UNITS[0]}.parquet"]
    found = pa.Table.from_batches(manifest.read(str(tmp_path)))
    assert found.schema == manifest.SCHEMA
    assert found.to_pylist() == [item._asdict() for item in rows]


def test_parts_stream_in_the_order_of_their_units(tmp_path: Path) -> None:
    for unit in reversed(UNITS):
        manifest.write(str(tmp_path), unit, [row(f"{unit}/a", unit=unit), row(f"{unit}/b", unit=unit)])
    assert keys(tmp_path) == [f"{unit}/{name}" for unit in UNITS for name in "ab"]
    stream = manifest.read(str(tmp_path), ["key"])
    assert next(stream).num_columns == 1
    stream.close()  # pyright: ignore[reportAttributeAccessIssue] (it is a generator: readers in flight are let go)


def test_rows_are_counted_by_status(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), UNITS[0], [row("a"), failed("b"), row("c")])
    manifest.write(str(tmp_path), UNITS[1], [failed("d")])
    assert manifest.totals(str(tmp_path)) == {"ok": 2, "failed": 2}


def test_an_output_without_a_manifest_has_no_rows(tmp_path: Path) -> None:
    assert list(manifest.read(str(tmp_path / "nothing"))) == []
    assert manifest.totals(str(tmp_path)) == {"ok": 0, "failed": 0}


def test_dropped_keys_move_the_rows_of_a_parquet_part_up(tmp_path: Path) -> None:
    part = f"parquet/part-{UNITS[0]}.parquet"
    rows = [row(f"k{index}", output_uri=f"{part}#{index}") for index in range(4)]
    manifest.write(str(tmp_path), UNITS[0], [rows[0], failed("bad"), *rows[1:]])
    assert manifest.drop(str(tmp_path), UNITS[0], {"k0", "k2", "bad", "other"}) == 3
    assert keys(tmp_path) == ["k1", "k3"]
    (batch,) = manifest.read(str(tmp_path), ["output_uri"])
    assert batch.column(0).to_pylist() == [f"{part}#0", f"{part}#1"]
    assert manifest.drop(str(tmp_path), UNITS[0], {"k0"}) == 0


def test_a_part_that_loses_all_rows_is_gone_so_that_its_unit_is_not_taken_for_done(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), UNITS[0], [failed("a")])
    assert manifest.drop(str(tmp_path), UNITS[0], {"a"}) == 1
    assert files_below(tmp_path) == {}
    assert keys(tmp_path) == []
    assert manifest.drop(str(tmp_path), "0123abcd-000099", {"a"}) == 0


@pytest.mark.parametrize("left", [b"", b"PAR1", b"PAR1 torn by a power cut", bytes(9000)])
def test_a_torn_part_is_none(tmp_path: Path, left: bytes) -> None:
    manifest.write(str(tmp_path), UNITS[0], [row("a")])
    manifest.write(str(tmp_path), UNITS[1], [row("b")])
    (tmp_path / "manifest" / f"part-{UNITS[0]}.parquet").write_bytes(left)
    assert keys(tmp_path) == ["b"]
    ledger = Ledger(str(tmp_path))
    assert (ledger.torn, ledger.units()) == ([UNITS[0]], [UNITS[1]])
    assert ledger.missing(UNITS[0], 1) == [(0, 1)]


def test_on_a_store_an_empty_part_is_none() -> None:
    output = "memory://torn-part/out"
    manifest.write(output, UNITS[0], [row("a")])
    manifest.write(output, UNITS[1], [row("b")])
    atomic.write(uri.join(output, f"manifest/part-{UNITS[0]}.parquet"), b"")
    ledger = Ledger(output)
    assert (ledger.torn, ledger.units()) == ([UNITS[0]], [UNITS[1]])


def test_a_part_damaged_within_says_which_and_is_emptied_by_who_ends_a_run(tmp_path: Path) -> None:
    for unit in UNITS[:2]:
        manifest.write(str(tmp_path), unit, [row("a")])
    part = tmp_path / "manifest" / f"part-{UNITS[0]}.parquet"
    data = part.read_bytes()
    part.write_bytes(data[:4] + bytes(len(data) - 12) + data[-8:])
    with pytest.raises(StorageError, match=f"{UNITS[0]}.*run the command that made OUTPUT again"):
        keys(tmp_path)
    damaged: list[str] = []
    assert keys(tmp_path, damaged) == ["a"]
    assert damaged == [UNITS[0]]
    with pytest.raises(StorageError, match=r"1 parts .* run the same command again"):
        manifest.totals(str(tmp_path))
    assert Ledger(str(tmp_path)).torn == [UNITS[0]]
    assert manifest.totals(str(tmp_path)) == {"ok": 1, "failed": 0}


def test_writing_a_manifest_imports_neither_torch_nor_pandas_nor_datasets() -> None:
    script = (
        "import sys; from artgen.sinks import files, parquet, shards, manifest;"
        "print([n for n in ('torch', 'pandas', 'pyarrow.dataset', 'pyarrow.compute', 'ray') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_part_that_a_run_drops_meanwhile_is_left_out_by_who_says_so(tmp_path: Path) -> None:
    for unit in ("0123abcd-000000", "0123abcd-000001"):
        manifest.write(str(tmp_path), unit, [row(unit, unit=unit)])
    units = ["0123abcd-000000", "0123abcd-000001", "0123abcd-000002"]
    left_out: list[str] = []
    found = [key for batch in manifest.read(str(tmp_path), ["key"], units=units, damaged=left_out)
             for key in batch.column(0).to_pylist()]  # fmt: skip
    assert found == units[:2]
    assert left_out == units[2:]
    with pytest.raises(StorageError, match="has vanished"):
        list(manifest.read(str(tmp_path), ["key"], units=units))
