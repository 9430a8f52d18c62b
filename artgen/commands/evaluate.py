"""`artgen evaluate restorer`: a table for each kind of damage and strength, as text, JSON and a panel of pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from artgen.console import Console
from artgen.errors import UsageError
from artgen.records import Source
from artgen.storage import archive, atomic, uri

if TYPE_CHECKING:
    from artgen.work.evaluation import Scores


def evaluate_restorer(args: dict[str, Any], console: Console) -> int:
    """Returns 0, or 3 if pictures of DATA could not be used. Raises UsageError for wrong damage, model or data."""
    from artgen.models.weights import load
    from artgen.work import evaluation

    options = args.get("storage_options")
    tasks = parse_damage(args.get("damage"))
    protocol = args.get("protocol", "published")
    if protocol not in ("published", "file"):
        raise UsageError(f"protocol {protocol!r} is not known: use published (float noise) or file (8-bit files)")
    found = (item for item in archive.scan(args["data"], options) if isinstance(item, Source))
    reader = archive.Reader(options)
    restorer = load(args["model"])
    pictures, unusable = evaluation.read_pictures(found, reader.read)
    pictures = pictures[: args.get("images", len(pictures))]
    for key, reason in list(unusable.items())[:5]:
        console.say(f"left out {key!r}: {reason}")
    if not pictures:
        raise UsageError(f"DATA {args['data']} holds no picture that can be scored ({len(unusable)} left out)")
    measure = evaluation.Evaluation(
        restorer, protocol=protocol, peers=not args.get("no_peers", False), seed=args.get("seed", 0)
    )
    results = []
    for task in tasks:
        scores = measure.run(task, pictures)
        results.append(scores)
        console.say(_line(scores))
    facts = {
        "model": restorer.facts.name, "model_sha256": restorer.sha256, "data": args["data"], "protocol": protocol,
        "pictures": len(pictures), "failed": len(unusable), "seed": args.get("seed", 0),
        "not_installed": sorted(measure.missing_peers), "results": [evaluation.as_json(scores) for scores in results],
    }  # fmt: skip
    if "out" in args:
        atomic.write(uri.join(args["out"], "evaluation.json"), json.dumps(facts, indent=1).encode(), options)
        atomic.write(uri.join(args["out"], "panel.png"), panel([scores.panel for scores in results]), options)
    console.result(facts, table(facts, results))
    return 3 if unusable else 0


def parse_damage(given: list[str] | None) -> list[Any]:
    """`["noise=15,25", "jpeg=10"]` as tasks; the default set if none is given."""
    from artgen.work.evaluation import DEFAULT_DAMAGE, Task

    if not given:
        return [Task(name, strength) for name, strengths in DEFAULT_DAMAGE.items() for strength in strengths]
    tasks = []
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
    return tasks


def table(facts: dict[str, Any], results: list[Scores]) -> str:
    """PSNR (dB) and SSIM by damage; the best PSNR of a row is starred."""
    left_out = f" ({facts['failed']} left out)" if facts["failed"] else ""
    lines = [
        f"{facts['model']} on {facts['pictures']} pictures of {facts['data']}{left_out}, {facts['protocol']} protocol: PSNR/SSIM"
    ]
    lines += map(_line, results)
    if facts["not_installed"]:
        lines.append(f"not installed: {', '.join(facts['not_installed'])}")
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
