"""`artgen train restorer DATA RUN` as a script, for `ray job submit` and for machines without the command."""

from __future__ import annotations

import argparse
import json
import logging

from artgen.training.recipe import load_recipe
from artgen.training.run import train_restorer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", dest="changes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pairs = (change.partition("=") for change in arguments.changes)
    changes = {key: json.loads(value) for key, _, value in pairs}
    train_restorer(arguments.data, arguments.run, load_recipe(arguments.recipe, changes), device=arguments.device)


if __name__ == "__main__":
    main()
