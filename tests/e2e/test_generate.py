"""Generating, killed at random moments: the bytes of an undisturbed run and every seed once. Half a minute."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.e2e.test_kill import kill_at_random
from tests.generators import write_run
from tests.runs import ARTGEN, artgen, rows, shas, tree

pytestmark = pytest.mark.slow


def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    model = write_run(tmp_path / "run")
    flags = [
        "--seeds",
        "0-899,5000-5099",
        "--unit-images",
        "32",
        "--grid",
        "--to",
        "png",
        "--to",
        "parquet",
        "--to",
        "webdataset",
    ]
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "out"
    assert artgen("generate", model, undisturbed, *flags).returncode == 0
    rng = random.Random(20261123)
    command = [*ARTGEN, "generate", str(model), str(output), *flags]
    kills = sum(kill_at_random(command, output, rng) for _ in range(5))
    assert kills >= 2
    last = artgen("generate", model, output, *flags, "--workers", "1")
    assert last.returncode == 0, last.stderr
    assert shas(output) == shas(undisturbed)
    for sink in ("images", "parquet", "shards"):
        assert tree(output / sink) == tree(undisturbed / sink), sink
    assert (output / "grid.png").read_bytes() == (undisturbed / "grid.png").read_bytes()
    assert [row["seed"] for row in rows(output)] == [*range(900), *range(5000, 5100)]
