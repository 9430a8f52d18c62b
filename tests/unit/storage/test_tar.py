from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc

import pytest

from artgen.storage import tar
from artgen.storage.blob import BlobFile, LocalBlob
from tests.unit.storage import packs
from tests.unit.storage.packs import PNG, contents, skipped, sources


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_odd_names_in_every_format(tmp_path, format):
    long = "d/" * 60 + "x.png" if format == tarfile.USTAR_FORMAT else "n" * 300 + ".png"
    files = {"./plain.png": b"1", long: b"2", "uni\u00e9\u4e2d.png": b"3", "new\nline.png": b"4"}
    found = contents(packs.tar(tmp_path / "a.tar", files, format=format))
    assert found == {name.removeprefix("./"): data for name, data in files.items()}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_repeated_names_links_devices_and_directories(tmp_path, mode):
    path = tmp_path / ("a.tar" if mode == "w" else "a.tar.gz")
    with tarfile.open(path, mode) as archive:
        for data in (b"1", b"2", b"3"):
            packs.add(archive, "a.png", data)
        packs.add(archive, "a.png#2", PNG)
        packs.add(archive, "soft.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        packs.add(archive, "hard.png", type=tarfile.LNKTYPE, linkname="a.png")
        packs.add(archive, "dev.png", type=tarfile.CHRTYPE)
        packs.add(archive, "pipe.png", type=tarfile.FIFOTYPE)
        packs.add(archive, "folder.png", type=tarfile.DIRTYPE)
        packs.add(archive, "s.json", b"{}")
        packs.add(archive, "zero.png")
        packs.add(archive, "sniffed", PNG)
    found = contents(path)
    assert [found.pop(key) for key in ("a.png", "a.png#2", "a.png#3", "a.png#2#2")] == [b"1", b"2", b"3", PNG]
    assert found == {"zero.png": "empty file", "sniffed": PNG}
    assert set(skipped(path)) == {"soft.png", "hard.png", "dev.png", "pipe.png", "s.json"}
    assert "'/etc/passwd'" in skipped(path)["soft.png"]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("share", [0.3, 0.62, 0.9])
def test_truncated(tmp_path, suffix, share):
    noise = random.Random(1).randbytes
    files = {f"{i:02}.png": noise(5000) for i in range(20)}
    path = packs.tar(tmp_path / f"a{suffix}", files, "w" if suffix == ".tar" else "w:gz")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    found = contents(path)
    good = {key: data for key, data in found.items() if isinstance(data, bytes)}
    assert list(good) == list(files)[: len(good)]
    assert good == {key: files[key] for key in good}
    assert abs(len(good) - 20 * share) < 2
    (reason,) = [data for data in found.values() if isinstance(data, str)]
    assert "truncated" in reason or "broken" in reason


def test_cut_in_a_header_or_in_padding(tmp_path):
    path = packs.tar(tmp_path / "a.tar", {"a.png": b"1" * 700, "b.png": b"2" * 700})
    whole = path.read_bytes()
    path.write_bytes(whole[: 1536 + 100])
    assert [type(v) for v in contents(path).values()] == [bytes, str]
    path.write_bytes(whole[: 1536 + 512 + 700])  # only the padding is missing: all data are there
    found = contents(path)
    assert found["b.png"] == b"2" * 700
    path.write_bytes(whole[: 1536 + 1536])  # no end marker, as some writers leave it
    assert list(contents(path)) == ["a.png", "b.png"]


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = packs.tar(tmp_path / "a.tar", packs.bytes_of(3))
    data = bytearray(path.read_bytes())
    second = sources(path)[1].offset - 512
    data[second : second + 512] = b"\x55" * 512
    path.write_bytes(data)
    found = contents(path)
    assert list(found) == ["000.png", "a.tar"]
    assert "bad header" in found["a.tar"]


def test_archives_one_behind_the_other(tmp_path):
    first = packs.tar(tmp_path / "a.tar", {"a.png": b"1"}).read_bytes()
    second = packs.tar(tmp_path / "b.tar", {"b.png": b"2"}).read_bytes()
    (tmp_path / "c.tar").write_bytes(first + second)
    assert contents(tmp_path / "c.tar") == {"a.png": b"1", "b.png": b"2"}
    (tmp_path / "c.tar").write_bytes(first + b"garbage behind the end")
    assert contents(tmp_path / "c.tar") == {"a.png": b"1"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not a tar" * 200, "not a readable tar"),
        (b"\x1f\x8b not gzip", "damaged|not a readable"),
    ],
)
def test_not_a_tar(tmp_path, data, reason):
    import re

    (tmp_path / "a.tar").write_bytes(data)
    (found,) = contents(tmp_path / "a.tar").items()
    assert found[0] == "a.tar"
    assert re.search(reason, str(found[1]))


def test_valid_but_empty(tmp_path):
    assert contents(packs.tar(tmp_path / "a.tar", {})) == {}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_member_that_claims_more_than_there_is(tmp_path, suffix):
    info = tarfile.TarInfo("b.png")
    info.size = 8 << 30
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        packs.add(archive, "a.png", b"1")
    data = buffer.getvalue()[:1024] + info.tobuf() + b"2" * 5000
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(data) if suffix == ".tar.gz" else data)
    found = contents(tmp_path / f"a{suffix}")
    assert list(found) == ["a.png", "b.png"]
    assert str(found["b.png"]).startswith(f"claims {8 << 30} bytes")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("size", [-512, -(1 << 40), 1 << 43, 1 << 60])
def test_a_lying_pax_or_long_name_header_neither_hangs_nor_fills_memory(tmp_path, size, suffix):
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        info = tarfile.TarInfo("x")
        info.type = kind
        info.size = size
        data = info.tobuf(tarfile.GNU_FORMAT) + bytes(512)
        good = io.BytesIO()
        with tarfile.open(fileobj=good, mode="w") as archive:
            packs.add(archive, "a.png", b"1")
        data = good.getvalue()[:1024] + data + bytes(6_000_000)
        (tmp_path / f"a{suffix}").write_bytes(gzip.compress(data) if suffix == ".tar.gz" else data)
        tracemalloc.start()
        found = contents(tmp_path / f"a{suffix}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found["a.png"] == b"1"
        assert peak < 20_000_000


def test_a_large_member_is_skipped_by_ranges(tmp_path):
    path = tmp_path / "a.tar"
    with path.open("wb") as file:  # sparse: 3 GiB that take no room
        for name, size in (("a.png", 1 << 30), ("b.png", 2 << 30), ("c.png", 700)):
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf())
            file.seek(size + -size % 512, 1)
        file.write(bytes(1024))

    class Counted(LocalBlob):
        fetched = 0

        def fetch(self, start, end):
            data = super().fetch(start, end)
            self.fetched += len(data)
            return data

    blob = Counted(str(path))
    found = list(tar.index(BlobFile(blob), blob.size))
    assert [(m.name, m.size, m.problem) for m in found] == [
        *(("a.png", 1 << 30, ""), ("b.png", 2 << 30, ""), ("c.png", 700, ""))
    ]
    assert blob.fetched < 1_000_000


def test_the_index_stays_flat(tmp_path):
    path = packs.tar(tmp_path / "a.tar", {f"{i:05}.png": b"x" for i in range(3000)})
    blob = LocalBlob(str(path))
    members = tar.index(BlobFile(blob), blob.size)
    next(members)
    tracemalloc.start()
    assert sum(1 for _ in members) == 2999
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_sparse_members_are_refused_by_name(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        packs.add(
            archive,
            "a.png",
            b"1",
            pax_headers={"GNU.sparse.major": "0", "GNU.sparse.map": "0,1", "GNU.sparse.size": "9"},
        )
        packs.add(archive, "b.png", b"2")
    found = contents(tmp_path / "a.tar")
    assert found["b.png"] == b"2"
    assert "sparse" in str(found["a.png"])
