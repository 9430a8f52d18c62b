"""A GAN's training on Ray: a worker killed, the driver killed, and every bit that of one process without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from artgen.commands.train import settings
from artgen.console import Console
from artgen.engines import ray_train
from artgen.errors import UsageError
from artgen.training.gan_recipe import GanRecipe, load_gan_recipe
from artgen.training.gan_run import train_gan
from artgen.training.shards import check_workers
from artgen.training.state import last_step
from tests import pictures
from tests.ray.test_ray_train import descendants, wait_for_step
from tests.runs import ARTGEN, environment

pytestmark = pytest.mark.ray

# Schedules that stand still: where a run ends must not change what it does before.
TOY = """
model = "r3"
generator = { base = 8, most = 16, group = 4 }
discriminator = { base = 8, most = 16, group = 4 }
height = 28
width = 28
latent = 8
batch_images = 4
shards = 2
images = 1e7
learning_rate_end = 2e-3
beta2_end = 0.9
gamma_end = 5.0
report_steps = 10
look_images = 1e8
metric_images = 8
checkpoint_minutes = 0.0
precision = "fp32"
"""


@pytest.mark.long
@pytest.mark.timeout(900)  # Ray takes a quarter of a minute to start a group of workers, on a busy machine several
def test_worker_and_driver_killed_and_every_bit_that_of_one_process(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_tar(tmp_path / "in.tar", pictures.files(9))
    run = tmp_path / "run"
    command = [
        *ARTGEN,
        "train",
        "gan",
        str(source),
        str(run),
        "--recipe",
        str(toy),
        "--device",
        "cpu",
        "--workers",
        "1:2",
    ]
    with (tmp_path / "said").open("wb") as said:
        driver = subprocess.Popen(command, stdout=said, stderr=said, env=environment(), start_new_session=True)
        try:
            wait_for_step(run, 4, driver)
            below = descendants(driver.pid)
            workers = [pid for pid, name in below.items() if "RayTrainWorker" in name]
            assert len(workers) == 2, below
            os.kill(workers[0], signal.SIGKILL)
            wait_for_step(run, last_step(run) + 8, driver)
        finally:
            below = descendants(driver.pid)
            for pid in (driver.pid, *below):  # the session's, and what Ray has put into sessions of its own
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            driver.wait()
    assert "a worker was lost" in (tmp_path / "said").read_text()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: a backward pass sums in an order that follows the threads
    try:
        recipe = load_gan_recipe(str(toy))
        recipe = replace(recipe, images=(last_step(run) + 3) * recipe.batch_images)
        train_gan(str(source), str(run), recipe, device="cpu")
        alone = tmp_path / "alone"
        train_gan(str(source), str(alone), replace(recipe, checkpoint_minutes=1e6), device="cpu")
    finally:
        torch.set_num_threads(threads)
    newest = f"step-{recipe.steps:08d}"
    for name in ("generator", "discriminator", "mean"):
        one, other = (load_file(place / "checkpoints" / newest / f"{name}.safetensors") for place in (run, alone))
        assert [key for key in one if not torch.equal(one[key], other[key])] == [], name


def test_more_workers_than_shards_are_refused_before_a_worker_starts(tmp_path: Path, toy: Path) -> None:
    args = {"data": "in", "folder": str(tmp_path / "run"), "recipe": str(toy), "workers": "3", "device": "cpu"}
    _, recipe = settings(args, load_gan_recipe)
    with pytest.raises(UsageError, match="3 workers cannot share 2 shards; use fewer, or shards = 0"):
        check_workers(recipe, (3, 3))


def test_every_number_of_workers_that_a_group_may_have_must_share_a_batch() -> None:
    recipe = GanRecipe(batch_images=64, shards=0)
    for number in (2, 4):
        check_workers(recipe, (number, number))
    with pytest.raises(UsageError, match="batch_images is 64, which 3 workers cannot share"):
        check_workers(recipe, (2, 4))


def test_the_ray_client_is_refused(tmp_path: Path, toy: Path) -> None:
    args = {"data": "in", "folder": str(tmp_path / "run"), "recipe": str(toy), "address": "ray://127.0.0.1:10001"}
    with pytest.raises(UsageError, match="ray job submit"):
        ray_train.train(*settings(args, load_gan_recipe), lambda _: None, Console(quiet=True))
