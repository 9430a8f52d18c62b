"""Kills at random moments, until so many have struck: every image exactly once, with the bytes of an undisturbed run.

    python bench/chaos.py [--points 50] [--seed 0] [--images 48] [--engine ray|local] [--command restore|generate]

A cluster of three nodes on this machine restores (or generates) pictures again and again. At random moments one of these
happens: SIGKILL of an actor; of a whole node (its raylet with the object store in it, and all its workers), which a new node
replaces; of the driver and all its children. A driver that is gone or ended with exit code 1 is given the same command again. With
--engine local the points are SIGKILLs of the driver. At the end of each round the pictures are compared with those of an
undisturbed run, rows are counted, and temporary files looked for. Exits with 1 at the first difference, or when one command
takes longer than LIMIT_S. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import pictures  # noqa: E402
from tests.runs import ARTGEN, environment, rows, shas, tree  # noqa: E402

LIMIT_S = 900.0
# A strike waits for so many more units at most, and then for so long: starts, middles and ends are all met.
MOST_UNITS, PAUSE_S = 3, 2.0
SINKS = ("images", "shards")
MARK = f"ARTGEN_CHAOS={uuid.uuid4().hex}"


class Machine:
    """The cluster, and what may strike it."""

    def __init__(self) -> None:
        name, _, value = MARK.partition("=")
        os.environ[name] = value  # inherited by every process of the cluster
        os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self._nodes = [self._cluster.add_node(num_cpus=1) for _ in range(3)]
        self.address = str(self._cluster.address)

    def kill_actor(self, rng: random.Random) -> bool:
        found = [pid for pid in marked() if "Map" in command_of(pid)]
        if found:
            os.kill(rng.choice(found), signal.SIGKILL)
        return bool(found)

    def kill_node(self, rng: random.Random) -> bool:
        node = self._nodes.pop(rng.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=1))
        return True

    def close(self) -> None:
        self._cluster.shutdown()


def marked() -> list[int]:
    """Processes of this chaos alone; other clusters of the machine are left in peace."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if MARK.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has just ended, or is somebody else's
            continue
    return found


def command_of(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    return text if text.startswith("ray::") else ""


class Round:
    """One OUTPUT from nothing to its end, with `points` strikes on the way (fewer when it ends before)."""

    def __init__(self, work: list[str], output: Path, machine: Machine | None, rng: random.Random) -> None:
        self._work, self._output, self._machine, self._rng = work, output, machine, rng
        self.strikes: Counter[str] = Counter()
        self.commands = 0

    def run(self, points: int) -> None:
        process, began = self._start(), time.monotonic()
        due = self._next()
        while (code := process.poll()) != 0:
            if code is not None and code != 1:
                sys.exit(f"exit code {code}: {process.communicate()[1][-2000:]}")
            if time.monotonic() - began > LIMIT_S:
                sys.exit(f"the command has not ended for {LIMIT_S:g} s after {dict(self.strikes)}")
            if self.commands > 2 * points + 5:
                sys.exit(f"the run does not end: {self.commands} commands, {dict(self.strikes)}")
            if code == 1:
                process, began = self._start(), time.monotonic()
            elif sum(self.strikes.values()) < points and self._parts() >= due:
                time.sleep(self._rng.uniform(0, PAUSE_S))
                if self._strike(process) == "driver":
                    process, began = self._start(), time.monotonic()
                due = self._next()
            time.sleep(0.1)

    def _next(self) -> int:
        return self._parts() + self._rng.randint(0, MOST_UNITS)

    def _start(self) -> subprocess.Popen[str]:
        self.commands += 1
        command, source, *settings = self._work
        where = ["--engine", "local", "--workers", "2"]
        if self._machine is not None:
            where = ["--address", self._machine.address, "--workers", "1:3"]
        flags = [*settings, "--to", "png", "--to", "webdataset", *where, "--quiet"]
        return subprocess.Popen(
            [*ARTGEN, command, source, str(self._output), *flags], env=environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def _strike(self, process: subprocess.Popen[str]) -> str:
        """What was struck; "" when there was nothing to strike yet."""
        kind = self._rng.choice(("actor", "node", "driver")) if self._machine is not None else "driver"
        if kind == "driver":
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        elif kind == "actor" and self._machine is not None and not self._machine.kill_actor(self._rng):
            return ""
        elif kind == "node" and self._machine is not None:
            self._machine.kill_node(self._rng)
        self.strikes[kind] += 1
        print(f"  {kind} killed at {self._parts()} units", flush=True)
        return kind

    def _parts(self) -> int:
        return len(list(self._output.glob("manifest/part-*.parquet")))


def check(output: Path, undisturbed: Path, images: int) -> None:
    if len(rows(output)) != images:  # rows() refuses a key with two
        sys.exit(f"{output}: {len(rows(output))} rows where {images} were due")
    if shas(output) != shas(undisturbed):
        sys.exit(f"{output}: other bytes than the undisturbed run")
    for sink in SINKS:
        if tree(output / sink) != tree(undisturbed / sink):
            sys.exit(f"{output / sink}: other files than in the undisturbed run")
    if left := [path.name for path in output.rglob(".artgen-*")]:
        sys.exit(f"{output}: temporary files are left: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50, help="kills in all")
    parser.add_argument("--round-points", type=int, default=6, help="kills of one OUTPUT at most")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    parser.add_argument("--command", choices=["restore", "generate"], default="restore")
    args = parser.parse_args()
    rng, strikes, commands, rounds = random.Random(args.seed), Counter[str](), 0, 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="artgen-chaos-") as name:
        undisturbed = Path(name) / "undisturbed"
        if args.command == "restore":
            contents = {f"{n:03d}.png": pictures.png(pictures.picture(n, 400, 300)) for n in range(args.images)}
            source = pictures.write_folder(Path(name) / "in", contents)
            work = ["restore", str(source), "--unit-images", "2"]
        else:
            args.images *= 25  # a generated picture takes a fraction of the time
            work = ["generate", "default", "--seeds", f"0-{args.images - 1}", "--unit-images", "50"]
        Round(work, undisturbed, None, rng).run(0)
        machine = Machine() if args.engine == "ray" else None
        try:
            while sum(strikes.values()) < args.points:
                rounds += 1
                print(f"round {rounds}", flush=True)
                output = Path(name) / f"out-{rounds}"
                one = Round(work, output, machine, rng)
                one.run(min(args.round_points, args.points - sum(strikes.values())))
                check(output, undisturbed, args.images)
                strikes += one.strikes
                commands += one.commands
        finally:
            if machine is not None:
                machine.close()
    print(f"\n{'killed':10}{'times':>8}")
    for kind, count in sorted(strikes.items()):
        print(f"{kind:10}{count:8}")
    print(
        f"\n{sum(strikes.values())} kills in {rounds} rounds of {args.images} images, {commands} commands, "
        f"{time.monotonic() - began:.0f} s: same bytes, every image once, no temporary file"
    )


if __name__ == "__main__":
    main()
