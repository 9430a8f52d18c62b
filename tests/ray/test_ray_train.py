"""Training on Ray: a worker killed, the driver killed, and every step of it that of a run in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import ray

from artgen.commands.train import settings
from artgen.console import Console
from artgen.engines import ray_train
from artgen.errors import StorageError, UsageError
from artgen.training.recipe import RestorerRecipe
from artgen.training.run import train_restorer
from artgen.training.state import last_step
from tests import pictures
from tests.runs import ARTGEN, artgen_here, environment

pytestmark = pytest.mark.ray

TOY = """
model = "default"
params = { widths = [8, 8, 8], blocks = 1 }
patch_px = 24
batch_images = 5
steps = 100000
warmup_steps = 2
report_steps = 1
validate_steps = 100000
holdout = 0
checkpoint_minutes = 0.0
precision = "fp32"
"""


def descendants(pid: int) -> dict[int, str]:
    """Command lines of all processes below one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, level = {}, {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found |= {child: names[child] for child in level}
    return found


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes], timeout_s: float = 400) -> None:
    end = time.monotonic() + timeout_s
    while last_step(run) < step:
        assert process.poll() is None, f"the run ended before step {step}"
        assert time.monotonic() < end, f"step {step} did not come within {timeout_s:.0f} s"
        time.sleep(0.1)


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


class Enough(Exception):
    pass


@pytest.mark.timeout(900)  # Ray takes a quarter of a minute to start a group of workers, on a busy machine several
def test_worker_and_driver_killed_and_gone_on_with_without_ray(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_tar(tmp_path / "in.tar", pictures.files(9))
    run = tmp_path / "run"
    command = ["train", "restorer", str(source), str(run), "--recipe", str(toy), "--device", "cpu"]
    with (tmp_path / "said").open("wb") as said:
        driver = subprocess.Popen(
            [*ARTGEN, *command, "--workers", "1:2"],
            stdout=said,
            stderr=said,
            env=environment(),
            start_new_session=True,
        )
        try:
            wait_for_step(run, 4, driver)
            below = descendants(driver.pid)
            workers = [pid for pid, name in below.items() if "RayTrainWorker" in name]
            assert len(workers) == 2, below
            os.kill(workers[0], signal.SIGKILL)
            killed_at = last_step(run)
            wait_for_step(run, killed_at + 8, driver)
        finally:
            below = descendants(driver.pid)
            for pid in (driver.pid, *below):  # the session's, and what Ray has put into sessions of its own
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            driver.wait()
    assert "a worker was lost" in (tmp_path / "said").read_text()
    reached = last_step(run)
    last = artgen_here(*command, "--set", f"steps={reached + 3}", "--engine", "local", "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout)["step"] == reached + 3

    expected: dict[int, float] = {}

    def stop(numbers: dict[str, float]) -> None:
        expected[int(numbers["step"])] = numbers["loss"]
        if numbers["step"] >= reached:
            raise Enough

    config, recipe = settings({"data": str(source), "folder": str(tmp_path / "alone"), "recipe": str(toy)})
    with pytest.raises(Enough):
        train_restorer(config.data, config.folder, recipe, device="cpu", report=stop)
    found = [(step, loss) for step, loss in losses(run) if step <= reached]
    assert {step for step, _ in found} == set(range(1, reached + 1))
    assert len(found) <= reached + 2, "more than the step under way was lost at a kill"
    # Every step on the same crops with the same damage, whoever made it; AdamW enlarges the order of sums slowly.
    for step, loss in found:
        assert loss == pytest.approx(expected[step], rel=0.02), step


def test_the_ray_client_is_refused(tmp_path: Path, toy: Path) -> None:
    args = {"data": "in", "folder": str(tmp_path / "run"), "recipe": str(toy), "address": "ray://127.0.0.1:10001"}
    with pytest.raises(UsageError, match="ray job submit"):
        ray_train.train(*settings(args), lambda _: None, Console(quiet=True))


def test_an_error_of_artgen_in_a_worker_is_raised_as_it_is(
    private_cluster: None, tmp_path: Path, toy: Path
) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(4))
    args = {
        "data": str(source),
        "folder": str(tmp_path / "run"),
        "recipe": str(toy),
        "workers": "1",
        "device": "cpu",
    }
    config, recipe = settings({**args, "set": ["patch_px=64"]})
    with pytest.raises(UsageError, match="none of 64x64 pixels"):
        ray_train.train(config, recipe, lambda _: None, Console(quiet=True))


def test_more_workers_than_images_in_a_batch_are_refused(private_cluster: None, tmp_path: Path, toy: Path) -> None:
    args = {"data": "in", "folder": str(tmp_path / "run"), "recipe": str(toy), "workers": "6", "device": "cpu"}
    with pytest.raises(UsageError, match="too few for 6 workers"):
        ray_train.train(*settings(args), lambda _: None, Console(quiet=True))


def carried(monkeypatch: pytest.MonkeyPatch) -> list[ray_train.Orders]:
    """What would go to the workers; no cluster is started."""
    given: list[ray_train.Orders] = []
    monkeypatch.setattr(ray_train, "_open_cluster", lambda config: False)
    monkeypatch.setattr(ray_train, "_carry", lambda orders, *_: given.append(orders))
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray, "nodes", list)
    return given


def test_a_place_of_data_with_a_comma_reaches_the_workers_whole(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = carried(monkeypatch)
    (tmp_path / "a,b").mkdir()
    monkeypatch.chdir(tmp_path / "a,b")
    args = {"data": "one,two", "folder": "../run", "recipe": str(toy), "workers": "1:2"}
    for data in ("one,two", str(tmp_path / "a,b")):
        ray_train.train(*settings({**args, "data": data}), lambda _: None, Console(quiet=True))
    here = tmp_path / "a,b"
    assert [orders.data for orders in given] == [(f"{here}/one", f"{here}/two"), (str(here),)]
    assert given[1].seen == (str(here),)


@pytest.mark.parametrize(
    ("start", "given"), [("mine.safetensors", "{here}/mine.safetensors"), ("default", "default")]
)
def test_weights_to_begin_from_reach_the_workers_as_the_user_named_them(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, start: str, given: str
) -> None:
    orders = carried(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").touch()
    args = {"data": "in", "folder": "run", "recipe": str(toy), "workers": "1:2", "start": start}
    ray_train.train(*settings(args), lambda _: None, Console(quiet=True))
    wanted = given.format(here=tmp_path)
    recipe = orders[0].recipe
    assert isinstance(recipe, RestorerRecipe)
    assert recipe.start == wanted
    assert (wanted in orders[0].seen) == (start != "default")


def test_errors_travel_with_their_kind() -> None:
    class Failure(Exception):
        worker_failures = {1: RuntimeError("Connection closed by peer"), 0: StorageError("no space")}  # noqa: RUF012

    with pytest.raises(StorageError, match="no space"):
        ray_train._raise_ours(Failure())
    ray_train._raise_ours(RuntimeError("a machine is gone"))
