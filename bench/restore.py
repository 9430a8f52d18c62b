"""How fast `artgen restore` is, each figure a ratio against a peer in the same run.

    python bench/restore.py [FOLDER] [--images N] [--rounds N]

FOLDER: photographs (default: ../shared/data/restore_train/CBSD432, else generated pictures). Peers that are not installed
are left out and said so. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "restore_train" / "CBSD432"

PLAIN = """
import sys, pathlib, numpy as np, torch
from PIL import Image
sys.path.insert(0, {root!r})
from artgen.models.weights import load
model = load("default")
out = pathlib.Path({out!r}); out.mkdir()
for path in sorted(pathlib.Path({source!r}).iterdir()):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    h, w = pixels.shape[:2]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.pad(x, (0, -w % 8, 0, -h % 8), mode="reflect")
    with torch.inference_mode():
        y = model(x)[0, :, :h, :w]
    y = (y.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(y).save(out / (path.stem + ".png"))
"""

RAY_DATA = """
import sys, numpy as np, ray
sys.path.insert(0, {root!r})
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
class Restore:
    def __init__(self):
        import torch
        from artgen.models.weights import load
        torch.set_num_threads(1)
        self.model = load("default")
    def __call__(self, row):
        import torch
        h, w = row["image"].shape[:2]
        x = torch.from_numpy(row["image"].copy()).permute(2, 0, 1)[None].float() / 255
        x = torch.nn.functional.pad(x, (0, -w % 8, 0, -h % 8), mode="reflect")
        with torch.inference_mode():
            y = self.model(x)[0, :, :h, :w]
        row["image"] = (y.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
        return row
ds = ray.data.read_images({source!r}, mode="RGB").map(Restore, concurrency=1, num_cpus=1)
ds.write_images({out!r}, column="image", file_format="png")
"""

DAFT = """
import sys, io, daft, numpy as np
sys.path.insert(0, {root!r})
from pathlib import Path
from PIL import Image
import torch
from artgen.models.weights import load
model = load("default")
out = Path({out!r}); out.mkdir()
@daft.func(return_dtype=daft.DataType.string())
def restore(image, path: str) -> str:
    pixels = np.asarray(image)
    h, w = pixels.shape[:2]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    x = torch.nn.functional.pad(x, (0, -w % 8, 0, -h % 8), mode="reflect")
    with torch.inference_mode():
        y = model(x)[0, :, :h, :w]
    y = (y.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()
    target = out / (Path(path).stem + ".png")
    Image.fromarray(y).save(target)
    return str(target)
df = daft.from_glob_path({source!r} + "/*")
df = df.with_column("image", df["path"].download().decode_image(mode="RGB"))
df = df.with_column("done", restore(df["image"], df["path"])).select("done").collect()
"""

BARE = """
import torch, sys
sys.path.insert(0, {root!r})
from artgen.models.weights import load
model = load("default")
with torch.inference_mode():
    model(torch.rand(1, 3, {height}, {width}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        work = Path(name)
        source = photographs(args.folder, args.images, work)
        print(f"{args.images} pictures, {megapixels(source):.1f} MP, {os.cpu_count()} cores\n")
        table("warm, this process", warm(source, work, args.rounds))
        table("whole processes", cold(source, work, args.rounds))
        table("one image, whole process", start_up(source, work, args.rounds))
        table("peak memory", memory(source, work))


def photographs(folder: Path | None, count: int, work: Path) -> Path:
    source = work / "in"
    source.mkdir()
    folder = folder or (PHOTOGRAPHS if PHOTOGRAPHS.is_dir() else None)
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".png")) if folder else []
    for number in range(count):
        if found:
            shutil.copy(found[number % len(found)], source / f"{number:04d}{found[number % len(found)].suffix}")
        else:
            noise = np.random.default_rng(number).normal(128, 40, (321, 481, 3))
            Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(source / f"{number:04d}.jpg", quality=92)
    return source


def megapixels(source: Path) -> float:
    return sum(Image.open(path).width * Image.open(path).height for path in source.iterdir()) / 1e6


def warm(source: Path, work: Path, rounds: int) -> dict[str, float]:
    """Images a second once everything is loaded: artgen's local engine against the model alone on the same tensors, by as
    many threads, and against a plain loop over the files."""
    import torch

    from artgen.engines.local import cores
    from artgen.models.weights import load

    model = load("default")
    tensors = []
    for path in sorted(source.iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        h, w = pixels.shape[:2]
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
        x = torch.nn.functional.pad(x, (0, -w % 8, 0, -h % 8), mode="reflect")
        tensors.append(x.to(memory_format=torch.channels_last))

    def model_only() -> None:
        def forward(x: torch.Tensor) -> None:
            with torch.inference_mode():
                model(x)

        torch.set_num_threads(1)
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(forward, tensors))

    def plain() -> None:
        torch.set_num_threads(cores())
        out = work / "plain-warm"
        shutil.rmtree(out, ignore_errors=True)
        exec(compile(PLAIN.format(root=str(ROOT), source=str(source), out=str(out)), "plain", "exec"), {})

    seconds: dict[str, list[float]] = {"model only": [], "artgen": [], "plain script": []}
    for _ in range(rounds):
        seconds["model only"].append(timed(model_only))
        seconds["artgen"].append(local_engine(source, work / "warm"))
        seconds["plain script"].append(timed(plain))
    return {name: statistics.median(values) for name, values in seconds.items()}


def local_engine(source: Path, out: Path) -> float:
    """Seconds of the local engine from the first unit to the last commit."""
    from artgen.commands.places import check_output
    from artgen.commands.restore import make_job, settings_of
    from artgen.config import RestoreConfig
    from artgen.console import Console
    from artgen.engines.local import LocalEngine
    from artgen.storage import archive
    from artgen.storage.ledger import Ledger
    from artgen.work import plan as plans
    from artgen.work.listing import Listing
    from artgen.work.unit import Publish

    shutil.rmtree(out, ignore_errors=True)
    config = RestoreConfig(input=str(source), output=str(out), engine="local")
    with Listing(config.input, archive.scan(config.input)) as listed, closing(LocalEngine(config, 10**6)) as engine:
        restorer, job = make_job(config)
        check_output(config)
        plan = plans.prepare(listed, config.output, settings_of(config, job))
        refs = list(plan.pending(Ledger(config.output)))
        publish = Publish(config.output, config.to)
        time.sleep(1.0)  # the decoder processes have booted
        return timed(lambda: list(engine.run(plan, refs, job, publish, restorer, Console(quiet=True))))


def cold(source: Path, work: Path, rounds: int) -> dict[str, float]:
    def run(name: str, *command: str) -> float:
        out = work / name.replace(" ", "-")
        shutil.rmtree(out, ignore_errors=True)
        filled = [part.format(root=str(ROOT), source=str(source), out=str(out)) for part in command]
        seconds = timed(lambda: subprocess.run(filled, check=True, capture_output=True))
        made = len(list((out / "images" if (out / "images").is_dir() else out).iterdir()))
        assert made == len(list(source.iterdir())), f"{name} made {made} pictures"
        return seconds

    commands = {
        "artgen": [sys.executable, "-m", "artgen", "restore", "{source}", "{out}"],
        "plain script": [sys.executable, "-c", PLAIN],
        "Ray Data as documented": [sys.executable, "-c", RAY_DATA],
    }
    try:
        import daft  # noqa: F401

        commands["Daft"] = [sys.executable, "-c", DAFT]
    except ImportError:
        print("Daft is left out: not installed (pip install daft)")
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            seconds[name].append(run(name, *command))
    return {name: statistics.median(values) for name, values in seconds.items()}


def start_up(source: Path, work: Path, rounds: int) -> dict[str, float]:
    path = min(source.iterdir())
    width, height = (side + -side % 8 for side in Image.open(path).size)
    bare = [sys.executable, "-c", BARE.format(root=str(ROOT), height=height, width=width)]
    seconds: dict[str, list[float]] = {"import torch + load + forward": [], "artgen": []}
    for number in range(2 * rounds + 1):
        command = [sys.executable, "-m", "artgen", "restore", str(path), str(work / f"one-{number}")]
        seconds["artgen"].append(
            timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))
        )
        seconds["import torch + load + forward"].append(
            timed(lambda: subprocess.run(bare, check=True, capture_output=True))
        )
    return {name: statistics.median(values) for name, values in seconds.items()}


def memory(source: Path, work: Path) -> dict[str, float]:
    """Peak resident memory (MB) of artgen for the first quarter of the pictures and for all of them."""
    few = work / "few"
    few.mkdir()
    for path in sorted(source.iterdir())[: max(1, len(list(source.iterdir())) // 4)]:
        shutil.copy(path, few)
    code = (
        "import resource, sys; from artgen.cli import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    found = {}
    for name, folder in (("artgen, a quarter", few), ("artgen, all", source)):
        command = [
            sys.executable,
            "-c",
            code,
            "restore",
            str(folder),
            str(work / f"memory-{folder.name}"),
            "--quiet",
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = int(done.stdout.split()[-1]) / 1024
    return found


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(title: str, found: dict[str, float]) -> None:
    ours = found.get("artgen") or found["artgen, all"]
    print(f"{title}\n  {'':32} {'s or MB':>9} {'over artgen':>12}")
    for name, value in found.items():
        print(f"  {name:32} {value:9.2f} {value / ours:12.2f}")
    print()


if __name__ == "__main__":
    main()
