from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from artgen.errors import StorageError
from artgen.storage.archive import Reader
from artgen.storage.blob import LocalBlob
from artgen.storage.cache import Cache
from artgen.storage.targz import Gzip
from tests.unit.storage import packs
from tests.unit.storage.packs import contents, sources


@functools.cache
def packed() -> tuple[bytes, dict[str, bytes]]:
    noise = random.Random(2).randbytes
    files = {f"{i:02}.png": noise(1_000_000) for i in range(24)}
    with tempfile.TemporaryDirectory() as folder:
        return packs.tar(Path(folder) / "a.tar.gz", files, "w:gz", compresslevel=1).read_bytes(), files


def archive(tmp_path):
    data, files = packed()
    (tmp_path / "a.tar.gz").write_bytes(data)
    return tmp_path / "a.tar.gz", files


def test_seek_points_are_kept_once_and_used(tmp_path):
    path, files = archive(tmp_path)
    cache = tmp_path / "cache" / "deep"
    found = sources(path, cache_dir=str(cache))
    (kept,) = cache.glob("*.gzidx")
    before = kept.stat().st_mtime_ns
    assert 32_000 < kept.stat().st_size < 400_000
    assert sources(path, cache_dir=str(cache)) == found
    assert kept.stat().st_mtime_ns == before

    class Counted(LocalBlob):
        fetched = 0

        def fetch(self, start, end):
            data = super().fetch(start, end)
            self.fetched += len(data)
            return data

    for kept_in, low, high in ((Cache(str(cache)), 1_000_000, 9_000_000), (None, 20_000_000, 40_000_000)):
        blob = Counted(str(path))
        data = Gzip(blob, found[20].uri, kept_in).read(found[20].offset, found[20].size)
        assert data == files["20.png"]
        assert low < blob.fetched < high, (kept_in, blob.fetched)


def test_any_order_with_and_without_a_cache(tmp_path):
    path, files = archive(tmp_path)
    for cache_dir in (None, str(tmp_path / "cache")):
        found = sources(path, cache_dir=cache_dir)
        random.Random(3).shuffle(found)
        with Reader(cache_dir=cache_dir) as reader:
            assert {s.key: reader.read(s) for s in found} == files


def test_a_damaged_cache_costs_only_time(tmp_path):
    path, files = archive(tmp_path)
    cache = tmp_path / "cache"
    assert contents(path, cache_dir=str(cache)) == files
    for kept in cache.iterdir():
        kept.write_bytes(b"junk" * 100)
    assert contents(path, cache_dir=str(cache)) == files


def test_gzip_under_the_name_of_a_plain_tar(tmp_path):
    files = packs.bytes_of(3)
    assert contents(packs.tar(tmp_path / "a.tar", files, "w:gz")) == files
    assert contents(packs.tar(tmp_path / "b.tar.gz", files, "w")) == files


@pytest.mark.parametrize("size", [1, 200_000])
def test_damaged_in_the_middle(tmp_path, size):
    path, files = archive(tmp_path)
    data = bytearray(path.read_bytes())
    data[11_500_000 : 11_500_000 + size] = bytes(b ^ 255 for b in data[11_500_000 : 11_500_000 + size])
    path.write_bytes(data)
    for _ in range(2):  # a damaged archive keeps no index, so the next listing tells of it again
        found = contents(path, cache_dir=str(tmp_path / "cache"))
        sound = list(files)[: 11 if size == 1 else 7]  # inflation stops up to one seek point before the damage
        assert list(found)[: len(sound)] == sound
        assert all(found[key] == files[key] for key in sound)
        assert any(isinstance(value, str) and "damaged" in value for value in found.values())
        if size == 1:
            assert "its checksum is wrong, one image or more" in str(found["a.tar.gz"])
            assert [key for key in files if found[key] != files[key]] == ["11.png"]


class Failing(LocalBlob):
    """A store that fails for all that lies at `sound` and behind it."""

    sound: float = float("inf")

    def fetch(self, start, end):
        if end > self.sound:
            raise StorageError("the store is out of reach")
        return super().fetch(start, end)


def test_an_outage_while_reading_is_not_damage(tmp_path):
    path, files = archive(tmp_path)
    found = sources(path)
    blob = Failing(str(path))
    gzip = Gzip(blob, found[0].uri, None)
    for sound, first in ((0, 0), (9_000_000, 20), (19_200_000, 19)):  # at once, on the way to a member, inside one
        blob.sound = sound
        with pytest.raises(StorageError, match="out of reach"):
            gzip.read(found[first].offset, found[first].size)
        blob.sound = float("inf")
        assert gzip.read(found[first].offset, found[first].size) == files[found[first].key]


@pytest.mark.parametrize("indexed", [True, False])  # jumps fail in its reads or in its seeks
@pytest.mark.parametrize("sound", [0, 9_000_000, 24_000_000])
def test_an_outage_while_listing_is_not_the_end_of_the_archive(tmp_path, monkeypatch, sound, indexed):
    path, files = archive(tmp_path)
    cache = str(tmp_path / "cache")
    if indexed:
        sources(path, cache_dir=cache)
        for members in Path(cache).glob("*.members"):
            members.unlink()
    blob = Failing(str(path))
    blob.sound = sound
    monkeypatch.setattr(Reader, "container", lambda *_: blob)
    with pytest.raises(StorageError, match="out of reach"):
        sources(path, cache_dir=cache)
    blob.sound = float("inf")
    assert [source.key for source in sources(path, cache_dir=cache)] == list(files)


def test_an_outage_of_the_kept_indexes_is_not_damage(tmp_path, monkeypatch):
    path, _ = archive(tmp_path)
    found = sources(path)

    def cat_file(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    with (
        Reader(cache_dir="memory://kept-indexes") as reader,
        pytest.raises(StorageError, match=r"kept-indexes.*no route"),
    ):
        reader.read(found[0])
