"""`artgen generate`: seeds in place of an INPUT; the plan, the engines and the sinks are those of restore."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from artgen.commands.carry import carry, open_engine
from artgen.commands.places import (
    check_apart,
    check_output,
    clear_output,
    credentials_of,
    left_to_do,
    options_of_model,
)
from artgen.config import EXTENSIONS, GenerateConfig
from artgen.console import Console
from artgen.errors import ArtgenError, UsageError
from artgen.records import Source
from artgen.storage import archive, uri
from artgen.work import plan as plans
from artgen.work.lock import only_driver
from artgen.work.seed_listing import SeedListing
from artgen.work.seeds import Seeds

if TYPE_CHECKING:
    from artgen.engines.local import Devices
    from artgen.models.gans.spec import Painter
    from artgen.work.generation import GenerateJob

# Raised whenever the same seeds and settings give other bytes than the release before.
PIPELINE = 4
DEFAULT_SEEDS = "0-63"
# A commit costs as much as some pictures: smaller units would be felt.
LEAST_UNIT_IMAGES = 256


def generate(config: GenerateConfig, console: Console, *, dry_run: bool = False) -> int:
    """Runs `artgen generate` and returns its exit code: 0 all done, 1 to be resumed by the same command.

    Raises UsageError (exit code 2) before anything is started.
    """
    from artgen.work import extras

    seeds = seeds_of(config)
    check_data(config)
    listed, route = SeedListing(seeds), extras.stops(config.interpolate, config.frames)
    with closing(open_engine(config, len(seeds))) as engine:
        painter, job = make_job(config, engine.devices())
        settings, size = settings_of(config, job), config.unit_images or unit_images(len(seeds))
        if dry_run:
            left = left_to_do(config, asked_of(config, settings), listed, settings)
            facts = describe(config, engine.name, seeds, size, settings)
            facts |= {"grid": min(config.grid or 0, len(seeds)), "frames": extras.frames_on(route, config.frames)}
            console.result({**facts, "done": len(seeds) - left, "left": left})
            return 0
        check_output(config)
        with only_driver(config.output, console.say, config.storage_options):
            clear_output(config, asked_of(config, settings), console.say)
            plan = plans.prepare(
                listed, config.output, settings, unit_images=size, options=config.storage_options, say=console.say
            )
            if config.grid is not None and len(seeds):
                extras.write_grid(config, seeds.part(0, config.grid), painter, job)
            if route:
                extras.write_frames(config, route, painter, job)
            return carry(engine, plan, painter, job, config, console)


def check_data(config: GenerateConfig) -> None:
    """Each part of --data must hold a picture: the report, which looks for it, is made last of all. And it must lie apart from
    OUTPUT, or the run's own pictures would be found among it. Raises UsageError."""
    from artgen.training.pictures import parts_of

    for part in parts_of(config.data) if config.data is not None else ():
        check_apart(config.output, {"--data": part})
        try:
            found = any(isinstance(item, Source) for item in archive.scan(part, config.storage_options))
        except ArtgenError as error:
            raise UsageError(f"--data: {error}") from error
        if not found:
            raise UsageError(
                f"--data {uri.shown(part)!r} holds no image: give the pictures that MODEL was trained on"
            )


def seeds_of(config: GenerateConfig) -> Seeds:
    """The seeds of --seeds. Raises UsageError."""
    if config.seeds is None:
        return Seeds.parse("" if config.interpolate and config.grid is None else DEFAULT_SEEDS)
    if not config.seeds.strip():
        raise UsageError("--seeds '' names no seed: use a list such as 0-9999,20000")
    return Seeds.parse(config.seeds)


def unit_images(images: int) -> int:
    """Images per unit by their number, in whole forward passes."""
    from artgen.inference.sample import FORWARD_IMAGES

    size = max(plans.default_unit_images(images), LEAST_UNIT_IMAGES)
    return -(-size // FORWARD_IMAGES) * FORWARD_IMAGES


def make_job(config: GenerateConfig, devices: Devices) -> tuple[Painter, GenerateJob]:
    """Loads the generator and resolves precision and classes. Raises UsageError for what cannot be."""
    from artgen.models.gans.weights import load_painter
    from artgen.work.generation import GenerateJob

    device, here = devices
    model_options = options_of_model(config)
    painter = load_painter(config.model, model_options)
    job = GenerateJob(
        model=config.model, model_sha256=painter.sha256, classes=class_numbers(painter.facts.classes, config.classes),
        truncation=config.truncation, device=device, precision="fp32" if config.precision == "auto" else config.precision,
        format=config.format, quality=config.quality, credentials=credentials_of(config), model_options=model_options,
    )  # fmt: skip
    return painter.to(here), job


def class_numbers(known: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[int, ...]:
    """Names or numbers as numbers; all classes where none is wanted. Raises UsageError for what the model has not."""
    if not wanted:
        return tuple(range(len(known)))
    if not known:
        raise UsageError(f"--classes {','.join(wanted)}: this model has no classes; leave the flag out")
    numbers = []
    for name in wanted:
        if name in known:
            numbers.append(known.index(name))
        elif name.isdecimal() and len(name) < 10 and int(name) < len(known):
            numbers.append(int(name))
        else:
            shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise UsageError(f"--classes {name!r}: this model has {shown}, or their numbers 0 to {len(known) - 1}")
    return tuple(numbers)


def settings_of(config: GenerateConfig, job: GenerateJob) -> dict[str, Any]:
    """What decides the pictures: a run may only be resumed with the same. Seeds may grow, and the model may be moved."""
    return {
        "command": "generate", "pipeline": PIPELINE, "model_sha256": job.model_sha256, "precision": job.precision,
        "classes": list(job.classes), "truncation": job.truncation, "extension": EXTENSIONS[config.format],
        "quality": config.quality if config.format != "png" else None, "to": sorted(config.to),
        "c2pa": job.credentials and job.credentials.signer,
    }  # fmt: skip


def asked_of(config: GenerateConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """What makes the command another one, for an interrupted --overwrite."""
    return {**settings, "seeds": config.seeds}


def describe(
    config: GenerateConfig, engine: str, seeds: Seeds, size: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """What --dry-run prints."""
    return {
        "model": uri.shown(config.model), "output": uri.shown(config.output), "images": len(seeds),
        "seeds": str(seeds)[:1000], "unit_images": size, "units": -(-len(seeds) // size), "engine": engine,
        "workers": config.workers, "settings": settings,
    }  # fmt: skip
