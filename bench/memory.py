"""Peak memory of `artgen restore` against the number of images and against the size of one image.

    python bench/memory.py [--counts 100,1000,10000] [--megapixels 1,10,50,100] [--model identity]

Memory of all processes of the run, shared pages counted once (PSS), sampled twice a second. The identity model does
the whole way but the network, so that ten thousand images are done in minutes; --model default adds the network's own
tiles, which do not depend on either axis. Counts use images of 96x64.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import photographs, run, table
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="100,1000,10000")
    parser.add_argument("--megapixels", default="1,10,50,100")
    parser.add_argument("--model", default="identity")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        work = Path(name)
        peaks = {}
        for count in map(int, filter(None, args.counts.split(","))):
            peaks[f"{count} images"] = (peak(copies(work / "in", count), work / "out", args.model),)
            shutil.rmtree(work / "in")
        if peaks:
            table(f"number of images, {args.model}", peaks, ("peak MB",))
        sizes = {}
        for megapixels in map(float, filter(None, args.megapixels.split(","))):
            sizes[f"{megapixels:g} MP"] = (peak(large(work / "in", megapixels), work / "out", args.model),)
            shutil.rmtree(work / "in")
        if sizes:
            table(f"one image, {args.model}", sizes, ("peak MB",))


def peak(source: Path, out: Path, model: str) -> float:
    shutil.rmtree(out, ignore_errors=True)
    command = ["restore", str(source), str(out), "--quiet", "--engine", "local", "--model", model]
    return run([sys.executable, "-m", "artgen", *command, "--max-pixels", "200e6"]).peak_mb


def copies(folder: Path, count: int) -> Path:
    first = photographs(folder, min(count, 100), ((96, 64),))
    made = sorted(first.iterdir())
    for number in range(len(made), count):
        shutil.copy(made[number % len(made)], folder / f"{number:05d}.jpg")
    return folder


def large(folder: Path, megapixels: float) -> Path:
    folder.mkdir()
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(1.5 * height)
    y, x = np.ogrid[0:height, 0:width]
    planes = [np.uint8(127 + 100 * np.sin(x / a + y / b)) for a, b in ((40, 90), (70, 30), (200, 150))]
    Image.fromarray(np.dstack(planes)).save(folder / "large.jpg", quality=92)
    return folder


if __name__ == "__main__":
    main()
