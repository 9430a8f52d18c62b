"""OUTPUT on a disk that fills up: a clear end, nothing half-written, and the same command goes on once there is space."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from artgen.storage.atomic import PREFIX
from tests import pictures
from tests.generators import write_run
from tests.runs import artgen, artgen_here, rows, shas, tree

pytestmark = pytest.mark.slow
SINKS = ("--to", "png", "--to", "parquet", "--to", "webdataset", "--unit-images", "4")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("only root may mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def command(kind: str, folder: Path, output: Path) -> list[str | Path]:
    if kind == "generate":
        model = folder / "run"
        if not model.exists():
            write_run(model)
        return ["generate", model, output, "--seeds", "0-299", *SINKS]
    source = folder / "in"
    if not source.exists():
        pictures.write_folder(
            source, {f"{n:02d}.png": pictures.png(pictures.picture(n, 160, 120)) for n in range(24)}
        )
    engine = kind.removeprefix("restore-")
    return ["restore", source, output, "--model", "identity", "--engine", engine, "--workers", "2", *SINKS]


def unfinished(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if path.name.startswith(PREFIX)]


@pytest.mark.parametrize("kind", ["restore-local", pytest.param("restore-ray", marks=pytest.mark.ray), "generate"])
def test_a_full_disk_ends_the_run_and_space_lets_it_go_on(tmp_path: Path, disk: Path, kind: str) -> None:
    output = disk / "out"
    full = artgen(*command(kind, tmp_path, output))
    assert full.returncode == 1, full.stderr
    said = full.stdout + full.stderr
    assert "free some space, then run the same command again" in said
    assert "Traceback" not in said
    # Ray ends its actors at once; what they leave is swept by the same command.
    assert kind == "restore-ray" or not unfinished(output)
    committed = shas(output)  # fails where a row's picture is not whole

    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    again = artgen if kind == "restore-ray" else artgen_here
    done = again(*command(kind, tmp_path, output))
    assert done.returncode == 0, done.stderr
    assert not unfinished(output)
    undisturbed = tmp_path / "undisturbed"
    assert artgen_here(*command(kind.replace("-ray", "-local"), tmp_path, undisturbed)).returncode == 0
    assert shas(output) == shas(undisturbed)
    assert committed.items() <= shas(output).items()
    for sink in ("images", "parquet", "shards"):
        assert tree(output / sink) == tree(undisturbed / sink), sink
    assert len(rows(output)) == (300 if kind == "generate" else 24)
