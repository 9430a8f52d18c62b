"""What restore and generate share: the engine, units carried and told of, the end of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from artgen.commands.places import end_overwriting, told
from artgen.config import GenerateConfig, RestoreConfig, RunConfig, cluster_address
from artgen.console import Console
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.storage import uri
from artgen.storage.ledger import Ledger
from artgen.text import plural
from artgen.work import runlog, traces
from artgen.work.plan import Plan
from artgen.work.runlog import Tally

if TYPE_CHECKING:
    from artgen.work.unit import Job


def carry(
    engine: Any, plan: Plan, model: Any, job: Job, config: RestoreConfig | GenerateConfig, console: Console
) -> int:  # fmt: skip
    """Runs what the ledger does not hold, then writes run.json and the report. `model`: a Restorer or Painter."""
    from artgen.work.unit import Publish

    refs = list(plan.pending(Ledger(config.output, config.storage_options)))
    publish = Publish(config.output, config.to, config.on_error, plan.hash, config.storage_options)
    tally, started, clock = Tally(), runlog.now(), time.monotonic()
    console.begin(plan.images, plan.images - sum(ref.images for ref in refs), config.doing)
    ended = "done"
    try:
        with closing(engine.run(plan, refs, job, publish, model, console)) as outcomes:
            _consume(outcomes, tally)
    except KeyboardInterrupt:
        ended = "interrupted"
    except RunError as error:
        ended = f"{type(error).__name__}: {error}"
    finally:
        console.end()
    if ended == "done":
        drop_uncommitted(plan, config.storage_options)
        traces.clear(config.output, config.storage_options)
    run = runlog.run_facts(engine.name, job.device, tally, started, time.monotonic() - clock, ended)
    facts = {"name": uri.shown(job.model), "sha256": job.model_sha256, "facts": asdict(model.facts)}
    runlog.write(plan, told(config), facts, run, config.storage_options)
    return conclude(plan, config, run, console)


def drop_uncommitted(plan: Plan, options: dict[str, Any] | None) -> None:
    """Removes pictures, parts and shards of units without rows: a process died between its sinks and its rows, and a later plan
    has given its pictures to other units, or is of other ones.
    """
    from artgen.sinks import files, parquet, shards

    output = plan.output
    for name in traces.forsaken(plan, options):
        files.remove(output, files.where(name), options)
    found = {
        uri.join(output, sink.FOLDER, name): unit
        for sink in (parquet, shards)
        for name in uri.names(uri.join(output, sink.FOLDER), options)
        if (unit := sink.unit_of(name)) is not None
    }
    # Without such files, as of a run that writes PNG alone, the rows need not be listed.
    committed = set(Ledger(output, options).units()) if found else set()
    for place, unit in found.items():
        if unit not in committed:
            uri.remove(place, options)


def _consume(outcomes: Iterator[Outcome], tally: Tally) -> None:
    for outcome in outcomes:
        tally.units += 1
        tally.images += outcome.images
        tally.failed += outcome.failed
        tally.pixels += outcome.pixels
        tally.source_bytes += outcome.source_bytes
        tally.output_bytes += outcome.output_bytes
        tally.first_failures = [*tally.first_failures, *outcome.first_failures][:5]


def conclude(plan: Plan, config: RunConfig, run: dict[str, Any], console: Console) -> int:
    """Says what happened and how to go on; writes the report of a finished run."""
    from artgen.commands.report import write_report
    from artgen.sinks import manifest

    totals = manifest.totals(config.output, config.storage_options)
    if run["ended"] == "done":  # not where a part is damaged: the same command goes on then
        end_overwriting(config.output, config.storage_options)
    facts = {
        "output": uri.shown(config.output),
        "run": run,
        "images": totals["ok"] + totals["failed"],
        "failed": totals["failed"],
    }
    if run["ended"] != "done":
        left = sum(ref.images for ref in plan.pending(Ledger(config.output, config.storage_options)))
        facts["left"] = left
        text = f"{run['ended']}; {plural(left, 'image')} left: the same command goes on from here"
        kind, _, _ = run["ended"].partition(":")
        error = RunError.__name__ if kind == "interrupted" else kind
        console.unfinished({**facts, "error": error, "message": text, "exit_code": 1}, text)
        return 1
    facts["report"] = write_report(config.output, config.storage_options)
    rate = f"{run['megapixels_per_second']:g} MP/s"
    text = f"{plural(totals['ok'], 'image')} {config.done}, {totals['failed']} failed, {rate}; report: {facts['report']}"
    if totals["failed"] and not run["images"]:
        text += "; nothing was left to do: --retry-failed does the failed ones again"
    console.result(facts, text)
    if totals["failed"]:
        for key, reason in run["first_failures"]:
            console.say(f"failed {key!r}: {reason}")
        return 3
    return 0


def open_engine(config: RunConfig, images: int) -> Any:
    """The engine of --engine; `auto` is local on one machine with at most one GPU, no --address and no Ray job around."""
    name = config.engine
    if name == "auto":
        name = "ray" if cluster_address(config.address) or _gpus() > 1 else "local"
    if name == "local":
        from artgen.engines.local import LocalEngine

        return LocalEngine(config, images)
    from artgen.engines.ray_data import RayEngine

    return RayEngine(config)


def _gpus() -> int:
    """CUDA devices, counted without importing torch (its import is the larger part of the start-up)."""
    import glob

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    return len(glob.glob("/dev/nvidia[0-9]*"))
