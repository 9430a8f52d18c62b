"""Flags of the `artgen` command that several commands share."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from artgen.errors import UsageError
from artgen.storage.uri import shown
from artgen.text import nearest

GIVEN_ONLY = argparse.SUPPRESS  # a flag that was not given leaves no trace, so config files can set it


_PLAINER = {
    "expected one argument": "needs a value",
    "ignored explicit argument": "takes no value:",
}


class Parser(argparse.ArgumentParser):
    """The parser of a command, and of the commands below it: no flag may be abbreviated, and whatever is wrong is a
    UsageError of one line that names the command, the value and the fix.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})
        self.register("type", int, _reader(int, "a whole number"))
        self.register("type", float, _reader(float, "a number"))
        self._words: list[str] = []

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """As argparse's, but nothing is left over. Raises UsageError."""
        words = sys.argv[1:] if args is None else list(args)
        self._words = words
        found, left = super().parse_known_args(words, namespace)
        if left:
            self._refuse_flag(left)
            self._refuse(f"{shown(left[0])!r} is one argument too many", "shows what it takes")
        return found, left

    def error(self, message: str) -> NoReturn:
        """What argparse found, in its words or ours. Raises UsageError."""
        missing = re.search(r"arguments are required: (.*)", message)
        if missing:
            # A wrong flag may have taken what is missing; where commands follow, the flags of each are its own.
            if self._subparsers is None:
                self._refuse_flag(self._words)
            self._refuse(f"missing: {missing[1].upper()}", "shows what it takes")
        message = message.removeprefix("argument ")
        for theirs, ours in _PLAINER.items():
            message = message.replace(theirs, ours)
        self._refuse(message, "shows what it takes")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            self._refuse(f"{name} {value!r} is not known; {nearest(value, list(action.choices))}", "lists them")

    def _refuse_flag(self, words: Sequence[str]) -> None:
        """Raises UsageError for the first of `words` that looks like a flag and is none."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        until = words.index("--") if "--" in words else len(words)
        for word in words[:until]:
            flag = word.partition("=")[0]
            if re.match(r"--?[a-z]", flag, re.IGNORECASE) and flag not in self._option_string_actions:
                begun = [name for name in known if name.startswith(flag)]
                near = f"did you mean {begun[0]!r}?" if len(begun) == 1 else nearest(flag, known, " ").strip()
                self._refuse(f"no flag is called {flag!r}" + (f"; {near}" if near else ""), "lists them")

    def _refuse(self, what: str, help_does: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        raise UsageError(f"{command + ': ' if command else ''}{what} ({self.prog} --help {help_does})")


def _reader(kind: Callable[[str], Any], name: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not {name}") from error

    return read


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
    add_settings(command)
    add_storage(command)


def add_storage(command: argparse.ArgumentParser) -> None:
    add_flag(command, "--storage-options", "options of the fsspec storage as JSON; never logged", metavar="JSON")


def add_settings(command: argparse.ArgumentParser) -> None:
    """Flags that set any setting, and that show them all."""
    add_flag(command, "--config", "settings from a TOML file", metavar="FILE.toml")
    add_flag(command, "--set", "one setting, over all others (repeatable)", action="append", metavar="KEY=VALUE")
    add_switch(command, "--dry-run", "print the resolved plan and stop")


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
