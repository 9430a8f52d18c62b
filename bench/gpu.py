"""One command for a machine with a GPU: what the device can do, what artgen makes of it, what the cores can feed.

    python bench/gpu.py [--images 200] [--tile 512] [--batch 16] [--device cuda]

Prints a table in Markdown with the device's name: megapixels a second of the model alone (fp32, bf16, and both
compiled), of `artgen restore` from files to files with the share of time that the device was busy, and of decoding and
encoding on all cores. It needs no Ray. With --device cpu it is a rehearsal: the same steps, figures that mean little.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import torch
from measure import photographs, run
from peers import read

ROWS: list[tuple[str, str]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is usable here; --device cpu rehearses the steps")
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU ({platform.machine()})"
    for precision in ("fp32", "bf16"):
        for compiled in (False, True):
            label = f"model alone, {precision}{', compiled' if compiled else ''}"
            show(label, attempt(lambda p=precision, c=compiled: model_only(args, p, c)))
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as folder:
        source = photographs(Path(folder) / "in", args.images, ((1536, 1024),))
        megapixels = args.images * 1536 * 1024 / 1e6
        for precision in ("fp32", "bf16"):
            show(
                f"files to files, {precision}", attempt(lambda p=precision: end_to_end(args, p, source, megapixels))
            )
        show(f"decode, {os.cpu_count()} cores", attempt(lambda: f"{decode(source, megapixels):.0f}"))
        show(f"encode PNG, {os.cpu_count()} cores", attempt(lambda: f"{encode(source, megapixels):.0f}"))
    print(f"\n| {name}, torch {torch.__version__}, tiles of {args.tile}, batch {args.batch} | MP/s |\n|---|---|")
    for label, value in ROWS:
        print(f"| {label} | {value} |")


def show(label: str, value: str) -> None:
    ROWS.append((label, value))
    print(f"{label}: {value}", file=sys.stderr, flush=True)


def attempt(work: Callable[[], str]) -> str:
    """A step that this machine cannot do (no compiler, no memory) is a line in the table and not its end."""
    try:
        return work()
    except (RuntimeError, SystemExit) as error:
        return f"failed: {str(error).splitlines()[0][:120]}"


def model_only(args: argparse.Namespace, precision: str, compiled: bool) -> str:
    from artgen.models.weights import load

    restorer = load("default")
    module = restorer.module.to(args.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    call = torch.compile(module) if compiled else module
    x = torch.rand(args.batch, 3, args.tile, args.tile, device=args.device).to(memory_format=torch.channels_last)
    mask = torch.zeros(args.batch, 1, args.tile, args.tile, device=args.device)
    autocast = torch.autocast(args.device, torch.bfloat16) if precision == "bf16" else nullcontext()
    with torch.inference_mode(), autocast:
        for _ in range(3):
            call(x, mask)
        synchronize(args.device)
        began, passes = time.perf_counter(), 0
        while time.perf_counter() - began < 5:
            call(x, mask)
            passes += 1
            synchronize(args.device)
        seconds = time.perf_counter() - began
    return f"{passes * args.batch * args.tile**2 / 1e6 / seconds:.1f}"


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def end_to_end(args: argparse.Namespace, precision: str, source: Path, megapixels: float) -> str:
    """Whole process less the time of the same command on one image, so that start-up does not count."""
    flags = ["--engine", "local", "--device", args.device, "--precision", precision, "--quiet"]
    flags += ["--tile", str(args.tile), "--batch", str(args.batch)]
    command = [sys.executable, "-m", "artgen", "restore"]
    one = min(source.iterdir())
    few = run([*command, str(one), str(source.parent / f"one-{precision}"), *flags])
    output = source.parent / f"all-{precision}"
    with Busy(args.device, output / "images") as share:
        all_of_them = run([*command, str(source), str(output), *flags])
    rate = megapixels / max(all_of_them.wall_s - few.wall_s, 1e-9)
    return f"{rate:.1f} ({share})" if str(share) else f"{rate:.1f}"


class Busy:
    """Mean utilisation that the driver reports while the block runs, as text; "" on a CPU.

    Counted from the first picture in the folder `pictures` on: before that a process starts and loads its model.
    """

    def __init__(self, device: str, pictures: Path) -> None:
        self._cuda = device == "cuda"
        self._pictures = pictures
        self._shares: list[float] = []
        self._why_not = "no picture was written while it was looked at"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __str__(self) -> str:
        if not self._cuda:
            return ""
        if not self._shares:
            return f"busy share: not available ({self._why_not})"
        return f"{sum(self._shares) / len(self._shares):.0%} of the time busy"

    def _watch(self) -> None:
        while self._cuda and not self._ended.wait(0.2):
            try:
                share = torch.cuda.utilization() / 100
            except ModuleNotFoundError:
                self._why_not = "pip install nvidia-ml-py"
                return
            except Exception as error:  # noqa: BLE001 - NVML has errors of its own, and none ends a measurement
                self._why_not = str(error)
                return
            if self._pictures.exists():
                self._shares.append(share)


def decode(source: Path, megapixels: float) -> float:
    from artgen.codecs.decode import decode as decoded

    files = [path.read_bytes() for path in sorted(source.iterdir())]
    return megapixels / threaded(files, lambda data: decoded(data, max_pixels=10**9))


def encode(source: Path, megapixels: float) -> float:
    from artgen.codecs.png import encode_png

    return megapixels / threaded([read(path) for path in sorted(source.iterdir())], encode_png)


def threaded(items: list, work: Callable) -> float:
    work(items[0])
    began = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, items))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
