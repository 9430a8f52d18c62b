"""`artgen report`: the page that a person looks at, made from what a run left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from artgen.console import Console
from artgen.errors import UsageError
from artgen.storage import uri
from artgen.storage.archive import Reader
from artgen.work import plan as plans
from artgen.work import runlog


def report(
    output: str, console: Console, *, sample: int = 24, storage_options: dict[str, Any] | None = None
) -> int:
    """Raises UsageError where OUTPUT holds no run."""
    if runlog.read(output, storage_options) is None:
        raise UsageError(
            f"{output} holds no run of artgen (no _artgen/run.json): give the OUTPUT of an earlier command"
        )
    page = write_report(output, storage_options, sample=sample)
    console.result({"report": page}, page)
    return 0


def write_report(output: str, options: dict[str, Any] | None, *, sample: int = 24) -> str:
    from artgen.report import page

    return page.write(output, sample=sample, sources=lambda keys: _sources(output, keys, options), options=options)


def _sources(output: str, keys: Iterable[str], options: dict[str, Any] | None) -> dict[str, Callable[[], bytes]]:
    """Readers of the source bytes of some keys, by the plans that are still in OUTPUT."""
    wanted = set(keys)
    reader = Reader(options, uri.join(output, "_artgen", "index"))
    found: dict[str, Callable[[], bytes]] = {}
    latest = plans.current(output, options)
    for plan in sorted(plans.all_plans(output, options), key=lambda plan: plan == latest):  # its places hold today
        for entry in plans.PlanReader(plan.folder, options).entries(plan):
            if entry.source.key in wanted:
                found[entry.source.key] = lambda source=entry.source: reader.read(source)
    return found
