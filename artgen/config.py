"""Typed configuration: one dataclass for each command, built from defaults < --config FILE.toml < flags < --set KEY=VALUE."""

from __future__ import annotations

import os
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from artgen.errors import UsageError
from artgen.text import nearest

Sink = Literal["png", "parquet", "webdataset"]
EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "source": "source"}
"""By --format how the names of outputs end; `source`: as their sources."""
MAX_PIXELS = 178_956_970  # Pillow's own bound for an error: 2 x 1 GiB / 12 bytes
IMAGE_TIMEOUT_S = 600.0
MOST_PIXELS = 10**12
MOST_GRID = 256
MOST_FRAMES = 10_000
LONGEST_S = 10**7
QUALITY = 90
FRAMES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What the commands that fill an OUTPUT through a plan have in common. Names are the flags', with underscores.

    unit_images: images per unit (0: grows with the archive). workers: threads of the local engine or actors on Ray.
    c2pa: certificate chain and private key, as CERT,KEY, that every picture is signed with.
    doing, done: in words, of the pictures.
    """

    doing: ClassVar[str]
    done: ClassVar[str]

    output: str
    to: tuple[Sink, ...] = ("png",)
    unit_images: int = 0
    overwrite: bool = False
    quality: int = QUALITY
    c2pa: str | None = None
    engine: Literal["auto", "local", "ray"] = "auto"
    address: str | None = None
    workers: str = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = 0
    storage_options: dict[str, Any] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Places that every worker must see."""
        return ()

    def __post_init__(self) -> None:
        _at_least("unit_images", self.unit_images, 0)
        _at_least("seed", self.seed, 0)
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality {self.quality} is out of range: use 1 to 100")
        if not self.to:
            raise UsageError("no output is named: use --to png, parquet or webdataset (repeatable)")
        if self.engine == "local" and self.address is not None:
            raise UsageError(f"--engine local takes no cluster address ({self.address!r}): drop one of the two")
        if self.c2pa is not None and [bool(place) for place in self.c2pa.split(",")] != [True, True]:
            raise UsageError(f"--c2pa {self.c2pa!r} is not CERT,KEY: give two PEM files with a comma between them")
        worker_range(self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig(RunConfig):
    """Everything that `artgen restore` can be told.

    tile, overlap: pixels of the input (0, None: by device, the model's own, for which a smaller tile grows). batch: tiles
    per forward (0: by device).
    image_timeout: seconds, 0 for none. strength: 0 returns the input, 1 the model's picture.
    """

    input: str
    model: str = "default"
    masks: str | None = None
    mask_from_alpha: bool = False
    keep_unmasked: bool = False
    tile: int = 0
    overlap: int | None = None
    batch: int = 0
    on_error: Literal["record", "stop"] = "record"
    retry_failed: bool = False
    max_pixels: int = MAX_PIXELS
    image_timeout: float = IMAGE_TIMEOUT_S
    format: Literal["png", "jpeg", "webp", "source"] = "png"
    strength: float = 1.0
    ensemble: bool = False

    doing: ClassVar[str] = "restoring"
    done: ClassVar[str] = "restored"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.input,) if self.masks is None else (self.input, self.masks)

    def __post_init__(self) -> None:
        check_not_empty(input=self.input, output=self.output, masks=self.masks, model=self.model)
        _at_least("tile", self.tile, 32 if self.tile else 0)
        if self.overlap is not None:
            _at_least("overlap", self.overlap, 0)
            if self.tile and self.overlap > most_overlap(self.tile):
                raise UsageError(
                    f"overlap {self.overlap} is more than three quarters of tile {self.tile}: raise --tile or lower --overlap"
                )
        _at_least("batch", self.batch, 0)
        check_limits(self.max_pixels, self.image_timeout)
        if not 0.0 <= self.strength <= 1.0:
            raise UsageError(f"strength {self.strength} is out of range: use 0 (input) to 1 (the model's picture)")
        if self.masks is not None and self.mask_from_alpha:
            raise UsageError("--masks and --mask-from-alpha are both given: choose one source of masks")
        if self.keep_unmasked and self.masks is None and not self.mask_from_alpha:
            raise UsageError("--keep-unmasked needs masks: add --masks URI or --mask-from-alpha")
        if self.keep_unmasked and self.format != "png":
            lossy = "writes .jpg and .webp sources lossily" if self.format == "source" else "is lossy"
            raise UsageError(
                f"--keep-unmasked with --format {self.format}, which {lossy}: use --format png, which keeps pixels bit for bit"
            )
        RunConfig.__post_init__(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(RunConfig):
    """Everything that `artgen generate` can be told.

    seeds: `0-9999,20000`; None: 0-63, or none where only an interpolation is asked for. classes: names or numbers; the
    class of a seed is classes[seed modulo their number], and one named twice is twice as frequent (none given: all of the
    model's). truncation: 0 (the mean
    picture) to 1 (all variety). grid: pictures of grid.png (None: no grid). interpolate: seeds that frames lead along,
    `frames` from each to the next. data: the training pictures, in which the report looks for the nearest of each sample.
    seed: of the samples that the report shows; pictures follow from `seeds` alone.
    """

    model: str
    seeds: str | None = None
    classes: tuple[str, ...] = ()
    truncation: float = 1.0
    format: Literal["png", "jpeg", "webp"] = "png"
    grid: int | None = None
    interpolate: str | None = None
    frames: int = FRAMES
    data: str | None = None

    doing: ClassVar[str] = "generating"
    done: ClassVar[str] = "generated"

    @property
    def on_error(self) -> Literal["record", "stop"]:
        """No generated picture fails alone: what goes wrong is the model's or the machine's."""
        return "stop"

    def __post_init__(self) -> None:
        for name in ("model", "output", "data"):
            if getattr(self, name) == "":
                raise UsageError(f"{name} '' is empty: give a path or URL")
        if not 0.0 <= self.truncation <= 1.0:
            raise UsageError(
                f"truncation {self.truncation} is out of range: use 0 (the mean picture) to 1 (all variety)"
            )
        if self.grid is not None and not 1 <= self.grid <= MOST_GRID:
            raise UsageError(f"grid {self.grid} is out of range: use 1 to {MOST_GRID} pictures")
        if not 2 <= self.frames <= MOST_FRAMES:
            raise UsageError(f"frames {self.frames} is out of range: use 2 to {MOST_FRAMES}")
        if self.frames != FRAMES and self.interpolate is None:
            raise UsageError(f"frames {self.frames} needs seeds to lead along: add --interpolate A,B")
        if self.quality != QUALITY and self.format == "png":
            raise UsageError(
                f"quality {self.quality} with format png, which loses nothing: add --format jpeg or webp"
            )
        RunConfig.__post_init__(self)


def most_overlap(tile: int, multiple: int = 1) -> int:
    """Three quarters of a tile, which then has to be passed 16 times for each of its area: slow, and still seamless.

    multiple: of the model, which divides the overlap.
    """
    return max(tile * 3 // 4 // multiple * multiple, tile // 2)


def check_limits(max_pixels: float, image_timeout: float) -> None:
    """Of one image. Raises UsageError."""
    _at_least("max_pixels", max_pixels, 1)
    if max_pixels > MOST_PIXELS:
        raise UsageError(f"max_pixels {max_pixels:g} is out of range: use at most {MOST_PIXELS:g}")
    _at_least("image_timeout", image_timeout, 0)
    if image_timeout > LONGEST_S:
        raise UsageError(f"image_timeout {image_timeout:g} is out of range: use 0 for no limit")


def check_not_empty(**places: str | None) -> None:
    """Raises UsageError for a place that is "", as of a shell variable that is not set."""
    for name, place in places.items():
        if place == "":
            raise UsageError(f"{name} '' is empty: give a path or URL (. is the current folder)")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise UsageError(f"{name} {value} is out of range: use {least} or more")


def cluster_address(address: str | None) -> str | None:
    """`--address`, else the cluster that this process runs in as a Ray job; None: a private one.

    RAY_ADDRESS may also be that of a jobs server, for `ray job submit`: no cluster to connect to.
    """
    around = os.environ.get("RAY_ADDRESS") or None
    if around is not None and around.startswith(("http://", "https://")):
        around = None
    return address or around


def worker_range(workers: str) -> tuple[int, int] | None:
    """`auto` -> None, `4` -> (4, 4), `2:8` -> (2, 8). Raises UsageError for anything else."""
    if workers == "auto":
        return None
    try:
        low, _, high = workers.partition(":")
        least, most = int(low), int(high or low)
    except ValueError:
        least, most = 0, 0
    if not 1 <= least <= most:
        raise UsageError(f"workers {workers!r} is not understood: use N or MIN:MAX with 1 <= MIN <= MAX, or auto")
    return least, most


ConfigT = TypeVar("ConfigT")


def load(
    cls: type[ConfigT], flags: dict[str, Any], *, file: str | None = None, sets: list[str] | None = None
) -> ConfigT:
    """Builds `cls` from a TOML file, flags that were given, and KEY=VALUE strings, the later winning.

    Raises UsageError for an unreadable file, an unknown key (with the nearest known one) or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(checked(cls, read_toml(file), f"in {file}:"))
    values.update(flags)
    for text in sets or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} is not KEY=VALUE")
        values.update(checked(cls, {key.strip(): value.strip()}, "in --set:"))
    hints = get_type_hints(cls)
    return cls(**{key: _convert(key, value, hints[key]) for key, value in values.items()})


def read_toml(file: str) -> dict[str, Any]:
    """What --config or a GAN's --recipe names. Raises UsageError where it cannot be read or is not TOML."""
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file!r} is not valid TOML: {error}") from error


def checked(cls: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values with underscores in their keys. Raises UsageError for a key that is no field of `cls`.

    where: what stands between the key and the hint in the message, with its colon.
    """
    known = [field.name for field in fields(cls)]
    renamed = {key.replace("-", "_"): value for key, value in values.items()}
    for key in renamed:
        if key not in known:
            raise UsageError(f"unknown key {key!r} {where} {nearest(key, known)}")
    return renamed


def _convert(key: str, value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _convert(key, value, next(arg for arg in args if arg is not type(None)))
    if origin is Literal:
        if value not in args:
            raise UsageError(f"{key} {value!r} is not known: use one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, str | list | tuple):
            raise UsageError(f"{key} {value!r} is not a list")
        items = value.split(",") if isinstance(value, str) else list(value)
        converted = [_convert(key, item, args[0]) for item in items]
        # A name twice is the same choice; a class twice gets twice as many seeds.
        return tuple(dict.fromkeys(converted)) if get_origin(args[0]) is Literal else tuple(converted)
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(
                f"{key} is not a table of KEY = VALUE: on a command line write it as JSON, such as '{{\"KEY\": VALUE}}' "
                "(its text is not shown: it may hold secrets)"
            )
        return value
    return _scalar(key, value, hint)


def _scalar(key: str, value: Any, kind: type) -> Any:
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                str(value).lower()
            ]
        if isinstance(value, bool) and kind in (int, float):
            raise ValueError  # TOML's true would be 1
        if kind is int:
            # A float has no room for a seed of 19 digits.
            number = value if isinstance(value, int) else float(value)
            if number != int(number):
                raise ValueError
            return int(number)
        return kind(value)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(f"{key} {value!r} is not {_KIND_NAMES.get(kind, kind.__name__)}") from error


_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
