"""What the report says of a run, gathered in one pass over the manifest with flat memory."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from artgen.report.histogram import Histogram
from artgen.sinks import manifest

COLUMNS = (
    "key",
    "source_bytes",
    "width",
    "height",
    "mode",
    "bits",
    "status",
    "error_type",
    "error_message",
    "output_uri",
    "output_bytes",
    "model",
    "model_sha256",
    "noise_before",
    "noise_after",
    "change_mean",
    "change_max",
    "seconds",
    "notes",
    "unit",
    "seed",
    "class_name",
)
MAX_FAILURES = 1000
# A hostile archive could fail in a new way for every image; reasons beyond these are counted together.
MAX_REASONS = 300
_MAX_NOTES = 300
OTHER = "other reasons"


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture of the page's list of failures."""

    key: str
    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures to look at, and why these: rows of the manifest as dicts of COLUMNS."""

    title: str
    why: str
    rows: tuple[dict[str, Any], ...]


@dataclass(slots=True)
class Summary:
    """Counts of a run. `pixels` are of the sources of restored images, `seconds` summed over workers.

    `reasons` counts (error type, message with its numbers and names left out); `failures` are the first
    MAX_FAILURES; `models` counts (name, SHA-256).
    """

    images: int = 0
    failed: int = 0
    pixels: int = 0
    source_bytes: int = 0
    output_bytes: int = 0
    seconds: float = 0.0
    noise_before: Histogram = field(default_factory=Histogram)
    noise_after: Histogram = field(default_factory=Histogram)
    change_mean: Histogram = field(default_factory=Histogram)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    groups: tuple[Group, ...] = ()

    @property
    def restored(self) -> int:
        """Images that did not fail, also those that were generated."""
        return self.images - self.failed


class _Highest:
    """The rows with the highest scores of a stream; the earlier of two equal ones."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, dict[str, Any]]] = []
        self._seen = 0

    def offer(self, scores: np.ndarray, batch: pa.RecordBatch) -> None:
        """scores: one for each row of `batch`; NaN is never taken."""
        full = len(self._heap) == self._size
        floor = self._heap[0][0] if full and self._heap else -np.inf
        (candidates,) = np.nonzero(scores > floor)
        if len(candidates) > self._size:
            order = np.argsort(-scores[candidates], kind="stable")[: self._size]
            candidates = candidates[order]
        for index in candidates.tolist():
            item = (float(scores[index]), -(self._seen + index), batch.slice(index, 1).to_pylist()[0])
            if len(self._heap) < self._size:
                heapq.heappush(self._heap, item)
            elif self._size:
                heapq.heappushpop(self._heap, item)
        self._seen += batch.num_rows

    def rows(self) -> list[dict[str, Any]]:
        return [row for *_, row in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


def summarise(output_uri: str, *, sample: int, seed: int, options: Mapping[str, Any] | None = None) -> Summary:
    """Reads the manifest once; picks `sample` pictures: changed most, cleaned most, and at random by `seed`."""
    summary = Summary()
    changed, cleaned, drawn = _Highest(sample), _Highest(sample), _Highest(sample)
    generator = np.random.default_rng(seed)
    for batch in manifest.read(output_uri, COLUMNS, options=options):
        ok = batch.column("status").to_numpy(zero_copy_only=False) == "ok"
        summary.images += batch.num_rows
        _add_failures(summary, batch, np.nonzero(~ok)[0])
        batch = batch.filter(pa.array(ok))
        if not batch.num_rows:
            continue
        _add_measures(summary, batch)
        change, before, after = (_numbers(batch, name) for name in ("change_mean", "noise_before", "noise_after"))
        changed.offer(change, batch)
        cleaned.offer(np.where(before > after, before - after, np.nan), batch)
        drawn.offer(generator.random(batch.num_rows), batch)
    summary.groups = _groups(summary.restored, sample, changed.rows(), cleaned.rows(), drawn.rows())
    return summary


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column as float64, null as NaN."""
    return batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)


def _add_measures(summary: Summary, batch: pa.RecordBatch) -> None:
    summary.pixels += int(np.nansum(_numbers(batch, "width") * _numbers(batch, "height")))
    summary.source_bytes += int(np.nansum(_numbers(batch, "source_bytes")))
    summary.output_bytes += int(np.nansum(_numbers(batch, "output_bytes")))
    summary.seconds += float(np.nansum(_numbers(batch, "seconds")))
    for name in ("noise_before", "noise_after", "change_mean"):
        getattr(summary, name).add(_numbers(batch, name))
    models = zip(batch.column("model").to_pylist(), batch.column("model_sha256").to_pylist(), strict=True)
    summary.models.update(models)
    for text in batch.column("notes").to_pylist():
        if text:
            for note in text.split("; "):
                _count(summary.notes, general(note), _MAX_NOTES, "other notes")


def _add_failures(summary: Summary, batch: pa.RecordBatch, indices: Iterable[int]) -> None:
    for index in indices:
        row = batch.slice(int(index), 1).to_pylist()[0]
        failure = Failure(
            row["key"], row["error_type"] or "Failed", row["error_message"] or "no reason was recorded"
        )
        summary.failed += 1
        if len(summary.failures) < MAX_FAILURES:
            summary.failures.append(failure)
        reason = (failure.error_type, general(failure.message))
        _count(summary.reasons, reason, MAX_REASONS, (failure.error_type, OTHER))


def _count(counter: Counter[Any], item: Any, limit: int, rest: Any) -> None:
    counter[item if item in counter or len(counter) < limit else rest] += 1


def general(message: str) -> str:
    """A message without what differs from image to image: quoted values and numbers."""
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "…", message)
    return re.sub(r"\d[\d,._]*(x\d+)*", "…", unquoted)[:300]


def _groups(
    restored: int,
    sample: int,
    changed: list[dict[str, Any]],
    cleaned: list[dict[str, Any]],
    drawn: list[dict[str, Any]],
) -> tuple[Group, ...]:
    """Each picture once: a third of the sample for each reason to look."""
    if restored <= sample:
        every = sorted(drawn, key=lambda row: (-(row["change_mean"] or 0.0), row["key"]))
        return (Group("Every picture", "Those that changed most come first.", tuple(every)),) if every else ()
    share = max(1, sample // 3)
    shown: set[str] = set()

    def take(rows: list[dict[str, Any]], count: int) -> tuple[dict[str, Any], ...]:
        taken = tuple([row for row in rows if row["key"] not in shown][:count])
        shown.update(row["key"] for row in taken)
        return taken

    groups = (
        Group(
            "Changed most", "Look here first: the model altered these more than any other.", take(changed, share)
        ),
        Group("Cleaned most", "The largest fall of the estimated noise.", take(cleaned, share)),
        Group("Drawn at random", "What a typical picture looks like.", take(drawn, sample - len(shown))),
    )
    return tuple(group for group in groups if group.rows)
