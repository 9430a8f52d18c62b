from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artgen.errors import StorageError, UsageError
from artgen.storage import atomic
from artgen.storage import uri as uris
from tests.runs import files_of_at_most


def tree(folder):
    return sorted(os.path.relpath(os.path.join(f, n), folder) for f, _, names in os.walk(folder) for n in names)


@pytest.mark.parametrize("fsync", [False, True])
def test_write_makes_folders_and_replaces(tmp_path, fsync):
    uri = str(tmp_path / "a" / "b" / "c.bin")
    atomic.write(uri, b"one", fsync=fsync)
    atomic.write(uri, memoryview(b"two"), fsync=fsync)
    assert tree(tmp_path) == ["a/b/c.bin"]
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"two"


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        atomic.write(str(tmp_path / "a"), b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o640


def test_a_reader_sees_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic.open_for_commit(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        file.seek(0)
        assert file.read() == b"new"
    assert path.read_bytes() == b"new"


def fail_half_way(uri):
    with atomic.open_for_commit(uri) as file:
        file.write(b"half")
        raise ZeroDivisionError


@pytest.mark.parametrize("store", ["local", "memory"])
def test_nothing_is_left_of_a_failed_block(tmp_path, store, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    uri = str(tmp_path / "a") if store == "local" else "memory://atomic-failed/a"
    with pytest.raises(ZeroDivisionError):
        fail_half_way(uri)
    assert tree(tmp_path) == []
    assert not uris.exists(uri)


def test_memory_store_takes_both_ways():
    atomic.write("memory://atomic/x/y", b"1")
    with atomic.open_for_commit("memory://atomic/x/z") as file:
        file.write(b"2")
    assert uris.names("memory://atomic/x") == ["y", "z"]
    assert uris.read_or_none("memory://atomic/x/z") == b"2"


def test_a_full_disk_names_place_and_reason_and_leaves_nothing(tmp_path):
    with (
        files_of_at_most(100_000),
        pytest.raises(StorageError, match=r"a\.bin.*File too large \(errno 27\); free some space"),
    ):
        atomic.write(str(tmp_path / "a.bin"), bytes(1_000_000))
    assert tree(tmp_path) == []


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"a/b.*a file lies where a folder is needed"):
        atomic.write(str(tmp_path / "a" / "b"), b"y")
    (tmp_path / "d").mkdir()
    with pytest.raises(StorageError, match="a folder where the file goes"):
        atomic.write(str(tmp_path / "d"), b"y")
    assert tree(tmp_path) == ["a"]


def test_no_permission_is_told_with_the_fix(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    code = (
        "import os, sys\nfrom artgen.errors import *\nfrom artgen.storage import atomic\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for work in (lambda: atomic.write(sys.argv[1] + '/x', b'1'), lambda: atomic.check_writable(sys.argv[1])):\n"
        "    try: work()\n"
        "    except ArtgenError as e: print(type(e).__name__, e)\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):  # root's, when root runs the tests
        folder.chmod(0o755)
    command = [sys.executable, "-c", code, str(tmp_path / "closed")]
    first, second = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert first.startswith("StorageError")
    assert second.startswith("UsageError")
    assert "Permission denied" in first
    assert "grant write access or choose another OUTPUT" in second


def test_check_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    atomic.check_writable(str(tmp_path / "new" / "out"))
    assert (tmp_path / "new" / "out").is_dir()
    assert tree(tmp_path) == []
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="cannot be written to"):
        atomic.check_writable(str(tmp_path / "file"))


def test_sweep_takes_only_old_temporary_files(tmp_path):
    (tmp_path / "sub").mkdir()
    names = ["sub/.artgen-old.tmp", ".artgen-new.tmp", ".artgen-old.png", "old.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
        if "old" in name:
            os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    assert atomic.sweep(str(tmp_path), older_than_s=3600) == 1
    assert tree(tmp_path) == sorted(names[1:])
    assert atomic.sweep("memory://anything") == 0
    assert atomic.sweep(str(tmp_path / "missing")) == 0


@pytest.mark.slow
def test_killed_at_any_moment_leaves_the_old_or_the_new_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes([0]) * 300_000)
    code = (
        "import sys, itertools\nfrom artgen.storage import atomic\n"
        "for i in itertools.count(1): atomic.write(sys.argv[1], bytes([i % 256]) * 300_000)"
    )
    for wait in (0.2, 0.31, 0.43):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        time.sleep(wait)
        process.kill()
        process.wait()
        data = path.read_bytes()
        assert len(data) == 300_000
        assert len(set(data)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_no_temporary_name_comes_twice_not_even_in_a_forked_process():
    code = """if True:
    import os
    from artgen.storage import atomic
    names = [atomic._temporary_name() for _ in range(3)]
    if os.fork() == 0:
        print(*names, *(atomic._temporary_name() for _ in range(3)), flush=True)
        os._exit(0)
    os.wait()
    print(*(atomic._temporary_name() for _ in range(3)))
    """
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    numbers = [name.rpartition("-")[2] for name in told.split()]
    assert len(numbers) == len(set(numbers)) == 9


@pytest.mark.parametrize("count", [3, atomic._WHOLE_DISK_FROM])
def test_few_and_many_files_are_synced(tmp_path: Path, count: int) -> None:
    names, disk = [f"{n % 3}/{n}" for n in range(count)], atomic.Disk(str(tmp_path))
    for name in names:
        atomic.write(str(tmp_path / name), b"x")
    atomic.sync(str(tmp_path), names, disk)
    with pytest.raises(StorageError, match="No such file"):
        atomic.sync(str(tmp_path), [*names, "gone/away"], disk)
    disk.close()
    atomic.sync(str(tmp_path), names, disk)  # one by one


@pytest.mark.skipif(not hasattr(atomic._LIBC, "syncfs"), reason="Linux only")
@pytest.mark.parametrize(("kind", "calls"), [("ext4", 1), ("fuse.sshfs", 0), ("", 0)])
def test_a_disk_is_synced_whole_only_where_that_is_known_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, calls: int
) -> None:
    assert atomic._kind_of_disk(tmp_path.stat().st_dev) != ""
    made: list[atomic.Disk] = []
    monkeypatch.setattr(atomic, "_kind_of_disk", lambda _: kind)
    monkeypatch.setattr(atomic.Disk, "sync", lambda disk: made.append(disk))
    disk, names = atomic.Disk(str(tmp_path)), [str(n) for n in range(atomic._WHOLE_DISK_FROM)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    atomic.sync(str(tmp_path), names, disk)
    atomic.sync(str(tmp_path), names[1:], disk)
    assert made == [disk] * calls
    disk.close()
