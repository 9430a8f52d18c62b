"""`artgen damage`: pictures with known damage, by the operators that training uses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from artgen.console import Console
from artgen.errors import ImageError, RunError, UsageError
from artgen.records import Entry
from artgen.storage import archive, atomic, uri
from artgen.work.listing import Listing

if TYPE_CHECKING:
    from artgen.codecs.picture import Picture

DECODE_TIMEOUT_S = 600.0
# Operators in the order in which damage befalls a picture; the last is how it was saved. Value: the strength of a
# switch that takes none on the command line.
ORDER = ("fade", "blur", "noise", "salt_pepper", "missing", "holes", "scratches", "mixture", "jpeg")
SWITCHES = {"fade": 0.6, "blur": 1.5, "holes": 0.1, "scratches": 0.03, "mixture": 1.0}
RANGES = {"noise": (0, 255), "salt_pepper": (0, 1), "missing": (0, 1), "jpeg": (1, 100)}


def damage(args: dict[str, Any], console: Console) -> int:
    """Writes OUTPUT/images/<name>.png, OUTPUT/masks/<name>.png where parts are lost, and OUTPUT/damage.jsonl.

    The damage of an image follows from (seed, key) alone. Exit codes: 0, or 3 if images could not be read.
    """
    source, output, seed = args.pop("input"), args.pop("output"), args.pop("seed", 0)
    strengths = _strengths(args)
    if uri.names(output):
        raise UsageError(f"OUTPUT {output} is not empty: choose an empty or new folder (nothing was changed)")
    lines: list[str] = []
    failed = 0
    with Listing(source, archive.scan(source)) as listed:
        if not listed.count():
            raise UsageError(f"INPUT {source} holds no image ({listed.skipped} other files)")
        try:
            for record in _damaged(listed, output, strengths, seed):
                failed += "error" in record
                lines.append(json.dumps(record, sort_keys=True, ensure_ascii=False))
        except KeyboardInterrupt as error:
            raise RunError(
                f"interrupted after {len(lines)} images: remove OUTPUT {output} and give the same command again"
            ) from error
    atomic.write(uri.join(output, "damage.jsonl"), ("\n".join(lines) + "\n").encode())
    facts = {"output": output, "images": len(lines) - failed, "failed": failed}
    console.result(facts, f"{len(lines) - failed} images damaged, {failed} failed: {output}")
    return 3 if failed else 0


def _strengths(args: dict[str, Any]) -> dict[str, float]:
    # A flag that was not given leaves no trace, and 0 is a strength as well.
    strengths: dict[str, float] = {n: SWITCHES[n] if n in SWITCHES else args[n] for n in ORDER if n in args}
    if not strengths:
        raise UsageError(f"no damage is named: use one or more of --{', --'.join(ORDER)}".replace("_", "-"))
    for name, (low, high) in RANGES.items():
        if name in strengths and not low <= strengths[name] <= high:
            raise UsageError(f"--{name.replace('_', '-')} {strengths[name]:g} is out of range: use {low} to {high}")
    return strengths


def _damaged(listed: Listing, output: str, strengths: dict[str, float], seed: int) -> Iterator[dict[str, Any]]:
    from artgen.codecs.guard import Guard
    from artgen.codecs.picture import MAX_PIXELS

    reader = archive.Reader()
    with Guard(MAX_PIXELS, DECODE_TIMEOUT_S) as guard:
        for entry in listed.entries(".png"):
            record = {"key": entry.source.key, "name": entry.name, "seed": seed, "damage": strengths}
            try:
                picture = guard.decode(reader.read(entry.source))
            except ImageError as error:
                yield record | {"error": f"{type(error).__name__}: {error}"}
                continue
            notes = [*picture.notes, *(["16 bits rounded to 8"] if picture.bits == 16 else [])]
            masked = damage_one(entry, picture, output, strengths, seed)
            yield record | {"masked": masked, "notes": "; ".join(notes)}


def damage_one(entry: Entry, picture: Picture, output: str, strengths: Mapping[str, float], seed: int) -> float:
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
        atomic.write(uri.join(output, "masks", entry.name), encode(mask, None, Metadata(), format="png").data)
    atomic.write(uri.join(output, "images", entry.name), data)
    return round(lost_B1HW.mean().item(), 4)


def _operator(name: str) -> Any:
    from artgen.training import degrade, mixtures

    if name == "mixture":
        return lambda x_BCHW, _, dice: mixtures.damage_at_random(x_BCHW, {"mixture": 1.0}, dice.seeds())
    return getattr(degrade, "noise_in_file" if name == "noise" else name)
