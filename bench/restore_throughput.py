"""Restoring an archive with the same weights: artgen beside what else a person would use today, in the same run.

    python bench/restore_throughput.py [--images 300] [--rounds 1] [--sizes 768x512|mixed] [--only NAME,...]

Two sets: photographs of 768x512, and the same at mixed sizes (256 to 1536 px a side). For each: artgen (local and Ray), a
plain PyTorch script with a thread pool, Ray Data as documented, Daft (left out where it is not installed: pip install
daft). Whole processes, start-up included. Beside them the model alone, decoding alone and encoding alone on as many
threads as there are cores, files and pixels in memory. `warm` is the local engine from the first unit to the last
commit in a process that has loaded the model, against the model alone in that process, in turns. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from measure import TICKS, Used, photographs, run, table

MIXED = ((768, 512), (512, 768), (1536, 1024), (256, 256), (1024, 1024), (640, 400), (300, 500))
SETS = {"768x512": ((768, 512),), "mixed": MIXED}
PEERS = {"plain PyTorch threads": "torch-threads", "Ray Data as documented": "ray-data", "Daft": "daft"}
PARTS = {"model only": "model-only", "decode only": "decode-only", "encode only": "encode-only"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1, help="of every runner; the median counts")
    parser.add_argument("--only", default="", help="names of runners, with commas between them")
    parser.add_argument("--sizes", choices=SETS, help="this set alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        for title, sizes in SETS.items():
            if args.sizes not in (None, title):
                continue
            work = Path(name) / title
            source = photographs(work / "in", args.images, sizes)
            print(f"\n{args.images} photographs, sizes {title}, {os.cpu_count()} cores", flush=True)
            if not args.only or "warm" in args.only.split(","):
                warm(source, work, max(3, args.rounds))
            compare(source, work, args.rounds, args.only)


def compare(source: Path, work: Path, rounds: int, only: str) -> None:
    commands = runners()
    if only:
        commands = {name: command for name, command in commands.items() if name in only.split(",")}
    used: dict[str, list[Used]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            used[name].append(run([*command, str(source), str(out), *flags_of(name)]))
            check(name, source, out)
    if not used:
        return
    images = len(list(source.iterdir()))
    middle = {name: sorted(found, key=lambda u: u.wall_s)[len(found) // 2] for name, found in used.items()}
    base = middle.get("artgen local") or next(iter(middle.values()))
    table(
        "whole processes",
        {
            name: (u.wall_s / images, u.cpu_s / images, u.peak_mb, u.wall_s / base.wall_s, u.cpu_s / base.cpu_s)
            for name, u in middle.items()
        },
        ("s/image", "CPU s/image", "peak MB", "wall ratio", "CPU ratio"),
    )
    if only:
        return
    rows = {}
    for name, peer in PARTS.items():
        found = run(
            [sys.executable, str(Path(__file__).with_name("peers.py")), peer, str(source), str(work / "none")]
        )
        wall_s, cpu_s = map(float, found.stdout.split()[-2:])
        rows[name] = (wall_s / images, cpu_s / images, wall_s / base.wall_s)
    table("parts, start-up left out", rows, ("s/image", "CPU s/image", "of artgen"))


def runners() -> dict[str, list[str]]:
    artgen = [sys.executable, "-m", "artgen", "restore"]
    peers = {
        name: [sys.executable, str(Path(__file__).with_name("peers.py")), peer] for name, peer in PEERS.items()
    }
    if importlib.util.find_spec("daft") is None:
        print("Daft is left out: not installed (pip install daft)")
        del peers["Daft"]
    return {"artgen local": artgen, "artgen Ray": artgen, **peers}


def flags_of(name: str) -> list[str]:
    if not name.startswith("artgen"):
        return []
    return ["--engine", name.split()[1].lower(), "--quiet"]


def check(name: str, source: Path, out: Path) -> None:
    """A runner that leaves pictures out is not fast."""
    made = len(list((out / "images" if (out / "images").is_dir() else out).glob("*.png")))
    if made != len(list(source.iterdir())):
        sys.exit(f"{name} made {made} pictures of {len(list(source.iterdir()))}")


def warm(source: Path, work: Path, rounds: int) -> None:
    import torch
    from peers import as_tensor, read

    from artgen.models.weights import load

    model = load("default")
    tensors = [as_tensor(read(path)) for path in sorted(source.iterdir())[:48]]
    some = work / "some"
    some.mkdir()
    for path in sorted(source.iterdir())[:48]:
        shutil.copy(path, some)

    def forward(x: torch.Tensor) -> None:
        with torch.inference_mode():
            model(x)

    def model_only() -> None:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(forward, tensors))

    forward(tensors[0])
    alone, ours = [], []
    for _ in range(rounds):
        alone.append(timed(model_only))
        ours.append(engine(some, work / "warm"))
    table(
        "warm, one process",
        {
            name: (statistics.median(w for w, _ in rows), statistics.median(c for _, c in rows))
            for name, rows in (("model only", alone), ("artgen's local engine", ours))
        },
        ("s", "CPU s"),
    )
    ratios = [sorted(a[i] / o[i] for a, o in zip(alone, ours, strict=True)) for i in (0, 1)]
    print(
        f"rate over the model alone: {statistics.median(ratios[0]):.3f} by the clock "
        f"({ratios[0][0]:.3f} to {ratios[0][-1]:.3f}), {statistics.median(ratios[1]):.3f} in CPU time; to reach: 0.95"
    )


def engine(source: Path, out: Path) -> tuple[float, float]:
    """Seconds by the clock and of the CPU, decoder processes included, from the first unit to the last commit."""
    from artgen.commands.places import check_output
    from artgen.commands.restore import make_job, settings_of
    from artgen.config import RestoreConfig
    from artgen.console import Console
    from artgen.engines.local import LocalEngine
    from artgen.storage import archive
    from artgen.storage.ledger import Ledger
    from artgen.work import plan as plans
    from artgen.work.listing import Listing
    from artgen.work.unit import Publish

    shutil.rmtree(out, ignore_errors=True)
    ended = children_ended_s()
    config = RestoreConfig(input=str(source), output=str(out), engine="local")
    with Listing(config.input, archive.scan(config.input)) as listed:
        carrier = LocalEngine(config, 10**6)
        with closing(carrier):
            restorer, job = make_job(config, carrier.devices())
            check_output(config)
            plan = plans.prepare(listed, config.output, settings_of(config, job))
            refs = list(plan.pending(Ledger(config.output)))
            publish = Publish(config.output, config.to)
            time.sleep(1.5)  # the decoder processes have booted
            outcomes = carrier.run(plan, refs, job, publish, restorer, Console(quiet=True))
            booting = children_s()
            wall_s, cpu_s = timed(lambda: list(outcomes))
    return wall_s, cpu_s + children_ended_s() - ended - booting


def children_s() -> float:
    """CPU seconds so far of the processes that this one has started and that still run."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in found]
    return sum(int(f[11]) + int(f[12]) for f in fields) / TICKS


def children_ended_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
