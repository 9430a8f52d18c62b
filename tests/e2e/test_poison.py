"""Images that kill the process which makes them, without Ray: real commands, real deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from artgen.storage import uri
from tests import pictures
from tests.generators import write_run
from tests.poison import PIDS, POISON, SEED
from tests.runs import ARTGEN, artgen_here, environment, rows, run_json, shas, tree
from tests.s3 import S3Server, s3_server

__all__ = ["s3_server"]
pytestmark = pytest.mark.slow

# Units of one image: few processes have to die until it is known which one kills.
FLAGS = ["--model", "identity", "--unit-images", "1", "--workers", "2", "--engine", "local"]
FIRST = "under way when the last run died: doing them first, in a process of their own"


def poisoned(*args: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [*POISON, *map(str, args)]
    told = {**environment(), **more}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=told, check=False)


def begun(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "_artgen" / "begun").glob("*"))


def temporary(output: Path) -> list[str]:
    return [path.name for path in output.rglob(".artgen-*")]


def until(reached: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it has not come so far"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether it does, and is no zombie that waits for whoever took it over."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(log: Path) -> list[int]:
    return list(dict.fromkeys(map(int, log.read_text().split()))) if log.exists() else []


def test_the_same_command_again_is_all_that_poison_asks_for(tmp_path: Path) -> None:
    contents = pictures.files(8)
    killers = ("a/killer.png", "b/zz-killer.png")
    picture = contents["a/picture-000.png"]
    source = pictures.write_folder(tmp_path / "in", {**contents, **dict.fromkeys(killers, picture)})
    output = tmp_path / "out"
    command = ("restore", source, output, *FLAGS)
    assert poisoned(*command).returncode == -signal.SIGKILL
    assert begun(output)
    again = poisoned(*command)
    assert again.returncode == 3, again.stderr
    assert FIRST in again.stderr
    found = {row["key"]: row for row in rows(output)}
    assert set(found) == {*contents, *killers}
    assert {key for key, row in found.items() if row["status"] == "failed"} == set(killers)
    for key in killers:
        assert found[key]["error_type"] == "WorkerDied"
        assert "SIGKILL" in found[key]["error_message"]
        assert "then use --retry-failed" in found[key]["error_message"]
    assert (begun(output), temporary(output)) == ([], [])
    clean = pictures.write_folder(tmp_path / "clean-in", contents)
    assert artgen_here("restore", clean, tmp_path / "clean", *FLAGS).returncode == 0
    assert {key: sha for key, sha in shas(output).items() if key not in killers} == shas(tmp_path / "clean")
    assert tree(output / "images") == tree(tmp_path / "clean" / "images")


def test_a_seed_that_kills_is_named_and_the_run_dies_no_more(tmp_path: Path) -> None:
    """No seed is to blame for what goes wrong, so there is no row, but an end in words that another machine may go on from."""
    model, output = write_run(tmp_path / "run"), tmp_path / "out"
    flags = ["--seeds", "0-15", "--unit-images", "1", "--engine", "local", "--workers", "1"]
    assert poisoned("generate", model, output, *flags).returncode == -signal.SIGKILL
    again = poisoned("generate", model, output, *flags)
    assert again.returncode == 1, again.stderr
    assert f"seed-{SEED:09d}: WorkerDied: this image alone ended its worker 2 times" in again.stderr
    assert len(rows(output)) == 15, "all others are done"
    assert begun(output)
    assert artgen_here("generate", model, output, *flags).returncode == 0
    assert artgen_here("generate", model, tmp_path / "clean", *flags).returncode == 0
    assert shas(output) == shas(tmp_path / "clean")
    assert begun(output) == []


def test_a_sound_run_killed_from_outside_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    contents = {f"slow-{name.replace('/', '-')}": data for name, data in pictures.files(8).items()}
    source, output = pictures.write_folder(tmp_path / "in", contents), tmp_path / "out"
    flags = [*FLAGS, "--unit-images", "2", "--to", "png", "--to", "parquet", "--to", "webdataset"]
    log = tmp_path / "pids"
    told = {**environment(), PIDS: str(log)}
    place = f"file://{output}"
    first = subprocess.Popen([*POISON, "restore", str(source), place, *flags], env=told, stderr=subprocess.DEVNULL)
    until(lambda: list(output.glob("manifest/part-*")))
    first.kill()
    first.wait()
    assert begun(output)
    again = poisoned("restore", source, place, *flags, **{PIDS: str(log)})
    assert again.returncode == 0, again.stderr
    assert FIRST in again.stderr
    assert len(pids(log)) <= 3, "killed, a process for what was under way, and the one that goes on"
    assert (begun(output), temporary(output)) == ([], [])
    undisturbed = tmp_path / "undisturbed"
    assert artgen_here("restore", source, undisturbed, *flags).returncode == 0
    assert shas(output) == shas(undisturbed)
    for sink in ("images", "parquet", "shards"):
        assert tree(output / sink) == tree(undisturbed / sink), sink


@pytest.fixture
def at_work(tmp_path: Path) -> tuple[subprocess.Popen[str], int, Path, list[str]]:
    """A second command whose cell is at work on slow images: its process, that of the cell, OUTPUT and the command."""
    contents = {f"{n:02d}-slow.png": data for n, data in enumerate(pictures.files(4).values())}
    source = pictures.write_folder(tmp_path / "in", contents)
    output, log = tmp_path / "out", tmp_path / "pids"
    flags = ["--model", "identity", "--unit-images", "4", "--workers", "1", "--engine", "local"]
    command, told = [*POISON, "restore", str(source), str(output), *flags], {**environment(), PIDS: str(log)}
    first = subprocess.Popen(command, env=told, stderr=subprocess.DEVNULL)
    until(lambda: pids(log))
    first.kill()
    first.wait()
    log.unlink()
    second = subprocess.Popen(command, env=told, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: pids(log))
    (cell,) = pids(log)
    assert cell != second.pid
    assert runs(cell)
    return second, cell, output, command


def test_a_cell_ends_with_the_process_that_started_it(
    at_work: tuple[subprocess.Popen[str], int, Path, list[str]],
) -> None:
    process, cell, output, command = at_work
    process.kill()
    process.communicate()
    until(lambda: not runs(cell), seconds=10)
    assert not list(output.glob("manifest/part-*")), "it has not finished its unit first"
    last = artgen_here(*command[len(ARTGEN) :])
    assert last.returncode == 0, last.stderr
    assert (begun(output), temporary(output)) == ([], [])


def test_ctrl_c_ends_a_cell_in_order(at_work: tuple[subprocess.Popen[str], int, Path, list[str]]) -> None:
    process, cell, output, _ = at_work
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert not runs(cell)
    assert temporary(output) == []
    assert begun(output), "nothing was found out about what was under way"
    assert run_json(output)["runs"][-1]["ended"] == "interrupted"


def test_poison_in_a_store(tmp_path: Path, s3_server: S3Server) -> None:
    contents = {"a.png": pictures.png(pictures.picture(1)), "b-killer.png": pictures.png(pictures.picture(2))}
    source = pictures.write_folder(tmp_path / "in", contents)
    output = f"{s3_server.bucket()}/out"
    options = ["--storage-options", str(s3_server.options).replace("'", '"')]
    command = ["restore", str(source), output, *FLAGS, *options]
    assert poisoned(*command).returncode == -signal.SIGKILL
    home = f"{output}/_artgen"
    assert "begun" in uri.names(home, s3_server.options)
    again = poisoned(*command)
    assert again.returncode == 3, again.stderr
    assert "1 image restored, 1 failed" in again.stdout
    assert "begun" not in uri.names(home, s3_server.options)
