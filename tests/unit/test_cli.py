"""What a wrong command line gets: one line with the command, the value and the fix, also as JSON."""

from __future__ import annotations

import errno
import json
import sqlite3

import pytest

from artgen import cli
from artgen.config import cluster_address
from tests.runs import artgen_here


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("restore p x --frmat jpeg", "restore: no flag is called '--frmat'; did you mean '--format'?"),
        ("restore p --frmat=jpeg", "restore: no flag is called '--frmat'; did you mean '--format'?"),
        ("restore p x --form jpeg", "restore: no flag is called '--form'; did you mean '--format'?"),
        ("damage p x --max 9", "damage: no flag is called '--max'; did you mean '--max-pixels'?"),
        ("restore p x -q", "restore: no flag is called '-q' (artgen restore --help lists them)"),
        ("restore p", "restore: missing: OUTPUT (artgen restore --help"),
        ("restore p x y", "restore: 'y' is one argument too many"),
        ("train gan", "train gan: missing: DATA, RUN"),
        ("train", "train: missing: KIND"),
        ("damage p x --noise abc", "damage: --noise: 'abc' is not a number"),
        ("damage p x --noise", "damage: --noise: needs a value"),
        ("restore p x --json=3", "restore: --json: takes no value: '3'"),
        ("report o --sample 1.5", "report: --sample: '1.5' is not a whole number"),
        ("restore p x --on-interrupt no", "restore: --on-interrupt 'no' is not known"),
        ("restor p x", "COMMAND 'restor' is not known; did you mean 'restore'? (artgen --help"),
        ("evaluate gans a b", "evaluate: KIND 'gans' is not known; did you mean 'gan'?"),
        ("--frmat", "missing: COMMAND"),
        ("", "missing: COMMAND"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(words: str, said: str) -> None:
    result = artgen_here(*words.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"artgen: {said}")
    assert result.stderr.count("\n") == 1
    assert "usage:" not in result.stderr


def test_a_wrong_command_line_is_told_as_json() -> None:
    result = artgen_here("restore", "p", "x", "--json", "--frmat", "jpeg")
    told = json.loads(result.stdout)
    assert (result.returncode, told["error"], told["exit_code"]) == (2, "UsageError", 2)
    assert "did you mean '--format'?" in told["message"]


def test_what_looks_like_a_flag_may_be_a_value() -> None:
    given = vars(cli.parser().parse_args(["restore", "--strength", "-5", "--", "--in", "--out"]))
    assert (given["strength"], given["input"], given["output"]) == ("-5", "--in", "--out")


def test_no_signature_of_an_address_is_told() -> None:
    said = artgen_here("restore", "p", "x", "https://me:hunter2@host/a?sig=hush").stderr
    assert "https://host/a" in said
    assert "hush" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "TMPDIR"),
        (sqlite3.OperationalError("database or disk is full"), "TMPDIR"),
        (TypeError("none of yours"), "TypeError: none of yours; this is a mistake of artgen"),
    ],
)
def test_whatever_happens_there_is_one_object_and_no_bare_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    result = artgen_here("restore", "in", "out", "--json")
    told = json.loads(result.stdout)
    assert (result.returncode, told["exit_code"]) == (1, 1)
    assert said in told["message"]
    assert ("Traceback" in result.stderr) == isinstance(error, TypeError)


def test_a_jobs_server_in_the_environment_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert cluster_address(None) is None
    assert cluster_address("head:6379") == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", "head:6380")
    assert cluster_address(None) == "head:6380"
