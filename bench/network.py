"""Recipes of the restorer at equal CPU time: what the choice of optimiser, loss, width or patch is worth.

    python bench/network.py DATA [--minutes 10] [--variant "optimizer=adamw" --variant "optimizer=mup" ...]

Trains each variant of the default recipe for so many minutes on one thread, one after the other, and prints the scores
on pictures held out of DATA (PSNR in dB, the validation of `artgen train restorer`), last the share of hidden units that fire
on none of them (artgen/training/firing.py). A variant is KEY=VALUE pairs with spaces
between them, as of --set. Run it on an idle machine. What was tried, and what came out, is in the model card.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import tomllib
from functools import partial
from pathlib import Path

import torch
from measure import table

from artgen.training.journal import read_log
from artgen.training.recipe import load_recipe
from artgen.training.run import train_restorer
from artgen.training.validate import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--variant", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [*(task.name for task in TASKS), "silent-units"]
    rows: dict[str, tuple[float | str, ...]] = {}
    for variant in args.variant or ['optimizer="adamw"', 'optimizer="mup"']:
        changes = tomllib.loads("\n".join(variant.split()))
        recipe = load_recipe(
            "default", {"minutes": args.minutes, "steps": 10**9, "validate_steps": 10**9, **changes}
        )
        with tempfile.TemporaryDirectory(prefix="artgen-bench-") as folder:
            train_restorer(args.data, str(Path(folder) / "run"), recipe, report=partial(say, variant))
            final = next(
                line for line in reversed(read_log(str(Path(folder) / "run"))) if any(n in line for n in names)
            )
        # What a variant does not train is not scored.
        rows[variant] = (int(final["step"]), *(round(final.get(name, math.nan), 2) for name in names))
    table("variant", {name: tuple(map(str, values)) for name, values in rows.items()}, ("steps", *names))


def say(variant: str, numbers: object) -> None:
    print(f"{variant}: {numbers}", file=sys.stderr)


if __name__ == "__main__":
    main()
