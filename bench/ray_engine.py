"""What Ray costs: the Ray engine against the local one on the same pictures, and two one-core workers against one.

    python bench/ray_engine.py [--command restore|generate] [--images N]

Each engine runs N and 3 N images (restore: photographs of 480x320; generate: 64 px, RGB, the architecture of the default
recipe) as a process of its own; the difference is the cost of an image, what remains is the fixed cost of a run. CPU seconds
are those of all processes of the run (sampled, so good to about 0.3 s a run). Run it on an idle machine. (Not called ray.py,
which would hide Ray.)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import uuid
from pathlib import Path

from generate import random_model
from measure import photographs, run

ARTGEN = [sys.executable, "-m", "artgen"]
# By command the images of the smaller run and those of a unit: a pass of the generator is many pictures.
SIZES = {"restore": (32, 4), "generate": (1024, 128)}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
VARIANTS = {
    "local, 1 thread": ["--engine", "local", "--workers", "1"],
    "ray, 1 worker": ["--engine", "ray", "--workers", "1"],
    "ray, 2 workers": ["--engine", "ray", "--workers", "2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=SIZES, default="restore")
    parser.add_argument("--images", type=int)
    args = parser.parse_args()
    images, unit = args.images or SIZES[args.command][0], SIZES[args.command][1]
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        work = sources(args.command, Path(name), (images, 3 * images))
        per_image, rate = {}, {}
        print(f"{'':18}{'CPU s an image':>16}{'fixed CPU s':>14}{'images a second':>18}")
        for label, flags in VARIANTS.items():
            cpu = []
            for source in work:
                output = Path(name) / f"out-{uuid.uuid4().hex}"
                words = [
                    args.command,
                    source[0],
                    str(output),
                    *source[1:],
                    "--unit-images",
                    str(unit),
                    "--quiet",
                    *flags,
                ]
                cpu.append(run([*ARTGEN, *words], ONE_THREAD).cpu_s)
                rate[label] = steady_rate(output, unit)
            per_image[label] = (cpu[1] - cpu[0]) / (2 * images)
            fixed = cpu[0] - images * per_image[label]
            print(f"{label:18}{per_image[label]:16.4f}{fixed:14.1f}{rate[label]:18.2f}")
    print(
        f"\nCPU per image, ray / local: {per_image['ray, 1 worker'] / per_image['local, 1 thread']:.2f} (at most 1.15)"
    )
    print(f"images a second, 2 workers / 1: {rate['ray, 2 workers'] / rate['ray, 1 worker']:.2f} (at least 1.8)")


def sources(command: str, folder: Path, counts: tuple[int, int]) -> list[list[str]]:
    """By count what a command works on: INPUT, or MODEL and the seeds."""
    if command == "generate":
        model = random_model("default", folder / "model")
        return [[model, "--seeds", f"0-{count - 1}"] for count in counts]
    return [[str(photographs(folder / f"in-{count}", count, ((480, 320),)))] for count in counts]


def steady_rate(output: Path, unit_images: int) -> float:
    """Images a second between the first and the last commit, so that neither start nor end counts."""
    times = sorted(path.stat().st_mtime for path in (output / "manifest").glob("part-*.parquet"))
    return unit_images * (len(times) - 1) / max(times[-1] - times[0], 1e-9)


if __name__ == "__main__":
    main()
