"""The share of the time that a GPU is busy, in bench/gpu.py; a driver is played."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("gpu")


def test_without_the_package_it_says_what_to_install(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed or it can't be imported.")

    monkeypatch.setattr(gpu.torch.cuda, "utilization", missing)
    with gpu.Busy("cuda", tmp_path) as share:
        time.sleep(0.5)
    assert str(share) == "busy share: not available (pip install nvidia-ml-py)"


def test_the_start_of_the_process_does_not_count(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = tmp_path / "images"
    monkeypatch.setattr(gpu.torch.cuda, "utilization", lambda: 80 if pictures.exists() else 0)
    with gpu.Busy("cuda", pictures) as share:
        time.sleep(0.7)
        pictures.mkdir()
        time.sleep(0.7)
    assert str(share) == "80% of the time busy"


def test_a_cpu_has_no_share(gpu: Any, tmp_path: Path) -> None:
    with gpu.Busy("cpu", tmp_path) as share:
        pass
    assert str(share) == ""
