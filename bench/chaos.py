"""Kills and faults at random moments, until so many have struck: every image exactly once, with the bytes of an undisturbed run.

    python bench/chaos.py [--points 50] [--seed 0] [--images 48] [--engine ray|local] [--command restore|generate]
                          [--store local|s3] [--share 0.1]

A cluster of three nodes on this machine restores (or generates) pictures again and again. At random moments one of these
happens: SIGKILL of an actor; of a whole node (its raylet with the object store in it, and all its workers), which a new node
replaces; of the driver and all its children; a node comes. A driver that is gone or ended with exit code 1 is given the same
command again. With --engine local the points are SIGKILLs of the driver.

With --store s3 pictures go from a bucket into a bucket of a real S3 server (seaweedfs) on this machine, through a proxy that
answers SlowDown, resets connections, cuts bodies short and stalls at --share of the requests; and one of the points is SIGKILL
of the server in mid-transfer, which comes back some seconds later.

At the end of each round the pictures are compared with those of an undisturbed run into a folder, rows are counted, and temporary
files looked for. Exits with 1 at the first difference, or when one command takes longer than LIMIT_S. Linux only.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from artgen.errors import StorageError  # noqa: E402
from artgen.storage import atomic, uri  # noqa: E402
from tests import pictures  # noqa: E402
from tests.proxy import FAULTS, FaultyProxy  # noqa: E402
from tests.runs import ARTGEN, environment, rows, shas, tree  # noqa: E402
from tests.s3 import S3Server, serve  # noqa: E402

LIMIT_S = 900.0
# A strike waits for so many more units at most, and then for so long: starts, middles and ends are all met.
MOST_UNITS, PAUSE_S = 3, 2.0
# Nodes that come without one having died, and how long the S3 server is away.
MOST_ADDED, AWAY_S = 2, 4.0
SINKS = ("images", "shards")
MARK = f"ARTGEN_CHAOS={uuid.uuid4().hex}"


class Store:
    """Where OUTPUTs lie: a folder of this machine, or a bucket behind a bad network."""

    def __init__(self, place: str, server: S3Server | None = None) -> None:
        self.place, self._server = place, server

    def parts(self, output: str) -> int:
        """Committed units. Past the proxy: the looks are not what is tested."""
        try:
            return len(uri.names(f"{output}/manifest", self._server.options if self._server else None))
        except StorageError:  # the server is away
            return 0

    def kill(self) -> bool:
        if self._server is None:
            return False
        self._server.kill()
        time.sleep(AWAY_S)
        self._server.start()
        return True

    def local(self, output: str, folder: Path) -> Path:
        """The OUTPUT as a folder."""
        if self._server is None:
            return Path(output)
        fs, path = uri.filesystem(output, self._server.options)
        for name in fs.find(path):
            target = folder / name.removeprefix(f"{path}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(fs.cat_file(name))
        return folder


@contextmanager
def bucket(folder: Path) -> Iterator[tuple[Store, S3Server, FaultyProxy]]:
    """A bucket; what this process starts from here on reaches it through the proxy, which is sound so far."""
    folder.mkdir()
    with serve(folder) as server, FaultyProxy(server.endpoint, 0.0, seed=1, stall_s=2.0) as proxy:
        os.environ.update({**server.environment, "AWS_ENDPOINT_URL": proxy.endpoint})
        # A stalled answer is given up after this; s3fs waits for a minute.
        os.environ["FSSPEC_S3_CONFIG_KWARGS"] = '{"read_timeout": 2.0}'
        yield Store(server.bucket(), server), server, proxy


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
        self._added = 0

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

    def add_node(self) -> bool:
        if self._added == MOST_ADDED:
            return False
        self._added += 1
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

    def __init__(
        self, work: list[str], output: str, store: Store, machine: Machine | None, rng: random.Random
    ) -> None:
        self._work, self._output, self._store, self._machine, self._rng = work, output, store, machine, rng
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
            [*ARTGEN, command, source, self._output, *flags], env=environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def _strike(self, process: subprocess.Popen[str]) -> str:
        """What was struck; "" when there was nothing to strike."""
        strikes: dict[str, Callable[[], bool]] = {"driver": lambda: self._kill_driver(process)}
        if self._machine is not None:
            machine, rng = self._machine, self._rng
            strikes |= {
                "actor": lambda: machine.kill_actor(rng),
                "node": lambda: machine.kill_node(rng),
                "node added": machine.add_node,
            }
        if self._store.place.startswith("s3://"):
            strikes["store"] = self._store.kill
        kind = self._rng.choice(list(strikes))
        if not strikes[kind]():
            return ""
        self.strikes[kind] += 1
        print(f"  {kind} at {self._parts()} units", flush=True)
        return kind

    def _kill_driver(self, process: subprocess.Popen[str]) -> bool:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True

    def _parts(self) -> int:
        return self._store.parts(self._output)


def check(output: Path, undisturbed: Path, images: int) -> None:
    if len(rows(output)) != images:  # rows() refuses a key with two
        sys.exit(f"{output}: {len(rows(output))} rows where {images} were due")
    if shas(output) != shas(undisturbed):
        sys.exit(f"{output}: other bytes than the undisturbed run")
    for sink in SINKS:
        if tree(output / sink) != tree(undisturbed / sink):
            sys.exit(f"{output / sink}: other files than in the undisturbed run")
    if left := [path.name for path in (*output.rglob(".artgen-*"), *output.glob("_artgen/begun/*"))]:
        sys.exit(f"{output}: temporary files or traces are left: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50, help="strikes in all")
    parser.add_argument("--round-points", type=int, default=6, help="strikes on one OUTPUT at most")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    parser.add_argument("--command", choices=["restore", "generate"], default="restore")
    parser.add_argument("--store", choices=["local", "s3"], default="local")
    parser.add_argument("--share", type=float, default=0.1, help="of the requests to S3 that meet a fault")
    args = parser.parse_args()
    rng, strikes, commands, rounds = random.Random(args.seed), Counter[str](), 0, 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="artgen-chaos-") as name, ExitStack() as stack:
        work, images = work_of(args.command, args.images, Path(name))
        undisturbed, here, proxy = Path(name) / "undisturbed", Store(name), None
        store = here
        if args.store == "s3":
            store, server, proxy = stack.enter_context(bucket(Path(name) / "weed"))
            work = uploaded(work, store, server)
        Round(work, str(undisturbed), here, None, rng).run(0)
        if proxy is not None:
            proxy.share = args.share
        machine = Machine() if args.engine == "ray" else None
        if machine is not None:
            stack.callback(machine.close)
        while sum(strikes.values()) < args.points:
            rounds += 1
            print(f"round {rounds}", flush=True)
            output = f"{store.place}/out-{rounds}"
            one = Round(work, output, store, machine, rng)
            one.run(min(args.round_points, args.points - sum(strikes.values())))
            check(store.local(output, Path(name) / f"copy-{rounds}"), undisturbed, images)
            strikes += one.strikes
            commands += one.commands
        faults = {fault: proxy.counts[fault] for fault in FAULTS} if proxy is not None else {}
    print(f"\n{'struck':12}{'times':>8}")
    for kind, count in [*sorted(strikes.items()), *faults.items()]:
        print(f"{kind:12}{count:8}")
    print(
        f"\n{sum(strikes.values())} strikes in {rounds} rounds of {images} images, {commands} commands, "
        f"{time.monotonic() - began:.0f} s: same bytes, every image once, no temporary file"
    )


def work_of(command: str, images: int, folder: Path) -> tuple[list[str], int]:
    """The words of the command up to OUTPUT, and how many images it makes."""
    if command == "generate":  # a generated picture takes a fraction of the time
        return ["generate", "default", "--seeds", f"0-{25 * images - 1}", "--unit-images", "50"], 25 * images
    contents = {f"{n:03d}.png": pictures.png(pictures.picture(n, 400, 300)) for n in range(images)}
    return ["restore", str(pictures.write_folder(folder / "in", contents)), "--unit-images", "2"], images


def uploaded(work: list[str], store: Store, server: S3Server) -> list[str]:
    """The same work with its INPUT in the bucket."""
    command, source, *settings = work
    if command == "restore":
        for path in sorted(Path(source).iterdir()):
            atomic.write(f"{store.place}/in/{path.name}", path.read_bytes(), server.options)
        source = f"{store.place}/in"
    return [command, source, *settings]


if __name__ == "__main__":
    main()
