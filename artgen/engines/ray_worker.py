"""What runs in an actor: the job opened once, then units in, outcomes out."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

from artgen import __version__, heap
from artgen.engines import ray_cluster
from artgen.engines.answer import Answer
from artgen.engines.ray_cluster import Sealed
from artgen.engines.ray_metrics import Busy, Meters
from artgen.errors import ArtgenError, RunError
from artgen.records import Outcome
from artgen.storage import uri
from artgen.work.plan import PlanReader, UnitRef
from artgen.work.unit import Job, Maker, Publish


@dataclass(frozen=True, slots=True)
class Orders:
    """All that an actor is told. `model` is where the weights lie; local paths are absolute, and `places` are those that
    every machine must see. `threads` images are in work at once."""

    plan_folder: str
    model: str
    job: Job
    publish: Publish
    threads: int
    places: tuple[str, ...]
    version: str = __version__
    folder: str = os.curdir


class Worker:
    """The callable that Ray Data keeps in each actor. Errors are answers: as exceptions Ray would wrap and log them."""

    def __init__(self, sealed: Sealed[Orders]) -> None:
        self._orders = sealed.orders
        self._host = socket.gethostname()
        self._error: ArtgenError | None = None
        self._reading = threading.Lock()
        try:
            self._open()
        except ArtgenError as error:
            self._error = error

    def _open(self) -> None:
        import torch

        heap.keep()
        orders, job = self._orders, self._orders.job
        if os.path.isdir(orders.folder):
            os.chdir(orders.folder)  # relative paths in a plan are those of the driver
        ray_cluster.check_node(orders.version, orders.places, "INPUT, OUTPUT and weights")
        ray_cluster.check_device(job.device, found=torch.cuda.is_available())
        torch.set_num_threads(job.torch_threads(orders.threads, orders.threads))
        model = job.load(orders.model)
        if model.sha256 != job.model_sha256:
            raise RunError(
                f"the model {uri.shown(orders.model)!r} has SHA-256 {model.sha256} on {self._host} and {job.model_sha256} on the "
                "driver: put the same weights on every node"
            )
        self._maker = self._make_maker(job, model.to(job.device), orders.threads)
        self._reader = PlanReader(orders.plan_folder, orders.publish.options)
        self._meters = Meters(self._host, Busy(model.module, job.device, orders.threads))

    def _make_maker(self, job: Job, model: Any, threads: int) -> Maker:
        return job.open(model, threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        ref = UnitRef(**row)
        return {"answer": Answer.of(ref.id, lambda: self._do(ref), self._host).to_text()}

    def _do(self, ref: UnitRef) -> Outcome:
        from artgen.work import unit as work

        if self._error is not None:
            raise self._error
        with self._reading:
            unit = self._reader.load(ref)
        (outcome,) = work.run([unit], self._maker, self._orders.publish, threads=self._orders.threads)
        self._meters.unit(outcome)
        return outcome
