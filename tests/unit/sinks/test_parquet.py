from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from artgen.errors import StorageError
from artgen.sinks import base, parquet
from tests.outputs import UNIT, files_below, png, row

PART = f"parquet/part-{UNIT}.parquet"


def write(output: Path, keys: list[str], unit: str = UNIT) -> list[str]:
    sink = parquet.open(str(output), unit)
    where = [sink.add(f"{key}.png", png(index), row(key)) for index, key in enumerate(keys)]
    sink.commit()
    return where


def test_rows_come_back_by_their_output_uri_across_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 3)
    where = write(tmp_path, [f"k{index}" for index in range(8)])
    assert where == [f"{PART}#{index}" for index in range(8)]
    assert pq.ParquetFile(tmp_path / PART).num_row_groups == 3
    assert [base.read(str(tmp_path), place) for place in where] == [png(index) for index in range(8)]


def test_columns_state_the_written_picture_and_the_key_verbatim(tmp_path: Path) -> None:
    sink = parquet.open(str(tmp_path), UNIT)
    sink.add(
        "new line.png",
        png(1, (8, 6)),
        row("new\nline", output_width=8, output_height=6, notes="a note"),
    )
    sink.commit()
    (found,) = pq.read_table(tmp_path / PART).to_pylist()
    assert found["image"] == {"bytes": png(1, (8, 6)), "path": "new line.png"}
    assert (found["key"], found["width"], found["height"]) == ("new\nline", 8, 6)
    assert (found["noise_before"], found["notes"]) == (20.0, "a note")


def test_the_same_pictures_make_the_same_bytes_whatever_the_time_they_took(tmp_path: Path) -> None:
    for folder, seconds in (("one", 1.0), ("two", 2.0)):
        sink = parquet.open(str(tmp_path / folder), UNIT)
        sink.add("a.png", png(1), row("a", seconds=seconds, attempts=int(seconds)))
        sink.commit()
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")


def test_nothing_is_seen_before_commit_nor_after_abort(tmp_path: Path) -> None:
    sink = parquet.open(str(tmp_path), UNIT)
    sink.add("a.png", png(1), row("a"))
    assert not (tmp_path / PART).exists()
    sink.abort()
    assert files_below(tmp_path) == {}


def test_a_unit_without_pictures_removes_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    parquet.open(str(tmp_path), UNIT).commit()
    assert files_below(tmp_path) == {}


def test_a_dropped_key_leaves_the_part_as_if_it_had_never_been_there(tmp_path: Path) -> None:
    sink = parquet.open(str(tmp_path / "without"), UNIT)
    for index in (0, 2):
        sink.add(f"k{index}.png", png(index), row(f"k{index}"))
    sink.commit()
    write(tmp_path / "all", ["k0", "k1", "k2"])
    assert parquet.drop(str(tmp_path / "all"), UNIT, {"k1", "other"}) == 1
    assert files_below(tmp_path / "all") == files_below(tmp_path / "without")
    assert parquet.drop(str(tmp_path / "all"), UNIT, {"k1"}) == 0
    assert parquet.drop(str(tmp_path / "all"), UNIT, {"k0", "k2"}) == 2
    assert files_below(tmp_path / "all") == {}
    assert parquet.drop(str(tmp_path / "all"), UNIT, {"k0"}) == 0


def test_memory_does_not_grow_with_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1 << 20)
    header = png(1)
    tracemalloc.start()
    sink = parquet.open(str(tmp_path), UNIT)
    for index in range(64):
        sink.add(f"{index}.png", header + bytes(512 << 10), row(str(index)))
    sink.commit()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / PART).stat().st_size > 32 << 20
    assert peak < 8 << 20


@pytest.mark.parametrize("where", [f"{PART}#5", "parquet/part-none.parquet#0"])
def test_a_row_that_is_gone_says_which(tmp_path: Path, where: str) -> None:
    write(tmp_path, ["a"])
    with pytest.raises(StorageError, match="parquet/part-"):
        base.read(str(tmp_path), where)


def test_a_broken_part_says_which(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    (tmp_path / PART).write_bytes(b"not parquet")
    with pytest.raises(StorageError, match=rf"{PART}.* remove it and manifest/part-{UNIT}\.parquet"):
        parquet.drop(str(tmp_path), UNIT, {"a"})
    assert list(files_below(tmp_path)) == [PART]


def test_a_store_that_does_not_answer_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "exists", away)
    with pytest.raises(StorageError, match=f"memory://out/{PART}.*not there now"):
        parquet.drop("memory://out", UNIT, {"a"})


def away(*_: object) -> bool:
    raise ConnectionError("not there now")


@pytest.mark.slow
def test_hugging_face_datasets_shows_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    write(tmp_path, ["a", "b"])
    found = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "parquet" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert isinstance(found.features["image"], datasets.Image)
    assert found["key"][:] == ["a", "b"]
    expected = np.asarray(Image.open(io.BytesIO(png(1))))
    assert np.array_equal(np.asarray(found[1]["image"]), expected)
