"""Running the product as a user does, and reading what it leaves behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from artgen.cli import main

ARTGEN = [sys.executable, "-m", "artgen"]


def environment() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "2", **os.environ, "COLUMNS": "200"}


def artgen(*args: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    command = [*ARTGEN, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)


def artgen_here(*args: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in this process: for the many commands whose start-up is not the point."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, args)])
    return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The limit on file sizes is the nearest thing to a full disk that any user may set up; the error is real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(output: Path) -> list[dict[str, Any]]:
    """All rows of the manifest by key; fails when a key has two."""
    found = [
        row
        for part in sorted((output / "manifest").glob("part-*.parquet"))
        for row in pq.read_table(part).to_pylist()
    ]
    keys = [row["key"] for row in found]
    assert len(keys) == len(set(keys)), f"keys with two rows: {sorted(k for k in set(keys) if keys.count(k) > 1)}"
    return sorted(found, key=lambda row: row["key"])


def shas(output: Path) -> dict[str, str]:
    """SHA-256 of each picture by key, checked against the files."""
    found = {}
    for row in rows(output):
        if row["status"] == "ok" and (output / row["output_uri"]).is_file():
            digest = hashlib.sha256((output / row["output_uri"]).read_bytes()).hexdigest()
            assert digest == row["output_sha256"], row["key"]
        found[row["key"]] = row["output_sha256"]
    return found


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 by relative path of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_json(output: Path) -> dict[str, Any]:
    return json.loads((output / "_artgen" / "run.json").read_text())
