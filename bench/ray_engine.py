"""What Ray costs: the Ray engine against the local one on the same pictures, and two one-core workers against one.

    python bench/ray_engine.py [FOLDER] [--images N]

FOLDER: photographs (default: ../shared/data/restore_train/CBSD432). Each engine runs N and 3 N images as a process of its
own; the difference is the cost of an image, what remains is the fixed cost of a run. CPU seconds are those of all processes
of the run (sampled, so good to about 0.3 s a run). Run it on an idle machine. (Not called ray.py, which would hide Ray.)
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "restore_train" / "CBSD432"
TICKS = os.sysconf("SC_CLK_TCK")
VARIANTS = {
    "local, 1 thread": ["--engine", "local", "--workers", "1"],
    "ray, 1 worker": ["--engine", "ray", "--workers", "1"],
    "ray, 2 workers": ["--engine", "ray", "--workers", "2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=PHOTOGRAPHS)
    parser.add_argument("--images", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        small, large = (copied(args.folder, count, Path(name)) for count in (args.images, 3 * args.images))
        per_image, rate = {}, {}
        print(f"{'':18}{'CPU s an image':>16}{'fixed CPU s':>14}{'images a second':>18}")
        for label, flags in VARIANTS.items():
            cpu = {}
            for source in (small, large):
                output = Path(name) / f"out-{uuid.uuid4().hex}"
                cpu[source] = cpu_seconds(["restore", str(source), str(output), "--unit-images", "4", *flags])
                rate[label] = steady_rate(output, 4)
            per_image[label] = (cpu[large] - cpu[small]) / (2 * args.images)
            fixed = cpu[small] - args.images * per_image[label]
            print(f"{label:18}{per_image[label]:16.3f}{fixed:14.1f}{rate[label]:18.2f}")
    print(
        f"\nCPU per image, ray / local: {per_image['ray, 1 worker'] / per_image['local, 1 thread']:.2f} (at most 1.15)"
    )
    print(f"images a second, 2 workers / 1: {rate['ray, 2 workers'] / rate['ray, 1 worker']:.2f} (at least 1.8)")


def copied(folder: Path, count: int, work: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    target = work / f"in-{count}"
    target.mkdir()
    for number in range(count):
        source = found[number % len(found)]
        shutil.copy(source, target / f"{number:05d}{source.suffix}")
    return target


def cpu_seconds(arguments: list[str]) -> float:
    """CPU seconds of `artgen ARGUMENTS` with every process it started, wherever it hangs now: they share a mark."""
    mark = f"ARTGEN_BENCH={uuid.uuid4().hex}"
    used: dict[int, float] = {}
    ended = threading.Event()
    sampler = threading.Thread(target=sample, args=(mark.encode(), used, ended))
    name, _, value = mark.partition("=")
    env = {**os.environ, name: value, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "artgen", *arguments, "--quiet"]
    process = subprocess.Popen(command, env=env, cwd=ROOT)
    sampler.start()
    code = process.wait()
    ended.set()
    sampler.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    return sum(used.values())


def sample(mark: bytes, used: dict[int, float], ended: threading.Event) -> None:
    strangers: set[int] = {os.getpid()}
    while not ended.wait(0.1):
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            if pid in strangers:
                continue
            try:
                if pid not in used and mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    if Path(f"/proc/{pid}/cmdline").read_bytes():  # between fork and exec nothing is known yet
                        strangers.add(pid)
                    continue
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                used[pid] = (int(fields[11]) + int(fields[12])) / TICKS
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
                continue


def steady_rate(output: Path, unit_images: int) -> float:
    """Images a second between the first and the last commit, so that neither start nor end counts."""
    times = sorted(path.stat().st_mtime for path in (output / "manifest").glob("part-*.parquet"))
    return unit_images * (len(times) - 1) / max(times[-1] - times[0], 1e-9)


if __name__ == "__main__":
    main()
