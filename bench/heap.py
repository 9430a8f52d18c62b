"""What keeping the heap (artgen/heap.py) saves a CPU: its seconds for forward passes with and without.

    python bench/heap.py [--rounds N]

Each round runs both in fresh processes of one thread, by turns: the shipped restorer on pictures of 768x512, the shipped
generator on passes of its fixed size. Told is the median of the ratios, kept over not kept. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

RESTORED, PAINTED, PASS = 8, 2048, 32


def passes(keep: bool) -> dict[str, float]:
    """CPU seconds by model, after one pass to warm up."""
    import torch

    from artgen import heap
    from artgen.inference.sample import sample
    from artgen.models.gans.weights import load_painter
    from artgen.models.weights import load

    if keep and not heap.keep():
        raise SystemExit("this system or environment does not let the heap be set")
    torch.set_num_threads(1)
    restorer, painter = load("default").module, load_painter("default")
    picture, mask = torch.rand(1, 3, 512, 768), torch.zeros(1, 1, 512, 768)
    took = {}
    with torch.inference_mode():
        for turn in range(2):
            began = time.process_time()
            for _ in range(RESTORED if turn else 1):
                restorer(picture, mask)
            took["restore"] = time.process_time() - began
            began = time.process_time()
            for first in range(0, PAINTED if turn else PASS, PASS):
                sample(painter, range(first, first + PASS))
            took["generate"] = time.process_time() - began
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inside", choices=("keep", "leave"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(passes(args.inside == "keep")))
        return
    found: dict[str, list[float]] = {"restore": [], "generate": []}
    for _ in range(args.rounds):
        left, kept = (
            json.loads(subprocess.check_output([sys.executable, __file__, "--inside", how]))
            for how in ("leave", "keep")
        )
        for name, ratios in found.items():
            ratios.append(kept[name] / left[name])
    for name, ratios in found.items():
        print(f"{name:10}{statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
