"""The log of a training run where the disk is full, and after a kill in the middle of a line."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from artgen.errors import StorageError
from artgen.training.journal import LOG, Journal, read_log
from tests.runs import files_of_at_most


def test_a_line_after_one_that_was_left_half_written_is_kept(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"step": 1}\n{"step": 2, "lo')
    journal = Journal(str(tmp_path), 1)
    journal.line({"step": 3})
    journal.line({"step": 4})
    journal.close()
    assert [line["step"] for line in read_log(str(tmp_path))] == [1, 3, 4]
    journal = Journal(str(tmp_path), 4)
    journal.line({"step": 5})
    journal.close()
    assert "\n\n" not in (tmp_path / LOG).read_text()


def test_a_full_disk_is_told_with_the_place_and_the_fix(tmp_path: Path) -> None:
    (tmp_path / LOG).symlink_to("/dev/full")
    journal = Journal(str(tmp_path), 0)
    with pytest.raises(StorageError, match=r"cannot write '.*log.jsonl'.*free some space"):
        journal.line({"step": 1})
    journal.close()


def test_curves_on_a_full_disk_are_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    # The thread in which TensorBoard writes ends with the same error.
    monkeypatch.setattr(threading, "excepthook", lambda told: None)
    journal = Journal(str(tmp_path), 0)

    def reports() -> None:
        for step in range(1000):
            (tmp_path / LOG).unlink(missing_ok=True)  # only the curves grow
            journal.numbers(step, {"loss": 1.0})

    with (
        files_of_at_most(2000),
        pytest.raises(StorageError, match=r"cannot write '.*tensorboard'.*free some space"),
    ):
        reports()
