from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artgen.errors import SourceUnreadable
from artgen.storage.archive import Reader
from artgen.storage.blob import LocalBlob
from artgen.storage.parquet import Rows, image_column
from tests.unit.storage import packs
from tests.unit.storage.packs import contents, sources

IMAGES = [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    "image",
    [
        pa.array(IMAGES),
        pa.array(IMAGES, pa.large_binary()),
        pa.array([{"bytes": b, "path": None} for b in IMAGES]),
        pa.array(IMAGES).dictionary_encode(),
        pa.array([{"path": "x", "bytes": b, "more": 1} for b in IMAGES]),
    ],
)
def test_kinds_of_column(tmp_path, image):
    path = packs.parquet(tmp_path / "a.parquet", {"id": [1, 2, 3], "image": image})
    assert contents(path) == dict(zip("012", IMAGES, strict=True))
    assert [s.size for s in sources(path)] == [-1] * 3


def test_keys_come_from_path_or_key_else_the_row_number(tmp_path):
    path = tmp_path / "a.parquet"
    packs.parquet(path, {"image": IMAGES, "path": ["a/x.jpg", None, "a/x.jpg"]}, row_group_size=2)
    assert contents(path) == {"a/x.jpg": b"one", "1": b"two", "a/x.jpg#2": b"three"}
    packs.parquet(path, {"image": IMAGES, "key": [7, 8, 9]}, row_group_size=1)
    assert contents(path) == {"7": b"one", "8": b"two", "9": b"three"}
    assert set(contents(tmp_path)) == {"a.parquet/7", "a.parquet/8", "a.parquet/9"}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"image": pa.binary(), "mask": pa.binary()}, ("image", "")),
        ({"thumb": pa.binary()}, ("thumb", "")),
        ({"JPG": pa.binary(), "json": pa.binary()}, ("JPG", "")),
        ({"jpg": pa.binary(), "photo": pa.struct({"bytes": pa.binary(), "path": pa.string()})}, ("photo", "bytes")),
    ],
)
def test_which_column(fields, found):
    assert image_column(pa.schema(fields)) == found


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": pa.string()}, "paths and URLs in data are not opened"),
        ({"image": pa.null()}, "image: null"),
        ({"left": pa.binary(), "right": pa.binary()}, "several columns may hold the image: left, right"),
    ],
)
def test_no_column(tmp_path, fields, reason):
    with pytest.raises(ValueError, match=reason):
        image_column(pa.schema(fields))
    pq.write_table(pa.schema(fields).empty_table(), tmp_path / "a.parquet")
    (found,) = contents(tmp_path / "a.parquet").items()
    assert found[0] == "a.parquet"
    assert reason in str(found[1])


def test_rows_without_bytes_fail_alone(tmp_path):
    image = [{"bytes": b"1", "path": "x"}, None, {"bytes": None, "path": "http://x"}, {"bytes": b"", "path": "x"}]
    found = contents(packs.parquet(tmp_path / "a.parquet", {"image": image}))
    assert found["0"] == b"1"
    assert "no bytes in row 1" in str(found["1"])
    assert "no bytes in row 2" in str(found["2"])
    assert found["3"] == "empty file"


def test_broken_and_empty_files(tmp_path):
    path = packs.parquet(tmp_path / "a.parquet", {"image": IMAGES})
    whole = path.read_bytes()
    for data in (whole[:-5], b"PAR1" + bytes(50) + b"PAR1", b"", b"hello"):
        path.write_bytes(data)
        (found,) = contents(path).items()
        assert found[0] == "a.parquet"
        assert isinstance(found[1], str)
    packs.parquet(path, {"image": pa.array([], pa.binary())})
    assert contents(path) == {}


def test_any_order_gives_the_right_rows(tmp_path):
    noise = random.Random(4)
    images = [noise.randbytes(noise.randrange(1, 4000)) for _ in range(500)]
    path = packs.parquet(tmp_path / "a.parquet", {"image": images}, row_group_size=200)
    found = sources(path)
    noise.shuffle(found)
    with Reader() as reader:
        for source in found[:200]:
            assert reader.read(source) == images[int(source.key)]


def test_batches_follow_the_size_of_rows_and_few_are_kept(tmp_path):
    images = [random.Random(i).randbytes(500_000) for i in range(60)]
    path = packs.parquet(tmp_path / "a.parquet", {"image": images}, compression="none")
    rows = Rows(LocalBlob(str(path)))
    detail = {"group": 0, "column": "image", "leaf": ""}
    for row in range(60):
        assert rows.read(row, detail) == images[row]
    assert rows._batch_rows(0, "image") == 16
    assert len(rows._kept) <= 16
    with pytest.raises(SourceUnreadable, match=r"500000 bytes, more than the limit of 10 \(raise --max-pixels"):
        rows.read(0, detail, max_bytes=10)


def test_keys_that_are_not_utf_8_are_readable_and_stop_nothing(tmp_path):
    names = pa.array([b"good.png", b"caf\xe9.png"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": pa.array([b"1", b"2"], pa.binary()), "path": names}), tmp_path / "a.parquet")
    (tmp_path / "b.png").write_bytes(b"3")
    assert contents(tmp_path) == {"a.parquet/good.png": b"1", "a.parquet/caf\\xe9.png": b"2", "b.png": b"3"}
