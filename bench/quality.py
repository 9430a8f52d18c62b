"""How good a restorer is: PSNR and SSIM per damage on public test pictures, beside classical peers on the same files.

    python bench/quality.py [--model NAME|PATH] [--data FOLDER] [--images N] [--tasks WORD] [--no-peers] [--out FOLDER]

Protocol: noise is float, not clipped before restoring ("published"), or rounded to 8 bits ("file"); the result is
clipped, not rounded. Damage is a function of the task and the number of the picture. Pictures are restored whole.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from artgen.metrics import classical
from artgen.metrics.pairs import psnr, ssim
from artgen.models.spec import Restorer
from artgen.models.weights import load
from artgen.training.data import stable_seed
from artgen.training.degrade import OPERATORS
from artgen.training.dice import Dice

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


def read(path: Path) -> Tensor:
    """1 x C x H x W in [0, 1], C = 1 for grey files."""
    with Image.open(path) as opened:
        pixels = np.atleast_3d(np.array(opened if opened.mode == "L" else opened.convert("RGB")))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(255)


@torch.inference_mode()
def restore(restorer: Restorer, image: Tensor, mask: Tensor) -> Tensor:
    """The whole picture at once, mirrored up to the model's multiple; grey through a colour model is averaged."""
    height, width = image.shape[-2:]
    multiple, channels = restorer.facts.multiple, restorer.facts.channels
    pad = (0, -width % multiple, 0, -height % multiple)
    given = F.pad(image.expand(-1, channels, -1, -1), pad, mode="reflect")
    restored = restorer(given.contiguous(memory_format=torch.channels_last), F.pad(mask, pad, mode="reflect"))
    restored = restored[..., :height, :width]
    return (restored if image.shape[1] == channels else restored.mean(1, keepdim=True)).clamp(0, 1)


def peers_of(
    task: Task, image: np.ndarray, mask: np.ndarray, clean: np.ndarray
) -> dict[str, Callable[[], np.ndarray]]:
    if task.damage.startswith("noise"):
        return {"nl-means": lambda: classical.non_local_means(image, task.strength)}
    if task.damage in ("poisson", "speckle"):
        return {"nl-means": lambda: classical.non_local_means(image, 255 * float(np.std(image - clean)))}
    if task.damage in ("quantise", "resample"):
        return {}
    if task.damage == "salt-pepper":
        return {
            "best median": lambda: classical.best_median(image, clean),
            "adaptive median": lambda: classical.adaptive_median(image, clean),
            "detect+linear": lambda: classical.detect_and_interpolate(image, clean),
        }
    if task.damage == "jpeg":
        return {"nl-means": lambda: classical.non_local_means(image, 60 / math.sqrt(task.strength))}
    inpaint = {
        "telea": lambda: classical.telea(image, mask),
        "navier-stokes": lambda: classical.navier_stokes(image, mask),
    }
    if task.damage == "missing":
        inpaint["cubic"] = lambda: classical.cubic_interpolation(image, mask)
    return inpaint


def as_numpy(x_1CHW: Tensor) -> np.ndarray:
    return np.squeeze(x_1CHW[0].permute(1, 2, 0).double().numpy())


def run_task(task: Task, restorer: Restorer, data: Path, images: int, peers: bool) -> tuple[dict, Tensor]:
    """Mean scores of the input, the restorer and the peers, and a strip input | output | target of one picture."""
    files = sorted((data / task.folder).glob("*.png")) or sorted((data / task.folder).iterdir())
    files = files[: min(images, task.first or images)]
    scores: dict[str, list[float]] = {}
    strip = torch.empty(0)
    for number, path in enumerate(files):
        clean = read(path)
        dice = Dice(stable_seed("quality", task.damage, str(task.strength), number))
        image, mask = OPERATORS[task.damage](clean, task.strength, dice)
        restored = restore(restorer, image, mask)
        scores.setdefault("input", []).append(psnr(image, clean))
        scores.setdefault("restored", []).append(psnr(restored, clean))
        scores.setdefault("restored_ssim", []).append(ssim(restored, clean))
        if peers:
            for name, repair in peers_of(task, as_numpy(image), as_numpy(mask), as_numpy(clean)).items():
                repaired = torch.from_numpy(np.atleast_3d(repair())).permute(2, 0, 1)[None]
                scores.setdefault(name, []).append(psnr(repaired, clean))
        if number == stable_seed("panel", task.damage, task.folder) % len(files):
            strip = torch.cat([image, restored, clean], dim=3)
    row = {"set": task.folder, "damage": task.damage, "strength": task.strength, "images": len(files)}
    return {**row, **{k: round(sum(v) / len(v), 4) for k, v in scores.items()}, "published": task.published}, strip


def ffdnet_shape(channels: int = 1, width: int = 64, depth: int = 15) -> nn.Module:
    """The layers of FFDNet (Zhang et al. 2018, table 1) with random weights, grey by default: the measure of CPU time."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 4 * channels, 3, padding=1), nn.PixelShuffle(2)).eval()


@torch.inference_mode()
def seconds_per_megapixel(restorer: Restorer) -> dict[str, float]:
    """CPU seconds of one thread for 512 x 512 pixels, per megapixel, best of five, taken in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    colour, mask = torch.rand(1, 3, 512, 512), torch.zeros(1, 1, 512, 512)
    impulses = torch.where(torch.rand_like(mask) < 0.1, 0.0, colour)
    grey_net, colour_net = ffdnet_shape(), ffdnet_shape(3, 96, 12)
    runs: dict[str, Callable[[], Tensor]] = {
        "restorer": lambda: restore(restorer, colour, mask),
        "restorer, some pixels 0": lambda: restore(restorer, impulses, mask),
        "ffdnet_shape grey": lambda: grey_net(colour[:, :1]),
        "ffdnet_shape colour": lambda: colour_net(colour),
    }
    best = dict.fromkeys(runs, math.inf)
    for _ in range(5):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], (time.process_time() - start) / (512 * 512 / 1e6))
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
    rows = []
    for task in TASKS:
        if arguments.tasks not in f"{task.folder} {task.damage}":
            continue
        row, strip = run_task(task, restorer, arguments.data, arguments.images, not arguments.no_peers)
        rows.append(row)
        print(json.dumps(row), flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            pixels = strip[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).squeeze().numpy()
            Image.fromarray(pixels).save(arguments.out / f"{task.folder}-{task.damage}-{task.strength:g}.png")
    cost = seconds_per_megapixel(restorer)
    print(json.dumps({"cpu_seconds_per_megapixel": cost}))
    if arguments.out:
        summary = {"model": restorer.facts.name, "sha256": restorer.sha256, "rows": rows, "cpu_s_per_mp": cost}
        (arguments.out / "quality.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
