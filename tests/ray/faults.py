"""Workers that fail on purpose, by the names of the pictures: the product knows nothing of them."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from artgen.engines.ray_worker import Worker
from artgen.records import Entry
from artgen.work.unit import Made


def log_of(output: str | Path, name: str) -> Path:
    return Path(output).parent / f"{Path(output).name}-{name}.log"


def lines(output: str | Path, name: str) -> list[str]:
    log = log_of(output, name)
    return log.read_text().split("\n")[:-1] if log.exists() else []


class _Faulty:
    """Does what the key says before the picture is restored."""

    def __init__(self, maker: Any, output: str) -> None:
        self._maker, self._output = maker, output
        self.at_once = 1  # the picture that kills is the one whose turn it is

    def make(self, entries: Sequence[Entry]) -> list[Made]:
        (entry,) = entries
        key = entry.source.key
        self._log("made", key)
        if "slow" in key:
            time.sleep(0.4)
        if "killer" in key:
            self._log("killed", key)
            os.kill(os.getpid(), signal.SIGKILL)
        if "raiser" in key:
            raise ValueError(f"{key} is not to my taste")
        if "once" in key and key not in lines(self._output, "killed"):
            self._log("killed", key)
            os._exit(7)
        return self._maker.make(entries)

    def _log(self, name: str, text: str) -> None:
        with log_of(self._output, name).open("a") as file:
            file.write(f"{text}\n")


class FaultyWorker(Worker):
    """Keeps its process id in a log, so that a test can kill it from outside."""

    def _open(self) -> None:
        with log_of(self._orders.publish.output, "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        super()._open()

    def _make_maker(self, job: Any, restorer: Any, guards: Any) -> Any:
        return _Faulty(super()._make_maker(job, restorer, guards), self._orders.publish.output)


class OtherModelWorker(Worker):
    """A machine with other weights under the same name."""

    def _open(self) -> None:
        import dataclasses

        self._orders = dataclasses.replace(self._orders, model="identity")
        super()._open()


class _Waiting:
    """Half a second an image until a second node takes part."""

    def __init__(self, maker: Any, output: str) -> None:
        self._maker, self._output = maker, output
        self.at_once = maker.at_once

    def make(self, entries: Sequence[Entry]) -> list[Made]:
        if len(set(lines(self._output, "nodes"))) < 2:
            time.sleep(0.5)
        return self._maker.make(entries)


class WaitingWorker(Worker):
    """On one machine, where all nodes have one host name: writes its node's id in place of it."""

    def _open(self) -> None:
        node = ray.get_runtime_context().get_node_id()
        socket.gethostname = lambda: node
        with log_of(self._orders.publish.output, "nodes").open("a") as file:
            file.write(f"{node}\n")
        super()._open()

    def _make_maker(self, job: Any, model: Any, threads: int) -> Any:
        return _Waiting(super()._make_maker(job, model, threads), self._orders.publish.output)
