from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from artgen.errors import StorageError
from artgen.sinks import base, shards
from tests.outputs import UNIT, files_below, png, row

SHARD = f"shards/{UNIT}.tar"
KEYS = ["a.b.jpg", "a_b.jpg", "sub.dir/ü\n.png", "long/" + "x" * 190 + "/" + "y" * 190]


def name_of(key: str) -> str:
    return key.replace("\n", "_") + ".png"


def write(output: Path, keys: list[str]) -> list[str]:
    sink = shards.open(str(output), UNIT)
    where = [sink.add(name_of(key), png(index), row(key)) for index, key in enumerate(keys)]
    sink.commit()
    return where


def test_each_sample_is_a_picture_and_its_facts(tmp_path: Path) -> None:
    where = write(tmp_path, KEYS)
    with tarfile.open(tmp_path / SHARD) as tar:
        members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
        names = [member.name for member in members]
        facts = [json.loads(tar.extractfile(name).read()) for name in names[1::2]]  # pyright: ignore[reportOptionalMemberAccess]
    assert [f"{SHARD}#{name}" for name in names[::2]] == where
    assert [name.removesuffix(".png") for name in names[::2]] == [n.removesuffix(".json") for n in names[1::2]]
    assert len({name.casefold() for name in names}) == 2 * len(KEYS)
    assert [fact["key"] for fact in facts] == KEYS
    assert (facts[0]["width"], facts[0]["height"], facts[0]["noise_after"]) == (4, 3, 2.0)


def test_pictures_come_back_by_their_output_uri(tmp_path: Path) -> None:
    where = write(tmp_path, [*KEYS, "hash#1"])
    assert [base.read(str(tmp_path), place) for place in where] == [png(index) for index in range(len(where))]


def test_the_sample_key_has_no_dot_and_tells_equal_stems_apart() -> None:
    one, two = shards.sample_key("d.1/a.b.png", "d.1/a.b.jpg"), shards.sample_key("d.1/a_b.png", "d.1/a_b.jpg")
    assert one.startswith("d.1/a_b-")
    assert "." not in one.rpartition("/")[2]
    assert one != two


def test_what_is_not_a_number_becomes_null(tmp_path: Path) -> None:
    sink = shards.open(str(tmp_path), UNIT)
    sink.add("a.png", png(1), row("a", noise_before=float("nan")))
    sink.commit()
    with tarfile.open(tmp_path / SHARD) as tar:
        facts = json.loads(tar.extractfile(tar.getnames()[1]).read())  # pyright: ignore[reportOptionalMemberAccess]
    assert facts["noise_before"] is None


def test_the_same_pictures_make_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one", KEYS)
    write(tmp_path / "two", KEYS)
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")


def test_nothing_is_seen_before_commit_nor_after_abort(tmp_path: Path) -> None:
    sink = shards.open(str(tmp_path), UNIT)
    sink.add("a.png", png(1), row("a"))
    assert not (tmp_path / SHARD).exists()
    sink.abort()
    assert files_below(tmp_path) == {}


def test_a_unit_without_pictures_removes_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    shards.open(str(tmp_path), UNIT).commit()
    assert files_below(tmp_path) == {}


def test_a_dropped_key_leaves_the_shard_as_if_it_had_never_been_there(tmp_path: Path) -> None:
    sink = shards.open(str(tmp_path / "without"), UNIT)
    for index in (0, 2, 3):
        sink.add(name_of(KEYS[index]), png(index), row(KEYS[index]))
    sink.commit()
    write(tmp_path / "all", KEYS)
    assert shards.drop(str(tmp_path / "all"), UNIT, {KEYS[1], "other"}) == 1
    assert files_below(tmp_path / "all") == files_below(tmp_path / "without")
    assert shards.drop(str(tmp_path / "all"), UNIT, {KEYS[1]}) == 0
    assert shards.drop(str(tmp_path / "all"), UNIT, set(KEYS)) == 3
    assert files_below(tmp_path / "all") == {}
    assert shards.drop(str(tmp_path / "all"), UNIT, set(KEYS)) == 0


@pytest.mark.parametrize("at", ["the first header", "a later header", "the end", "a JSON file"])
def test_a_damaged_shard_says_which_and_what_to_do_and_is_not_rewritten(tmp_path: Path, at: str) -> None:
    write(tmp_path, ["a", "b", "c"])
    path = tmp_path / SHARD
    with tarfile.open(path) as tar:
        _, facts, later, *_ = tar.getmembers()
    data = bytearray(path.read_bytes())
    if at == "the end":
        del data[later.offset_data + 10 :]
    else:
        begin = {"the first header": 0, "a later header": later.offset, "a JSON file": facts.offset_data}[at]
        data[begin : begin + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(StorageError, match=rf"{SHARD}.* remove it and manifest/part-{UNIT}\.parquet"):
        shards.drop(str(tmp_path), UNIT, {"a"})
    assert files_below(tmp_path) == {SHARD: bytes(data)}


def test_a_store_that_does_not_answer_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "exists", away)
    with pytest.raises(StorageError, match=f"memory://out/{SHARD}.*not there now"):
        shards.drop("memory://out", UNIT, {"a"})


def away(*_: object) -> bool:
    raise ConnectionError("not there now")


@pytest.mark.parametrize("where", [f"{SHARD}#none.png", "shards/none.tar#a.png"])
def test_a_member_that_is_gone_says_which(tmp_path: Path, where: str) -> None:
    write(tmp_path, ["a"])
    with pytest.raises(StorageError, match=r"none\.|shards/none"):
        base.read(str(tmp_path), where)


@pytest.mark.slow
def test_the_webdataset_library_reads_every_sample(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write(tmp_path, KEYS)
    samples = list(webdataset.WebDataset(str(tmp_path / SHARD), shardshuffle=False).decode("rgb8"))
    assert [sample["json"]["key"] for sample in samples] == KEYS
    assert [sample["png"].shape for sample in samples] == [(3, 4, 3)] * len(KEYS)
    assert len({sample["__key__"] for sample in samples}) == len(KEYS)
    assert np.any(samples[0]["png"] != samples[1]["png"])
