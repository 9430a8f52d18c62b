"""Flags of the `artgen` command that several commands share."""

from __future__ import annotations

import argparse
import json
from typing import Any

from artgen.errors import UsageError

GIVEN_ONLY = argparse.SUPPRESS  # a flag that was not given leaves no trace, so config files can set it


def add_command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A subcommand, done by `run`, with --json and --quiet."""
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="one JSON object on stdout, logs on stderr")
    command.add_argument("--quiet", action="store_true", help="print errors only")
    return command


def add_flag(command: argparse.ArgumentParser, name: str, text: str, **kwargs: Any) -> None:
    """A flag that leaves no trace where it is not given."""
    command.add_argument(name, help=text, default=GIVEN_ONLY, **kwargs)


def add_switch(command: argparse.ArgumentParser, name: str, text: str) -> None:
    add_flag(command, name, text, action="store_true")


def add_shared(command: argparse.ArgumentParser, *, trains: bool = False) -> None:
    """trains: the flags mean what they mean to `artgen train`, which no jobs server takes as a job by itself."""
    add_flag(
        command, "--engine", "auto: local on one machine with at most one GPU, else ray", metavar="auto|local|ray"
    )
    cluster = "a Ray cluster as HOST:6379"
    jobs = f"{cluster} or ray://HOST:10001, or its jobs server as http://HOST:8265"
    add_flag(command, "--address", cluster if trains else jobs)
    workers = "processes that train together (ray)" if trains else "threads (local) or actors (ray)"
    add_flag(command, "--workers", workers, metavar="N|MIN:MAX")
    add_flag(command, "--device", "where the model runs", metavar="auto|cpu|cuda|mps")
    precision = (
        "auto: bf16 where the hardware is fast at it" if trains else "auto: fp32; bf16 when restoring on CUDA"
    )
    add_flag(command, "--precision", precision, metavar="auto|fp32|bf16" if trains else "auto|fp32|bf16|fp16")
    # The pictures of generate follow from --seeds, those of restore from their sources.
    seed = "seed of everything random" if trains else "which samples the report shows; changes no picture"
    add_flag(command, "--seed", seed, metavar="N")
    add_flag(command, "--config", "settings from a TOML file", metavar="FILE.toml")
    add_flag(command, "--set", "one setting, over all others (repeatable)", action="append", metavar="KEY=VALUE")
    add_switch(command, "--dry-run", "print the resolved plan and stop")
    add_flag(command, "--storage-options", "options of the fsspec storage as JSON; never logged", metavar="JSON")


def add_job(command: argparse.ArgumentParser) -> None:
    """Flags of a command that a jobs server may take as a job."""
    add_switch(command, "--detach", "with --address http://...: submit the job and return at once")
    add_flag(command, "--on-interrupt", "what Ctrl-C does to a submitted job", choices=["ask", "detach", "stop"])


def json_table(text: str) -> dict[str, Any]:
    """--storage-options. Raises UsageError for what is no JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:  # the text may hold a secret: it is not quoted
        raise UsageError(f"--storage-options is not valid JSON ({error.msg} at character {error.pos})") from error
    if not isinstance(value, dict):
        raise UsageError(
            f'--storage-options is a JSON {type(value).__name__}: give an object such as {{"anon": true}}'
        )
    return value
