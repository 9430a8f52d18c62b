"""`artgen evaluate restorer`: a table for each kind of damage and strength, as text, JSON and a panel of pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from artgen.codecs.guard import Guard
from artgen.commands.damage import check_strength
from artgen.config import IMAGE_TIMEOUT_S, check_limits
from artgen.console import PLAIN_EVERY_S, Console
from artgen.errors import StorageError, UsageError
from artgen.records import Source
from artgen.storage import archive, atomic, scratch, uri
from artgen.text import plural

if TYPE_CHECKING:
    from artgen.work.evaluation import Scores

# A picture goes through the model whole, in floats, and its peers take more than that: larger ones would take the memory.
MOST_PIXELS = 32_000_000


def evaluate_restorer(args: dict[str, Any], console: Console) -> int:
    """Returns 0, 3 if pictures of DATA could not be used, or 1 if the result was told but not kept.

    Raises UsageError for wrong damage, model or data, and for an --out that cannot be written to.
    """
    from artgen.models.weights import load
    from artgen.training.rank import pick_device
    from artgen.work import evaluation

    options, data, images = args.get("storage_options"), args["data"], args.get("images")
    tasks = parse_damage(args.get("damage"))
    protocol = args.get("protocol", "published")
    if protocol not in ("published", "file"):
        raise UsageError(f"protocol {protocol!r} is not known: use published (float noise) or file (8-bit files)")
    if images is not None and images < 1:
        raise UsageError(f"--images is {images}; use 1 or more")
    max_pixels, timeout_s = args.get("max_pixels", MOST_PIXELS), args.get("image_timeout", IMAGE_TIMEOUT_S)
    check_limits(max_pixels, timeout_s)
    device = pick_device(args.get("device", "auto"))
    restorer = load(args["model"], uri.options_for(args["model"], options, (data, args.get("out", ""))))
    measure = evaluation.Evaluation(
        restorer, protocol=protocol, peers=not args.get("no_peers", False), seed=args.get("seed", 0), device=device
    )
    if "out" in args:
        atomic.check_writable(args["out"], options)
    unusable: dict[str, str] = {}
    with (
        TemporaryDirectory(dir=scratch.folder()) as indexes,
        archive.Reader(options, indexes) as reader,
        Guard(int(max_pixels), timeout_s or None) as guard,
    ):
        found = _sources(data, options, indexes, whole=images is None)
        pictures = islice(
            evaluation.pictures_of(found, reader, guard, unusable, archive.most_bytes(int(max_pixels))), images
        )
        results = measure.run(tasks, _told(pictures, console))
    for key, reason in list(unusable.items())[:5]:
        console.say(f"left out {key!r}: {reason}")
    if not results[0].images:
        raise UsageError(f"DATA {uri.shown(data)} holds no picture that can be scored ({len(unusable)} left out)")
    facts = {
        "model": restorer.facts.name, "model_sha256": restorer.sha256, "data": uri.shown(data), "protocol": protocol,
        "pictures": results[0].images, "failed": len(unusable), "seed": args.get("seed", 0), "device": device,
        "not_installed": sorted(measure.missing_peers), "gave_up": dict(sorted(measure.gave_up.items())),
        "results": [evaluation.as_json(scores) for scores in results],
    }  # fmt: skip
    console.result(facts, table(facts, results))
    if "out" in args:
        try:
            atomic.write(uri.join(args["out"], "evaluation.json"), json.dumps(facts, indent=1).encode(), options)
            atomic.write(uri.join(args["out"], "panel.png"), panel([scores.panel for scores in results]), options)
        except StorageError as error:  # raised, it would be a second JSON object on stdout
            console.error(str(error))
            return 1
    return 3 if unusable else 0


def _sources(data: str, options: uri.Options | None, indexes: str, *, whole: bool) -> Iterable[Source]:
    """whole: listed to the end before the first is read, so that the seek points of a .tar.gz are there by then; otherwise
    no more of DATA is looked at than is asked for."""
    found = (item for item in archive.scan(data, options, cache_dir=indexes) if isinstance(item, Source))
    return list(found) if whole else found


def _told(pictures: Iterator[tuple[str, np.ndarray]], console: Console) -> Iterator[tuple[str, np.ndarray]]:
    """The same pictures; says now and then how many have gone by."""
    last_line = time.monotonic()
    for number, picture in enumerate(pictures):
        if time.monotonic() - last_line >= PLAIN_EVERY_S:
            last_line = time.monotonic()
            console.say(f"{plural(number, 'picture')} measured")
        yield picture


def parse_damage(given: list[str] | None) -> list[Any]:
    """`["noise=15,25", "jpeg=10"]` as tasks; the default set if none is given."""
    from artgen.work.evaluation import DEFAULT_DAMAGE, Task

    if not given:
        return [Task(name, strength) for name, strengths in DEFAULT_DAMAGE.items() for strength in strengths]
    tasks: list[Task] = []
    for text in given:
        name, equals, strengths = text.partition("=")
        if not equals:
            strengths = ",".join(map(str, DEFAULT_DAMAGE.get(name, ())))
        try:
            tasks += [Task(name, float(strength)) for strength in strengths.split(",")]
        except ValueError as error:
            raise UsageError(
                f"--damage {text!r} is not NAME=STRENGTH[,STRENGTH...], as in noise=15,25,50"
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
