"""Storage against a real S3 server."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artgen.commands.generate import generate
from artgen.config import GenerateConfig
from artgen.console import Console
from artgen.errors import SourceUnreadable, StorageError, UsageError
from artgen.records import Skipped, Source
from artgen.storage import atomic, cache, s3_listing
from artgen.storage import uri as uris
from artgen.storage.archive import Reader, scan
from tests.generators import write_run
from tests.pictures import files, picture, png
from tests.s3 import S3Server, s3_bucket, s3_server  # noqa: F401

PICTURES = files(6)


@pytest.fixture
def requests(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:  # noqa: F811
    """(method, bytes asked for) of every request that goes out; each still goes to the server."""
    import s3fs

    made: list[tuple[str, int]] = []
    send = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *args, **kwargs):
        first, _, last = kwargs.get("Range", "bytes=0--1").removeprefix("bytes=").partition("-")
        made.append((method, int(last) - int(first) + 1))
        return await send(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return made


def put(server: S3Server, uri: str, data: bytes) -> str:
    atomic.write(uri, data, server.options)
    return uri


def contents(server: S3Server, uri: str, **kwargs) -> dict[str, bytes | str]:
    """The bytes of every source by key, or its problem."""
    found: dict[str, bytes | str] = {}
    with Reader(server.options, kwargs.get("cache_dir")) as reader:
        for item in scan(uri, server.options, **kwargs):
            assert item.key not in found
            if isinstance(item, Source):
                try:
                    found[item.key] = reader.read(item)
                except SourceUnreadable as error:
                    found[item.key] = str(error)
    return found


def tar_of(pictures: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in pictures.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(pictures: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def parquet_of(pictures: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"path": list(pictures), "image": [{"bytes": b, "path": p} for p, b in pictures.items()]})
    pq.write_table(table, buffer, row_group_size=4)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar", tar_of),
        ("a.tar.gz", lambda p: tar_of(p, "w:gz")),
        ("a.zip", zip_of),
        ("a.parquet", parquet_of),
    ],
)
def test_archive_alone_yields_its_members(s3_server, s3_bucket, name, pack):  # noqa: F811
    uri = put(s3_server, f"{s3_bucket}/in/{name}", pack(PICTURES))
    assert contents(s3_server, uri, cache_dir=f"{s3_bucket}/cache") == PICTURES


def test_folder_with_markers_archives_and_clutter(s3_server, s3_bucket):  # noqa: F811
    fs, bucket = uris.filesystem(s3_bucket, s3_server.options)
    fs.call_s3("put_object", Bucket=bucket, Key="in/", Body=b"")
    fs.call_s3("put_object", Bucket=bucket, Key="in/empty/", Body=b"")
    for name, data in PICTURES.items():
        put(s3_server, f"{s3_bucket}/in/{name}", data)
    put(s3_server, f"{s3_bucket}/in/sets/b.tar", tar_of({"x.png": b"1", "./y.png": b"2"}))
    put(s3_server, f"{s3_bucket}/in/notes.txt", b"x")
    put(s3_server, f"{s3_bucket}/in/zero.png", b"")
    put(s3_server, f"{s3_bucket}/input2/other.png", b"x")
    expected = PICTURES | {"sets/b.tar/x.png": b"1", "sets/b.tar/y.png": b"2", "zero.png": "empty file"}
    assert contents(s3_server, f"{s3_bucket}/in") == expected
    assert contents(s3_server, f"{s3_bucket}/in/") == expected
    skipped = [i for i in scan(f"{s3_bucket}/in", s3_server.options) if isinstance(i, Skipped)]
    assert skipped == [Skipped("notes.txt", "not an image (.txt)")]
    assert set(contents(s3_server, f"{s3_bucket}/in/sets/*.tar")) == {"b.tar/x.png", "b.tar/y.png"}
    assert set(contents(s3_server, f"{s3_bucket}/in*/*.png")) == {
        f"in/{k}" for k in [*PICTURES, "zero.png"] if k.endswith(".png") and "/" not in k
    } | {"input2/other.png"}


def test_listing_goes_over_many_pages(s3_server, s3_bucket, requests):  # noqa: F811
    names = {f"many/{i % 7}/{i:04}.png" for i in range(1100)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: put(s3_server, f"{s3_bucket}/{n}", b"x"), sorted(names)))
    requests.clear()
    found = list(scan(f"{s3_bucket}/many", s3_server.options))
    assert {f"many/{i.key}" for i in found} == names
    assert len(found) == len(names)
    assert all(isinstance(i, Source) and i.size == 1 and i.version for i in found)
    assert [m for m, _ in requests].count("list_objects_v2") <= 4
    assert len(requests) < 10


def test_large_folders_are_listed_side_by_side_and_in_order(s3_server, s3_bucket, requests, monkeypatch):  # noqa: F811
    names = [f"in/{year}/{month:02}/{i:03}.png" for year in (1998, 1999) for month in range(6) for i in range(25)]
    names += ["in/1998-extra.png", "in/1999", "in/2000/only.png", "in/a b/\u00e9.png", "inside.png"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: put(s3_server, f"{s3_bucket}/{n}", b"x"), names))
    monkeypatch.setattr(s3_listing, "PAGE_KEYS", 10)
    fs, bucket = uris.filesystem(s3_bucket, s3_server.options)
    busy, most = 0, 0
    page = s3_listing._page

    def counted(*args: Any, **which: str) -> dict[str, Any]:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        try:
            return page(*args, **which)
        finally:
            busy -= 1

    monkeypatch.setattr(s3_listing, "_page", counted)
    requests.clear()
    for prefix in ("", "in/", "in/1998", "in/1999/03/", "in/gone/"):
        found = [item["Key"] for item in s3_listing.objects(fs, bucket, prefix)]
        assert found == sorted((n for n in names if n.startswith(prefix)), key=str.encode), prefix
    assert most > 4
    first = s3_listing.objects(fs, bucket, "in/")
    assert next(first)["Key"] == "in/1998-extra.png"
    first.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("artgen-list")]


def test_tar_is_indexed_and_read_by_ranges(s3_server, s3_bucket, requests):  # noqa: F811
    small = png(picture(1))
    members = {f"{i:02}.png": small + bytes(4_000_000) for i in range(8)}
    uri = put(s3_server, f"{s3_bucket}/big.tar", tar_of(members))
    requests.clear()
    sources = list(scan(uri, s3_server.options))
    gets = [size for method, size in requests if method == "get_object"]
    assert [s.key for s in sources] == sorted(members)
    assert sum(gets) < 1_700_000  # of 32 MB
    requests.clear()
    with Reader(s3_server.options) as reader:
        for source in (sources[5], sources[2], sources[5]):
            assert reader.read(source) == members[source.key]
    gets = [size for method, size in requests if method == "get_object"]
    assert gets == [len(members["05.png"])] * 3
    assert len(requests) == 4  # and one for the size and version of the archive


def test_zip_and_parquet_are_not_read_whole(s3_server, s3_bucket, requests):  # noqa: F811
    import random

    noise = random.Random(5).randbytes(3_000_000)
    members = {f"{i:02}.png": noise for i in range(6)}
    for name, pack in (("big.zip", zip_of), ("big.parquet", parquet_of)):
        uri = put(s3_server, f"{s3_bucket}/{name}", pack(members))
        requests.clear()
        sources = [s for s in scan(uri, s3_server.options) if isinstance(s, Source)]
        assert len(sources) == 6
        assert sum(size for method, size in requests if method == "get_object") < 1_000_000, name
        requests.clear()
        with Reader(s3_server.options) as reader:
            assert reader.read(sources[0]) == noise
        assert sum(size for method, size in requests if method == "get_object") < 10_000_000, name


def test_a_plain_object_is_one_request(s3_server, s3_bucket, requests):  # noqa: F811
    put(s3_server, f"{s3_bucket}/in/a.png", b"picture")
    (source,) = scan(f"{s3_bucket}/in", s3_server.options)
    requests.clear()
    with Reader(s3_server.options) as reader:
        assert reader.read(source) == b"picture"
    assert [method for method, _ in requests] == ["get_object"]


def test_what_changed_or_went_is_told(s3_server, s3_bucket):  # noqa: F811
    uri = put(s3_server, f"{s3_bucket}/a.tar", tar_of({"x.png": b"1" * 600, "y.png": b"2"}))
    loose = put(s3_server, f"{s3_bucket}/loose.png", b"1")
    sources = list(scan(uri, s3_server.options)) + list(scan(loose, s3_server.options))
    put(s3_server, uri, tar_of({"x.png": b"3", "y.png": b"4"}))
    fs, path = uris.filesystem(loose, s3_server.options)
    fs.rm_file(path)
    with Reader(s3_server.options) as reader:
        with pytest.raises(SourceUnreadable, match="changed since it was listed"):
            reader.read(sources[0])
        with pytest.raises(SourceUnreadable, match="is gone"):
            reader.read(sources[2])


def half_write(server: S3Server, uri: str) -> None:
    with atomic.open_for_commit(uri, server.options) as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_commit_is_one_object_and_nothing_on_error(s3_server, s3_bucket):  # noqa: F811
    with atomic.open_for_commit(f"{s3_bucket}/out/deep/part.bin", s3_server.options) as file:
        file.write(b"x" * 7_000_000)
    with pytest.raises(ZeroDivisionError):
        half_write(s3_server, f"{s3_bucket}/out/bad")
    assert uris.names(f"{s3_bucket}/out", s3_server.options) == ["deep"]
    fs, path = uris.filesystem(f"{s3_bucket}/out/deep/part.bin", s3_server.options)
    assert fs.info(path)["size"] == 7_000_000
    atomic.check_writable(f"{s3_bucket}/out", s3_server.options)
    assert uris.names(f"{s3_bucket}/out", s3_server.options) == ["deep"]
    assert uris.exists(f"{s3_bucket}/out/deep", s3_server.options)
    assert not uris.exists(f"{s3_bucket}/out/bad", s3_server.options)


def test_user_errors_name_the_place_and_hide_the_secret(s3_server, s3_bucket):  # noqa: F811
    put(s3_server, f"{s3_bucket}/photos/a.png", b"x")
    with pytest.raises(UsageError, match=r"photo'.* does not exist.*'photos'"):
        scan(f"{s3_bucket}/photo", s3_server.options)
    with pytest.raises(UsageError, match="matches nothing"):
        scan(f"{s3_bucket}/photos/*.jpg", s3_server.options)
    with pytest.raises(UsageError, match="does not exist"):
        scan("s3://no-such-bucket-of-artgen/x", s3_server.options)
    wrong = {**s3_server.options, "secret": "verysecretvalue"}
    with pytest.raises(UsageError) as caught:
        scan(f"{s3_bucket}/photos", wrong)
    assert "verysecretvalue" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be written"):
        atomic.check_writable(f"{s3_bucket}/out", wrong)


def test_an_outage_ends_the_run_rather_than_fail_every_image(s3_server, s3_bucket):  # noqa: F811
    put(s3_server, f"{s3_bucket}/a.png", b"x")
    (source,) = scan(f"{s3_bucket}/a.png", s3_server.options)
    down = {
        **s3_server.options,
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    with Reader(down) as reader, pytest.raises(StorageError, match="the same command resumes"):
        reader.read(source)


def test_sweep_ends_old_uploads_below_the_folder_and_no_other(s3_server, s3_bucket):  # noqa: F811
    """A process that is killed while it uploads in parts leaves parts behind that no listing shows."""
    fs, bucket = uris.filesystem(s3_bucket, s3_server.options)

    def begin(key: str) -> None:
        upload = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
        fs.call_s3("upload_part", Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * (5 << 20))

    def left() -> list[str]:
        found = fs.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", ())
        return sorted(upload["Key"] for upload in found)

    for key in ("out/shards/a.tar", "out/b.parquet", "out2/c.tar"):
        begin(key)
    put(s3_server, f"{s3_bucket}/out/images/d.png", b"x")
    assert left() == ["out/b.parquet", "out/shards/a.tar", "out2/c.tar"]
    assert atomic.sweep(f"{s3_bucket}/out", s3_server.options) == 0  # a neighbour may be at work on them
    assert len(left()) == 3
    assert atomic.sweep(f"{s3_bucket}/out", s3_server.options, older_than_s=-60) == 2
    assert left() == ["out2/c.tar"]
    assert uris.names(f"{s3_bucket}/out", s3_server.options) == ["images"]


def test_a_model_in_a_bucket_is_read_with_the_storage_options(s3_server, s3_bucket, tmp_path):  # noqa: F811
    write_run(tmp_path / "run")
    put(s3_server, f"{s3_bucket}/run/model.safetensors", (tmp_path / "run" / "model.safetensors").read_bytes())
    made = GenerateConfig(
        model=f"{s3_bucket}/run",
        output=str(tmp_path / "out"),
        seeds="0-3",
        engine="local",
        storage_options=s3_server.options,
    )
    assert generate(made, Console(quiet=True)) == 0
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 4


@pytest.mark.parametrize("place", ["the bucket", "a folder"])
def test_tars_are_walked_once_for_all_listings(s3_server, s3_bucket, requests, tmp_path, place):  # noqa: F811
    members = {f"{i}.png": png(picture(i)) + bytes(300_000) for i in range(5)}
    for n in range(12):
        put(s3_server, f"{s3_bucket}/in/{n:02}.tar", tar_of(members))
    put(s3_server, f"{s3_bucket}/in/zipped.tar.gz", tar_of(members, "w:gz"))
    put(s3_server, f"{s3_bucket}/in/unknown", PICTURES[next(iter(PICTURES))])
    folder = f"{s3_bucket}/cache" if place == "the bucket" else str(tmp_path / "cache")
    found = list(scan(f"{s3_bucket}/in", s3_server.options, cache_dir=folder))
    assert [item.key for item in found][:6] == [f"00.tar/{i}.png" for i in range(5)] + ["01.tar/0.png"]
    assert len(found) == 13 * 5 + 1
    assert len(requests) > 12 * 5
    requests.clear()
    assert list(scan(f"{s3_bucket}/in", s3_server.options, cache_dir=folder)) == found
    made = [method for method, _ in requests]
    assert made.count("get_object") == (13 if place == "the bucket" else 0) + 1  # and a look at what has no ending
    assert len(made) <= made.count("get_object") + 4  # the listing itself


@pytest.mark.parametrize("torn", [0, 40, cache.PIECE_BYTES])
def test_a_torn_index_in_a_store_is_made_anew(s3_server, s3_bucket, torn):  # noqa: F811
    uri = put(s3_server, f"{s3_bucket}/a.tar", tar_of(PICTURES))
    found = list(scan(uri, s3_server.options, cache_dir=f"{s3_bucket}/cache"))
    (name,) = uris.names(f"{s3_bucket}/cache", s3_server.options)
    kept = f"{s3_bucket}/cache/{name}"
    whole = uris.read_or_none(kept, s3_server.options)
    put(s3_server, kept, (whole + bytes(cache.PIECE_BYTES))[:torn])
    assert list(scan(uri, s3_server.options, cache_dir=f"{s3_bucket}/cache")) == found
    assert uris.read_or_none(kept, s3_server.options) == whole


def test_a_kept_file_of_any_length_is_read_whole(s3_server, s3_bucket, monkeypatch, requests):  # noqa: F811
    monkeypatch.setattr(cache, "PIECE_BYTES", 1000)
    kept = cache.Cache(f"{s3_bucket}/cache", s3_server.options)
    for size in (0, 1, 999, 1000, 1001, 2000, 3500):
        data = bytes(n % 251 for n in range(size))
        put(s3_server, kept.place("x"), data)
        requests.clear()
        assert b"".join(kept.read("x")) == data, size
        if 0 < size < 1000:
            assert [method for method, _ in requests] == ["get_object"]
    assert list(kept.read("y")) == []
