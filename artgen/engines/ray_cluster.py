"""The Ray cluster of a run: one that is there already, or a private one on this machine; and what fits on it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import ray
from ray._private import utils as ray_utils
from ray._private import worker as ray_driver
from ray._private.grpc_utils import init_grpc_channel
from ray.util.client import ray as client

from artgen import __version__
from artgen.child import cores
from artgen.config import worker_range
from artgen.engines.local import MOST_FEEDERS
from artgen.errors import RunError, UsageError
from artgen.storage import uri

OrdersT = TypeVar("OrdersT")

CONNECT_TIMEOUT_S = 10.0
# Never taken by actors, so that they do not starve Ray Data's own tasks.
SPARE_CPUS = 1
# CPUs of an actor with a GPU while no node with one is up to tell its share: few, so that every kind of node has them.
CPUS_BESIDE_GPU = 4
# The most actors that `--workers auto` grows to on a cluster that grows.
MOST_GROWN = 1000
# Rows and outcomes are all that passes through the object store of a private cluster; the least that Ray takes is 75 MiB.
STORE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Pool:
    """Actors of a run: how many, and of each the CPUs (its image threads as well) and GPUs.

    guessed: no machine with a GPU is up that could tell the CPUs beside it.
    """

    least: int
    most: int
    cpus: int
    gpus: int
    guessed: bool = False


def connect(address: str) -> None:
    """Connects this process to a cluster: `host:port`, `ray://host:port` or `auto`.

    Raises UsageError within about 2 * CONNECT_TIMEOUT_S seconds when nothing answers there; Ray by itself retries for
    five minutes and then ends the process.
    """
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"the Ray address {address!r} is that of the jobs server: submit with `ray job submit --address {address} "
            "-- python jobs/COMMAND.py ...`, or give the cluster's own address as --address HOST:6379"
        )
    if address not in ("auto", "local"):
        _check_answers(address)
    try:
        with _quiet():
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"cannot connect to the Ray cluster {address!r} ({reason}): check that the port is that of its head (6379, or 10001 "
            "with ray://), that Ray has the same version there, and set RAY_AUTH_MODE=token if it asks for a token"
        ) from error


def over_client() -> bool:
    """Whether this process is connected over ray://."""
    return client.is_connected()


def start_private(most_workers: int) -> None:
    """Starts a cluster of this machine alone, which ends with this process; it declares SPARE_CPUS more than the workers.

    Raises RunError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # By default Ray gives workers the least priority; here nothing else is to be favoured, and while every actor starts
    # anew, Ray Data's own loop (which then spins) would starve them for minutes on a busy machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        with _quiet():
            ray.init(
                address="local", num_cpus=most_workers + SPARE_CPUS, include_dashboard=False, log_to_driver=False,
                object_store_memory=STORE_BYTES, logging_level=logging.CRITICAL,
            )  # fmt: skip
    except Exception as error:  # Ray raises a bare one when its processes are late
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"no private Ray cluster can start on this machine ({reason}): use --engine local"
        ) from error


def private_workers(workers: str, device: str) -> int:
    """CPUs that the actors of a private cluster take together."""
    wanted = worker_range(workers)
    return wanted[1] if wanted and device == "cpu" else cores()


def device_of(name: str) -> str:
    """`--device` for the workers of the cluster that this process is connected to. `auto` is cuda where a GPU is up now;
    what is named is believed, as nodes with it may come when they are asked for: workers check it.
    """
    if name != "auto":
        return name
    return "cuda" if ray.cluster_resources().get("GPU") else "cpu"


def absolute(place: str) -> str:
    """A local place as the workers, who start in other folders, find it; a URL as it is."""
    return os.path.abspath(uri.local_path(place)) if uri.is_local(place) else place


def check_node(version: str, places: Iterable[str], words: str) -> None:
    """On a worker: artgen is the driver's `version`, and the local `places` are seen. words: what they are, for the message.

    Raises RunError.
    """
    host = os.uname().nodename
    if version != __version__:
        raise RunError(
            f"{host} has artgen {__version__} and the driver {version}: install the same version on every node"
        )
    for place in places:
        if not os.path.exists(place):
            raise RunError(
                f"{host} does not see {place}: on a cluster {words} must lie where every node sees them, as on "
                "s3:// or a shared file system"
            )


def check_device(device: str, *, found: bool) -> None:
    """On a worker: the driver, which may have no GPU, believed `--device cuda`. found: a GPU, by torch. Raises RunError."""
    if device == "cuda" and not found:
        raise RunError(
            f"--device cuda, but torch finds no GPU on {os.uname().nodename}: check its driver and that its torch is a CUDA "
            "build, or use --device cpu"
        )


def pool(workers: str, device: str, nodes: list[dict[str, Any]], *, grows: bool = False) -> Pool:
    """Actors for `--workers` (`auto`: one for each GPU, or each CPU but SPARE_CPUS) on `nodes`, as ray.nodes() tells them.

    On CPUs an actor takes one core; beside a GPU it takes that GPU's share of the cores of its node, MOST_FEEDERS at most.
    grows: nodes may come, so `auto` begins with as many as fit now and has room for MOST_GROWN.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if device == "cpu":
        fitting, cpus, gpus = int(sum(resources.get("CPU", 0) for resources in alive)) - SPARE_CPUS, 1, 0
    else:
        fitting, cpus, gpus = _beside_gpus(device, alive)
    fitting = max(1, fitting)
    least, most = worker_range(workers) or (fitting, max(fitting, MOST_GROWN) if grows else fitting)
    guessed = gpus > 0 and not any(resources.get("GPU", 0) >= 1 for resources in alive)
    return Pool(least, most, cpus, gpus, guessed)


def _beside_gpus(device: str, alive: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Actors with a device each that fit, and of each the CPUs and GPUs."""
    if device != "cuda":  # one device of this machine that Ray does not count (mps)
        alive = [{**resources, "GPU": 1} for resources in alive[:1]]
    with_gpu = [resources for resources in alive if resources.get("GPU", 0) >= 1]
    shares = [int(resources.get("CPU", 0) - SPARE_CPUS) // int(resources["GPU"]) for resources in with_gpu]
    cpus = max(1, min([*shares, MOST_FEEDERS])) if shares else CPUS_BESIDE_GPU
    return int(sum(resources["GPU"] for resources in with_gpu)), cpus, 1 if device == "cuda" else 0


def _check_answers(address: str) -> None:
    """Two looks, each bounded: is the port open, and does something on it speak gRPC, as Ray does?"""
    target = address.removeprefix("ray://")
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"the Ray address {address!r} is not understood: use HOST:6379, ray://HOST:10001 or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        channel: Any = init_grpc_channel(target)
        try:
            grpc.channel_ready_future(channel).result(CONNECT_TIMEOUT_S)
        finally:
            channel.close()
    except (OSError, OverflowError, grpc.FutureTimeoutError) as error:
        reason = str(error) or "the port is open, but no Ray answers on it"
        raise UsageError(
            f"no Ray cluster answers at {address!r} ({reason}): check that it runs (`ray status --address {target}`) and "
            "that the port is that of its head (6379, or 10001 with ray://)"
        ) from error


class Sealed(Generic[OrdersT]):
    """Orders on their way through Ray Data or Ray Train, which tell the fields of whatever they are given to the dashboard
    and the logs: storage options, the key that signs pictures and passwords in addresses are among them. Of objects that
    they do not know they write what `str` says.
    """

    def __init__(self, orders: OrdersT) -> None:
        self.orders = orders

    def __repr__(self) -> str:
        return "Sealed()"


@contextmanager
def _quiet() -> Iterator[None]:
    """Around ray.init: artgen's handler of SIGTERM stays, and what Ray would print beside our own lines is left to its logs.

    Ray prints deaths of workers on stdout, where --json promises one object and nothing else; and its core writes to
    stderr that it was told to write less, past everything that Python could catch. The command line, which may hold storage
    options, would be shown to everybody on the cluster as the job's entrypoint: it is told artgen's name alone.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray_driver._worker_logs_enabled = False
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    kept, entrypoint = os.dup(2), ray_utils.get_entrypoint_name
    ray_utils.get_entrypoint_name = lambda: "artgen"
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        ray_utils.get_entrypoint_name = entrypoint
        os.dup2(kept, 2)
        os.close(kept)
        if in_main:
            signal.signal(signal.SIGTERM, handler)
