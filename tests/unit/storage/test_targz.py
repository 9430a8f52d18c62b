from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

import pytest

from artgen.storage.archive import Reader
from artgen.storage.blob import LocalBlob
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
    (kept,) = cache.iterdir()
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

    for cache_dir, low, high in ((str(cache), 1_000_000, 9_000_000), (None, 20_000_000, 40_000_000)):
        blob = Counted(str(path))
        data = Gzip(blob, found[20].uri, cache_dir).read(found[20].offset, found[20].size)
        assert data == files["20.png"]
        assert low < blob.fetched < high, (cache_dir, blob.fetched)


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
    (kept,) = cache.iterdir()
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
