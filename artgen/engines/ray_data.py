"""The Ray engine: units as rows of a Ray Data pipeline over a pool of actors; outcomes come back, pixels never do."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError

from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines import ray_cluster, ray_isolation
from artgen.engines.ray_isolation import Task
from artgen.engines.ray_worker import Answer, Orders, Worker
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.sinks import manifest
from artgen.storage import atomic, uri
from artgen.storage import ledger as ledgers
from artgen.storage.ledger import Ledger
from artgen.work import unit as work
from artgen.work.plan import Plan, PlanReader, UnitRef

if TYPE_CHECKING:
    from artgen.models.spec import Restorer
    from artgen.work.restoration import RestoreJob
    from artgen.work.unit import Publish

# A run ends with a RunError when so many images have killed their workers (then the machines are to blame), ...
MOST_DIED = 100
# ... when a first pass of at least so many units ends without one done, ...
FEWEST_UNITS = 8
# ... or when so many passes in a row broke off without one done (no machine, no room, the cluster gone).
MOST_BROKEN = 3
# A pass breaks off when nothing is done for this time, and this for each image of a unit, beside --image-timeout.
STALL_S, STALL_IMAGE_S = 120.0, 10.0
_RAY_ERRORS = (RayError, ExecutionTimeoutError, SystemException, ConnectionError)


class RayEngine:
    """Carries units on the cluster of --address, of the Ray job that this process is, or a private one.

    A process that is connected to a cluster already keeps that connection. Raises UsageError when no cluster answers.
    """

    name = "ray"
    worker_class: type[Worker] = Worker

    def __init__(self, config: RestoreConfig) -> None:
        self._config = config
        self._private = False
        self._connected = False
        address = ray_cluster.address_of(config.address)
        if address is not None and not ray.is_initialized():
            ray_cluster.connect(address)
            self._connected = True

    def run(
        self, plan: Plan, refs: Iterable[UnitRef], job: RestoreJob, publish: Publish, restorer: Restorer,
        console: Console,
    ) -> Iterator[Outcome]:  # fmt: skip
        """Does the units in any order; an Outcome after each commit. `restorer` stays here: each actor loads its own.

        Units lost to a dead worker are done again, in ever smaller pieces; an image that kills its worker
        ray_isolation.DEATHS times becomes a failed row (WorkerDied). Raises RunError.
        """
        tasks = [Task(ref) for ref in refs]
        if not tasks:
            return
        try:
            self._start(job)
            yield from self._passes(tasks, self._orders(plan, job, publish), console)
        except BaseException:
            self.close()  # ends the actors at once, before anybody counts what they did
            raise

    def close(self) -> None:
        if self._private or self._connected:
            self._private = self._connected = False
            ray.shutdown()

    def _start(self, job: RestoreJob) -> None:
        if not ray.is_initialized():
            ray_cluster.start_private(ray_cluster.private_workers(self._config.workers, job.device))
            self._private = True

    def _orders(self, plan: Plan, job: RestoreJob, publish: Publish) -> Orders:
        from artgen.models import registry

        publish = replace(publish, output=_absolute(publish.output))
        folder = replace(plan, output=publish.output).folder
        model = job.model if job.model in registry.names() else _absolute(job.model)
        source = _absolute(self._config.input)
        seen = [place for place in (folder, source, model) if uri.is_local(place) and os.path.exists(place)]
        return Orders(folder, model, job, publish, 1, tuple(seen), folder=os.getcwd())

    def _passes(self, tasks: list[Task], orders: Orders, console: Console) -> Iterator[Outcome]:
        alone, broken, died = False, 0, 0
        crashes: dict[str, str] = {}
        while tasks:
            said: set[str] = set()
            reason = ""
            try:
                for answer in self._pass(tasks, orders, alone):
                    if answer.outcome is None:
                        crashes[answer.unit] = answer.crash
                        continue
                    said.add(answer.unit)
                    console.unit(answer.outcome)
                    yield answer.outcome
            except _RAY_ERRORS as error:
                reason = _first_line(error)
            ledger = Ledger(orders.publish.output, orders.publish.options)
            lost = {task: ray_isolation.left(task.ref, ledger) for task in tasks}
            for outcome in _unsaid(lost, said):
                console.unit(outcome)
                yield outcome
            done = sum(1 for parts in lost.values() if not parts)
            broken = broken + 1 if reason and not done else 0
            if broken == MOST_BROKEN:
                raise RunError(f"Ray broke off {MOST_BROKEN} times without a unit done: {reason}")
            if not alone and not reason and not done and len(tasks) >= FEWEST_UNITS:
                why = next(iter(crashes.values()), "their processes were killed, crashed or ran out of memory")
                raise RunError(f"all {len(tasks)} units ended their workers, so no image is to blame: {why}")
            tasks, culprits = ray_isolation.replan(lost, alone=alone and not reason)
            died += len(culprits)
            if died > MOST_DIED:
                raise RunError(f"more than {MOST_DIED} images ended their workers: look at the machines first")
            for ref in culprits:
                outcome = _give_up(ref, orders, crashes.get(ref.id, ""))
                console.unit(outcome)
                yield outcome
            if tasks:
                alone = alone or not reason
                images = sum(task.ref.images for task in tasks)
                why = f" ({reason})" if reason else ""
                console.say(f"{images} images were lost with their workers{why}; doing them again")
            elif alone:
                atomic.sweep(orders.publish.output)  # what the dead left

    def _pass(self, tasks: list[Task], orders: Orders, alone: bool) -> Iterator[Answer]:
        """One Ray Data pipeline over `tasks`: a block for each unit, so that is all that is lost with it. Ray retries
        nothing: its own retries never end, or hang where a node stays away."""
        job = orders.job
        pool = ray_cluster.pool(self._config.workers, job.device)
        most = min(pool.most, len(tasks))
        orders = replace(orders, threads=pool.cpus)
        calls = 2 if pool.cpus > 1 and not alone else 1  # the next unit starts while one ends
        strategy = ActorPoolStrategy(
            min_size=min(pool.least, most), max_size=most, max_tasks_in_flight_per_actor=1 if alone else 2 * calls,
            max_concurrent_calls_per_actor=calls, enable_true_multi_threading=calls > 1,
        )  # fmt: skip
        context = DataContext.get_current()
        context.max_errored_blocks = -1
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_consecutive_actor_init_deaths = 2 * most
        stall_s = STALL_S + self._config.image_timeout + STALL_IMAGE_S * max(task.ref.images for task in tasks)
        context.execution_no_progress_timeout_s = stall_s if self._config.image_timeout else -1
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):  # the file in Ray's session folder keeps all
                handler.setLevel(logging.CRITICAL + 1)
        rows = ray.data.from_items([asdict(task.ref) for task in tasks], override_num_blocks=len(tasks))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = rows.map(
                cast(Any, self.worker_class), fn_constructor_args=(orders,), compute=strategy, num_cpus=pool.cpus,
                num_gpus=pool.gpus or None, max_restarts=-1, max_task_retries=0,
            )  # fmt: skip
        hosts: set[str] = set()
        for row in answers.iter_rows():
            answer = Answer.from_row(row)
            answer.raise_error()
            if answer.outcome is not None and answer.host not in hosts:
                hosts.add(answer.host)
                _check_seen(answer, orders.publish)
            yield answer


def _check_seen(answer: Answer, publish: Publish) -> None:
    if not uri.exists(ledgers.part_uri(publish.output, answer.unit), publish.options):
        raise RunError(
            f"{answer.host} has done unit {answer.unit}, but OUTPUT {publish.output} does not show it here: on a cluster "
            "OUTPUT must lie where every node sees it, as on s3:// or a shared file system"
        )


def _unsaid(lost: dict[Task, list[UnitRef]], said: set[str]) -> Iterator[Outcome]:
    """Units that were committed by a worker that died before it could say so, or by another run: counted, the rest unknown."""
    for task, parts in lost.items():
        images = task.ref.images - sum(part.images for part in parts)
        if images and task.ref.id not in said:
            yield Outcome(task.ref.id, images, 0, 0, 0, 0, 0.0)


def _give_up(ref: UnitRef, orders: Orders, crash: str) -> Outcome:
    """Commits the failed row of an image that kills its worker."""
    publish = orders.publish
    (entry,) = PlanReader(orders.plan_folder, publish.options).load(ref).entries
    row = ray_isolation.died(entry, orders.job, ref.id, crash)
    if publish.on_error == "stop":
        raise RunError(
            f"{row.key}: {row.error_type}: {row.error_message} (--on-error stop; the same command resumes)"
        )
    manifest.write(publish.output, ref.id, [row], publish.options)
    return work.outcome(ref.id, [row])


def _absolute(place: str) -> str:
    return os.path.abspath(uri.local_path(place)) if uri.is_local(place) else place


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
