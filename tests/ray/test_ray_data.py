"""The Ray engine on a private cluster of this machine: same bytes as the local engine, whatever dies."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines import ray_cluster
from artgen.engines.ray_data import RayEngine
from artgen.engines.ray_worker import Worker
from artgen.errors import UsageError
from tests import pictures
from tests.ray.faults import FaultyWorker, OtherModelWorker, lines
from tests.runs import rows, run_json, shas, tree

# Some ten seconds a test on an idle machine, minutes where Ray waits for cores that others use.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def run(source: Path, output: Path, engine: Any = "ray", **settings: Any) -> int:
    settings = {"unit_images": 4, "workers": "2", **settings}
    config = RestoreConfig(input=str(source), output=str(output), engine=engine, **settings)
    return restore(config, Console(quiet=True))


def restored(output: Path) -> dict[str, str]:
    return {key: sha for key, sha in shas(output).items() if sha is not None}


def test_both_engines_give_the_same_bytes_in_every_sink(private_cluster: None, tmp_path: Path) -> None:
    source = pictures.write_folder(
        tmp_path / "in", {**pictures.files(13), "c/broken.png": b"\x89PNG\r\n\x1a\nno more"}
    )
    to = ("png", "parquet", "webdataset")
    assert run(source, tmp_path / "local", "local", to=to) == 3
    assert run(source, tmp_path / "ray", workers="1:2", to=to) == 3
    assert shas(tmp_path / "ray") == shas(tmp_path / "local")
    for sink in ("images", "parquet", "shards"):
        assert tree(tmp_path / "ray" / sink) == tree(tmp_path / "local" / sink), sink
    (of_run,) = run_json(tmp_path / "ray")["runs"]
    assert (of_run["engine"], of_run["images"], of_run["failed"], of_run["units"]) == ("ray", 14, 1, 4)
    again = run(source, tmp_path / "ray", to=to)
    assert again == 3
    assert run_json(tmp_path / "ray")["runs"][-1]["images"] == 0


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RayEngine, "worker_class", FaultyWorker)


def test_poison_images_become_rows_and_the_rest_is_done(
    private_cluster: None, faulty: None, tmp_path: Path
) -> None:
    contents = pictures.files(10)
    poison = {
        "a/killer.png": "killed, crashed or ran out",
        "b/raiser.png": "ValueError: b/raiser.png is not to my taste",
    }
    picture = contents["a/picture-000.png"]
    source = pictures.write_folder(tmp_path / "in", {**contents, **dict.fromkeys(poison, picture)})
    output = tmp_path / "out"
    assert run(source, output) == 3
    found = {row["key"]: row for row in rows(output)}
    assert set(found) == {*contents, *poison}
    failed = {key: row for key, row in found.items() if row["status"] == "failed"}
    assert set(failed) == set(poison)
    for key, reason in poison.items():
        assert (failed[key]["error_type"], failed[key]["attempts"]) == ("WorkerDied", 1)
        assert reason in failed[key]["error_message"]
    assert 3 <= len(lines(output, "killed")) <= 1 + 2 + 2  # with others, alone in its unit, as one image
    clean = pictures.write_folder(tmp_path / "clean-in", contents)
    assert run(clean, tmp_path / "clean", "local") == 0
    assert restored(output) == shas(tmp_path / "clean")


def test_what_dies_once_is_done_again_whole(private_cluster: None, faulty: None, tmp_path: Path) -> None:
    contents = pictures.files(6)
    source = pictures.write_folder(tmp_path / "in", {**contents, "a/once.png": contents["a/picture-000.png"]})
    output = tmp_path / "out"
    assert run(source, output, to=("parquet",)) == 0
    assert lines(output, "killed") == ["a/once.png"]
    assert run(source, tmp_path / "local", "local", to=("parquet",)) == 0
    assert tree(output / "parquet") == tree(tmp_path / "local" / "parquet")


def test_actors_killed_at_random_moments(private_cluster: None, faulty: None, tmp_path: Path) -> None:
    contents = {f"slow-{name.replace('/', '-')}": data for name, data in pictures.files(28).items()}
    source = pictures.write_folder(tmp_path / "in", contents)
    output, ended, killed = tmp_path / "out", threading.Event(), []

    def kill() -> None:
        rng = random.Random(20261123)
        while not ended.wait(rng.uniform(1, 4)) and len(killed) < 3:
            pids = [
                int(pid) for pid in lines(output, "pids") if pid not in killed and os.path.exists(f"/proc/{pid}")
            ]
            if pids:
                victim = rng.choice(pids)
                os.kill(victim, signal.SIGKILL)
                killed.append(str(victim))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run(source, output, unit_images=2) == 0
    finally:
        ended.set()
        killer.join()
    assert len(killed) >= 2
    assert run(source, tmp_path / "local", "local") == 0
    assert shas(output) == shas(tmp_path / "local")


def test_when_every_unit_is_lost_no_image_is_blamed(private_cluster: None, faulty: None, tmp_path: Path) -> None:
    source = pictures.write_folder(
        tmp_path / "in", {f"raiser-{n}.png": pictures.png(pictures.picture(n)) for n in range(9)}
    )
    assert run(source, tmp_path / "out", unit_images=1) == 1
    assert "no image is to blame" in run_json(tmp_path / "out")["runs"][-1]["ended"]
    assert list((tmp_path / "out").glob("manifest/*")) == []


def test_an_error_of_the_run_keeps_its_own_message(private_cluster: None, tmp_path: Path) -> None:
    source = pictures.write_folder(
        tmp_path / "in", {**pictures.files(3), "broken.png": b"\x89PNG\r\n\x1a\nno more"}
    )
    assert run(source, tmp_path / "out", on_error="stop") == 1
    ended = run_json(tmp_path / "out")["runs"][-1]["ended"]
    assert ended.startswith("RunError: broken.png: ")
    assert "--on-error stop" in ended


def test_other_weights_on_a_node_are_refused(
    private_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayEngine, "worker_class", OtherModelWorker)
    source = pictures.write_folder(tmp_path / "in", pictures.files(2))
    assert run(source, tmp_path / "out") == 1
    ended = run_json(tmp_path / "out")["runs"][-1]["ended"]
    assert "put the same weights on every node" in ended
    assert list((tmp_path / "out").glob("images/**/*.png")) == []


def test_nothing_left_to_do_starts_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "start_private", lambda *_: pytest.fail("a cluster was started"))
    source = pictures.write_folder(tmp_path / "in", pictures.files(2))
    assert run(source, tmp_path / "out", "local") == 0
    assert run(source, tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray cluster answers"),
        ("ray://127.0.0.1:9", "no Ray cluster answers"),
        ("nowhere.invalid:6379", "no Ray cluster answers"),
        ("127.0.0.1", "is not understood"),
        ("http://127.0.0.1:8265", "ray job submit"),
    ],
)
def test_a_wrong_address_is_a_usage_error_soon(tmp_path: Path, address: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match=message):
        ray_cluster.connect(address)
    assert time.monotonic() - started < 30


def test_the_worker_of_the_product_is_the_plain_one() -> None:
    assert RayEngine.worker_class is Worker
