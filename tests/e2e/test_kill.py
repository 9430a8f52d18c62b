"""SIGKILL at random moments, then the same command: the bytes of an undisturbed run and every key once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import pictures
from tests.runs import ARTGEN, artgen_here, environment, rows, run_json, shas, tree

pytestmark = pytest.mark.slow


def kill_at_random(command: list[str], output: Path, rng: random.Random) -> bool:
    """Starts the command in a session of its own and kills it within its start, or after up to three more units; False if
    it had ended by then. By what is done and not by the clock, so that a busy machine makes no difference."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    more = rng.randint(0, 3)
    due = parts(output) + more
    while process.poll() is None and parts(output) < due:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3 if more else 2.0))
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def parts(output: Path) -> int:
    return len(list(output.glob("manifest/part-*.parquet")))


def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(24))
    flags = ["--unit-images", "2", "--to", "png", "--to", "parquet", "--to", "webdataset"]
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "out"
    assert artgen_here("restore", source, undisturbed, *flags).returncode == 0
    rng = random.Random(20261123)
    command = [*ARTGEN, "restore", str(source), str(output), *flags]
    kills = sum(kill_at_random(command, output, rng) for _ in range(8))
    assert kills >= 2
    last = artgen_here("restore", source, output, *flags)
    assert last.returncode == 0, last.stderr
    assert shas(output) == shas(undisturbed)
    for sink in ("images", "parquet", "shards"):
        assert tree(output / sink) == tree(undisturbed / sink), sink
    assert len(rows(output)) == 24
    assert not (output / "_artgen" / "begun").exists()


def test_interrupt_ends_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    contents = {f"{n:02d}.png": pictures.png(pictures.picture(n, 200, 150)) for n in range(40)}
    source = pictures.write_folder(tmp_path / "in", contents)
    command = [*ARTGEN, "restore", str(source), str(tmp_path / "out"), "--unit-images", "2"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out" / "manifest").glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: every process of the group gets it
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    done = rows(tmp_path / "out")
    assert 0 < len(done) < 40
    assert {row["status"] for row in done} == {"ok"}
    assert run_json(tmp_path / "out")["runs"][-1]["ended"] == "interrupted"
    left = [
        path for path in (tmp_path / "out").rglob("*") if ".artgen-" in path.name or path.parent.name == "begun"
    ]
    assert left == []
    assert artgen_here("restore", source, tmp_path / "out", "--unit-images", "2").returncode == 0
    assert len(rows(tmp_path / "out")) == 40
