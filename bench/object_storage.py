"""What object storage costs: the same pictures from an S3 bucket into one, against from a folder into one.

    python bench/object_storage.py [--images N] [--rounds N]

The server (seaweedfs) runs on this machine. Each round runs N and 3 N images both ways, one after the other; the difference
is the cost of an image. CPU seconds are artgen's alone. To reach: 1.10 in wall time per image at equal concurrency.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from measure import ROOT, photographs, run, table

sys.path.insert(0, str(ROOT))
from tests.s3 import S3Server, serve

WAYS = ("folder to folder", "S3 to S3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        (Path(name) / "weed").mkdir()
        with serve(Path(name) / "weed") as server:
            compare(Path(name), server, args.images, args.rounds)


def compare(folder: Path, server: S3Server, images: int, rounds: int) -> None:
    local = {count: photographs(folder / f"in-{count}", count) for count in (images, 3 * images)}
    remote = {count: upload(path, server) for count, path in local.items()}
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, places, base, env in (
            (WAYS[0], local, str(folder), {}),
            (WAYS[1], remote, server.bucket(), server.environment),
        ):
            few, many = (restored(str(places[count]), base, env) for count in (images, 3 * images))
            wall[way].append((many[0] - few[0]) / (2 * images))
            cpu[way].append((many[1] - few[1]) / (2 * images))
    base_s = statistics.median(wall[WAYS[0]])
    rows = {
        way: (
            statistics.median(wall[way]),
            statistics.median(cpu[way]),
            statistics.median(wall[way]) / base_s,
            f"{min(wall[way]) / base_s:.2f} to {max(wall[way]) / base_s:.2f}",
        )
        for way in WAYS
    }
    table("768x512, local engine, one thread", rows, ("wall s/image", "CPU s/image", "ratio", "rounds"))


def restored(source: str, base: str, env: Mapping[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a run into a new place below `base`."""
    output = f"{base}/out-{uuid.uuid4().hex}"
    flags = ["--unit-images", "8", "--engine", "local", "--workers", "1", "--quiet"]
    used = run([sys.executable, "-m", "artgen", "restore", source, output, *flags], {"OMP_NUM_THREADS": "1", **env})
    return used.wall_s, used.cpu_s


def upload(folder: Path, server: S3Server) -> str:
    from artgen.storage import uri

    place = f"{server.bucket()}/in"
    fs, path = uri.filesystem(place, server.options)
    for file in sorted(folder.iterdir()):
        fs.pipe_file(f"{path}/{file.name}", file.read_bytes())
    return place


if __name__ == "__main__":
    main()
