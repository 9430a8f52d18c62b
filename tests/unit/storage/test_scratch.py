from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from artgen.storage import scratch
from artgen.storage.owner import this_host

MAKE = "from artgen.storage import scratch; made = scratch.folder(); open(made + '/part', 'w').close(); print(made, flush=True)"


def other(code: str, tmp: Path) -> subprocess.Popen[str]:
    """Another process of artgen with the same temporary folder; its first line of output is there."""
    environment = {**os.environ, "TMPDIR": str(tmp)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, env=environment)


def said(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_it_is_private_always_the_same_and_goes_with_its_process(tmp_path: Path) -> None:
    assert scratch.folder() == scratch.folder()
    assert stat.S_IMODE(os.stat(scratch.folder()).st_mode) == 0o700
    process = other(MAKE, tmp_path)
    made = said(process)
    process.communicate("", timeout=30)
    assert made.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_it_is_made_again_where_somebody_cleared_the_temporary_folder(tmp_path: Path) -> None:
    code = MAKE + "; import os, shutil; shutil.rmtree(made); assert os.path.isdir(scratch.folder())"
    process = other(code, tmp_path)
    process.communicate("", timeout=30)
    assert process.returncode == 0


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    living = other(MAKE + "; input()", tmp_path)
    dead = other(MAKE + "; input()", tmp_path)
    kept, left = said(living), said(dead)
    dead.send_signal(signal.SIGKILL)
    dead.wait(timeout=30)
    assert (left / "part").exists()
    third = other(MAKE, tmp_path)
    third.communicate("", timeout=30)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    living.communicate("\n", timeout=30)


def test_a_forked_process_has_its_own_and_leaves_its_parents(tmp_path: Path) -> None:
    code = (
        MAKE
        + "; import os; pid = os.fork()\nif not pid: print(scratch.folder(), flush=True); raise SystemExit\nos.wait(); input()"
    )
    parent = other(code, tmp_path)
    first, second = said(parent), said(parent)
    assert first != second
    assert (first / "part").exists()
    parent.communicate("\n", timeout=30)
    assert list(tmp_path.iterdir()) == []


def test_what_this_machine_left_before_it_was_started_anew_goes_when_it_is_old(tmp_path: Path) -> None:
    names = [f"artgen-0000000{n}-{os.getpid()}-0123abcd" for n in range(3)]
    for name in names:
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/part").write_bytes(b"half")
    month = time.time() - 31 * 24 * 3600
    for path in (*(tmp_path / names[0]).rglob("*"), tmp_path / names[0], tmp_path / names[1]):
        os.utime(path, (month, month))
    other(MAKE, tmp_path).communicate("", timeout=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == names[1:]


def test_only_folders_with_such_names_are_removed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    gone = f"artgen-{this_host()}-{2**22 + 5}-0123abcd"  # no process has such a number
    (tmp_path / gone).symlink_to(tmp_path / "target")
    (tmp_path / f"artgen-00000000-{2**22 + 5}-0123abcd").mkdir()  # of another machine
    (tmp_path / f"{gone}-more").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    other(MAKE, tmp_path).communicate("", timeout=30)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
