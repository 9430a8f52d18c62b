"""Generating on a private cluster of this machine: the bytes of the local engine, whatever dies. Half a minute."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from artgen.commands.generate import generate
from artgen.config import GenerateConfig
from artgen.console import Console
from artgen.engines.ray_data import RayEngine
from tests.generators import write_run
from tests.ray.faults import FaultyWorker, lines
from tests.runs import rows, run_json, shas, tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def run(model: Path, output: Path, engine: Any = "ray", **settings: Any) -> int:
    config = GenerateConfig(
        model=str(model), output=str(output), engine=engine, workers="2", to=("png", "parquet", "webdataset"),
        unit_images=40, **settings,
    )  # fmt: skip
    return generate(config, Console(quiet=True))


def test_the_bytes_of_the_local_engine_though_actors_are_killed(
    private_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayEngine, "worker_class", FaultyWorker)
    model, output, local = write_run(tmp_path / "run"), tmp_path / "out", tmp_path / "local"
    seeds = "0-1199"
    ended, killed = threading.Event(), []

    def kill() -> None:
        """One actor after its first pictures, another a little later."""
        rng = random.Random(20261123)
        while not ended.wait(rng.uniform(0.3, 1)) and len(killed) < 2:
            pids = [
                int(pid)
                for pid in lines(output, "pids")
                if int(pid) not in killed and os.path.exists(f"/proc/{pid}")
            ]
            if pids and len(lines(output, "made")) > 40 * len(killed):
                victim = rng.choice(pids)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run(model, output, seeds=seeds) == 0
    finally:
        ended.set()
        killer.join()
    assert killed
    assert run(model, local, "local", seeds=seeds) == 0
    assert shas(output) == shas(local)
    for sink in ("images", "parquet", "shards"):
        assert tree(output / sink) == tree(local / sink), sink
    assert [row["seed"] for row in rows(output)] == list(range(1200))
    assert run(model, output, "local", seeds="0-1209") == 0
    assert run_json(output)["runs"][-1]["images"] == 10
