"""`artgen evaluate restorer`: a table for each kind of damage and strength, as text, JSON and a panel of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from artgen import config
from artgen.codecs.guard import Guard
from artgen.commands.damage import check_strength
from artgen.commands.places import check_writable
from artgen.config import IMAGE_TIMEOUT_S, check_limits
from artgen.console import Console
from artgen.errors import StorageError, UsageError
from artgen.records import Source
from artgen.storage import archive, atomic, scratch, uri
from artgen.text import plural

if TYPE_CHECKING:
    from artgen.work.evaluation import Scores, Task

# A picture goes through the model whole, in floats, and its peers take more than that: larger ones would take the memory.
MOST_PIXELS = 32_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """damage: NAME=STRENGTH[,STRENGTH...] each (none: those of DEFAULT_DAMAGE). protocol: published has float noise,
    file 8-bit files. images: only the first so many of DATA. Raises UsageError.
    """

    model: str
    data: str
    damage: tuple[str, ...] = ()
    protocol: Literal["published", "file"] = "published"
    images: int | None = None
    no_peers: bool = False
    max_pixels: float = MOST_PIXELS
    image_timeout: float = IMAGE_TIMEOUT_S
    out: str | None = None
    seed: int = 0
    device: str = "auto"
    storage_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise UsageError(f"--images is {self.images}; use 1 or more")
        check_limits(self.max_pixels, self.image_timeout)


def evaluate_restorer(args: dict[str, Any], console: Console) -> int:
    """Returns 0, 3 if pictures of DATA could not be used, or 1 if the result was told but not kept.

    Raises UsageError for wrong damage, model or data, and for an --out that cannot be written to.
    """
    from artgen.models.weights import load
    from artgen.training.rank import pick_device
    from artgen.work import evaluation

    dry_run, file, sets = args.pop("dry_run", False), args.pop("config", None), args.pop("set", None)
    settings = config.load(Settings, args, file=file, sets=sets)
    options, data, max_pixels = settings.storage_options, settings.data, int(settings.max_pixels)
    tasks, images = parse_damage(settings.damage), settings.images
    device = pick_device(settings.device)
    restorer = load(settings.model, uri.options_for(settings.model, options, (data, settings.out or "")))
    measure = evaluation.Evaluation(
        restorer, protocol=settings.protocol, peers=not settings.no_peers, seed=settings.seed, device=device
    )
    told: dict[str, Any] = {
        "model": restorer.facts.name, "model_sha256": restorer.sha256, "data": uri.shown(data),
        "protocol": settings.protocol, "seed": settings.seed, "device": device,
    }  # fmt: skip
    unusable: dict[str, str] = {}
    with TemporaryDirectory(dir=scratch.folder()) as indexes:
        if dry_run:
            listed = sum(1 for _ in islice(_sources(data, options, indexes, whole=False), images))
            damage = [f"{task.damage}={task.strength:g}" for task in tasks]
            console.result({**told, "pictures": listed, "damage": damage, "peers": not settings.no_peers})
            return 0
        if settings.out is not None:
            check_writable(settings.out, "", options, "--out")
        with archive.Reader(options, indexes) as reader, Guard(max_pixels, settings.image_timeout or None) as guard:
            found = _sources(data, options, indexes, whole=images is None)
            pictures = islice(
                evaluation.pictures_of(found, reader, guard, unusable, archive.most_bytes(max_pixels)), images
            )
            results = measure.run(tasks, console.counted(pictures, "measured"))
    for key, reason in list(unusable.items())[:5]:
        console.say(f"left out {key!r}: {reason}")
    if not results[0].images:
        raise UsageError(f"DATA {uri.shown(data)} holds no picture that can be scored ({len(unusable)} left out)")
    facts = {
        **told, "pictures": results[0].images, "failed": len(unusable),
        "not_installed": sorted(measure.missing_peers), "gave_up": dict(sorted(measure.gave_up.items())),
        "results": [evaluation.as_json(scores) for scores in results],
    }  # fmt: skip
    console.result(facts, table(facts, results))
    if settings.out is not None:
        try:
            atomic.write(uri.join(settings.out, "evaluation.json"), json.dumps(facts, indent=1).encode(), options)
            atomic.write(uri.join(settings.out, "panel.png"), panel([scores.panel for scores in results]), options)
        except StorageError as error:  # raised, it would be a second JSON object on stdout
            console.error(str(error))
            return 1
    return 3 if unusable else 0


def _sources(data: str, options: uri.Options | None, indexes: str, *, whole: bool) -> Iterable[Source]:
    """whole: listed to the end before the first is read, so that the seek points of a .tar.gz are there by then; otherwise
    no more of DATA is looked at than is asked for."""
    found = (item for item in archive.scan(data, options, cache_dir=indexes) if isinstance(item, Source))
    return list(found) if whole else found


def parse_damage(given: Sequence[str]) -> list[Task]:
    """`["noise=15,25", "jpeg=10"]`, in as many texts as one likes, as tasks; the default set if nothing is given.

    A name without strengths gets those of the default set. Raises UsageError.
    """
    from artgen.work.evaluation import DEFAULT_DAMAGE, Task

    if not given:
        return [Task(name, strength) for name, strengths in DEFAULT_DAMAGE.items() for strength in strengths]
    tasks: list[Task] = []
    name = ""
    for word in ",".join(given).split(","):
        head, equals, strength = word.rpartition("=")
        name = head or name
        if not equals and word in DEFAULT_DAMAGE:
            tasks += [Task(word, one) for one in DEFAULT_DAMAGE[word]]
            name = ""
            continue
        try:
            if not name:
                raise ValueError("a strength without a name before it")
            tasks.append(Task(name, float(strength)))
        except ValueError as error:
            raise UsageError(
                f"--damage {word!r} is not NAME=STRENGTH[,STRENGTH...], as in noise=15,25,50"
            ) from error
    for task in tasks:
        check_strength(task.damage, task.strength, f"--damage {task.damage}={task.strength:g}")
    return tasks


def table(facts: dict[str, Any], results: list[Scores]) -> str:
    """PSNR (dB) and SSIM by damage; the best PSNR of a row is starred."""
    left_out = f" ({facts['failed']} left out)" if facts["failed"] else ""
    of = f"{plural(facts['pictures'], 'picture')} of {facts['data']}{left_out}"
    lines = [f"{facts['model']} on {of}, {facts['protocol']} protocol: PSNR/SSIM"]
    lines += map(_line, results)
    if facts["not_installed"]:
        lines.append(f"not installed: {', '.join(facts['not_installed'])}")
    for name, count in facts["gave_up"].items():
        lines.append(f"{name} made nothing of {plural(count, 'picture')}, scored as given to it")
    return "\n".join(lines)


def _line(scores: Scores) -> str:
    means = scores.means()
    best = max(found["psnr"] for found in means.values())
    cells = [
        f"{name} {found['psnr']:.2f}/{found['ssim']:.3f}{'*' if found['psnr'] == best else ''}"
        for name, found in means.items()
    ]
    return f"{scores.task.damage:>12} {scores.task.strength:<5g} " + "  ".join(cells)


def panel(rows: list[tuple[np.ndarray, ...]]) -> bytes:
    """A PNG with a row for each task: damaged, restored, clean. Rows are cut to the same size of at most 320 x 240."""
    from artgen.codecs.png import encode_png

    height = min(240, *(row[0].shape[0] for row in rows))
    width = min(320, *(row[0].shape[1] for row in rows))
    strips = []
    for row in rows:
        cut = [picture[:height, :width] for picture in row]
        strips.append(np.concatenate([np.repeat(p, 3, axis=2) if p.shape[2] == 1 else p for p in cut], axis=1))
    return encode_png(np.ascontiguousarray(np.concatenate(strips, axis=0)))
