"""One run as passes of Ray Data: a pass carries units over a pool of actors, what it lost is done again in the next."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError

from artgen.engines import isolation, ray_cluster
from artgen.engines.answer import Answer
from artgen.engines.isolation import Task
from artgen.engines.ray_cluster import Sealed
from artgen.engines.ray_metrics import Progress
from artgen.engines.ray_worker import Orders, Worker
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.storage import atomic, uri
from artgen.storage import ledger as ledgers
from artgen.storage.ledger import Ledger

if TYPE_CHECKING:
    from artgen.work.unit import Publish

# A run ends with a RunError when a first pass of at least so many units ends without one done, and none was ever done in
# this OUTPUT, ...
FEWEST_UNITS = 8
# ... or when so many passes in a row broke off without one done (no machine, no room, the cluster gone).
MOST_BROKEN = 3
# A pass breaks off when so many actors, or twice as many as it began with, have died one after the other before they were ready.
MOST_STILLBORN = 16
# A pass breaks off when nothing is done for this time, and this for each image of a unit, beside --image-timeout.
STALL_S, STALL_IMAGE_S = 120.0, 10.0
# Units of a pipeline: Ray Data makes a block of each (some ms) before the first actor starts. More for more actors, so
# that few of them wait at the end of each.
UNITS_AT_ONCE, UNITS_FOR_ACTOR = 1024, 16
_RAY_ERRORS = (RayError, ExecutionTimeoutError, SystemException, ConnectionError)


def passes(
    tasks: list[Task], orders: Orders, workers: str, grows: bool, worker_class: type[Worker]
) -> Iterator[Outcome | str]:  # fmt: skip
    """Runs Ray Data pipelines until all tasks are committed: outcomes, and messages for the person who waits.

    grows: of the cluster, as of ray_cluster.pool. Raises RunError.
    """
    progress = Progress(sum(task.ref.images for task in tasks))
    start = died = 0
    while start < len(tasks):
        pool = ray_cluster.pool(workers, orders.job.device, ray.nodes(), grows=grows)
        # Before the first machine with a GPU is up nobody knows its cores, of which each actor is to have its share: a unit
        # for each actor brings up machines, the rest is divided by what they are.
        at_once = pool.least if pool.guessed else max(UNITS_AT_ONCE, UNITS_FOR_ACTOR * pool.least)
        later = sum(task.ref.images for task in tasks[start + at_once :])
        died = yield from _until_done(
            tasks[start : start + at_once], orders, workers, grows, worker_class, progress, later=later, died=died
        )
        start += at_once


def _until_done(
    tasks: list[Task], orders: Orders, workers: str, grows: bool, worker_class: type[Worker], progress: Progress, *,
    later: int, died: int,
) -> Generator[Outcome | str, None, int]:  # fmt: skip
    """Passes until these tasks are committed; returns how many images have killed their workers, of `died` before.

    later: images of the run that are not in these tasks.
    """
    alone, broken = False, 0
    crashes: dict[str, str] = {}
    while tasks:
        said: set[str] = set()
        reason = ""
        try:
            for answer in _pass(tasks, orders, alone, workers, grows, worker_class):
                if answer.outcome is None:
                    crashes[answer.unit] = answer.crash
                    continue
                said.add(answer.unit)
                progress.done(answer.outcome.images)
                yield answer.outcome
        except _RAY_ERRORS as error:
            reason = first_line(error)
        ledger = Ledger(orders.publish.output, orders.publish.options)
        lost = {task: isolation.left(task.ref, ledger) for task in tasks}
        progress.left(later + sum(part.images for parts in lost.values() for part in parts))
        for task, parts in lost.items():
            if task.ref.id not in said and (outcome := isolation.unsaid(task, parts)) is not None:
                yield outcome
        done = sum(1 for parts in lost.values() if not parts)
        broken = broken + 1 if reason and not done else 0
        if broken == MOST_BROKEN:
            raise RunError(f"Ray broke off {MOST_BROKEN} times without a unit done: {reason}")
        # Where something was done before, what is left may well be poison alone: a killed run, or --retry-failed.
        if not alone and not reason and len(tasks) >= FEWEST_UNITS and not ledger.units():
            why = next(iter(crashes.values()), "their processes were killed, crashed or ran out of memory")
            raise RunError(f"all {len(tasks)} units ended their workers, so no image is to blame: {why}")
        tasks, culprits = isolation.replan(lost, alone=alone and not reason)
        for ref in culprits:
            if died == isolation.MOST_DIED:
                raise isolation.too_many_died()
            died += 1
            crash = crashes.get(ref.id, "")
            why = f"it raised {crash}" if crash else ""
            outcome = isolation.give_up(ref, orders.plan_folder, orders.job, orders.publish, why)
            progress.gave_up()
            yield outcome
        if tasks:
            alone = alone or not reason
            images = sum(task.ref.images for task in tasks)
            why = f" ({reason})" if reason else ""
            yield f"{images} images were lost with their workers{why}; doing them again"
        elif alone:
            atomic.sweep(orders.publish.output, orders.publish.options)  # what the dead left
    return died


def _pass(
    tasks: list[Task], orders: Orders, alone: bool, workers: str, grows: bool, worker_class: type[Worker]
) -> Iterator[Answer]:  # fmt: skip
    """One Ray Data pipeline over `tasks`: a block for each unit, so that is all that is lost with it. Ray retries
    nothing: its own retries never end, or hang where a node stays away."""
    job = orders.job
    pool = ray_cluster.pool(workers, job.device, ray.nodes(), grows=grows)
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
    context.max_consecutive_actor_init_deaths = min(2 * most, max(2 * pool.least, MOST_STILLBORN))
    stall_s = STALL_S + job.image_timeout + STALL_IMAGE_S * max(task.ref.images for task in tasks)
    context.execution_no_progress_timeout_s = stall_s if job.image_timeout else -1
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the file in Ray's session folder keeps all
            handler.setLevel(logging.CRITICAL + 1)
    rows = ray.data.from_items([asdict(task.ref) for task in tasks], override_num_blocks=len(tasks))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = rows.map(
            cast(Any, worker_class), fn_constructor_args=(Sealed(orders),), compute=strategy, num_cpus=pool.cpus,
            num_gpus=pool.gpus or None, max_restarts=-1, max_task_retries=0,
        )  # fmt: skip
    hosts: set[str] = set()
    for row in answers.iter_rows():
        answer = Answer.from_text(row["answer"])
        answer.raise_error()
        if answer.outcome is not None and answer.host not in hosts:
            hosts.add(answer.host)
            _check_seen(answer, orders.publish)
        yield answer


def _check_seen(answer: Answer, publish: Publish) -> None:
    if not uri.exists(ledgers.part_uri(publish.output, answer.unit), publish.options):
        raise RunError(
            f"{answer.host} has done unit {answer.unit}, but OUTPUT {uri.shown(publish.output)} does not show it here: on a "
            "cluster OUTPUT must lie where every node sees it, as on s3:// or a shared file system"
        )


def first_line(error: BaseException) -> str:
    """Its type and the first line of its text, 300 characters at most."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
