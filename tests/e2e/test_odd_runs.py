"""Runs that are odd but legal, and mistakes that must cost nothing."""

from __future__ import annotations

from pathlib import Path

from tests import pictures
from tests.runs import artgen_here, rows

IDENTITY = ("--model", "identity", "--workers", "1")


def test_failures_may_be_retried_any_number_of_times(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1)), "bad.png": b"no"})
    flags: tuple[str, ...] = IDENTITY
    for attempt in (1, 2, 3):
        result = artgen_here("restore", source, tmp_path / "out", *flags)
        assert result.returncode == 3, result.stderr
        assert [(row["key"], row["attempts"]) for row in rows(tmp_path / "out")] == [
            ("a.png", 1),
            ("bad.png", attempt),
        ]
        flags = (*IDENTITY, "--retry-failed")


def test_a_picture_whose_source_is_now_broken_does_not_stand_in_for_it(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    assert artgen_here("restore", source, tmp_path / "out", *IDENTITY).returncode == 0
    assert (tmp_path / "out/images/a.png").exists()
    (source / "a.png").write_bytes(b"broken since")
    assert artgen_here("restore", source, tmp_path / "out", *IDENTITY).returncode == 3
    assert not (tmp_path / "out/images/a.png").exists()
