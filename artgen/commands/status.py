"""`artgen status`: how far a run is, told from any machine by what lies in OUTPUT, or in the RUN of a training, alone."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from artgen import text
from artgen.console import Console
from artgen.errors import UsageError
from artgen.report.summary import MAX_REASONS, OTHER, general
from artgen.sinks import manifest
from artgen.storage import uri
from artgen.storage.ledger import Ledger
from artgen.work import plan as plans
from artgen.work import runlog

COLUMNS = ("status", "error_type", "error_message", "width", "height", "seconds")
# The rate is that of the last so many commits ...
RECENT_COMMITS = 1024
# ... since the last pause: a gap of at least this, and longer than twice the work of the unit that ended it.
PAUSE_S = 60.0
SHOWN_REASONS, SHOWN_NODES = 5, 20


@dataclass(frozen=True, slots=True, order=True)
class Commit:
    """One manifest part: when and where it was written, what it holds, and the seconds that its images took."""

    at: float
    node: str
    images: int
    pixels: int
    work_s: float


@dataclass(slots=True)
class Node:
    """What one machine has committed. last: when it last did, in seconds since 1970."""

    images: int = 0
    failed: int = 0
    pixels: int = 0
    last: float = 0.0


@dataclass(slots=True)
class Status:
    """What the manifest says. `recent` is a heap of the latest commits, so memory does not grow with the parts."""

    ok: int = 0
    failed: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    nodes: dict[str, Node] = field(default_factory=dict)
    recent: list[Commit] = field(default_factory=list)

    def add(self, batch: Any) -> None:
        """A record batch of COLUMNS: the rows of one part."""
        rows = batch.to_pylist()
        failed = [row for row in rows if row["status"] == "failed"]
        self.ok += len(rows) - len(failed)
        self.failed += len(failed)
        for row in failed:
            reason = (row["error_type"] or "Failed", general(row["error_message"] or "no reason was recorded"))
            known = reason in self.reasons or len(self.reasons) < MAX_REASONS
            self.reasons[reason if known else (reason[0], OTHER)] += 1
        written = manifest.written(batch.schema)
        if written is None:  # by a release that did not tell
            return
        at, name = written
        pixels = sum((row["width"] or 0) * (row["height"] or 0) for row in rows)
        node = self.nodes.setdefault(name, Node())
        node.images, node.failed = node.images + len(rows), node.failed + len(failed)
        node.pixels, node.last = node.pixels + pixels, max(node.last, at)
        commit = Commit(at, name, len(rows), pixels, sum(row["seconds"] for row in rows))
        if len(self.recent) < RECENT_COMMITS:
            heapq.heappush(self.recent, commit)
        else:
            heapq.heappushpop(self.recent, commit)


@dataclass(frozen=True, slots=True)
class Rate:
    """Per second, over the commits since the last pause; 0 where fewer than two commits tell."""

    images: float = 0.0
    megapixels: float = 0.0
    nodes: dict[str, float] = field(default_factory=dict)


def rate(recent: Iterable[Commit]) -> Rate:
    """The first commit since the last pause only starts the clock: its images were done before."""
    commits = sorted(recent)
    begin = 0
    for number in range(1, len(commits)):
        gap = commits[number].at - commits[number - 1].at
        if gap > max(PAUSE_S, 2 * commits[number].work_s):
            begin = number
    counted = commits[begin + 1 :]
    seconds = counted[-1].at - commits[begin].at if counted else 0.0
    if seconds <= 0:
        return Rate()
    nodes: Counter[str] = Counter()
    for commit in counted:
        nodes[commit.node] += commit.images
    return Rate(
        sum(commit.images for commit in counted) / seconds,
        sum(commit.pixels for commit in counted) / 1e6 / seconds,
        {name: images / seconds for name, images in nodes.items()},
    )


def status(output: str, console: Console, *, storage_options: dict[str, Any] | None = None) -> int:
    """Says how far the run in OUTPUT is. Reads the manifest once; starts and writes nothing.

    Raises UsageError where OUTPUT holds no run.
    """
    found = uri.names(output, storage_options)
    if "recipe.json" in found:
        facts = gather_training(output, storage_options)
        console.result(facts, training_in_words(facts))
        return 0
    if "_artgen" not in found:
        raise UsageError(
            f"{uri.shown(output)} holds no run of artgen: give the OUTPUT of `artgen restore` or `artgen generate`, or "
            "the RUN of `artgen train`"
        )
    facts = gather(output, storage_options)
    console.result(facts, in_words(facts))
    return 0


def gather_training(run: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `artgen status --json` prints of the RUN of a training. report: the last line of the log that names its step."""
    from artgen.training.journal import LOG, read_log
    from artgen.training.state import last_step

    report = next((line for line in reversed(read_log(run, options)) if "step" in line), None)
    return {
        "run": uri.shown(run),
        "step": last_step(run, options),
        "report": report,
        "report_age_s": report and round(max(0.0, time.time() - report["time"]), 1),
        "log": uri.shown(uri.join(run, LOG)),
    }


def training_in_words(facts: dict[str, Any]) -> str:
    """The facts of `gather_training` as lines for a person."""
    lines = [f"a training run; step {facts['step']:,} is saved"]
    if (report := facts["report"]) is not None:
        numbers = [
            f"{key} {value:.6g}"
            for key, value in report.items()
            if isinstance(value, float | int) and key != "time"
        ]
        lines.append(f"{text.duration(facts['report_age_s'])} ago: {', '.join(numbers)}")
    lines.append(f"all of its reports: {facts['log']}")
    return "\n".join(lines)


def gather(output: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `artgen status --json` prints."""
    found = Status()
    # The ledger first: what is committed meanwhile may be counted as done and as remaining, never as neither.
    plan, ledger = plans.current(output, options), Ledger(output, options)
    remaining = None if plan is None else sum(ref.images for ref in plan.pending(ledger))
    unreadable = list(ledger.torn)
    for batch in manifest.read(output, COLUMNS, damaged=unreadable, options=options):
        found.add(batch)
    run = ((runlog.read(output, options) or {}).get("runs") or [None])[-1]
    speed = rate(found.recent)
    last = max((node.last for node in found.nodes.values()), default=None)
    return {
        "output": uri.shown(output),
        "plan": plan and plan.hash,
        "done": found.ok,
        "failed": found.failed,
        "remaining": remaining,
        "unreadable_parts": len(unreadable),
        "reasons": [
            {"error_type": kind, "reason": reason, "images": count}
            for (kind, reason), count in found.reasons.most_common()
        ],
        "images_per_second": round(speed.images, 4),
        "megapixels_per_second": round(speed.megapixels, 4),
        "seconds_left": round(remaining / speed.images) if remaining is not None and speed.images else None,
        "last_commit": last and datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds"),
        "last_commit_age_s": last and round(max(0.0, time.time() - last), 1),
        "nodes": {
            name: {
                "images": node.images,
                "failed": node.failed,
                "megapixels": round(node.pixels / 1e6, 3),
                "images_per_second": round(speed.nodes.get(name, 0.0), 4),
                "last_commit": datetime.fromtimestamp(node.last, UTC).isoformat(timespec="seconds"),
            }
            for name, node in sorted(found.nodes.items())
        },
        "last_ended_run": run and {key: run[key] for key in ("started", "seconds", "engine", "images", "ended")},
    }


def in_words(facts: dict[str, Any]) -> str:
    """The facts of `gather` as lines for a person."""
    left = facts["remaining"]
    lines = [
        f"{text.plural(facts['done'], 'image')} done, {text.count(facts['failed'])} failed, "
        + (
            "no plan yet (it is being made, or making it was interrupted)"
            if left is None
            else f"{left:,} remaining"
        )
    ]
    if facts["unreadable_parts"]:
        parts = text.plural(facts["unreadable_parts"], "part")
        lines.append(f"{parts} of the manifest cannot be read: the command of this run does what is in them anew")
    for reason in facts["reasons"][:SHOWN_REASONS]:
        lines.append(f"  {reason['images']:,} x {reason['error_type']}: {text.visible(reason['reason'])}")
    if len(facts["reasons"]) > SHOWN_REASONS:
        lines.append(f"  and {text.plural(len(facts['reasons']) - SHOWN_REASONS, 'other reason')}: see --json")
    speed = []
    if facts["images_per_second"]:
        speed.append(f"{facts['images_per_second']:.3g} images/s, {facts['megapixels_per_second']:.3g} MP/s")
    if facts["last_commit_age_s"] is not None:
        speed.append(f"last commit {text.duration(facts['last_commit_age_s'])} ago")
    if speed:
        lines.append("; ".join(speed))
    if left and facts["seconds_left"] is not None:
        lines.append(f"about {text.duration(facts['seconds_left'])} left at this rate")
    nodes = sorted(facts["nodes"].items(), key=lambda item: -item[1]["images"])
    for name, node in nodes[:SHOWN_NODES]:
        speed = f"{node['images_per_second']:.3g} images/s" if node["images_per_second"] else "idle"
        lines.append(f"  {text.visible(name)}: {node['images']:,} images, {node['failed']:,} failed, {speed}")
    if len(nodes) > SHOWN_NODES:
        lines.append(f"  and {text.plural(len(nodes) - SHOWN_NODES, 'other node')}: see --json")
    if left and facts["last_ended_run"]:
        lines.append(f"the last run that ended: {facts['last_ended_run']['ended']}")
    return "\n".join(lines)
