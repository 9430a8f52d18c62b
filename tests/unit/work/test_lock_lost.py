"""A run on a store whose lease another took over ends at once: no run.json, no report, nothing removed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from artgen.sinks import manifest
from artgen.storage import atomic, lease
from artgen.storage import uri as uris
from tests import pictures
from tests.runs import artgen_here

OUTPUT = "memory://lock-lost-test/out"
OTHERS = {"host": "h", "machine": "m", "pid": 1, "token": "other", "renewed": 0, "ended": False}


def test_a_run_that_lost_its_lease_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"{n}.png": pictures.png(pictures.picture(n)) for n in range(3)}
    command = ("restore", pictures.write_folder(tmp_path / "in", contents), OUTPUT)
    flags = ("--model", "identity", "--workers", "1", "--engine", "local", "--unit-images", "1")
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    commit = manifest.write

    def commit_and_sleep(*unit: Any) -> None:
        commit(*unit)
        uris.remove(f"{OUTPUT}/_artgen/lock-000001")
        atomic.write(f"{OUTPUT}/_artgen/lock-000002", json.dumps(OTHERS).encode())
        until = time.monotonic() + 10
        while time.monotonic() < until:  # the laptop wakes up, and the renewal sees it
            time.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", commit_and_sleep)
        result = artgen_here(*command, *flags)
    assert result.returncode == 1
    assert "lost its lease" in result.stderr
    assert "the same command goes on" in result.stderr
    assert len(uris.names(f"{OUTPUT}/manifest")) == 1
    left = uris.names(f"{OUTPUT}/_artgen")
    assert "run.json" not in left
    assert [name for name in left if name.startswith("lock")] == ["lock-000002"]

    atomic.write(f"{OUTPUT}/_artgen/lock-000002", json.dumps({**OTHERS, "ended": True}).encode())
    result = artgen_here(*command, *flags)
    assert result.returncode == 0, result.stderr
    assert "1 of 3 images already done" in result.stderr
    uris.remove("memory://lock-lost-test")
