from __future__ import annotations

import errno
import os
import random
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from artgen.errors import SourceUnreadable, StorageError, UsageError
from artgen.records import Source
from artgen.storage import archive, atomic
from artgen.storage import uri as uris
from artgen.storage.archive import Reader, scan
from tests.unit.storage import packs
from tests.unit.storage.packs import PNG, contents, skipped, sources


def folder(tmp_path, files):
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path


def test_the_same_pictures_from_every_kind_of_input(tmp_path):
    files = packs.bytes_of()
    names = list(files)
    inputs = [
        folder(tmp_path / "folder", files),
        packs.tar(tmp_path / "a.tar", files),
        packs.tar(tmp_path / "a.tar.gz", files, "w:gz"),
        packs.tar(tmp_path / "a.tgz", files, "w:gz"),
        packs.zipped(tmp_path / "a.zip", files),
        packs.parquet(tmp_path / "a.parquet", {"path": names, "image": list(files.values())}),
        tmp_path / "folder" / "*.png",
        f"file://{tmp_path}/folder",
    ]
    for uri in inputs:
        assert contents(uri) == files, uri
        assert [s.key for s in sources(uri)] == names
    assert contents(tmp_path / "folder" / "003.png") == {"003.png": files["003.png"]}


def test_a_folder_is_walked_in_the_order_of_paths_and_archives_in_it_are_opened(tmp_path):
    files = packs.bytes_of(2)
    folder(tmp_path, {"b/x.png": PNG, "b.png": PNG, "b-c/y.jpg": PNG, "a": PNG, "x.png/z.png": PNG})
    packs.zipped(tmp_path / "b" / "in.zip", files)
    keys = [s.key for s in sources(tmp_path)]
    assert keys == sorted(keys)
    assert keys == ["a", "b-c/y.jpg", "b.png", "b/in.zip/000.png", "b/in.zip/001.png", "b/x.png", "x.png/z.png"]


def test_what_is_not_an_image_is_skipped_with_a_reason(tmp_path):
    files = {
        "note.txt": b"x",
        "a.json": b"{}",
        "._a.png": PNG,
        "__MACOSX/b.png": PNG,
        ".DS_Store": b"x",
        "odd": b"hello",
        "odd.xyz": b"hello",
        ".artgen-1.tmp": PNG,
    }
    folder(
        tmp_path,
        files | {"photo": PNG, "photo.crash": b"\xff\xd8\xff\xe0", "page.png": b"<html>", ".hidden.png": PNG},
    )
    assert set(skipped(tmp_path)) == set(files)
    assert all(skipped(tmp_path).values())
    assert set(contents(tmp_path)) == {"photo", "photo.crash", "page.png", ".hidden.png"}


def test_archives_that_are_not_opened_become_rows(tmp_path):
    folder(tmp_path, {"a.7z": b"7z", "b.tar.xz": b"x"})
    found = contents(tmp_path)
    assert found["a.7z"] == "artgen does not open .7z archives; repack it as .tar or .zip"
    assert found["b.tar.xz"] == "artgen does not open .xz archives; repack it as .tar or .zip"
    packs.tar(tmp_path / "c.tar", {"in.zip": b"PK", "x.png": PNG})
    found = contents(tmp_path / "c.tar")
    assert found == {
        "in.zip": "an archive inside an archive is not opened; unpack the outer one first",
        "x.png": PNG,
    }


def test_links(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secret.png").write_bytes(PNG)
    inside = folder(tmp_path / "in", {"a.png": PNG, "sub/b.png": PNG})
    (inside / "same.png").symlink_to("a.png")
    (inside / "broken.png").symlink_to("nothing.png")
    (inside / "leaks.png").symlink_to("../out/secret.png")
    (inside / "leaks").symlink_to("../out")
    (inside / "loop").symlink_to(".")
    assert set(contents(inside)) == {"a.png", "sub/b.png", "same.png"}
    reasons = skipped(inside)
    assert "outside INPUT" in reasons["leaks.png"]
    assert "outside INPUT" in reasons["leaks"]
    assert "broken link" in reasons["broken.png"]
    assert "folder of INPUT" in reasons["loop"]
    (tmp_path / "door").symlink_to("in")
    assert set(contents(tmp_path / "door")) == {"a.png", "sub/b.png", "same.png"}


def test_pipes_and_unreadable_folders(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert skipped(tmp_path) == {"pipe.png": "not a regular file"}
    with Reader() as reader, pytest.raises(SourceUnreadable, match="not a regular file"):
        reader.read(Source("pipe.png", str(tmp_path / "pipe.png"), "file"))


def test_names_that_are_not_utf8_are_readable_in_keys_and_still_open(tmp_path):
    root = os.fsencode(tmp_path)
    for name, data in (
        (b"caf\xe9.png", b"1"),
        (b"caf\\xe9.png", b"2"),
        (b"new\nline.png", b"3"),
        (b"\xff/a.png", b"4"),
    ):
        os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
        with open(os.path.join(root, name), "wb") as file:
            file.write(data)
    packs.tar(tmp_path / "set.tar", {"caf\udce9.png": b"5"}, format=1)
    os.rename(tmp_path / "set.tar", os.path.join(root, b"s\xe9t.tar"))
    found = contents(tmp_path)
    assert found == {
        "caf\\xe9.png": b"2",
        "caf\\xe9.png#2": b"1",
        "new\nline.png": b"3",
        "s\\xe9t.tar/caf\\xe9.png": b"5",
        "\\xff/a.png": b"4",
    }
    for source in sources(tmp_path):
        assert (source.key + source.uri + source.detail).encode()


def test_globs(tmp_path):
    folder(
        tmp_path,
        {"a/1.png": PNG, "a/2.jpg": PNG, "a/deep/3.png": PNG, "b/4.png": PNG, "[x].png": PNG, "x.png": PNG},
    )
    packs.tar(tmp_path / "s0.tar", {"m.png": PNG})
    packs.tar(tmp_path / "s1.tar", {"m.png": PNG})
    assert [s.key for s in sources(tmp_path / "a" / "*.png")] == ["1.png"]
    assert [s.key for s in sources(tmp_path / "**" / "*.png")] == [
        *("[x].png", "a/1.png", "a/deep/3.png", "b/4.png", "x.png")
    ]
    assert [s.key for s in sources(tmp_path / "?")] == ["a/1.png", "a/2.jpg", "a/deep/3.png", "b/4.png"]
    assert [s.key for s in sources(tmp_path / "s[01].tar")] == ["s0.tar/m.png", "s1.tar/m.png"]
    assert [s.key for s in sources(tmp_path / "[x].png")] == ["[x].png"]  # a file of that name comes first
    with pytest.raises(UsageError, match=r"matches nothing"):
        scan(str(tmp_path / "*.webp"))


def test_a_missing_input_is_told_with_what_lies_nearby(tmp_path):
    folder(tmp_path, {"photos/holiday.png": PNG, "other/x.png": PNG})
    with pytest.raises(UsageError, match=r"holidays\.png' does not exist; .*photos' holds 'holiday\.png'"):
        scan(str(tmp_path / "photos" / "holidays.png"))
    with pytest.raises(UsageError, match="neither does"):
        scan(str(tmp_path / "nowhere" / "x.png"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="is not an image or a readable archive"):
        scan(str(tmp_path / "notes.txt"))


def test_what_is_looked_for_is_called_as_the_command_calls_it(tmp_path):
    folder(tmp_path, {"notes.txt": b"x"})
    for name in ("masks", "notes.txt", "*.webp", "notes.txt/x"):
        with pytest.raises(UsageError, match=r"^--masks '"):
            scan(str(tmp_path / name), label="--masks")
    with pytest.raises(UsageError, match=r"^--masks 'memory://no"):
        scan("memory://no/where", label="--masks")


HERE = {"./a.png": "a.png", "a.png": "a.png#2", ".//b.png": "b.png", "././/c.png": "c.png", "/d.png": "/d.png"}
DATA = {"../e.png": "../e.png", "f/./g.png": "f/./g.png", ".h.png": ".h.png", ".../i.png": ".../i.png"}


def test_tar_and_zip_give_the_same_names_the_same_keys(tmp_path):
    """What says "from here" before a name is left out; all else is data."""
    files = {name: PNG + name.encode() for name in (*HERE, *DATA)}
    wanted = {key: files[name] for name, key in (*HERE.items(), *DATA.items())}
    assert contents(packs.tar(tmp_path / "a.tar", files)) == wanted
    assert contents(packs.tar(tmp_path / "a.tar.gz", files, "w:gz")) == wanted
    assert contents(packs.zipped(tmp_path / "a.zip", files)) == wanted


@pytest.mark.parametrize("place", ["local", "memory"])
def test_of_an_output_of_artgen_the_pictures_alone_are_listed(tmp_path, place):
    top = str(tmp_path / "out") if place == "local" else f"memory://{tmp_path.name}/out"
    files = ("_artgen/settings.json", "manifest/part-0.parquet", "grid.png", "shards/0.tar")
    for name in files:
        atomic.write(uris.join(top, name), PNG if name.endswith(".png") else b"no picture")
    with pytest.raises(UsageError, match=f"DATA '{top}/x' does not exist"):
        scan(f"{top}/x", label="DATA")
    assert [(item.key, item.problem != "") for item in sources(top)] == [("0.tar", True)]
    atomic.write(uris.join(top, "images/a/1.png"), PNG)
    assert [item.key for item in scan(top)] == ["a/1.png"]
    for name in ("images", "shards"):
        uris.remove(uris.join(top, name))
    with pytest.raises(UsageError, match=r"is of artgen and holds no restored or generated pictures"):
        scan(top)


def test_output_inside_input_can_be_left_out(tmp_path):
    folder(tmp_path, {"a.png": PNG, "out/images/a.png": PNG, "outside.png": PNG})
    assert set(contents(tmp_path, exclude=str(tmp_path / "out"))) == {"a.png", "outside.png"}


def test_versions_change_with_the_file(tmp_path):
    path = folder(tmp_path, {"a.png": PNG}) / "a.png"
    (before,) = sources(path)
    assert before.version == f"{len(PNG)}-{path.stat().st_mtime_ns}"
    os.utime(path, ns=(1, 1))
    (after,) = sources(path)
    assert after.version != before.version


def test_memory_store(tmp_path):
    fs = fsspec.filesystem("memory")
    archive = packs.tar(tmp_path / "s.tar", {"m.png": b"1"}).read_bytes()
    for name, data in {"b.png": b"2", "b/c.png": b"3", "s.tar": archive, "z.txt": b"x", "e.png": b""}.items():
        fs.pipe_file(f"/archive-test/in/{name}", data)
    found = contents("memory://archive-test/in")
    assert found == {"b.png": b"2", "b/c.png": b"3", "e.png": "empty file", "s.tar/m.png": b"1"}
    assert list(found) == ["b.png", "b/c.png", "e.png", "s.tar/m.png"]
    assert set(contents("memory://archive-test/in/*.png")) == {"b.png", "e.png"}
    assert contents("memory://archive-test/in/s.tar") == {"m.png": b"1"}
    assert {
        item.key for item in scan("memory://archive-test/in/*.png", exclude="memory://archive-test/in")
    } == set()
    assert uris.normal("abfss://c/out/") == uris.normal("az://c/out") == "az://c/out"
    assert uris.normal("s3a://b/x") == uris.normal("s3://b/x")


def test_a_query_is_refused_before_it_is_told_anywhere():
    with pytest.raises(UsageError, match=r"'http://127\.0\.0\.1:9/x\.png' has a query") as caught:
        list(scan("http://127.0.0.1:9/x.png?sig=hush"))
    assert "hush" not in str(caught.value)


def test_a_store_may_hold_an_archive_and_objects_below_its_name():
    # Of the stores at hand none holds both, so only the rule is tried.
    assert archive._is_below("a/s.tar/x/m.png", {"a/s.tar"})
    assert not archive._is_below("a/s.tar.png", {"a/s.tar"})
    assert not archive._is_below("a/s.tar", {"a/s.tar"})
    assert not archive._is_below("m.png", set())


def test_a_chained_url_is_refused():
    with pytest.raises(UsageError, match="chained URL"):
        scan("zip://in::file:///tmp/a.zip")


def test_reader_says_what_is_wrong(tmp_path):
    folder(tmp_path, {"empty.png": b"", "gone.png": b"1", "large.png": bytes(2000)})
    found = {s.key: s for s in sources(tmp_path)}
    (tmp_path / "gone.png").unlink()
    with Reader() as reader:
        with pytest.raises(SourceUnreadable, match="empty file"):
            reader.read(found["empty.png"])
        with pytest.raises(SourceUnreadable, match=r"gone\.png' is gone"):
            reader.read(found["gone.png"])
        with pytest.raises(SourceUnreadable, match=r"2000 bytes, more than the limit of 1999 \(raise --max-pixels"):
            reader.read(found["large.png"], max_bytes=1999)
        assert len(reader.read(found["large.png"], max_bytes=2000)) == 2000


def test_a_remote_file_whose_listing_told_no_size_is_bounded_too():
    place = "memory://no-size/large.png"
    atomic.write(place, bytes(2000))
    source = Source(key="large.png", uri=place, kind="file", offset=0, size=-1)
    with Reader() as reader:
        with pytest.raises(SourceUnreadable, match=r"2000 bytes, more than the limit of 1999 \(raise --max-pixels"):
            reader.read(source, max_bytes=1999)
        assert len(reader.read(source, max_bytes=2000)) == 2000


def test_an_archive_that_changed_is_not_read_at_old_offsets(tmp_path):
    path = packs.tar(tmp_path / "a.tar", packs.bytes_of(2))
    (first, _) = sources(path)
    packs.tar(path, packs.bytes_of(9))
    with Reader() as reader, pytest.raises(SourceUnreadable, match="changed since it was listed"):
        reader.read(first)


def test_reader_from_many_threads(tmp_path):
    files = packs.bytes_of(40, size=20_000)
    folder(tmp_path / "in", files)
    packs.tar(tmp_path / "in" / "a.tar", files)
    packs.tar(tmp_path / "in" / "b.tar.gz", files, "w:gz")
    packs.zipped(tmp_path / "in" / "c.zip", files)
    columns = {"path": list(files), "image": list(files.values())}
    packs.parquet(tmp_path / "in" / "d.parquet", columns, row_group_size=16)
    found = sources(tmp_path / "in") * 3
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with Reader() as reader, ThreadPoolExecutor(8) as pool:
        for source, data in zip(found, pool.map(reader.read, found), strict=True):
            assert data == files[source.key.rpartition("/")[2]], source
    assert threading.active_count() < 20
    after = len(os.listdir("/proc/self/fd")) if before else 0
    assert after <= before + 1


def test_unfinished_writes_are_not_listed(tmp_path):
    with atomic.open_for_commit(str(tmp_path / "a.png")) as file:
        file.write(PNG)
        file.flush()
        assert sources(tmp_path) == []
    assert [s.key for s in sources(tmp_path)] == ["a.png"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip", "a.parquet"])
def test_a_file_system_out_of_reach_is_no_damage_of_an_archive(tmp_path, monkeypatch, name):
    files = packs.bytes_of(3)
    path = tmp_path / name
    if name == "a.zip":
        packs.zipped(path, files, zipfile.ZIP_BZIP2)
    elif name == "a.parquet":
        packs.parquet(path, {"path": list(files), "image": list(files.values())})
    else:
        packs.tar(path, files, "w:gz" if name == "a.tar.gz" else "w")
    found = sources(path)
    pread = os.pread

    def stale(file, size, at):
        if size > 2:  # all but the look at what the archive is
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(file, size, at)

    monkeypatch.setattr(os, "pread", stale)
    with pytest.raises(StorageError, match="the same command resumes"):
        sources(path)
    with Reader() as reader, pytest.raises(StorageError, match="the same command resumes"):
        reader.read(found[1])


@pytest.mark.parametrize("name", ["a.zip", "a.parquet", "a.tar.gz"])
def test_an_archive_that_is_barred_is_not_called_damaged(tmp_path, monkeypatch, name):
    files = packs.bytes_of(3)
    packs.zipped(tmp_path / "a.zip", files, zipfile.ZIP_BZIP2)
    packs.parquet(tmp_path / "a.parquet", {"path": list(files), "image": list(files.values())})
    packs.tar(tmp_path / "a.tar.gz", files, "w:gz")
    found = sources(tmp_path / name)

    def barred(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "pread", barred)
    with Reader() as reader, pytest.raises(SourceUnreadable, match="grant read access"):
        reader.read(found[1])
    (listed,) = sources(tmp_path / name)
    assert "Permission denied" in listed.problem or "grant read access" in listed.problem


def test_keys_repeat_in_order_and_lie_outside_the_memory_of_python():
    seen: set[str] = set()
    times: dict[str, int] = {}
    keys = archive.Keys()
    draw = random.Random(5)
    for _ in range(3000):
        key = draw.choice(["a", "b", "c"]) + draw.choice(["", "#2", "#3", "#2#2", "\0", "\u00e9"])
        wanted = key
        while wanted in seen:
            times[key] = times.get(key, 1) + 1
            wanted = f"{key}#{times[key]}"
        seen.add(wanted)
        assert keys.unique(key) == wanted
    tracemalloc.start()
    for number in range(50_000):
        for _ in range(2):
            keys.unique(f"a/folder/of/an/archive/{number:09}.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    keys.close()
    assert peak < 1_000_000
