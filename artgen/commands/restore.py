"""`artgen restore`: list, plan, carry the units, say what happened."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from artgen.commands.carry import carry, open_engine
from artgen.commands.places import (
    INDEX,
    check_made_by_artgen,
    check_output,
    check_places,
    clear_output,
    credentials_of,
    left_to_do,
    options_of_model,
    place,
)
from artgen.config import EXTENSIONS, RestoreConfig
from artgen.console import Console
from artgen.errors import ArtgenError, RunError, StorageError, UsageError
from artgen.records import Skipped, Source
from artgen.storage import archive, kind, scratch, uri
from artgen.storage.cache import Cache
from artgen.storage.listing import resolve
from artgen.text import plural
from artgen.work import plan as plans
from artgen.work.listing import Listing, stem
from artgen.work.lock import only_driver

if TYPE_CHECKING:
    from artgen.engines.local import Devices
    from artgen.models.spec import Restorer
    from artgen.work.restoration import RestoreJob

# Raised whenever the same input and settings give other bytes than the release before.
PIPELINE = 10


def restore(config: RestoreConfig, console: Console, *, dry_run: bool = False) -> int:
    """Runs `artgen restore` and returns its exit code: 0 all done, 1 to be resumed, 3 done with failed images.

    Raises UsageError (exit code 2) before anything is started.
    """
    check_places(config)
    with TemporaryDirectory(dir=scratch.folder()) as indexes, ExitStack() as listings:
        before = None
        with suppress(StorageError):  # what is wrong with OUTPUT is told where it is looked at next
            before = plans.current_hash(config.output, config.storage_options)
        listed = listings.enter_context(closing(list_input(config, indexes, dry_run)))
        check_found(config, listed)
        tell_masks(config, listed, console)
        with closing(open_engine(config, listed.count())) as engine:
            restorer, job = make_job(config, engine.devices())
            settings = settings_of(config, job)
            if dry_run:
                facts = describe(config, engine.name, listed, settings, job)
                left = left_to_do(config, asked_of(config, settings), listed, settings)
                console.result({**facts, "done": facts["images"] - left, "left": left})
                return 0
            check_output(config)
            with only_driver(config.output, console.say, config.storage_options):
                if plans.current_hash(config.output, config.storage_options) != before:
                    # What it restored of a newer INPUT would pass for stale.
                    console.say("another artgen has planned OUTPUT meanwhile: INPUT is listed again")
                    listed = listings.enter_context(closing(list_input(config, indexes)))
                    check_found(config, listed)
                clear_output(config, asked_of(config, settings), console.say)
                keep_indexes(indexes, config)
                plan = plans.prepare(
                    listed, config.output, settings, unit_images=config.unit_images,
                    retry_failed=config.retry_failed, options=config.storage_options, say=console.say,
                )  # fmt: skip
                tell_foreign(listed, console)
                tell_precision(config, engine.name, restorer, job, console)
                for skipped in listed.first_skipped[:5]:
                    console.say(f"skipped {skipped.key!r}: {skipped.reason}")
                return carry(engine, plan, restorer, job, config, console)


def list_input(config: RestoreConfig, indexes: str, dry_run: bool = False) -> Listing:
    """INPUT and masks. What took a while to find out about archives goes to OUTPUT if an earlier run has put such things
    there, otherwise to `indexes`, and is read from there; on a dry run to neither. A listing of hours that is interrupted
    leaves in OUTPUT what it has found.
    """
    kept = indexes_of(config)
    try:
        cache_dir = kept if uri.exists(kept, config.storage_options) else indexes
    except StorageError as error:
        raise UsageError(f"OUTPUT {uri.shown(config.output)} cannot be used: {error}") from error
    try:
        return _listed(config, cache_dir, keeps=not dry_run)
    except (RunError, KeyboardInterrupt):
        with suppress(ArtgenError):  # the reason why it ended is the one to tell
            if os.listdir(indexes):
                check_made_by_artgen(config.output, config.storage_options)
                keep_indexes(indexes, config)
        raise


def _listed(config: RestoreConfig, cache_dir: str, *, keeps: bool) -> Listing:
    with closing(_scan(config.input, config, cache_dir, "INPUT", keeps)) as found:
        if config.masks is None:
            return Listing(place(config.input), found)
        paired = _is_picture(config.input, config, "INPUT") and _is_picture(config.masks, config, "--masks")
        with closing(_scan(config.masks, config, cache_dir, "--masks", keeps)) as masks:
            return Listing(place(config.input), found, masks, paired=paired)


def _is_picture(source: str, config: RestoreConfig, label: str) -> bool:
    """Whether this is one file that is an image, not a folder (of one, perhaps) or an archive."""
    found = kind.of(uri.shown(source))
    return resolve(source, config.storage_options, label).alone and found in ("image", "unknown")


def _scan(
    source: str, config: RestoreConfig, cache_dir: str, label: str, keeps: bool = True
) -> Generator[Source | Skipped]:  # fmt: skip
    """OUTPUT is left out: a glob may match it too. label: what the command calls `source`."""
    most = archive.most_bytes(config.max_pixels)
    return archive.scan(
        source,
        config.storage_options,
        cache_dir=cache_dir,
        keeps=keeps,
        max_bytes=most,
        exclude=config.output,
        label=label,
    )


def indexes_of(config: RestoreConfig) -> str:
    """Where workers find the seek points of .tar.gz archives, and later runs the members of archives."""
    return uri.join(config.output, "_artgen", INDEX)


def keep_indexes(indexes: str, config: RestoreConfig) -> None:
    """Copies what the listing left in the folder `indexes` to where workers and later runs find it."""
    Cache(indexes_of(config), config.storage_options).take(indexes)


# Px by device. On a CPU a picture of usual size is one tile, which wastes nothing on overlaps; more than this falls out of
# its caches. An accelerator sees every picture padded to whole tiles of few sizes, so there a smaller one wastes less.
_TILE = {"cpu": 768}


def make_job(config: RestoreConfig, devices: Devices) -> tuple[Restorer, RestoreJob]:
    """Loads the model and resolves precision, batch and overlap. Raises UsageError for what cannot be."""
    import torch

    from artgen.inference.precision import bf16_is_fast
    from artgen.inference.restore import RestoreOptions, check_model_fits, with_room
    from artgen.models.weights import load
    from artgen.work.restoration import RestoreJob

    device, here = devices
    model_options = options_of_model(config)
    restorer = load(config.model, model_options)
    precision = config.precision
    if precision == "auto":
        # Of a GPU that is not here nothing can be asked. On CPUs the bytes of a run shall not depend on their make.
        fast = not torch.cuda.is_available() or bf16_is_fast("cuda")
        precision = "bf16" if device == "cuda" and restorer.facts.bfloat16 and fast else "fp32"
    options = RestoreOptions(
        tile=config.tile or _TILE.get(device, 512), overlap=config.overlap,
        strength=config.strength, ensemble=config.ensemble, keep_unmasked=config.keep_unmasked,
    )  # fmt: skip
    options = with_room(options, restorer.facts)
    if options.overlap is None:
        options = replace(options, overlap=restorer.facts.overlap)
    check_model_fits(restorer, options, masks=config.masks is not None or config.mask_from_alpha)
    job = RestoreJob(
        model=config.model, model_sha256=restorer.sha256, options=options, device=device, precision=precision,
        batch=config.batch or (16 if device != "cpu" else 1), quality=config.quality, mask_from_alpha=config.mask_from_alpha,
        max_pixels=config.max_pixels, image_timeout=config.image_timeout, storage_options=config.storage_options,
        index_folder=indexes_of(config), credentials=credentials_of(config), model_options=model_options,
        masks=config.masks is not None, as_source=config.format == "source",
    )  # fmt: skip
    if here != "cpu":
        restorer.to(torch.device(here))
    return restorer, job


def settings_of(config: RestoreConfig, job: RestoreJob) -> dict[str, Any]:
    """What decides the output's bytes: a run may only be resumed with the same. Where the model lies does not."""
    options = job.options
    lossy = config.format != "png"
    return {
        "pipeline": PIPELINE, "model_sha256": job.model_sha256, "precision": job.precision,
        "tile": options.tile, "overlap": options.overlap, "strength": options.strength, "ensemble": options.ensemble,
        "keep_unmasked": options.keep_unmasked, "masks": config.masks and place(config.masks),
        "mask_from_alpha": config.mask_from_alpha,
        "extension": EXTENSIONS[config.format], "quality": config.quality if lossy else None, "to": sorted(config.to),
        "c2pa": job.credentials and job.credentials.signer,
    }  # fmt: skip


def describe(
    config: RestoreConfig, engine: str, listed: Listing, settings: dict[str, Any], job: RestoreJob
) -> dict[str, Any]:  # fmt: skip
    """What --dry-run prints."""
    from artgen.engines.local import image_threads

    images = listed.count()
    size = config.unit_images or plans.default_unit_images(images)
    # How many actors a cluster has room for shows when it is up.
    workers = image_threads(config.workers, images) if engine == "local" else config.workers
    return {
        "input": uri.shown(config.input), "output": uri.shown(config.output), "images": images,
        "skipped": listed.skipped, "masked": listed.masked,
        "unit_images": size, "units": -(-images // size), "engine": engine, "workers": workers,
        "model": uri.shown(config.model), "device": job.device, "batch": job.batch, "max_pixels": job.max_pixels,
        "image_timeout": job.image_timeout, "on_error": config.on_error, "settings": settings,
    }  # fmt: skip


def asked_of(config: RestoreConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """What makes the command another one, for an interrupted --overwrite."""
    return {**settings, "input": place(config.input)}


def tell_masks(config: RestoreConfig, listed: Listing, console: Console) -> None:
    """Says so where images and masks do not match one to one: a mistake in a name would pass unseen."""
    images = listed.count()
    if config.masks is None or (listed.masked == images and not listed.unmatched):
        return
    console.say(
        f"{listed.masked} of {images} images have a mask, {listed.unmatched} masks match no image: a mask has the relative "
        "path of its image, with any extension"
    )


def tell_foreign(listed: Listing, console: Console) -> None:
    """Says that OUTPUT holds files of somebody else, so that other names of pictures are no riddle."""
    if listed.foreign:
        console.say(
            f"{plural(listed.foreign, 'file')} below images/ that artgen did not make: left as found, no picture takes such a name"
        )


def tell_precision(
    config: RestoreConfig, engine: str, restorer: Restorer, job: RestoreJob, console: Console
) -> None:
    """Says what would be faster here. It is a person's choice: other CPUs make other bytes of bf16, or make them slowly."""
    from artgen.inference.precision import bf16_is_fast

    on_this_cpu = engine == "local" and job.device == "cpu"
    if config.precision == "auto" and on_this_cpu and restorer.facts.bfloat16 and bf16_is_fast("cpu"):
        console.say(
            "this CPU multiplies bf16 fast: --precision bf16 restores several times as fast, all but the same pixels"
        )


def check_found(config: RestoreConfig, listed: Listing) -> None:
    """A folder without an image is a mistake in the command, not a success; an archive without a member is just empty."""
    shown = uri.shown(config.input)
    empty_archive = not listed.skipped and kind.of(shown) in ("tar", "targz", "zip", "parquet")
    if not listed.count() and not empty_archive:
        first = ", ".join(f"{item.key!r} ({item.reason})" for item in listed.first_skipped[:3])
        held = f"only {listed.skipped} other files, such as {first}" if listed.skipped else "nothing at all"
        raise UsageError(f"INPUT {shown} holds no image: {held}")
    if listed.unreadable is not None:
        key, problem = listed.unreadable
        raise UsageError(
            f"--masks {uri.shown(config.masks or '')} cannot be read whole, so images would go without theirs: {key!r}: {problem}"
        )
    if config.masks is not None and not listed.masked:
        message = f"no mask in {uri.shown(config.masks)} has the relative path of an image in {shown}: "
        key = listed.first_key()
        wanted = "" if key is None else f" (the mask of {key!r} would be {stem(key) + '.png'!r})"
        raise UsageError(f"{message}check --masks{wanted}")
