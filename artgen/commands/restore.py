"""`artgen restore`: list, plan, carry the units, say what happened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from artgen.commands.places import check_output, check_places, clear_output, place, told
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.errors import RunError, StorageError, UsageError
from artgen.records import Outcome, Skipped, Source
from artgen.storage import archive, atomic, kind, uri
from artgen.storage.ledger import Ledger
from artgen.work import plan as plans
from artgen.work import runlog
from artgen.work.listing import Listing
from artgen.work.lock import only_driver
from artgen.work.plan import Plan
from artgen.work.runlog import Tally

if TYPE_CHECKING:
    from artgen.models.spec import Restorer
    from artgen.work.restoration import RestoreJob

# Raised whenever the same input and settings give other bytes than the release before.
PIPELINE = 1
EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "source": "source"}


def restore(config: RestoreConfig, console: Console, *, dry_run: bool = False) -> int:
    """Runs `artgen restore` and returns its exit code: 0 all done, 1 to be resumed, 3 done with failed images.

    Raises UsageError (exit code 2) before anything is started.
    """
    check_places(config)
    with TemporaryDirectory(prefix="artgen-index-") as scratch, closing(list_input(config, scratch)) as listed:
        check_found(config, listed)
        with closing(open_engine(config, listed.count())) as engine:
            restorer, job = make_job(config)
            settings = settings_of(config, job)
            if dry_run:
                console.result(describe(config, engine.name, listed, settings))
                return 0
            check_output(config)
            with only_driver(config.output, console.say, config.storage_options):
                clear_output(config)
                keep_indexes(scratch, config)
                plan = plans.prepare(
                    listed, config.output, settings, unit_images=config.unit_images,
                    retry_failed=config.retry_failed, options=config.storage_options,
                )  # fmt: skip
                for skipped in listed.first_skipped[:5]:
                    console.say(f"skipped {skipped.key!r}: {skipped.reason}")
                return carry(engine, plan, restorer, job, config, console)


def list_input(config: RestoreConfig, scratch: str) -> Listing:
    """INPUT and masks; seek points of .tar.gz archives go to `scratch` unless an earlier run kept them in OUTPUT."""
    kept = indexes_of(config)
    try:
        cache_dir = kept if uri.exists(kept, config.storage_options) else scratch
    except StorageError as error:
        raise UsageError(f"OUTPUT {uri.shown(config.output)} cannot be used: {error}") from error
    masks = None if config.masks is None else _scan(config.masks, config, cache_dir)
    return Listing(place(config.input), _scan(config.input, config, cache_dir), masks)


def _scan(source: str, config: RestoreConfig, cache_dir: str) -> Iterator[Source | Skipped]:
    """OUTPUT is left out: a glob may match it too."""
    return archive.scan(source, config.storage_options, cache_dir=cache_dir, exclude=config.output)


def indexes_of(config: RestoreConfig) -> str:
    """Where workers find the seek points of .tar.gz archives."""
    return uri.join(config.output, "_artgen", "index")


def keep_indexes(scratch: str, config: RestoreConfig) -> None:
    for path in sorted(Path(scratch).iterdir()):
        atomic.write(uri.join(indexes_of(config), path.name), path.read_bytes(), config.storage_options)


def carry(
    engine: Any, plan: Plan, restorer: Restorer, job: RestoreJob, config: RestoreConfig, console: Console
) -> int:
    """Runs what the ledger does not hold, then writes run.json and the report."""
    from artgen.work.unit import Publish

    refs = list(plan.pending(Ledger(config.output, config.storage_options)))
    publish = Publish(config.output, config.to, config.on_error, config.storage_options)
    tally, started, clock = Tally(), runlog.now(), time.monotonic()
    console.begin(plan.images, plan.images - sum(ref.images for ref in refs))
    ended = "done"
    try:
        _consume(engine.run(plan, refs, job, publish, restorer, console), tally)
    except KeyboardInterrupt:
        ended = "interrupted"
    except RunError as error:
        ended = f"{type(error).__name__}: {error}"
    finally:
        console.end()
    run = runlog.run_facts(engine.name, job.device, tally, started, time.monotonic() - clock, ended)
    model = {"name": uri.shown(job.model), "sha256": job.model_sha256, "facts": asdict(restorer.facts)}
    runlog.write(plan, told(config), model, run, config.storage_options)
    return conclude(plan, config, run, console)


def _consume(outcomes: Iterator[Outcome], tally: Tally) -> None:
    for outcome in outcomes:
        tally.units += 1
        tally.images += outcome.images
        tally.failed += outcome.failed
        tally.pixels += outcome.pixels
        tally.source_bytes += outcome.source_bytes
        tally.output_bytes += outcome.output_bytes
        tally.first_failures = [*tally.first_failures, *outcome.first_failures][:5]


def conclude(plan: Plan, config: RestoreConfig, run: dict[str, Any], console: Console) -> int:
    """Says what happened and how to go on; writes the report of a finished run."""
    from artgen.commands.report import write_report
    from artgen.sinks import manifest

    totals = manifest.totals(config.output, config.storage_options)
    facts = {
        "output": uri.shown(config.output),
        "run": run,
        "images": totals["ok"] + totals["failed"],
        "failed": totals["failed"],
    }
    if run["ended"] != "done":
        left = sum(ref.images for ref in plan.pending(Ledger(config.output, config.storage_options)))
        why = "interrupted" if run["ended"] == "interrupted" else run["ended"]
        facts["left"] = left
        console.result(facts, f"{why}; {left} images are left: the same command goes on from here")
        return 1
    facts["report"] = write_report(config.output, config.storage_options)
    rate = f"{run['megapixels_per_second']:g} MP/s"
    text = f"{totals['ok']} images restored, {totals['failed']} failed, {rate}; report: {facts['report']}"
    console.result(facts, text)
    if totals["failed"]:
        for key, reason in run["first_failures"]:
            console.say(f"failed {key!r}: {reason}")
        return 3
    return 0


def open_engine(config: RestoreConfig, images: int) -> Any:
    """The engine of --engine; `auto` is local on one machine with at most one GPU, no --address and no Ray job around."""
    name = config.engine
    if name == "auto":
        on_cluster = config.address is not None or "RAY_ADDRESS" in os.environ
        name = "ray" if on_cluster or _gpus() > 1 else "local"
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


def make_job(config: RestoreConfig) -> tuple[Restorer, RestoreJob]:
    """Loads the model and resolves device, precision, batch and overlap. Raises UsageError for what cannot be."""
    import torch

    from artgen.inference.restore import RestoreOptions, check
    from artgen.models.weights import load
    from artgen.work.restoration import RestoreJob

    device = _device(config.device)
    restorer = load(config.model)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and restorer.facts.bfloat16 else "fp32"
    options = RestoreOptions(
        tile=config.tile, overlap=restorer.facts.overlap if config.overlap is None else config.overlap,
        strength=config.strength, ensemble=config.ensemble, keep_unmasked=config.keep_unmasked,
    )  # fmt: skip
    check(restorer, options, masks=config.masks is not None or config.mask_from_alpha)
    job = RestoreJob(
        model=config.model, model_sha256=restorer.sha256, options=options, device=device, precision=precision,
        batch=config.batch or (16 if device != "cpu" else 1), quality=config.quality, mask_from_alpha=config.mask_from_alpha,
        max_pixels=config.max_pixels, image_timeout=config.image_timeout, storage_options=config.storage_options,
        index_folder=indexes_of(config),
    )  # fmt: skip
    if device != "cpu":
        restorer.to(torch.device(device))
    return restorer, job


def _device(wanted: str) -> str:
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        raise UsageError(
            f"device {wanted!r} is not available here: use one of {[name for name in available if available[name]]}"
        )
    return wanted


def settings_of(config: RestoreConfig, job: RestoreJob) -> dict[str, Any]:
    """What decides the output's bytes: a run may only be resumed with the same."""
    options = job.options
    lossy = config.format != "png"
    return {
        "pipeline": PIPELINE, "model": uri.shown(config.model), "model_sha256": job.model_sha256, "precision": job.precision,
        "tile": options.tile, "overlap": options.overlap, "strength": options.strength, "ensemble": options.ensemble,
        "keep_unmasked": options.keep_unmasked, "masks": config.masks and place(config.masks),
        "mask_from_alpha": config.mask_from_alpha,
        "extension": EXTENSIONS[config.format], "quality": config.quality if lossy else None, "to": sorted(config.to),
    }  # fmt: skip


def describe(config: RestoreConfig, engine: str, listed: Listing, settings: dict[str, Any]) -> dict[str, Any]:
    """What --dry-run prints."""
    images = listed.count()
    size = config.unit_images or plans.default_unit_images(images)
    return {
        "input": uri.shown(config.input), "output": uri.shown(config.output), "images": images,
        "skipped": listed.skipped, "masked": listed.masked,
        "unit_images": size, "units": -(-images // size), "engine": engine, "workers": config.workers, "settings": settings,
    }  # fmt: skip


def check_found(config: RestoreConfig, listed: Listing) -> None:
    """A folder without an image is a mistake in the command, not a success; an archive without a member is just empty."""
    shown = uri.shown(config.input)
    empty_archive = not listed.skipped and kind.of(shown) in ("tar", "targz", "zip", "parquet")
    if not listed.count() and not empty_archive:
        first = ", ".join(f"{item.key!r} ({item.reason})" for item in listed.first_skipped[:3])
        held = f"only {listed.skipped} other files, such as {first}" if listed.skipped else "nothing at all"
        raise UsageError(f"INPUT {shown} holds no image: {held}")
    if config.masks is not None and not listed.masked:
        raise UsageError(
            f"no mask in {uri.shown(config.masks)} has the relative path of an image in {shown}: check --masks"
        )
