"""bench/scale.py: it needs a ledger as the product reads it, and a schedule that loses nothing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    module = importlib.import_module("scale")
    monkeypatch.setattr(module, "PAGE_S", 0.0)
    return module


def test_a_ledger_of_a_paged_store_is_resumed(scale: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scale.resuming([100, 3000])
    assert "100,000 units start work within 30 s: yes" in capsys.readouterr().out


def test_the_schedule_takes_longer_with_fewer_workers_and_never_less_than_the_ideal(scale: Any) -> None:
    images, rate = 10**6, 100.0
    took = [scale.simulate(images, scale.Cluster(workers, rate, 1e9), seed=1).seconds for workers in (1, 10, 100)]
    assert took == sorted(took, reverse=True)
    assert all(
        seconds >= 0.95 * images / (rate * workers) for seconds, workers in zip(took, (1, 10, 100), strict=True)
    )
    bounded = scale.simulate(images, scale.Cluster(100, rate, 1000.0), seed=1).seconds
    assert bounded >= 0.95 * images / 1000.0


def test_what_is_preempted_is_done_again(scale: Any) -> None:
    calm = scale.simulate(10**5, scale.Cluster(10, 10.0, 1e9, preemptions_per_hour=1e-9), seed=1)
    rough = scale.simulate(10**5, scale.Cluster(10, 10.0, 1e9, preemptions_per_hour=20.0), seed=1)
    assert (calm.redone, calm.preempted) == (0, 0)
    assert rough.redone > 0
    assert rough.preempted > 0
    assert rough.seconds > calm.seconds
