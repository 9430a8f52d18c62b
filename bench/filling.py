"""What the default restorer's filling gives before the network sees it, beside OpenCV's inpainting on the same masks.

    python bench/filling.py DATA [--pictures N] [--side PX]

DATA: a folder of sound pictures. PSNR in dB, means over the upper left squares of N of them, in grey; and CPU
seconds per megapixel, one thread. In salt-and-pepper the recognised impulses are what is filled; OpenCV gets the same.
Change `artgen/models/restorers/filling.py` and run it again: that is how the filling was tuned (model card).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from artgen.metrics.pairs import psnr
from artgen.models.restorers.filling import fill_missing
from artgen.models.restorers.unet import impulses
from artgen.training.degrade import OPERATORS
from artgen.training.dice import Dice

TASKS = (("missing", 0.5), ("missing", 0.8), ("holes", 0.15), ("scratches", 0.05), ("salt-pepper", 0.7))
Filling = Callable[[Tensor, Tensor], Tensor]


def opencv(method: int) -> Filling:
    def fill(x_11HW: Tensor, mask_11HW: Tensor) -> Tensor:
        pixels = (x_11HW[0, 0] * 255).round().byte().numpy()
        found = cv2.inpaint(pixels, (mask_11HW[0, 0] > 0).byte().numpy(), 3, method)
        return torch.from_numpy(found).float().div(255)[None, None]

    return fill


FILLINGS: dict[str, Filling] = {
    "artgen": fill_missing,
    "Telea": opencv(cv2.INPAINT_TELEA),
    "Navier-Stokes": opencv(cv2.INPAINT_NS),
}


def pictures(folder: str, count: int, side: int) -> list[Tensor]:
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    found = []
    for file in files[:: max(1, len(files) // count)][:count]:
        grey = np.array(Image.open(file).convert("L"))[:side, :side]
        height, width = (size // 8 * 8 for size in grey.shape)
        found.append(torch.from_numpy(grey[:height, :width]).float().div(255)[None, None])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--side", type=int, default=320)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    clean = pictures(args.data, args.pictures, args.side)
    if not clean:
        raise SystemExit(f"{args.data!r} holds no PNG or JPEG picture")
    megapixels = sum(x.numel() for x in clean) / 1e6
    with torch.inference_mode():
        for name, strength in TASKS:
            told = []
            for title, fill in FILLINGS.items():
                scores, seconds = [], 0.0
                for number, x in enumerate(clean):
                    damaged, mask = OPERATORS[name](x, strength, Dice(number))
                    if name == "salt-pepper":
                        mask = impulses(damaged, torch.zeros_like(damaged))
                    began = time.process_time()
                    filled = fill(damaged * (1 - mask), mask)
                    seconds += time.process_time() - began
                    scores.append(psnr(filled.clamp(0, 1), x))
                told.append(f"{title} {statistics.fmean(scores):.2f} dB {seconds / megapixels:.2f} s")
            print(f"{name} {strength:g}:", "  ".join(told), flush=True)


if __name__ == "__main__":
    main()
