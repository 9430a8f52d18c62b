"""What the benches share: commands with all their processes measured, pictures to work on, tables of ratios."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds by the clock, CPU seconds of all processes, and the most memory that they shared out at once (PSS)."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: str = ""


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Used:
    """Runs a command to its end. Every process that it starts carries a mark, so it counts wherever it hangs in the tree.

    CPU time is sampled, so good to about 0.1 s for each process. Linux only.
    """
    mark = f"ARTGEN_BENCH={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    sampler = _Sampler(mark.encode())
    began = time.perf_counter()
    process = subprocess.Popen(
        list(command), env={**os.environ, **(env or {}), name: value}, cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    sampler.start()
    out, errors = process.communicate()
    wall_s = time.perf_counter() - began
    sampler.end()
    if process.returncode:
        sys.exit(f"{' '.join(command)[:300]} ended with {process.returncode}:\n{errors[-2000:]}")
    return Used(wall_s, sum(sampler.cpu_s.values()), sampler.peak_mb, out)


class _Sampler(threading.Thread):
    def __init__(self, mark: bytes) -> None:
        super().__init__(daemon=True)
        self.cpu_s: dict[int, float] = {}
        self.peak_mb = 0.0
        self._mark = mark
        self._ended = threading.Event()

    def end(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        strangers = {os.getpid()}
        rounds = 0
        while not self._ended.wait(0.1):
            found = self._look(strangers)
            if rounds % 5 == 0:  # smaps_rollup is slow to make
                self.peak_mb = max(self.peak_mb, sum(map(_shared_out_mb, found)))
            rounds += 1

    def _look(self, strangers: set[int]) -> list[int]:
        found = []
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            if pid in strangers:
                continue
            try:
                if pid not in self.cpu_s and self._mark not in Path(f"/proc/{pid}/environ").read_bytes().split(
                    b"\0"
                ):
                    if Path(f"/proc/{pid}/cmdline").read_bytes():  # between fork and exec nothing is known yet
                        strangers.add(pid)
                    continue
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
                continue
            self.cpu_s[pid] = (int(fields[11]) + int(fields[12])) / TICKS
            found.append(pid)
        return found


def _shared_out_mb(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended
        return 0.0
    return 0.0


def photographs(target: Path, count: int, sizes: Sequence[tuple[int, int]] = ((768, 512),)) -> Path:
    """`count` JPEG files of quality 92 in `target`, of the (width, height) of `sizes` in turn.

    Crops of ../shared's wallpapers, resized; without them, of the pictures of scikit-image. The crop depends on the number.
    """
    target.mkdir(parents=True)
    originals = _originals()
    for number in range(count):
        dice = np.random.default_rng(number)
        picture = originals[number % len(originals)]
        width, height = sizes[number % len(sizes)]
        scale = min(picture.width / width, picture.height / height) * dice.uniform(0.6, 1.0)
        crop_w, crop_h = width * scale, height * scale
        left, top = dice.uniform(0, picture.width - crop_w), dice.uniform(0, picture.height - crop_h)
        box = (left, top, left + crop_w, top + crop_h)
        crop = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
        crop.save(target / f"{number:05d}.jpg", quality=92)
    return target


def _originals() -> list[Image.Image]:
    folder = SHARED / "restore_train" / "wallpapers48"
    if folder.is_dir():
        paths = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
        )
        return [Image.open(path).convert("RGB") for path in paths]
    from skimage import data

    return [Image.fromarray(make()) for make in (data.astronaut, data.chelsea, data.coffee, data.rocket)]


def table(title: str, rows: Mapping[str, Sequence[float | str]], columns: Sequence[str]) -> None:
    """Prints one line for each row; the first column is its name."""
    widths = [max(12, len(column) + 2) for column in columns]
    first = max(len(name) for name in [*rows, title]) + 2
    print(
        f"\n{title:{first}}" + "".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
    )
    for name, values in rows.items():
        cells = [
            f"{value:>{width}.3f}" if isinstance(value, float) else f"{value:>{width}}"
            for value, width in zip(values, widths, strict=True)
        ]
        print(f"{name:{first}}" + "".join(cells))
    sys.stdout.flush()
