"""Where the model runs when the driver's machine has not what the workers have. Starts no cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from artgen.commands import generate, restore
from artgen.config import GenerateConfig, RestoreConfig
from artgen.engines import ray_train
from artgen.engines.local import Devices, LocalEngine
from artgen.engines.ray_cluster import Sealed
from artgen.engines.ray_data import RayEngine
from artgen.engines.ray_worker import Orders, Worker
from artgen.errors import RunError, UsageError
from artgen.training.recipe import load_recipe
from artgen.work.unit import Publish

no_gpu_here = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


def config(device: Any = "auto") -> RestoreConfig:
    return RestoreConfig(input="in", output="out", engine="ray", device=device, model="default")


@pytest.mark.parametrize(
    ("device", "resources", "expected"),
    [
        ("auto", {"CPU": 8.0, "GPU": 2.0}, Devices("cuda", "cpu")),
        ("auto", {"CPU": 8.0}, Devices("cpu", "cpu")),
        ("cuda", {"memory": 1e9}, Devices("cuda", "cpu")),
        ("cpu", {"CPU": 8.0, "GPU": 2.0}, Devices("cpu", "cpu")),
    ],
)
def test_on_a_cluster_its_resources_decide(
    device: str, resources: dict[str, float], expected: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    assert RayEngine(config(device)).devices() == expected


@no_gpu_here
def test_on_this_machine_this_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for engine in (RayEngine(config("cuda")), LocalEngine(GenerateConfig(model="m", output="o", device="cuda"), 1)):
        with pytest.raises(UsageError, match="'cuda' is not available here"):
            engine.devices()
    assert RayEngine(config("cpu")).devices() == Devices("cpu", "cpu")


def test_the_copy_of_the_driver_stays_on_its_cpu() -> None:
    restorer, job = restore.make_job(config(), Devices("cuda", "cpu"))
    assert (job.device, job.precision, job.options.tile, job.batch) == ("cuda", "bf16", 512, 16)
    painter, painting = generate.make_job(GenerateConfig(model="default", output="out"), Devices("cuda", "cpu"))
    assert painting.device == "cuda"
    for module in (restorer.module, painter.module):
        assert {weights.device.type for weights in module.parameters()} == {"cpu"}


@no_gpu_here
def test_a_worker_without_the_device_says_so(tmp_path: Path) -> None:
    _, job = restore.make_job(config(), Devices("cuda", "cpu"))
    worker = Worker(Sealed(Orders(str(tmp_path), "default", job, Publish(str(tmp_path), ("png",)), 1, ())))
    assert isinstance(worker._error, RunError)
    assert "torch finds no GPU on" in str(worker._error)


def training(device: str) -> ray_train.Orders:
    return ray_train.Orders(("in",), "run", load_recipe("default"), device, 1, None, ())


@no_gpu_here
def test_a_worker_of_a_training_without_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would train on the CPU, and say nothing."""
    rank = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: rank)
    monkeypatch.setattr(ray_train, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(ray_train, "train_restorer", lambda *_, **__: pytest.fail("it was begun"))
    with pytest.raises(RunError, match="torch finds no GPU on"):
        ray_train._work({"orders": Sealed(training("cuda"))})
