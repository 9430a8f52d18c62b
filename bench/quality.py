"""How good a restorer is: PSNR and SSIM per damage on public test pictures, beside classical peers on the same files.

    python bench/quality.py [--model NAME|PATH] [--data FOLDER] [--images N] [--tasks WORD] [--no-peers] [--out FOLDER]

What `artgen evaluate restorer` measures with its published protocol, for the sets and strengths of the published tables, and
the CPU time of the network beside FFDNet's layers.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from artgen.models.spec import Restorer
from artgen.models.weights import load
from artgen.work.evaluation import Evaluation, restored_whole
from artgen.work.evaluation import Task as Damage

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "restore_test"


@dataclass(frozen=True)
class Task:
    folder: str
    damage: str
    strength: float
    published: str = ""
    first: int | None = None


TASKS = (
    Task("CBSD68", "noise", 15, "CBM3D 33.52, FFDNet 33.87"),
    Task("CBSD68", "noise", 25, "CBM3D 30.71, FFDNet 31.21"),
    Task("CBSD68", "noise", 50, "CBM3D 27.38, FFDNet 27.96"),
    Task("CBSD68", "noise-in-file", 25),
    Task("BSD68", "noise", 15, "BM3D 31.08, DnCNN-B 31.61"),
    Task("BSD68", "noise", 25, "BM3D 28.57, DnCNN-B 29.16"),
    Task("BSD68", "noise", 50, "BM3D 25.60, DnCNN-B 26.23"),
    Task("Set12", "noise", 25, "BM3D 29.97, DnCNN-B 30.36"),
    Task("Set12", "salt-pepper", 0.3, first=7),
    Task("Set12", "salt-pepper", 0.5, first=7),
    Task("Set12", "salt-pepper", 0.7, first=7),
    Task("Set12", "missing", 0.5, first=7),
    Task("Set12", "missing", 0.8, first=7),
    Task("CBSD68", "holes", 0.15, first=20),
    Task("CBSD68", "scratches", 0.05, first=20),
    Task("Classic5", "jpeg", 10, "ARCNN 29.03, DnCNN-3 29.40"),
    Task("Classic5", "jpeg", 20, "ARCNN 31.15, DnCNN-3 31.63"),
    # Kept out of training (degrade.UNSEEN): how far the restorer generalises.
    Task("CBSD68", "poisson", 40, first=20),
    Task("CBSD68", "speckle", 50, first=20),
    Task("CBSD68", "quantise", 16, first=20),
    Task("CBSD68", "resample", 2, first=20),
)


def run_task(task: Task, evaluation: Evaluation, data: Path, images: int) -> tuple[dict, np.ndarray]:
    """Mean scores of the input, the restorer and the peers, and a strip input | output | target of the first picture."""
    files = sorted((data / task.folder).glob("*.png")) or sorted((data / task.folder).iterdir())
    pictures = ((path.name, read(path)) for path in files[: min(images, task.first or images)])
    (scores,) = evaluation.run([Damage(task.damage, task.strength)], pictures)
    row = {"set": task.folder, "damage": task.damage, "strength": task.strength, "images": scores.images}
    for name, means in scores.means().items():
        ours = name == evaluation.name
        row["restored" if ours else name] = round(means["psnr"], 4)
        if ours:
            row["restored_ssim"] = round(means["ssim"], 4)
    return {**row, "published": task.published}, np.concatenate(scores.panel, axis=1)


def read(path: Path) -> np.ndarray:
    """H x W x C uint8, C = 1 for grey files."""
    with Image.open(path) as opened:
        return np.atleast_3d(np.array(opened if opened.mode == "L" else opened.convert("RGB")))


def ffdnet_shape(channels: int = 1, width: int = 64, depth: int = 15) -> nn.Module:
    """The layers of FFDNet (Zhang et al. 2018, table 1) with random weights, grey by default: the measure of CPU time."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 4 * channels, 3, padding=1), nn.PixelShuffle(2)).eval()


@torch.inference_mode()
def seconds_per_megapixel(restorer: Restorer) -> dict[str, float]:
    """CPU seconds of one thread for 512 x 512 pixels, per megapixel, best of five, taken in turns; of FFDNet's layers in the
    layout that is faster for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    colour, mask = torch.rand(1, 3, 512, 512), torch.zeros(1, 1, 512, 512)
    impulses = torch.where(torch.rand_like(mask) < 0.1, 0.0, colour)
    grey_net, colour_net = ffdnet_shape(), ffdnet_shape(3, 96, 12)
    runs: dict[str, Callable[[], Tensor]] = {
        "restorer": lambda: restored_whole(restorer, colour, mask),
        "restorer, some pixels 0": lambda: restored_whole(restorer, impulses, mask),
    }
    for name, net, given in (("grey", grey_net, colour[:, :1]), ("colour", colour_net, colour)):
        for layout in (torch.contiguous_format, torch.channels_last):
            laid, x = copy.deepcopy(net).to(memory_format=layout), given.contiguous(memory_format=layout)
            runs[f"ffdnet_shape {name} {layout}"] = lambda laid=laid, x=x: laid(x)
    best: dict[str, float] = {}
    for _ in range(5):
        for name, run in runs.items():
            start = time.process_time()
            run()
            shown = name.partition(" torch.")[0]
            best[shown] = min(best.get(shown, math.inf), (time.process_time() - start) / (512 * 512 / 1e6))
    torch.set_num_threads(threads)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--images", type=int, default=10**6, help="at most this many pictures of each set")
    parser.add_argument("--tasks", default="", help="only tasks whose set or damage holds this word")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for quality.json and the panels")
    arguments = parser.parse_args()
    restorer = load(arguments.model)
    restorer.module.to(memory_format=torch.channels_last)
    evaluation = Evaluation(restorer, peers=not arguments.no_peers)
    rows = []
    for task in TASKS:
        if arguments.tasks not in f" {task.folder} {task.damage}":
            continue
        row, strip = run_task(task, evaluation, arguments.data, arguments.images)
        rows.append(row)
        print(json.dumps(row), flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.squeeze(strip)).save(
                arguments.out / f"{task.folder}-{task.damage}-{task.strength:g}.png"
            )
    cost = seconds_per_megapixel(restorer)
    print(json.dumps({"cpu_seconds_per_megapixel": cost}))
    if arguments.out:
        summary = {"model": restorer.facts.name, "sha256": restorer.sha256, "rows": rows, "cpu_s_per_mp": cost}
        (arguments.out / "quality.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
