"""Data-parallel training on Ray Train: the local engine's loop in every worker, gradients added up by torch.distributed.

Ray carries processes only. Checkpoints, log and recovery are those of the run folder, so a run may go on with
another number of workers or without Ray.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from artgen import __version__, heap
from artgen.config import cluster_address
from artgen.console import Console
from artgen.engines import ray_cluster
from artgen.engines.ray_cluster import Sealed
from artgen.errors import ArtgenError, RunError, UsageError
from artgen.models import registry
from artgen.storage import scratch, uri
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_run import train_gan
from artgen.training.journal import read_log
from artgen.training.loop_restorer import Report
from artgen.training.pictures import parts_of
from artgen.training.rank import Rank, pick_device
from artgen.training.recipe import RestorerRecipe, TrainConfig
from artgen.training.run import train_restorer
from artgen.training.shards import check_workers
from artgen.training.state import last_step

# A run ends when so many worker groups in a row broke down without a new checkpoint.
MOST_BROKEN = 3
FOLLOW_S = 2.0


@dataclass(frozen=True, slots=True)
class Orders:
    """All that a worker is told; places are absolute, `seen` are local ones that every node must see."""

    data: tuple[str, ...]
    run: str
    recipe: RestorerRecipe | GanRecipe
    device: str
    threads: int
    options: Mapping[str, Any] | None
    seen: tuple[str, ...]
    version: str = __version__


def train(config: TrainConfig, recipe: RestorerRecipe | GanRecipe, report: Report, console: Console) -> None:
    """Trains until the recipe's end on the workers of --workers; `report` gets what rank 0 reports.

    When a worker or its node is lost, the others end and a new group goes on from the last checkpoint, with as many
    workers as there are between MIN and MAX. Raises UsageError, StorageError, RunError (the same command goes on).
    """
    ours = _open_cluster(config)
    try:
        device = ray_cluster.device_of(config.device)
        pool = ray_cluster.pool(config.workers, device, ray.nodes())
        check_workers(recipe, (pool.least, pool.most))
        data, run = tuple(map(ray_cluster.absolute, parts_of(config.data))), ray_cluster.absolute(config.folder)
        places = (*data, run)
        if isinstance(recipe, RestorerRecipe) and recipe.start and recipe.start not in registry.names():
            recipe = dataclasses.replace(recipe, start=ray_cluster.absolute(recipe.start))
            places = (*places, recipe.start)
        seen = tuple(place for place in places if uri.is_local(place) and os.path.exists(place))
        orders = Orders(data, run, recipe, device, pool.cpus, config.storage_options, seen)
        _carry(orders, pool, report, console)
    finally:
        if ours:
            ray.shutdown()


def _open_cluster(config: TrainConfig) -> bool:
    """Whether the connection is this function's to close."""
    if ray.is_initialized():
        return False
    address = cluster_address(config.address)
    if address is not None:
        if address.startswith("ray://"):
            raise UsageError(
                f"training does not run over the Ray client ({address!r}): give the cluster's own address as --address "
                "HOST:6379, or submit with `ray job submit -- python jobs/train_restorer.py ...`"
            )
        ray_cluster.connect(address)
    else:
        ray_cluster.start_private(ray_cluster.private_workers(config.workers, pick_device(config.device)))
    return True


def _carry(orders: Orders, pool: ray_cluster.Pool, report: Report, console: Console) -> None:
    """One worker group after the other until one ends well."""
    broken, step = 0, last_step(orders.run, orders.options)
    while (error := _fit(orders, pool, report)) is not None:
        _raise_ours(error)
        reached = last_step(orders.run, orders.options)
        broken, step = (1 if reached > step else broken + 1), reached
        reason = " ".join(str(error).removeprefix("Training failed due to worker errors:").split())[:300]
        if broken == MOST_BROKEN:
            raise RunError(f"{MOST_BROKEN} worker groups in a row broke down without a new checkpoint: {reason}")
        console.say(f"a worker was lost ({reason}); going on from step {step}")


def _fit(orders: Orders, pool: ray_cluster.Pool, report: Report) -> Exception | None:
    """One worker group to its end; the error it ended with. What rank 0 logs is reported as it comes."""
    resources = {"CPU": float(pool.cpus), **({"GPU": float(pool.gpus)} if pool.gpus else {})}
    workers = pool.most if pool.least == pool.most else (pool.least, pool.most)
    errors: list[Exception] = []
    with tempfile.TemporaryDirectory(dir=scratch.folder(), ignore_cleanup_errors=True) as place:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"orders": Sealed(orders)},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=pool.gpus > 0, resources_per_worker=resources
            ),
            # Ray's own retries do not tell an error of the user from a lost machine; _carry does.
            run_config=RunConfig(
                storage_path=place, failure_config=FailureConfig(max_failures=0),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )  # fmt: skip

        def fit() -> None:
            try:
                trainer.fit()
            except (TrainingFailedError, RayError) as error:
                errors.append(error)

        # In a thread of its own: in the main one Ray would take Ctrl-C for itself and end the process.
        thread = threading.Thread(target=fit, name="artgen-ray-train", daemon=True)
        told = len(read_log(orders.run, orders.options))
        thread.start()
        while thread.is_alive():
            thread.join(FOLLOW_S)
            lines = read_log(orders.run, orders.options)
            for line in lines[told:]:
                if {"left_s", "fd_random", "rescued", "size_rule"} & line.keys():
                    report(line)
            told = len(lines)
    return errors[0] if errors else None


def _raise_ours(error: Exception) -> None:
    """An error that artgen raised in a worker, as if it had been raised here: no other worker would fare better."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "cause", None) or failure
        for found in (failure, cause, getattr(failure, "__cause__", None)):
            if isinstance(found, ArtgenError):
                raise type(found)(str(found)) from None


def _work(settings: dict[str, Any]) -> None:
    """What runs in each worker."""
    heap.keep()
    orders: Orders = settings["orders"].orders
    logging.getLogger("artgen").setLevel(logging.INFO)
    ray_cluster.check_node(orders.version, orders.seen, "DATA and RUN")
    context = ray.train.get_context()
    device = str(cast(torch.device, get_device()))
    ray_cluster.check_device(orders.device, found=device != "cpu")
    if device == "cpu":
        torch.set_num_threads(orders.threads)
    rank = Rank(
        number=context.get_world_rank(), world=context.get_world_size(),
        add_up=dist.all_reduce if context.get_world_size() > 1 else None,
        threads=1 if device == "cpu" else orders.threads,
    )  # fmt: skip
    if isinstance(orders.recipe, GanRecipe):
        train_gan(orders.data, orders.run, orders.recipe, device=device, rank=rank, options=orders.options)
    else:
        train_restorer(orders.data, orders.run, orders.recipe, device=device, rank=rank, options=orders.options)
