"""What --precision bf16 costs and gains on this CPU: time of the network, and dB, beside fp32.

    python bench/precision.py [--data FOLDER] [--images N] [--rounds N]

The shipped restorer, one thread, by turns in one process, on N pictures of DATA (default: CBSD68 beside the project) with
Gaussian noise of sigma 15, 25 and 50: the ratio of the CPU time (median of the rounds), PSNR of both, and by how many of 255
levels a value differs at most and in the mean. Run it on an idle machine; without hardware for bf16 it is slower, not faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from artgen import heap
from artgen.inference.precision import bf16_is_fast
from artgen.metrics.pairs import psnr
from artgen.models.weights import load
from artgen.work.evaluation import restored_whole

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "restore_test" / "CBSD68"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    files = sorted(
        path for path in args.data.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp")
    )
    if not files:
        parser.error(f"no picture under {args.data}: name a folder with --data")
    heap.keep()
    torch.set_num_threads(1)
    clean = [as_tensor(path) for path in files[:: max(1, len(files) // args.images)][: args.images]]
    print(f"{len(clean)} pictures, bf16 in hardware: {'yes' if bf16_is_fast('cpu') else 'no'}")
    print(f"{'sigma':>5}{'fp32 dB':>10}{'bf16 dB':>10}{'CPU time':>10}{'most':>8}{'mean':>8}  (levels of 255)")
    restorer, dice = load("default"), torch.Generator().manual_seed(0)
    restorer.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for sigma in (15, 25, 50):
        noisy = [x + torch.randn(x.shape, generator=dice) * sigma / 255 for x in clean]
        took: dict[bool, list[float]] = {False: [], True: []}
        made: dict[bool, list[Tensor]] = {}
        for _ in range(args.rounds + 1):  # the first warms up
            for rough in took:
                began = time.process_time()
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=rough):
                    made[rough] = [restored_whole(restorer, x, torch.zeros_like(x[:, :1])).float() for x in noisy]
                took[rough].append(time.process_time() - began)
        ratio = statistics.median(b / a for a, b in zip(took[False][1:], took[True][1:], strict=True))
        scores = [statistics.mean(map(psnr, made[rough], clean)) for rough in took]
        apart = [(a.clamp(0, 1) - b.clamp(0, 1)).abs() * 255 for a, b in zip(made[False], made[True], strict=True)]
        most, mean = max(d.max().item() for d in apart), statistics.mean(d.mean().item() for d in apart)
        print(f"{sigma:5}{scores[0]:10.3f}{scores[1]:10.3f}{ratio:10.2f}{most:8.2f}{mean:8.3f}")


def as_tensor(path: Path) -> Tensor:
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).float().div(255).permute(2, 0, 1)[None]


if __name__ == "__main__":
    main()
