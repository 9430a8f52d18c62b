"""`artgen damage`: pictures with known damage, by the operators that training uses."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from artgen.codecs.guard import Guard
from artgen.codecs.picture import Picture
from artgen.commands.places import check_apart, check_may_be_made, check_writable, place
from artgen.config import IMAGE_TIMEOUT_S, MAX_PIXELS, check_limits, check_not_empty
from artgen.console import Console
from artgen.errors import ImageError, RunError, StorageError, UsageError
from artgen.records import Entry, Source
from artgen.storage import archive, atomic, scratch, uri
from artgen.text import plural
from artgen.work.listing import Listing
from artgen.work.lock import NAME as LOCK
from artgen.work.lock import only_driver

SAVE_EVERY_S = 20.0
FOLDER = "_damage"  # not _artgen: no other command may take this OUTPUT for its own, and clear it
# Operators in the order in which damage befalls a picture; the last is how it was saved. Value: the strength of a
# switch that takes none on the command line.
ORDER = ("fade", "blur", "noise", "salt_pepper", "missing", "holes", "scratches", "mixture", "jpeg")
SWITCHES = {"fade": 0.6, "blur": 1.5, "holes": 0.1, "scratches": 0.03, "mixture": 1.0}
# Of every operator of training.degrade, for `artgen evaluate` too: beyond them it divides by 0 or says nothing.
RANGES: dict[str, tuple[float, float]] = {
    "noise": (0, 255), "noise-in-file": (0, 255), "speckle": (0, 255), "poisson": (0.01, 1e6),
    "salt-pepper": (0, 1), "salt-pepper-per-channel": (0, 1), "missing": (0, 1), "holes": (0, 1), "scratches": (0, 1),
    "jpeg": (1, 100), "jpeg-full-colour": (1, 100), "quantise": (2, 256),
    "blur": (0, 100), "fade": (0, 1), "resample": (1, 100),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageConfig:
    """Everything that `artgen damage` can be told. Operators: None or False where the damage is not asked for."""

    input: str
    output: str
    noise: float | None = None
    salt_pepper: float | None = None
    missing: float | None = None
    holes: bool = False
    scratches: bool = False
    jpeg: int | None = None
    blur: bool = False
    fade: bool = False
    mixture: bool = False
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    image_timeout: float = IMAGE_TIMEOUT_S
    storage_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_not_empty(input=self.input, output=self.output)
        check_limits(self.max_pixels, self.image_timeout)
        if not self.strengths:
            raise UsageError(f"no damage is named: use one or more of --{', --'.join(ORDER)}".replace("_", "-"))
        for name in self.strengths.keys() - SWITCHES.keys():
            flag = name.replace("_", "-")
            check_strength(flag, self.strengths[name], f"--{flag} {self.strengths[name]:g}")

    @property
    def strengths(self) -> dict[str, float]:
        """By operator, in the order in which they are applied. 0 is a strength as well."""
        given: dict[str, Any] = {name: getattr(self, name) for name in ORDER}
        asked = {name: value for name, value in given.items() if value is not None and value is not False}
        return asked | {name: SWITCHES[name] for name in asked if name in SWITCHES}


def damage(config: DamageConfig, console: Console, *, dry_run: bool = False) -> int:
    """Writes OUTPUT/images/<name>.png, OUTPUT/masks/<name>.png where parts are lost, and last OUTPUT/damage.jsonl.

    The damage of an image follows from (seed, key) alone, so after an end before time the same command does the rest and
    the bytes are the same. Exit codes: 0, or 3 if images could not be read. Raises UsageError for an OUTPUT that holds
    anything else, RunError (exit code 1) for what the same command goes on from.
    """
    source, output, options = config.input, config.output, config.storage_options
    strengths, seed = config.strengths, config.seed
    most_bytes = archive.most_bytes(config.max_pixels)
    check_apart(output, {"INPUT": source})
    check_may_be_made(output)
    record = Record(output, options)
    with (
        TemporaryDirectory(dir=scratch.folder()) as indexes,
        Listing(
            place(source), archive.scan(source, options, cache_dir=indexes, exclude=output, max_bytes=most_bytes)
        ) as listed,
        archive.Reader(options, indexes) as reader,
        Guard(config.max_pixels, config.image_timeout or None) as guard,
    ):
        if not listed.count():
            raise UsageError(f"INPUT {uri.shown(source)} holds no image ({listed.skipped} other files)")

        def picture_of(found: Source) -> Picture:
            return guard.decode(reader.read(found, most_bytes))

        def damaged(entry: Entry) -> dict[str, Any]:
            return _damaged(entry, picture_of, output, strengths, seed, options)

        settings = {"input": place(source), "files": listed.digest(), "seed": seed, "damage": strengths}
        if dry_run:
            record.read(settings)
            console.result(_described(config, listed, len(record.lines)))
            return 0
        check_writable(output, FOLDER, options)
        with only_driver(output, console.say, options, FOLDER):
            record.begin(settings)
            console.begin(listed.count(), len(record.lines), "damaging")
            try:
                _go_on(record, listed, damaged, console)
            finally:
                console.end()
            record.publish()
    failed = sum("error" in json.loads(line) for line in record.lines.values())
    facts = {"output": uri.shown(output), "images": len(record.lines) - failed, "failed": failed}
    text = f"{plural(facts['images'], 'image')} damaged, {failed} failed: {facts['output']}"
    console.result(facts, f"{text}; to go on: {_next_command(output, options)}")
    return 3 if failed else 0


def _described(config: DamageConfig, listed: Listing, done: int) -> dict[str, Any]:
    """What --dry-run prints."""
    return {
        "input": uri.shown(config.input), "output": uri.shown(config.output), "images": listed.count(), "skipped": listed.skipped,
        "damage": config.strengths, "seed": config.seed, "max_pixels": config.max_pixels,
        "image_timeout": config.image_timeout, "done": done, "left": listed.count() - done,
    }  # fmt: skip


def _next_command(output: str, options: uri.Options | None) -> str:
    words = ["artgen", "restore", uri.shown(uri.join(output, "images")), "RESTORED"]
    masks = uri.join(output, "masks")
    if uri.exists(masks, options):
        words += ["--masks", uri.shown(masks)]
    return shlex.join(words)


def _go_on(
    record: Record, listed: Listing, damaged: Callable[[Entry], dict[str, Any]], console: Console
) -> None:  # fmt: skip
    try:
        for entry in listed.entries(".png"):
            line = record.lines.get(entry.source.key)
            if line is None:
                made = damaged(entry)
                line = json.dumps(made, sort_keys=True, ensure_ascii=False)
                console.advance(1, "error" in made)
            record.add(entry.source.key, line)
    except (KeyboardInterrupt, Exception) as error:  # and no other: who has lost its lease writes no more
        with suppress(StorageError):  # on a full disk what was saved last counts
            record.save()
        if isinstance(error, KeyboardInterrupt):
            raise RunError(
                f"interrupted after {len(record.lines)} of {plural(listed.count(), 'image')}; the same command goes on from here"
            ) from error
        raise
    record.save()


def check_strength(name: str, strength: float, flag: str) -> None:
    """Raises UsageError, which quotes `flag`, for a strength out of the range of the operator `name`."""
    low, high = RANGES[name]
    if not low <= strength <= high:
        raise UsageError(f"{flag} is out of range: use {low:g} to {high:g}")


class Record:
    """What is done in an OUTPUT: a line of JSON for each picture, by key, kept in _damage/record.jsonl below one line of
    the settings. Raises UsageError for an OUTPUT that holds something else; what it holds is read at `read` and `begin`.
    """

    def __init__(self, output: str, options: uri.Options | None = None) -> None:
        self.lines: dict[str, str] = {}
        self._output, self._options = output, options
        self._folder = uri.join(output, FOLDER)
        self._place = uri.join(self._folder, "record.jsonl")
        self._settings: dict[str, Any] = {}
        self._next_save = 0.0
        try:
            if not uri.exists(self._place, options) and not self._is_new():
                raise UsageError(
                    f"OUTPUT {uri.shown(output)} is not empty and `artgen damage` did not make it: choose an empty or new "
                    "folder (nothing was changed)"
                )
        except StorageError as error:
            raise UsageError(f"OUTPUT {uri.shown(output)} cannot be used: {error}") from error

    def _is_new(self) -> bool:
        """Nothing lies there, or only what a command left that ended before its first line."""
        return set(uri.names(self._output, self._options)) <= {FOLDER} and all(
            name.startswith((atomic.PREFIX, LOCK)) for name in uri.names(self._folder, self._options)
        )

    def begin(self, settings: dict[str, Any]) -> None:
        """Reads what earlier commands did, and is theirs to go on; OUTPUT must be locked. Raises UsageError as `read` does."""
        self.read(settings)
        atomic.sweep(self._output, self._options, home=FOLDER)
        self._settings = settings
        self.save()

    def read(self, settings: dict[str, Any]) -> None:
        """What earlier commands did, without a change. Raises UsageError where they had other settings or files."""
        if (kept := uri.read_or_none(self._place, self._options)) is not None:
            # Not splitlines: a key may hold what Unicode counts as the end of a line, too.
            earlier, *lines = kept.decode().rstrip("\n").split("\n")
            self._settings = json.loads(earlier)
            records = ((json.loads(line), line) for line in lines)
            self.lines = {record["key"]: line for record, line in records if "error" not in record}  # others: again
        told = {"files": "files of INPUT: have changed"}
        differing = [
            told.get(name, f"{name}: was {self._settings[name]}, now {value}")
            for name, value in settings.items()
            if self._settings and self._settings[name] != value
        ]
        if differing:
            raise UsageError(
                f"OUTPUT {uri.shown(self._output)} was made with other settings ({'; '.join(differing)}): give the same, or "
                "choose a new folder (nothing was changed)"
            )

    def add(self, key: str, line: str) -> None:
        """Lines end up in the order in which they are added, also those of an earlier command."""
        self.lines.pop(key, None)
        self.lines[key] = line
        if time.monotonic() >= self._next_save:
            self.save()

    def save(self) -> None:
        """Writes the whole record anew, in one atomic step. Raises StorageError."""
        began = time.monotonic()
        text = "\n".join([json.dumps(self._settings), *self.lines.values()]) + "\n"
        atomic.write(self._place, text.encode(), self._options)
        took = time.monotonic() - began
        # The record grows: saving it takes at most a twentieth of the time.
        self._next_save = time.monotonic() + max(SAVE_EVERY_S, 20 * took)

    def publish(self) -> None:
        """All is done: OUTPUT/damage.jsonl says so."""
        text = "\n".join(self.lines.values()) + "\n"
        atomic.write(uri.join(self._output, "damage.jsonl"), text.encode(), self._options)


def _damaged(
    entry: Entry, picture_of: Callable[[Source], Picture], output: str, strengths: Mapping[str, float], seed: int,
    options: uri.Options | None,
) -> dict[str, Any]:  # fmt: skip
    """What damage.jsonl tells of one image, once its pictures are written."""
    told = {"key": entry.source.key, "name": entry.name, "seed": seed, "damage": strengths}
    try:
        picture = picture_of(entry.source)
        masked = damage_one(entry, picture, output, strengths, seed, options)
    except ImageError as error:
        return told | {"error": f"{type(error).__name__}: {error}"}
    notes = [*picture.notes, *(["16 bits rounded to 8"] if picture.bits == 16 else [])]
    return told | {"masked": masked, "notes": "; ".join(notes)}


def damage_one(
    entry: Entry, picture: Picture, output: str, strengths: Mapping[str, float], seed: int, options: uri.Options | None = None
) -> float:  # fmt: skip
    """Writes the damaged picture and its mask, strengths by operator; returns the share of it that is lost."""
    import numpy as np
    import torch

    from artgen.codecs.encode import encode
    from artgen.codecs.metadata import Metadata
    from artgen.training.data import stable_seed
    from artgen.training.degrade import round_to_file
    from artgen.training.dice import Dice

    full = 255.0 if picture.bits == 8 else 65535.0
    x_BCHW = torch.from_numpy(picture.pixels.astype(np.float32)).permute(2, 0, 1)[None] / full
    lost_B1HW = torch.zeros_like(x_BCHW[:, :1])
    seeds = Dice(stable_seed(seed, entry.source.key))
    for name, strength in strengths.items():
        x_BCHW, mask_B1HW = _operator(name)(x_BCHW, strength, Dice(seeds.seeds()))
        lost_B1HW = torch.maximum(lost_B1HW, mask_B1HW)
    pixels = (round_to_file(x_BCHW)[0].permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    alpha = picture.alpha if picture.bits == 8 or picture.alpha is None else (picture.alpha >> 8).astype(np.uint8)
    data = encode(pixels, alpha, picture.metadata, format="png").data
    if lost_B1HW.any():
        mask = (lost_B1HW[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        drawn = encode(mask, None, Metadata(), format="png").data
        atomic.write(uri.join(output, "masks", entry.name), drawn, options)
    atomic.write(uri.join(output, "images", entry.name), data, options)
    return round(lost_B1HW.mean().item(), 4)


def _operator(name: str) -> Any:
    from artgen.training import degrade, mixtures

    if name == "mixture":
        return lambda x_BCHW, _, dice: mixtures.damage_at_random(x_BCHW, {"mixture": 1.0}, dice.seeds())
    return getattr(degrade, "noise_in_file" if name == "noise" else name)
