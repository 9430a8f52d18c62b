"""`artgen report`: the page that a person looks at, made from what a run left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from artgen.codecs.picture import MAX_PIXELS, Picture
from artgen.codecs.pool import GuardPool
from artgen.console import Console
from artgen.errors import ImageError, UsageError
from artgen.records import Skipped
from artgen.storage import archive, uri
from artgen.storage.archive import Reader
from artgen.training.pictures import parts_of
from artgen.work import plan as plans
from artgen.work import runlog

DECODE_TIMEOUT_S = 30.0


def report(
    output: str, console: Console, *, sample: int | None = None, storage_options: dict[str, Any] | None = None
) -> int:
    """sample: pictures to show; None: as many as the page has by itself. Raises UsageError where OUTPUT holds no run."""
    if runlog.read(output, storage_options) is None:
        raise UsageError(
            f"{output} holds no run of artgen (no _artgen/run.json): give the OUTPUT of an earlier command"
        )
    page = write_report(output, storage_options, sample=sample)
    console.result({"report": page}, page)
    return 0


def write_report(output: str, options: dict[str, Any] | None, *, sample: int | None = None) -> str:
    from artgen.report import generated, page

    shown = {} if sample is None else {"sample": sample}
    run = runlog.read(output, options) or {}
    if run.get("settings", {}).get("command") == "generate":
        config = run["config"]
        data = config.get("data")
        training = None if data is None else lambda: _training(data, options)
        return generated.write(output, seed=config.get("seed", 0), training=training, options=options, **shown)
    return page.write(output, sources=lambda keys: _sources(output, keys, options), options=options, **shown)


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


def _training(data: str, options: dict[str, Any] | None) -> Iterator[tuple[str, Picture]]:
    """The pictures of a training set (DATA as of `artgen train`), what cannot be read left out."""
    guards = GuardPool(1, MAX_PIXELS, DECODE_TIMEOUT_S)
    try:
        with Reader(options) as reader:
            for source in chain.from_iterable(archive.scan(part, options) for part in parts_of(data)):
                if isinstance(source, Skipped):
                    continue
                with suppress(ImageError):
                    yield source.key, guards.decode(reader.read(source))
    finally:
        guards.close()
