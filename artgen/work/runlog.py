"""OUTPUT/_artgen/run.json: what was asked, with what, and how it went."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from artgen import __version__
from artgen.storage import atomic, uri
from artgen.work.plan import Plan

KEPT_RUNS = 50


@dataclass(slots=True)
class Tally:
    """Sums over the outcomes of one run."""

    images: int = 0
    failed: int = 0
    pixels: int = 0
    source_bytes: int = 0
    output_bytes: int = 0
    units: int = 0
    first_failures: list[tuple[str, str]] = field(default_factory=list)


def location(output: str) -> str:
    return uri.join(output, "_artgen", "run.json")


def read(output: str, options: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """None where there is no run.json, or one that a failing disk or an editor has broken: it only tells of what was done."""
    data = uri.read_or_none(location(output), options)
    try:
        run = json.loads(data or b"null")
    except ValueError:
        return None
    return run if isinstance(run, dict) else None


def write(
    plan: Plan, config: dict[str, Any], model: dict[str, Any], run: dict[str, Any], options: dict[str, Any] | None = None
) -> None:  # fmt: skip
    """Replaces run.json; `run` (timings and counts of this run) is added to the earlier ones of `runs`."""
    before = read(plan.output, options) or {}
    facts = {
        "artgen": __version__,
        "versions": _versions(),
        "config": {key: value for key, value in config.items() if key != "storage_options"},
        "settings": plan.settings,
        "model": model,
        "plan": {"hash": plan.hash, "images": plan.images, "units": plan.units, "skipped": plan.skipped},
        "runs": [*before.get("runs", []), run][-KEPT_RUNS:],
    }
    atomic.write(location(plan.output), json.dumps(facts, indent=1, sort_keys=True, default=str).encode(), options)


def run_facts(
    engine: str, device: str, tally: Tally, started: datetime, seconds: float, ended: str
) -> dict[str, Any]:
    """One entry of `runs`. `ended` is `done`, `interrupted` or an error."""
    return {
        **asdict(tally), "engine": engine, "device": device, "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3), "megapixels_per_second": round(tally.pixels / 1e6 / max(seconds, 1e-9), 4), "ended": ended,
    }  # fmt: skip


def now() -> datetime:
    """In UTC."""
    return datetime.now(UTC)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    def found() -> Iterator[tuple[str, str]]:
        for name in ("torch", "numpy", "pillow", "pyarrow", "ray", "isal", "imagecodecs"):
            try:
                yield name, version(name)
            except PackageNotFoundError:
                yield name, "not installed"

    return {"python": platform.python_version(), "system": platform.platform(), **dict(found())}
