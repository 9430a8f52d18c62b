"""A cluster of three nodes on this machine: nodes that go, jobs, wrong settings, runs that are killed and resumed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from artgen.commands.restore import restore
from artgen.commands.train import settings
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines import ray_train
from artgen.engines.ray_data import RayEngine
from artgen.training.journal import read_log
from artgen.training.run import train_restorer
from artgen.training.state import last_step
from tests import pictures
from tests.ray import test_ray_train
from tests.ray.faults import FaultyWorker, lines
from tests.runs import ARTGEN, artgen, environment, rows, run_json, shas

# Some ten seconds a test on an idle machine, minutes where Ray waits for cores that others use.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
client_port = [0]
TOY = test_ray_train.TOY
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client_port[0] = free.getsockname()[1]
    arguments = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": client_port[0]}
    made = Cluster(initialize_head=True, head_node_args=arguments)
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def slow_files(count: int) -> dict[str, bytes]:
    return {f"slow-{name.replace('/', '-')}": data for name, data in pictures.files(count).items()}


def test_a_node_goes_in_the_middle(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its actor has nowhere to start again, as the others take all CPUs: nothing may wait for it."""
    monkeypatch.setattr(RayEngine, "worker_class", FaultyWorker)
    source, output = pictures.write_folder(tmp_path / "in", slow_files(24)), tmp_path / "out"
    node = cluster.add_node(num_cpus=1)
    gone = []

    def remove() -> None:
        while len(list(output.glob("manifest/*.parquet"))) < 4:
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
        gone.append(len(list(output.glob("manifest/*.parquet"))))

    remover = threading.Thread(target=remove, daemon=True)
    remover.start()
    config = RestoreConfig(
        input=str(source), output=str(output), unit_images=2, workers="4", address=cluster.address
    )
    assert restore(config, Console(quiet=True)) == 0
    assert 4 <= gone[0] < 12
    assert run_json(output)["runs"][-1]["engine"] == "ray"
    assert len(lines(output, "pids")) >= 4
    clean = RestoreConfig(input=str(source), output=str(tmp_path / "local"))
    assert restore(clean, Console(quiet=True)) == 0
    assert shas(output) == shas(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.long  # Ray waits a minute for the fourth worker before it begins with three
def test_training_goes_on_when_a_node_goes(
    cluster: Cluster, tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, run = pictures.write_folder(tmp_path / "in", pictures.files(9)), tmp_path / "run"
    given = {"data": str(source), "recipe": str(toy), "device": "cpu", "set": ["steps=30"]}
    node = cluster.add_node(num_cpus=1)
    killed = []

    def remove() -> None:
        while last_step(run) < 4:
            time.sleep(0.1)
        killed.append(last_step(run))
        cluster.remove_node(node, allow_graceful=False)

    remover = threading.Thread(target=remove, daemon=True)
    remover.start()
    config, recipe = settings({**given, "folder": str(run), "workers": "1:4", "address": cluster.address})
    ray_train.train(config, recipe, lambda _: None, Console())
    assert 4 <= killed[0] < 30
    assert "a worker was lost" in "".join(capsys.readouterr())
    found = [(line["step"], line["loss"]) for line in read_log(str(run)) if "loss" in line]
    assert {step for step, _ in found} == set(range(1, 31))
    assert len(found) <= 30 + 1, "more than the step under way was lost with the node"
    alone, recipe = settings({**given, "folder": str(tmp_path / "alone")})
    train_restorer(alone.data, alone.folder, recipe, device="cpu")
    expected = {line["step"]: line["loss"] for line in read_log(alone.folder) if "loss" in line}
    for step, loss in found:
        assert loss == pytest.approx(expected[step], rel=0.02), step


@pytest.mark.slow
@pytest.mark.long
def test_from_outside_over_ray_client(cluster: Cluster, tmp_path: Path) -> None:
    broken = {"broken.png": b"\x89PNG\r\n\x1a\nno more"}
    source = pictures.write_folder(tmp_path / "in", {**pictures.files(5), **broken})
    address = f"ray://{str(cluster.address).rpartition(':')[0]}:{client_port[0]}"
    flags = ["--address", address, "--unit-images", "2"]
    result = artgen_over_client("restore", source, tmp_path / "out", *flags)
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    assert len(rows(tmp_path / "out")) == 6
    stopped = artgen_over_client("restore", source, tmp_path / "stopped", *flags, "--on-error", "stop")
    assert stopped.returncode == 1
    assert "broken.png: DecodeFailed" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def artgen_over_client(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A busy machine may take longer than the half minute that Ray waits for its own server of a client: then again."""
    result = artgen(*arguments)
    if "Starting Ray client server failed" in result.stderr:
        result = artgen(*arguments)
    return result


def command_of(source: Path, output: Path, *flags: str) -> list[str]:
    return [*ARTGEN, "restore", str(source), str(output), "--unit-images", "2", *flags]


def wait_for_parts(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list(output.glob("manifest/part-*.parquet"))) < count and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_drivers_killed_and_engines_changed_and_a_job_of_the_cluster_ends_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    contents = {f"{n:02d}.png": pictures.png(pictures.picture(n, 200, 150)) for n in range(40)}
    source, output = pictures.write_folder(tmp_path / "in", contents), tmp_path / "out"
    rng = random.Random(2)
    done = 0
    for engine in ("ray", "local"):
        flags = ["--engine", engine, *(["--address", str(cluster.address)] if engine == "ray" else [])]
        process = subprocess.Popen(
            command_of(source, output, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(), start_new_session=True,
        )  # fmt: skip
        wait_for_parts(output, done + rng.randint(1, 4), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done = len(list(output.glob("manifest/part-*.parquet")))
        assert done
    command = [
        sys.executable,
        str(ROOT / "jobs" / "restore.py"),
        "in",
        "out",
        "--unit-images",
        "2",
        "--engine",
        "ray",
        "--json",
    ]
    last = subprocess.run(  # a job, which finds the cluster that it runs in
        command, cwd=tmp_path, env={**environment(), "RAY_ADDRESS": str(cluster.address)}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert last.returncode == 0, last.stderr
    assert len(last.stdout.splitlines()) == 1, last.stdout
    assert "Traceback" not in last.stderr
    config = RestoreConfig(input=str(source), output=str(tmp_path / "local"))
    assert restore(config, Console(quiet=True)) == 0
    assert shas(output) == shas(tmp_path / "local")
    assert len(rows(output)) == 40


def test_interrupt_of_a_private_cluster_leaves_no_process(tmp_path: Path) -> None:
    contents = {f"{n:02d}.png": pictures.png(pictures.picture(n, 300, 200)) for n in range(60)}
    source, output = pictures.write_folder(tmp_path / "in", contents), tmp_path / "out"
    process = subprocess.Popen(
        command_of(source, output, "--engine", "ray", "--workers", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**environment(), "ARTGEN_TEST_RUN": str(tmp_path)}, start_new_session=True,
    )  # fmt: skip
    wait_for_parts(output, 2, process)
    assert len(processes_of(tmp_path)) > 3
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert 4 <= len(rows(output)) < 60
    deadline = time.monotonic() + 20
    while (left := processes_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def processes_of(run: Path) -> list[str]:
    """Command lines of living processes that were started with ARTGEN_TEST_RUN=run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"ARTGEN_TEST_RUN={run}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80])
        except OSError:  # it has just ended
            continue
    return found
