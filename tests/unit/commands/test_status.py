"""`artgen status` of a training run."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.pictures import files, write_folder
from tests.runs import artgen_here


def test_the_run_of_a_training_tells_its_step_and_its_last_report(tmp_path: Path) -> None:
    lines = [
        {"time": time.time() - 90, "pictures": 5, "resumed_at": -1},
        {"time": time.time() - 60, "step": 300, "loss": 0.02125, "progress": 0.3},
        {"time": time.time() - 50, "changed_settings": {"seed": [0, 1]}},
    ]
    log = "".join(json.dumps(line) + "\n" for line in lines)
    run = write_folder(tmp_path / "run", {
        "recipe.json": b"{}", "log.jsonl": log.encode() + b'{"half', "_artgen/lock": b"",
        "checkpoints/step-00000250/position.json": b"{}",
    })  # fmt: skip
    said = artgen_here("status", run)
    assert said.returncode == 0, said.stderr
    first, second, third = said.stdout.splitlines()
    assert first == "a training run; step 250 is saved"
    assert second.endswith("ago: step 300, loss 0.02125, progress 0.3")
    assert third == f"all of its reports: {run / 'log.jsonl'}"
    told = json.loads(artgen_here("status", run, "--json").stdout)
    assert (told["step"], told["report"]["step"], told["run"]) == (250, 300, str(run))
    assert 60 <= told["report_age_s"] < 600


def test_a_training_that_has_only_begun_is_told_too(tmp_path: Path) -> None:
    run = write_folder(tmp_path / "run", {"recipe.json": b"{}"})
    said = artgen_here("status", run)
    assert said.returncode == 0
    assert said.stdout.startswith("a training run; step 0 is saved\n")


def test_the_last_commit_is_told_with_the_rate_and_not_with_a_reason(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "in", {**files(2), "bad.png": b"no picture"})
    flags = ("--model", "identity", "--engine", "local", "--workers", "1")
    assert artgen_here("restore", source, tmp_path / "out", *flags).returncode == 3
    lines = artgen_here("status", tmp_path / "out").stdout.splitlines()
    told = [line for line in lines if "last commit" in line]
    assert len(told) == 1
    assert "DecodeFailed" not in told[0]
    assert any("DecodeFailed" in line for line in lines)
