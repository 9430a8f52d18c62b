"""What it costs to list an archive of archives in a store that takes its time: one request after the other, many at once,
and again by the kept indexes.

    python bench/listing.py [--tars N] [--members N] [--latency-ms MS]

The store is fsspec's memory:// with a wait before each request, so that nothing but the number of requests, and how many are
under way at once, is measured. Each tar holds N members of 200 KB: one request for each to walk it.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from measure import ROOT, table

sys.path.insert(0, str(ROOT))
from artgen.storage import ahead
from artgen.storage.archive import scan

WAYS = ("one after the other", "ahead", "again, kept in a folder", "again, kept in the store")
MEMBER_BYTES = 200_000


class SlowFileSystem(MemoryFileSystem):
    """memory:// whose every request takes `latency_s`."""

    protocol = "slow"
    store = {}  # noqa: RUF012 - as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012
    latency_s = 0.0
    requests = 0
    lock = threading.Lock()

    def _wait(self) -> None:
        with SlowFileSystem.lock:
            SlowFileSystem.requests += 1
        time.sleep(SlowFileSystem.latency_s)

    def cat_file(self, *args: Any, **kwargs: Any) -> bytes:
        self._wait()
        return super().cat_file(*args, **kwargs)

    def info(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self._wait()
        return super().info(*args, **kwargs)

    def put_file(self, *args: Any, **kwargs: Any) -> None:
        self._wait()
        super().put_file(*args, **kwargs)

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).replace("slow://", "memory://", 1))


def tar(members: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(members):
            info = tarfile.TarInfo(f"{number:06}.jpg")
            info.size = MEMBER_BYTES
            archive.addfile(info, io.BytesIO(bytes(MEMBER_BYTES)))
    return buffer.getvalue()


def listed(place: str, cache_dir: str | None) -> tuple[float, int, list[Any]]:
    """Seconds, requests and what was found."""
    SlowFileSystem.requests = 0
    begun = time.perf_counter()
    found = list(scan(place, cache_dir=cache_dir))
    return time.perf_counter() - begun, SlowFileSystem.requests, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tars", type=int, default=40)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--latency-ms", type=float, default=30)
    args = parser.parse_args()
    fsspec.register_implementation("slow", SlowFileSystem, clobber=True)
    fs, data = SlowFileSystem(), tar(args.members)
    for number in range(args.tars):
        fs.pipe_file(f"/bench/{number:05}.tar", data)
    SlowFileSystem.latency_s = args.latency_ms / 1000
    most = ahead.MOST_TASKS
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        folder, store = str(Path(name) / "index"), "slow://kept"
        ahead.MOST_TASKS = 1
        runs = [listed("slow://bench", None)]
        ahead.MOST_TASKS = most
        runs.append(listed("slow://bench", folder))
        runs.append(listed("slow://bench", folder))
        listed("slow://bench", store)
        runs.append(listed("slow://bench", store))
    assert all(found == runs[0][2] for _, _, found in runs)
    base_s = runs[0][0]
    rows = {
        way: (seconds, requests, base_s / seconds) for way, (seconds, requests, _) in zip(WAYS, runs, strict=True)
    }
    title = f"{args.tars} tars of {args.members} members, {args.latency_ms:g} ms a request"
    table(title, rows, ("seconds", "requests", "times as fast"))


if __name__ == "__main__":
    main()
