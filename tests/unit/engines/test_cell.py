"""The real process: what it is told, and that nobody else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines.cell import Cell, Orders
from artgen.errors import RunError
from artgen.inference.restore import RestoreOptions
from artgen.models.weights import load
from artgen.work import plan as plans
from artgen.work.restoration import RestoreJob
from artgen.work.unit import Publish
from tests import pictures
from tests.runs import shas, tree

pytestmark = pytest.mark.slow
SECRET = "hunter-two"


def orders(output: Path, sha256: str) -> Orders:
    """For the plan that OUTPUT stands by, with a secret that local pictures have no need of."""
    plan = plans.current(str(output))
    assert plan is not None
    job = RestoreJob("identity", sha256, RestoreOptions(tile=512, overlap=0), storage_options={"secret": SECRET})
    return Orders(plan.folder, job, Publish(str(output), ("png",), options={"secret": SECRET}), 1)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    source = pictures.write_folder(
        tmp_path / "in", {**pictures.files(4), "z-broken.png": b"\x89PNG\r\n\x1a\nno more"}
    )
    config = RestoreConfig(input=str(source), output=str(tmp_path / "out"), model="identity", unit_images=4)
    assert restore(config, Console(quiet=True)) == 3
    return tmp_path / "out"


def test_units_are_done_as_anywhere_and_secrets_do_not_show(output: Path) -> None:
    pictures_before, rows_before = tree(output / "images"), shas(output)
    plan = plans.current(str(output))
    assert plan is not None
    for folder in ("images", "manifest"):
        for path in [path for path in (output / folder).rglob("*") if path.is_file()]:
            path.unlink()
    cell = Cell(orders(output, load("identity").sha256))
    try:
        answers = [cell.do(ref) for ref in plan.refs()]
        process = Path(f"/proc/{cell.pid}")
        for shown in ("cmdline", "environ"):
            assert SECRET.encode() not in (process / shown).read_bytes()
    finally:
        cell.close()
    outcomes = [answer.outcome for answer in answers if answer is not None and answer.outcome is not None]
    assert [(outcome.images, outcome.failed) for outcome in outcomes] == [(4, 0), (1, 1)]
    assert outcomes[1].first_failures[0][0] == "z-broken.png"
    assert (tree(output / "images"), shas(output)) == (pictures_before, rows_before)
    with pytest.raises(ProcessLookupError):
        os.kill(cell.pid, 0)


def test_a_model_that_has_changed_is_told(output: Path) -> None:
    with pytest.raises(RunError, match=r"the model 'identity' has changed since this command began: run it again"):
        Cell(orders(output, "ab" * 32))
