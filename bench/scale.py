"""What artgen costs at the size of a cluster, on paper: planning, resuming, and a simulated schedule.

    python bench/scale.py [--large] [--megapixels 0.4] [--gpu-rate 500] [--store-rate 5000]

1. Plans listings of 10^4 to 10^6 entries (10^7 with --large; half a gigabyte of temporary files): time and peak memory, each
   in a fresh process. Memory must be flat and time linear: the script says whether they are.
2. Resumes ledgers of 10^2 to 10^5 parts in a store that takes 100 ms for a page of 1,000 names, as S3 does:
   from the ledger to the first unit. A run looks twice: when it plans, and when it starts.
3. Measures what an image costs one core of this machine, reading to commit (photographs of 768x512, the shipped model).
4. Simulates 1 to 1,000 of these cores, and of GPUs, over 10^6 and 10^9 images with stragglers, preemption and a bounded
   object store.

--megapixels: of an image on a GPU. --gpu-rate: megapixels a second of one GPU with the model, an estimate unless you have
measured it (bench/gpu.py).
--store-rate: images a second that the store serves (one GET and one PUT each; S3 gives 3,500 PUT/s for each prefix).
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem, register_implementation
from measure import photographs, run

from artgen.records import Source
from artgen.storage.ledger import Ledger
from artgen.work import plan as plans
from artgen.work.listing import Listing
from artgen.work.plan import Plan

PAGE_NAMES, PAGE_S = 1000, 0.1


def sources(count: int) -> Iterator[Source]:
    """A bucket of scans in folders of a thousand."""
    for n in range(count):
        key = f"box-{n // 1000:06d}/scan-{n:09d}.jpg"
        yield Source(key, f"s3://archive/in/{key}", "file", 0, 900_000 + n % 1000, "", f"{n:032x}")


def plan_one(count: int) -> dict[str, float]:
    """Lists and plans `count` entries in this process: seconds and peak memory (MB)."""
    with tempfile.TemporaryDirectory(prefix="artgen-scale-") as folder:
        began, cpu = time.perf_counter(), time.process_time()
        with Listing("s3://archive/in", sources(count)) as listed:
            plan = plans.prepare(listed, f"{folder}/out", {"extension": ".png"})
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        size = sum(path.stat().st_size for path in Path(plan.folder).iterdir())
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb, "plan_mb": size / 1e6, "units": plan.units}


def planning(sizes: list[int]) -> None:
    print(
        f"\nPlanning\n{'entries':>12}{'units':>9}{'wall s':>9}{'CPU s':>9}{'us/entry':>10}{'peak MB':>10}{'plan MB':>10}"
    )
    found = []
    for size in sizes:
        command = [sys.executable, __file__, "--plan-one", str(size)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        facts = json.loads(result.stdout)
        per_entry_us = 1e6 * facts["cpu_s"] / size
        found.append((per_entry_us, facts["peak_mb"]))
        print(
            f"{size:12,}{facts['units']:9,.0f}{facts['wall_s']:9.1f}{facts['cpu_s']:9.1f}{per_entry_us:10.1f}"
            f"{facts['peak_mb']:10.0f}{facts['plan_mb']:10.1f}",
            flush=True,
        )
    growth_mb = found[-1][1] - found[0][1]
    slower = found[-1][0] / found[-2][0]  # the smallest size is mostly imports
    print(
        f"CPU time per entry, largest / the one before: {slower:.2f} (linear: at most 1.5: {'yes' if slower <= 1.5 else 'NO'})"
    )
    print(
        f"memory, largest - smallest: {growth_mb:.0f} MB (flat: at most 300: {'yes' if growth_mb <= 300 else 'NO'})"
    )


class PagedStore(AbstractFileSystem):
    """A store whose only content is a manifest folder of `parts` names, told in pages that take PAGE_S each."""

    protocol = "paged"
    cachable = False
    plan, parts = "00000000", 0

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        names = []
        for first in range(0, max(1, self.parts), PAGE_NAMES):
            time.sleep(PAGE_S)
            last = min(first + PAGE_NAMES, self.parts)
            names += [f"{path}/part-{self.plan}-{n:06d}.parquet" for n in range(first, last)]
        return [{"name": name, "size": 4096, "type": "file"} for name in names] if detail else names


def resuming(sizes: list[int]) -> None:
    """From the ledger to the first unit that is not done; every tenth unit is missing at the end."""
    register_implementation("paged", PagedStore, clobber=True)
    print(f"\nResuming\n{'units':>9}{'list s':>9}{'compare s':>11}{'first unit after s':>20}")
    for units in sizes:
        PagedStore.parts = units - units // 10
        plan = Plan("paged://out", PagedStore.plan * 2, units * 16, 0, 16, "", {})
        began = time.perf_counter()
        Ledger("paged://out")
        ledger = Ledger("paged://out")
        listed_s = time.perf_counter() - began
        refs = list(plan.pending(ledger))
        total_s = time.perf_counter() - began
        if len(refs) != units // 10:
            sys.exit(f"{len(refs)} units are pending where {units // 10} were due")
        print(f"{units:9,}{listed_s:9.1f}{total_s - listed_s:11.2f}{total_s:20.1f}")
    print(
        f"100,000 units start work within 30 s: {'yes' if total_s <= 30 else 'NO'} (the listing of INPUT comes on top:"
    )
    print(
        f"{PAGE_S:g} s for 1,000 loose objects, or one request for each archive file: pack billions into tar or Parquet)"
    )


def core_rate(images: int = 12) -> float:
    """Images a second of one core, from the difference of two runs of one thread, so that starting is not in it."""
    with tempfile.TemporaryDirectory(prefix="artgen-scale-") as name:
        cpu_s = []
        for count in (images, 2 * images):
            source = photographs(Path(name) / f"in-{count}", count)
            words = [str(source), f"{name}/out-{count}", "--engine", "local", "--workers", "1", "--quiet"]
            cpu_s.append(run([sys.executable, "-m", "artgen", "restore", *words], {"OMP_NUM_THREADS": "1"}).cpu_s)
    return images / (cpu_s[1] - cpu_s[0])


@dataclass(frozen=True, slots=True)
class Cluster:
    """workers (GPUs, or cores) of `rate` images a second each; a store of `store_rate`; a share of units that take `slow`
    times as long; and preemptions an hour for each worker, after which it is away for `away_s` and its unit is done again."""

    workers: int
    rate: float
    store_rate: float
    slow_share: float = 0.01
    slow: float = 5.0
    preemptions_per_hour: float = 0.2
    away_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Outcome:
    seconds: float
    redone: int
    preempted: int


def simulate(images: int, cluster: Cluster, seed: int) -> Outcome:
    """Units go to whichever worker is free next; what a preempted one had in work goes back to the queue."""
    rng = random.Random(seed)
    unit = plans.default_unit_images(images)
    rate = min(cluster.rate, cluster.store_rate / cluster.workers)
    per_second = cluster.preemptions_per_hour / 3600
    free = [(0.0, worker) for worker in range(cluster.workers)]
    left, ended, redone, preempted = -(-images // unit), 0.0, 0, 0
    while left:
        at, worker = heapq.heappop(free)
        needed = (
            unit / rate * rng.lognormvariate(0, 0.1) * (cluster.slow if rng.random() < cluster.slow_share else 1)
        )
        until_lost = rng.expovariate(per_second)
        if until_lost < needed:
            redone += int(unit * until_lost / needed)
            preempted += 1
            heapq.heappush(free, (at + until_lost + cluster.away_s, worker))
            continue
        left -= 1
        ended = max(ended, at + needed)
        heapq.heappush(free, (at + needed, worker))
    return Outcome(ended, redone, preempted)


def schedule(kind: str, rate: float, store_rate: float) -> None:
    """kind: of worker, in the plural; rate: images a second of one."""
    for images in (10**6, 10**9):
        unit = plans.default_unit_images(images)
        print(
            f"\n{images:,} images in units of {unit:,}, {rate:,.3g} images/s for each of the {kind}, the store at most "
            f"{store_rate:,.0f}/s"
        )
        print(
            f"{kind:>6}{'hours':>10}{'ideal':>10}{'efficiency':>12}{'images/s':>11}{'redone %':>10}{'lost':>11}  bound by"
        )
        for workers in (1, 3, 10, 30, 100, 300, 1000):
            found = simulate(images, Cluster(workers, rate, store_rate), seed=workers)
            ideal_s = images / min(rate * workers, store_rate)
            bound = "the store" if rate * workers > store_rate else kind
            print(
                f"{workers:6}{found.seconds / 3600:10.2f}{ideal_s / 3600:10.2f}{ideal_s / found.seconds:12.0%}"
                f"{images / found.seconds:11,.0f}{100 * found.redone / images:10.2f}{found.preempted:11,}  {bound}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="plan 10^7 entries as well")
    parser.add_argument("--megapixels", type=float, default=0.4)
    parser.add_argument("--gpu-rate", type=float, default=500.0)
    parser.add_argument("--store-rate", type=float, default=5000.0)
    parser.add_argument("--plan-one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plan_one:
        print(json.dumps(plan_one(args.plan_one)))
        return
    planning([10**4, 10**5, 10**6] + ([10**7] if args.large else []))
    resuming([10**2, 10**3, 10**4, 10**5])
    schedule("cores", core_rate(), args.store_rate)
    schedule("GPUs", args.gpu_rate / args.megapixels, args.store_rate)


if __name__ == "__main__":
    main()
