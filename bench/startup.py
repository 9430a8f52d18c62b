"""What `artgen restore` of one image costs before and after the model runs, against a bare script.

    python bench/startup.py [--rounds N]

The bare script imports torch, loads the same weights and passes one image of the same size through. To reach: 1.3 times it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from measure import ROOT, photographs, run, table

BARE = """
import sys
sys.path.insert(0, {root!r})
import torch
from artgen.models.weights import load
model = load("default")
with torch.inference_mode():
    model(torch.rand(1, 3, {height}, {width}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", default="480x320", help="WIDTHxHEIGHT of the image, multiples of 8")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        image = photographs(Path(name) / "in", 1, ((width, height),)) / "00000.jpg"
        bare = [sys.executable, "-c", BARE.format(root=str(ROOT), width=width, height=height)]
        seconds: dict[str, list[float]] = {"bare script": [], "artgen restore": []}
        for number in range(args.rounds + 1):
            out = Path(name) / f"out-{number}"
            ours = run([sys.executable, "-m", "artgen", "restore", str(image), str(out), "--quiet"])
            theirs = run(bare)
            if number:  # the first round fills the disk cache
                seconds["artgen restore"].append(ours.wall_s)
                seconds["bare script"].append(theirs.wall_s)
    base = statistics.median(seconds["bare script"])
    rows = {kind: (statistics.median(s), min(s), statistics.median(s) / base) for kind, s in seconds.items()}
    table(f"one image of {args.size}", rows, ("median s", "least s", "ratio"))


if __name__ == "__main__":
    main()
