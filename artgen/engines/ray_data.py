"""The Ray engine: units go to the actors of a cluster, outcomes come back, pixels never do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.exceptions import RayError

from artgen.config import RunConfig, cluster_address
from artgen.console import Console
from artgen.engines import ray_cluster, ray_passes
from artgen.engines.isolation import Task
from artgen.engines.local import Devices
from artgen.engines.ray_worker import Orders, Worker
from artgen.errors import ArtgenError, RunError
from artgen.records import Outcome
from artgen.storage import uri
from artgen.training.rank import pick_device
from artgen.work.plan import Plan, UnitRef

if TYPE_CHECKING:
    from artgen.work.unit import Job, Publish


class RayEngine:
    """Carries units on the cluster of --address, of the Ray job that this process is, or a private one.

    A process that is connected to a cluster already keeps that connection. Raises UsageError when no cluster answers.
    """

    name = "ray"
    worker_class: type[Worker] = Worker

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._private = False
        self._connected = False
        address = cluster_address(config.address)
        if address is not None and not ray.is_initialized():
            ray_cluster.connect(address)
            self._connected = True

    def devices(self) -> Devices:
        """Of --device: on this machine for a private cluster; else of the cluster's workers, and the CPU of this machine,
        which may be a head without a GPU. Raises UsageError for one that does not work on this machine.
        """
        if ray.is_initialized():
            return Devices(ray_cluster.device_of(self._config.device), "cpu")
        device = pick_device(self._config.device)
        return Devices(device, device)

    def run(
        self, plan: Plan, refs: Iterable[UnitRef], job: Job, publish: Publish, model: Any, console: Console
    ) -> Iterator[Outcome]:  # fmt: skip
        """Does the units in any order; an Outcome after each commit. `model` stays here: each actor loads its own.

        Units lost to a dead worker are done again, in ever smaller pieces; an image that kills its worker
        isolation.DEATHS times becomes a failed row (WorkerDied). Raises RunError.
        """
        tasks = [Task(ref) for ref in refs]
        if not tasks:
            return
        try:
            self._start(job)
            for event in self._events(tasks, self._orders(plan, job, publish)):
                if isinstance(event, str):
                    console.say(event)
                else:
                    console.unit(event)
                    yield event
        except BaseException:
            self.close()  # ends the actors at once, before anybody counts what they did
            raise

    def close(self) -> None:
        """Ends the private cluster, or the connection that this engine opened; another one stays."""
        if self._private or self._connected:
            self._private = self._connected = False
            ray.shutdown()

    def _start(self, job: Job) -> None:
        if not ray.is_initialized():
            ray_cluster.start_private(ray_cluster.private_workers(self._config.workers, job.device))
            self._private = True

    def _orders(self, plan: Plan, job: Job, publish: Publish) -> Orders:
        publish = replace(publish, output=ray_cluster.absolute(publish.output))
        folder = replace(plan, output=publish.output).folder
        model = job.model if job.named else ray_cluster.absolute(job.model)
        places = (folder, model, *map(ray_cluster.absolute, self._config.reads))
        seen = [place for place in places if uri.is_local(place) and os.path.exists(place)]
        return Orders(folder, model, job, publish, 1, tuple(seen), folder=os.getcwd())

    def _events(self, tasks: list[Task], orders: Orders) -> Iterator[Outcome | str]:
        order = (tasks, orders, self._config.workers, not self._private, self.worker_class)
        if not ray_cluster.over_client():
            yield from ray_passes.passes(*order)
            return
        actor: Any = ray.remote(num_cpus=0)(FarDriver)
        far = actor.remote(*order)
        try:
            while (event := cast(Any, ray.get(far.next.remote()))) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        except RayError as error:
            raise RunError(
                f"the cluster lost the process that drove this run: {ray_passes.first_line(error)}"
            ) from error


class FarDriver:
    """Drives the passes from within the cluster, for a process outside that speaks to it over ray://, where Ray Data
    does not run."""

    def __init__(self, *args: Any) -> None:
        self._events = ray_passes.passes(*args)

    def next(self) -> Outcome | str | ArtgenError | None:
        """The next event; an error of ours as a value, as Ray would wrap it; None at the end."""
        try:
            return next(self._events, None)
        except ArtgenError as error:
            return error
