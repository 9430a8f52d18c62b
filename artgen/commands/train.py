"""`artgen train restorer` and `artgen train gan`: a recipe, a place, an engine; the same command goes on after anything."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from artgen.config import cluster_address, load, read_toml, worker_range
from artgen.console import Console
from artgen.errors import RunError, UsageError
from artgen.storage import atomic, uri
from artgen.text import plural
from artgen.training.gan_recipe import GanRecipe, load_gan_recipe
from artgen.training.recipe import RestorerRecipe, TrainConfig, load_recipe, without_secrets
from artgen.training.state import last_step
from artgen.work.lock import only_driver

RecipeT = TypeVar("RecipeT", RestorerRecipe, GanRecipe)


def train_restorer(args: dict[str, Any], console: Console) -> int:
    """Runs `artgen train restorer` and returns its exit code: 0 done, 1 to be gone on with by the same command.

    args: flags that were given. Recipe keys come from --recipe, then --config, then flags, then --set, the last wins.
    Raises UsageError (exit code 2) before anything is started.
    """
    from artgen.training.holdout import stretches
    from artgen.training.pictures import list_sources, parts_of
    from artgen.training.run import check_start
    from artgen.training.shards import check_workers
    from artgen.training.skipped import read_skipped

    dry_run = args.pop("dry_run", False)
    config, recipe = settings(args)
    check_places(config)
    _check_kind(config, recipe)
    if recipe.start and not last_step(config.folder, config.storage_options):
        check_start(
            recipe, uri.options_for(recipe.start, config.storage_options, (*parts_of(config.data), config.folder))
        )
    engine = _engine(config)
    check_workers(recipe, worker_range(config.workers) or (1, 1))
    images = len(list_sources(config.data, config.storage_options))
    held = len(stretches(images, recipe.holdout))
    kept = images - held or images
    if dry_run:
        console.result({**_facts(config, recipe, engine), "images": kept, "held_out": held})
        return 0
    _prepare(config)
    with only_driver(config.folder, console.say, config.storage_options):
        say = f"training {recipe.model!r} on {plural(kept, 'image')}, {held} held out{_going_on(config)}"
        console.say(say)
        ended = _run(engine, config, recipe, Progress(console), console)
        skipped = read_skipped(config.folder, config.storage_options)
        use = f"artgen restore --model {uri.shown(config.folder)}"
        return _conclude(config, recipe, ended, skipped, use, console)


def train_gan(args: dict[str, Any], console: Console) -> int:
    """Runs `artgen train gan` and returns its exit code; as `train_restorer`."""
    from artgen.training.gan_scribe import check_batch
    from artgen.training.pictures import list_sources, shown_parts
    from artgen.training.shards import check_workers

    dry_run = args.pop("dry_run", False)
    config, recipe = settings(args, load_gan_recipe)
    check_places(config)
    _check_kind(config, recipe)
    engine = _engine(config)
    check_workers(recipe, worker_range(config.workers) or (1, 1))
    images = len(list_sources(config.data, config.storage_options))
    if images < recipe.batch_images:
        raise UsageError(
            f"DATA {shown_parts(config.data)} lists {plural(images, 'picture')}, fewer than batch_images = "
            f"{recipe.batch_images}: give more pictures or set a smaller batch"
        )
    if last_step(config.folder, config.storage_options):
        check_batch(config.folder, recipe, config.storage_options)
    if dry_run:
        console.result({**_facts(config, recipe, engine), "images": images})
        return 0
    _prepare(config)
    with only_driver(config.folder, console.say, config.storage_options):
        console.say(f"training {recipe.model!r} on {plural(images, 'image')}{_going_on(config)}")
        ended = _run(engine, config, recipe, GanProgress(console), console)
        told = json.loads(uri.read_or_none(uri.join(config.folder, "data.json"), config.storage_options) or b"{}")
        unusable, changed = told.get("unusable", {}), told.get("changed", {})
        use = f"artgen generate {uri.shown(config.folder)} OUTPUT --seeds 0-63"
        return _conclude(config, recipe, ended, unusable, use, console, changed)


def _facts(config: TrainConfig, recipe: RestorerRecipe | GanRecipe, engine: str) -> dict[str, Any]:
    values = dataclasses.asdict(recipe) if isinstance(recipe, GanRecipe) else without_secrets(recipe)
    return {
        "run": uri.shown(config.folder), "engine": engine, "workers": config.workers, **_resolved(config, recipe),
        "step": last_step(config.folder, config.storage_options), "recipe": values,
    }  # fmt: skip


def _resolved(config: TrainConfig, recipe: RestorerRecipe | GanRecipe) -> dict[str, str]:
    """Device and precision as they come out on this machine; those of a cluster's nodes show when it is up."""
    if cluster_address(config.address):
        return {"device": config.device, "precision": recipe.precision}
    import torch

    from artgen.training.rank import Rank, agreed_precision, pick_device

    device = pick_device(config.device)
    return {"device": device, "precision": agreed_precision(recipe.precision, torch.device(device), Rank())}


def _going_on(config: TrainConfig) -> str:
    step = last_step(config.folder, config.storage_options)
    return f", going on from step {step}" if step else ""


def settings(
    args: Mapping[str, Any], load_one: Callable[[str, Mapping[str, Any]], RecipeT] = load_recipe
) -> tuple[TrainConfig, RecipeT]:
    """Flags, file and --set, divided into where to train and what.

    Raises UsageError for an unknown key, and for a model that cannot be built or not be trained so.
    """
    args = dict(args)
    name, file, sets = args.pop("recipe", "default"), args.pop("config", None), args.pop("set", None) or []
    pairs = [text.partition("=") for text in sets]
    for text, (_, equals, _) in zip(sets, pairs, strict=True):
        if not equals:
            raise UsageError(f"--set {text!r} is not KEY=VALUE")
    in_file = {} if file is None else read_toml(file)
    values = {**in_file, **args, **{key.strip(): _value(text) for key, _, text in pairs}}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    where = {field.name for field in dataclasses.fields(TrainConfig)}
    changes = {key: value for key, value in values.items() if key not in where}
    if isinstance(changes.get("seed"), str):
        changes["seed"] = _value(changes["seed"])
    config = load(TrainConfig, {key: value for key, value in values.items() if key in where})
    recipe = load_one(name, changes)
    from artgen.training import gan_run, run

    if isinstance(recipe, RestorerRecipe):
        run.check_model(recipe)
    else:
        gan_run.check_model(recipe)
    return config, recipe


def _value(text: str) -> Any:
    """Numbers, true, tables as JSON; anything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def check_places(config: TrainConfig) -> None:
    """RUN must be empty, new or a run, and lie outside DATA, so that no run trains on what it writes."""
    from artgen.training.pictures import parts_of

    target, options, shown = uri.normal(config.folder), config.storage_options, uri.shown(config.folder)
    for part in parts_of(config.data):
        source = uri.normal(part)
        if target == source or target.startswith(source.rstrip("/") + "/"):
            raise UsageError(f"RUN {shown} lies in DATA {uri.shown(part)}: choose a RUN outside of it")
    found = uri.names(config.folder, options)
    if not found or "recipe.json" in found:
        return
    if "_artgen" not in found:
        raise UsageError(
            f"RUN {shown} is not empty and no run of artgen: choose an empty or new folder (nothing was changed)"
        )
    if "manifest" in found or "settings.json" in uri.names(uri.join(config.folder, "_artgen"), options):
        raise UsageError(
            f"RUN {shown} is an OUTPUT of restore or generate: choose an empty or new folder (nothing was changed)"
        )


def _check_kind(config: TrainConfig, recipe: RestorerRecipe | GanRecipe) -> None:
    """Raises UsageError for the RUN of the other training, whose checkpoints would pass for damaged."""
    kinds = {"restorer": "patch_px", "gan": "game"}  # a key that only the one's recipe has
    held = uri.read_or_none(uri.join(config.folder, "recipe.json"), config.storage_options)
    try:
        keys = set(json.loads(held or b"{}"))
    except ValueError:
        return  # torn: it is written anew
    other = "restorer" if isinstance(recipe, GanRecipe) else "gan"
    if kinds[other] in keys:
        raise UsageError(
            f"RUN {uri.shown(config.folder)} is a run of `artgen train {other}`: choose another RUN (nothing was changed)"
        )


def _prepare(config: TrainConfig) -> None:
    atomic.check_writable(uri.join(config.folder, "_artgen"), config.storage_options)
    atomic.sweep(config.folder, config.storage_options)


def _engine(config: TrainConfig) -> str:
    """`auto`: Ray for several workers, several GPUs or a cluster (named, or the one whose job this is), else here."""
    if config.engine != "auto":
        return config.engine
    wanted = worker_range(config.workers)
    if cluster_address(config.address) or (wanted is not None and wanted[1] > 1):
        return "ray"
    import torch

    several = config.device in ("auto", "cuda") and torch.cuda.device_count() > 1 and wanted is None
    return "ray" if several else "local"


def _run(
    engine: str,
    config: TrainConfig,
    recipe: RestorerRecipe | GanRecipe,
    tell: Callable[[Any], None],
    console: Console,
) -> str:
    """Trains; returns how it ended: `done`, `interrupted`, or the error that the same command may overcome."""
    try:
        if engine == "ray":
            from artgen.engines import ray_train

            ray_train.train(config, recipe, tell, console)
        else:
            _train_here(config, recipe, tell)
    except KeyboardInterrupt:
        return "interrupted"
    except RunError as error:
        return f"{type(error).__name__}: {error}"
    except (RuntimeError, MemoryError) as error:
        from artgen.inference.forward import no_memory

        if not no_memory(error):
            raise
        return f"OutOfMemory: {_first_line(error)}; {_smaller(recipe)}, or another machine or --device"
    return "done"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _smaller(recipe: RestorerRecipe | GanRecipe) -> str:
    """What takes less memory."""
    if isinstance(recipe, GanRecipe):
        return (
            f"take a smaller batch_images ({recipe.batch_images}), more shards ({recipe.shards}; one is computed at a time "
            "on each core) or smaller pictures (height, width)"
        )
    return (
        f"take a smaller micro_images ({recipe.micro_images}; 0: the whole batch) or patch_px ({recipe.patch_px})"
    )


def _train_here(config: TrainConfig, recipe: RestorerRecipe | GanRecipe, tell: Callable[[Any], None]) -> None:
    from artgen.child import cores
    from artgen.engines.local import MOST_FEEDERS
    from artgen.training import gan_run, run
    from artgen.training.rank import Rank, pick_device

    device = pick_device(config.device)
    rank = Rank(threads=1 if device == "cpu" else min(cores(), MOST_FEEDERS))
    how: Any = {"device": device, "report": tell, "rank": rank, "options": config.storage_options}
    if isinstance(recipe, GanRecipe):
        gan_run.train_gan(config.data, config.folder, recipe, **how)
    else:
        run.train_restorer(config.data, config.folder, recipe, **how)


class Progress:
    """One line for each report: how far, how well, how fast, how long still."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, numbers: Mapping[str, float]) -> None:
        scores = "".join(f"  {key} {numbers[key]:.2f} dB" for key in numbers if key.endswith(("-colour", "-grey")))
        skipped = f"  {numbers['skipped']:.0f} steps skipped" if numbers["skipped"] else ""
        self._console.say(
            f"step {numbers['step']:.0f} ({100 * numbers['progress']:.1f} %)  loss {numbers.get('loss', math.nan):.4g}  "
            f"{numbers['images_per_s']:.1f} images/s  {_clock(numbers['left_s'])} left"
            f"{skipped}{scores}"
        )


class GanProgress:
    """One line for each report, each look and each rescue, and for a size that nobody has set."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, numbers: Mapping[str, Any]) -> None:
        if "size_rule" in numbers:
            self._console.say(numbers["size_rule"])
        elif "rescued" in numbers:
            gamma = f", gamma times {numbers['gamma_times']:g}" if "gamma_times" in numbers else ""
            self._console.say(
                f"step {numbers['from_step']}: {numbers['rescued']}; back to step {numbers['step']}, learning rate times "
                f"{numbers['rate_times']:g}{gamma}"
            )
        elif "fd_random" in numbers:
            self._console.say(
                f"{numbers['images'] / 1000:.0f} kimg: fd_random {numbers['fd_random']:.2f}  "
                f"diversity {numbers['diversity']:.2f}"
            )
        else:
            skipped = f"  {numbers['skipped']:.0f} steps skipped" if numbers["skipped"] else ""
            # Where every step since the last report was skipped there is no mean to tell.
            d_loss, g_loss, right = (numbers.get(name, math.nan) for name in ("d_loss", "g_loss", "d_right"))
            self._console.say(
                f"{numbers['images'] / 1000:.0f} kimg ({100 * numbers['progress']:.1f} %)  D {d_loss:.3f}  "
                f"G {g_loss:.3f}  D right {100 * right:.0f} %  "
                f"{numbers['images_per_s']:.1f} images/s  {_clock(numbers['left_s'])} left{skipped}"
            )


def _clock(seconds: float) -> str:
    left = round(seconds)
    return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"


def _conclude(
    config: TrainConfig,
    recipe: RestorerRecipe | GanRecipe,
    ended: str,
    skipped: Mapping[str, str],
    use: str,
    console: Console,
    changed: Mapping[str, Any] | None = None,
) -> int:
    """Says what came of it and returns the exit code. skipped: reasons by picture; changed: None where none ever is."""
    step = last_step(config.folder, config.storage_options)
    facts: dict[str, Any] = {
        "run": uri.shown(config.folder), "ended": ended,
        "model": uri.shown(uri.join(config.folder, "model.safetensors")) if step else None, "step": step,
        "images_seen": step * recipe.batch_images, "skipped_pictures": len(skipped),
    }  # fmt: skip
    about = f", {plural(len(skipped), 'picture')} left out" if skipped else ""
    if changed is not None:
        facts["changed_pictures"] = len(changed)
        about += f", {len(changed)} changed to fit (data.json has how)" if changed else ""
    for key, reason in list(skipped.items())[:5]:
        console.say(f"left out {key!r}: {reason}")
    if ended != "done":
        rest = f"step {step} is saved{about}: the same command goes on from there"
        text = f"{ended}; {rest if step else f'nothing is saved yet{about}: the same command begins anew'}"
        console.unfinished(facts, text)
        return 1
    console.result(facts, f"trained {step} steps{about}; use it: {use}")
    return 0
