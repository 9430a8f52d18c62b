"""Containers in stores and compressed tars: indexed ahead of who reads the listing, and once for each version."""

from __future__ import annotations

import errno
import gzip
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from artgen.errors import StorageError
from artgen.records import Skipped, Source
from artgen.storage import ahead, kept_index, scratch, targz
from artgen.storage.archive import Reader, scan
from artgen.storage.cache import Cache
from artgen.storage.index import Index
from artgen.storage.member import Member
from artgen.storage.spool import Spool
from tests.unit.storage import packs
from tests.unit.storage.packs import PNG

STORE = "memory://index-test"


@pytest.fixture(autouse=True)
def empty_store() -> Iterator[None]:
    yield
    fs = fsspec.filesystem("memory")
    if fs.exists("/index-test"):
        fs.rm("/index-test", recursive=True)


class Requests:
    """Every request of the memory store for bytes or facts of a file. on: called with each before it is answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str, int]] = []
        self.on: Any = lambda what, path, start: None
        self.at_once = self.most = 0
        self._lock = threading.Lock()
        real = {name: getattr(MemoryFileSystem, name) for name in ("cat_file", "info")}

        def counted(name: str) -> Any:
            def ask(fs: Any, path: str, *args: Any, **kwargs: Any) -> Any:
                with self._lock:
                    self.made.append((name, path, kwargs.get("start", 0)))
                    self.at_once += 1
                    self.most = max(self.most, self.at_once)
                try:
                    self.on(name, path, kwargs.get("start", 0))
                    return real[name](fs, path, *args, **kwargs)
                finally:
                    with self._lock:
                        self.at_once -= 1

            return ask

        # Opening a file of the memory store looks at nothing twice, so each of these is one request of a real store.
        for name in real:
            monkeypatch.setattr(MemoryFileSystem, name, counted(name))

    def of(self, ending: str) -> list[str]:
        return [name for name, path, _ in self.made if path.endswith(ending)]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


def put(files: dict[str, bytes]) -> None:
    fs = fsspec.filesystem("memory")
    for name, data in files.items():
        fs.pipe_file(f"/index-test/in/{name}", data)


def listed(place: str = f"{STORE}/in", **kwargs: Any) -> list[Source | Skipped]:
    return list(scan(place, **kwargs))


def crew() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("artgen-ahead")]


def kept(cache: Path | str) -> list[Path]:
    return sorted(Path(cache).glob("*.members"))


def big(path: Path, count: int = 6) -> bytes:
    """A tar whose headers are further apart than is read ahead."""
    return packs.tar(path, {f"{n}.png": PNG + bytes([n]) * 300_000 for n in range(count)}).read_bytes()


def mixed(top: Path) -> dict[str, bytes]:
    """Files by name: containers sound and broken, loose files, unknown ones, odd names."""
    top.mkdir()
    draw = random.Random(4)
    few = packs.bytes_of(3)
    odd = {
        "./a.png": PNG,
        "a.png": PNG,
        "a\\xe9.png": PNG,
        "caf\udce9.png": PNG,
        "t.txt": b"",
        "in.zip": b"PK",
        "x": b"?",
    }
    for n in range(8):
        packs.tar(top / f"{n:02}.tar", packs.bytes_of(n, 200_000))
        packs.tar(top / f"{n:02}.tar.gz", packs.bytes_of(n + 1), "w:gz")
    packs.tar(top / "odd.tar", odd, format=1)
    packs.tar(top / "odd.tgz", odd, "w:gz", format=1)
    packs.tar(top / "gzipped-inside.tar", few, "w:gz")
    packs.tar(top / "plain-inside.tar.gz", few, "w")
    packs.zipped(top / "z.zip", few)
    packs.parquet(top / "p.parquet", {"path": list(few), "image": list(few.values())})
    files = {path.name: path.read_bytes() for path in top.iterdir()}
    for name in ("07.tar", "07.tar.gz", "z.zip", "p.parquet"):
        files[f"cut-{name}"] = files[name][: len(files[name]) * 2 // 3]
        files[f"deep/er/noise-{name}"] = draw.randbytes(2000)
        files[f"empty-{name}"] = b""
    files |= {f"loose/{n:03}.png": PNG for n in range(30)} | {
        f"unknown-{n}": PNG if n % 2 else b"text" for n in range(9)
    }
    files |= {
        "note.txt": b"x",
        "a.7z": b"7z",
        "back\\xe9.png": PNG,
        ".DS_Store": b"",
        "page.weird": b"\xff\xd8\xff",
    }
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return files


def bare(found: list[Source | Skipped]) -> list[Source | Skipped]:
    """Without what differs between places."""
    return [item if isinstance(item, Skipped) else replace(item, uri="", version="") for item in found]


def test_a_tree_in_a_store_is_listed_as_it_is_on_the_disk(tmp_path, requests):
    put(mixed(tmp_path / "in"))
    draw = random.Random(7)
    requests.on = lambda *_: time.sleep(draw.random() / 100)
    wanted = bare(listed(str(tmp_path / "in")))
    problems = [item for item in wanted if isinstance(item, Source) and item.problem]
    assert len(wanted) > 150
    assert len(problems) > 12
    assert len([item for item in wanted if isinstance(item, Skipped)]) > 8
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache"), f"{STORE}/cache", f"{STORE}/cache"):
        assert bare(listed(cache_dir=cache)) == wanted, cache
        assert bare(listed(str(tmp_path / "in"), cache_dir=cache)) == wanted, cache
    assert requests.most > 6
    assert not crew()


@pytest.mark.parametrize("place", ["folder", "store"])
def test_a_tar_in_a_store_is_walked_once(tmp_path, requests, place):
    put({f"{n:02}.tar": big(tmp_path / "a.tar") for n in range(20)})
    cache = str(tmp_path / "cache") if place == "folder" else f"{STORE}/cache"
    found = listed(cache_dir=cache)
    assert len(found) == 20 * 6
    assert len(requests.of(".tar")) > 20 * 6
    requests.made.clear()
    assert listed(cache_dir=cache) == found
    assert not [name for name in requests.of(".tar") if name == "cat_file"]
    assert len(requests.of(".tar")) <= 1  # whether INPUT is one
    assert len(requests.of(".members")) == (0 if place == "folder" else 20)


def test_a_compressed_tar_is_inflated_once(tmp_path, monkeypatch):
    packs.tar(tmp_path / "a.tar.gz", packs.bytes_of(5), "w:gz")
    packs.tar(tmp_path / "b.tar", packs.bytes_of(5), "w:gz")
    cache = tmp_path / "cache"
    found = listed(str(tmp_path / "*.tar*"), cache_dir=str(cache))
    assert len(found) == 10
    assert len(kept(cache)) == 2
    monkeypatch.setattr(targz, "Gzip", lambda *_: pytest.fail("it is inflated again"))
    assert listed(str(tmp_path / "*.tar*"), cache_dir=str(cache)) == found


def test_damage_of_a_compressed_tar_is_told_again(tmp_path, monkeypatch):
    data = bytearray(packs.tar(tmp_path / "a.tar.gz", packs.bytes_of(50), "w:gz").read_bytes())
    data[-8] ^= 1  # its checksum
    (tmp_path / "a.tar.gz").write_bytes(data)
    found = listed(str(tmp_path / "a.tar.gz"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(found[-1], Source)
    assert found[-1].problem
    monkeypatch.setattr(targz, "Gzip", lambda *_: pytest.fail("it is inflated again"))
    assert listed(str(tmp_path / "a.tar.gz"), cache_dir=str(tmp_path / "cache")) == found
    assert len(kept(tmp_path / "cache")) == 1


def test_local_tars_are_neither_kept_nor_read_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(ahead, "ThreadPoolExecutor", lambda *_, **__: pytest.fail("a thread"))
    packs.tar(tmp_path / "a.tar", packs.bytes_of(3))
    packs.zipped(tmp_path / "b.zip", packs.bytes_of(3))
    (tmp_path / "unknown").write_bytes(PNG)
    assert len(listed(str(tmp_path), cache_dir=str(tmp_path / "cache"))) == 7
    assert not kept(tmp_path / "cache")


def header_and(*lines: bytes) -> bytes:
    return gzip.compress(b'{"artgen members": 1, "kind": "tar"}\n' + b"".join(lines))


TORN = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "a bit": lambda data: data[:-20] + bytes([data[-20] ^ 4]) + data[-19:],
    "junk": lambda _: b"junk" * 100,
    "more behind it": lambda data: data + b"x",
    "text": lambda _: gzip.compress(b"hello\n"),
    "other format": lambda data: gzip.compress(gzip.decompress(data).replace(b": 1,", b": 0,", 1)),
    "no members": lambda _: header_and(b"{}\n"),
    "fields": lambda _: header_and(b'["a.png", "0", 1, "", "", ""]\n'),
    "deep": lambda _: header_and(b"[" * 100_000 + b"\n"),
    "an open line": lambda _: header_and(b'["a.png", 0, 1, "", "", ""]'),
}


@pytest.mark.parametrize("how", TORN)
def test_a_kept_index_that_cannot_be_read_is_made_anew(tmp_path, how):
    put({"a.tar": big(tmp_path / "a.tar")})
    cache = tmp_path / "cache"
    found = listed(cache_dir=str(cache))
    (path,) = kept(cache)
    whole = path.read_bytes()
    path.write_bytes(TORN[how](whole))
    assert path.read_bytes() != whole
    assert listed(cache_dir=str(cache)) == found
    assert path.read_bytes() == whole


def test_an_archive_that_has_changed_is_walked_anew(tmp_path):
    put({"a.tar": big(tmp_path / "a.tar", 3)})
    cache = str(tmp_path / "cache")
    assert len(listed(cache_dir=cache)) == 3
    time.sleep(0.01)
    put({"a.tar": big(tmp_path / "a.tar", 5)})
    assert len(listed(cache_dir=cache)) == 5
    assert len(kept(cache)) == 2


def test_an_archive_that_changes_under_the_walk_is_not_kept(tmp_path, requests):
    put({"a.tar": big(tmp_path / "a.tar", 6)})

    def overwrite(name: str, path: str, start: int) -> None:
        if name == "cat_file" and start > 1_000_000:
            requests.on = lambda *_: None
            time.sleep(0.01)
            put({"a.tar": big(tmp_path / "a.tar", 6)})

    requests.on = overwrite
    assert len(listed(cache_dir=str(tmp_path / "cache"))) == 6
    assert not kept(tmp_path / "cache")
    assert len(listed(cache_dir=str(tmp_path / "cache"))) == 6
    assert kept(tmp_path / "cache")


def test_an_outage_under_the_walk_is_raised_in_its_place_and_nothing_is_kept(tmp_path, requests):
    put(
        {
            "a.tar": big(tmp_path / "a.tar"),
            "b.tar": big(tmp_path / "a.tar"),
            "c.png": PNG,
            "d.tar": big(tmp_path / "a.tar"),
        }
    )

    def outage(name: str, path: str, start: int) -> None:
        if path.endswith("b.tar") and start > 1_000_000:
            raise ConnectionError("no route")

    requests.on = outage
    seen = []
    with pytest.raises(StorageError, match=r"b\.tar.*no route"):
        seen.extend(item.key for item in scan(f"{STORE}/in", cache_dir=str(tmp_path / "cache")))
    assert not crew()
    names = {path.name for path in kept(tmp_path / "cache")}
    requests.on = lambda *_: None
    found = listed(cache_dir=str(tmp_path / "cache"))
    assert {path.name for path in kept(tmp_path / "cache")} > names  # that of b.tar at least is new
    assert len(found) == 3 * 6 + 1


def test_what_came_before_an_outage_comes_out(tmp_path, requests):
    put({"a.tar": big(tmp_path / "a.tar"), "b.tar": big(tmp_path / "a.tar")})

    def outage(name: str, path: str, start: int) -> None:
        if path.endswith("b.tar") and start > 1_000_000:
            raise ConnectionError("no route")

    requests.on = outage
    found = scan(f"{STORE}/in")
    keys = [next(found).key for _ in range(6 + 3)]
    assert keys == [f"a.tar/{n}.png" for n in range(6)] + [f"b.tar/{n}.png" for n in range(3)]
    with pytest.raises(StorageError):
        list(found)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_an_archive_that_was_barred_for_a_moment_is_not_kept_as_broken(tmp_path, requests, name):
    if name == "a.tar":
        put({name: big(tmp_path / name)})
    else:
        noise = random.Random(3).randbytes
        put(
            {
                name: packs.tar(
                    tmp_path / name, {f"{n}.png": PNG + noise(2_000_000) for n in range(3)}, "w:gz"
                ).read_bytes()
            }
        )

    def barred(what: str, path: str, start: int) -> None:
        if path.endswith(name) and start > 1_000_000:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    requests.on = barred
    broken = listed(cache_dir=str(tmp_path / "cache"))
    assert any(isinstance(item, Source) and item.problem for item in broken)
    assert not kept(tmp_path / "cache")
    requests.on = lambda *_: None
    found = listed(cache_dir=str(tmp_path / "cache"))
    assert not any(isinstance(item, Source) and item.problem for item in found)
    assert len(kept(tmp_path / "cache")) == 1


def test_an_outage_of_the_cache_ends_the_listing(tmp_path, requests):
    put({"a.tar": big(tmp_path / "a.tar")})

    def outage(name: str, path: str, start: int) -> None:
        if path.endswith(".members"):
            raise ConnectionError("no route")

    requests.on = outage
    with pytest.raises(StorageError, match=r"index cache .*no route.*the same command resumes"):
        listed(cache_dir=f"{STORE}/cache")


def test_members_come_while_the_walk_goes_on(tmp_path, requests):
    put({"a.tar": big(tmp_path / "a.tar")})
    gate = threading.Event()

    def held(name: str, path: str, start: int) -> None:
        if path.endswith("a.tar") and start > 1_000_000:
            gate.wait(60)

    requests.on = held
    found = scan(f"{STORE}/in")
    assert next(found).key == "a.tar/0.png"
    gate.set()
    assert len(list(found)) == 5


@contextmanager
def scratch_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    scratch._folder.cache_clear()  # this process may have one elsewhere
    try:
        yield
    finally:
        scratch._folder.cache_clear()


@pytest.mark.parametrize("ending", ["closed", "failed", "dropped"])
def test_who_stops_early_leaves_no_thread_and_no_file(tmp_path, requests, monkeypatch, ending):
    long = big(tmp_path / "a.tar", 40)
    put({f"{n:02}.tar": long if n else big(tmp_path / "a.tar") for n in range(20)})
    requests.on = lambda *_: time.sleep(0.02)
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    with scratch_in(tmp_path / "tmp", monkeypatch):
        found = scan(f"{STORE}/in", cache_dir=str(tmp_path / "cache"))
        for _ in range(7):
            next(found)
        assert crew()
        if ending == "closed":
            found.close()
        elif ending == "failed":
            with pytest.raises(ZeroDivisionError):
                found.throw(ZeroDivisionError())
        else:
            del found
        assert not crew()
        assert len(requests.made) < 19 * 40  # what the walks take to their ends
        assert [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == []
        assert len(kept(tmp_path / "cache")) == 1
        if before:
            assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


def test_a_cache_that_may_not_be_written_to_is_read(tmp_path, requests):
    put(
        {
            "a.tar": big(tmp_path / "a.tar"),
            "b.tar.gz": packs.tar(tmp_path / "b.tar.gz", packs.bytes_of(3), "w:gz").read_bytes(),
        }
    )
    cache = tmp_path / "cache"
    found = listed(cache_dir=str(cache), keeps=False)
    assert not cache.exists()
    assert listed(cache_dir=str(cache)) == found
    requests.made.clear()
    assert listed(cache_dir=str(cache), keeps=False) == found
    assert not [name for name in requests.of(".tar") + requests.of(".gz") if name == "cat_file"]


class Found(Index[Any]):
    found = Index.members


def test_memory_is_flat_in_the_number_of_members(tmp_path):
    count = 60_000
    spool = Spool()
    for n in range(count):
        spool.append(Member(f"folder/of/an/archive/{n:09}-\udce9.png", 512 * n, 700))
    spool.end()
    cache = Cache(f"{STORE}/cache")
    source = Source("a.tar", f"{STORE}/in/a.tar", "file", 0, 10**9, "", "etag")
    tracemalloc.start()
    kept_index.save(spool, cache, kept_index.name_for(source), "tar")
    spool.close()
    tracemalloc.reset_peak()
    base = tracemalloc.get_traced_memory()[0]
    count_again = sum(1 for _ in ahead.through(iter([Found(source, "tar", Reader(cache_dir=cache.folder), 0)])))
    peak = tracemalloc.get_traced_memory()[1] - base
    tracemalloc.stop()
    assert count_again == count
    assert peak < 5_000_000
