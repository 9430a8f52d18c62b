from __future__ import annotations

import os
from pathlib import Path

import pytest

from artgen.errors import StorageError
from artgen.sinks import base, files
from tests.outputs import UNIT, files_below, png, row


def test_a_picture_is_published_at_once_below_images(tmp_path: Path) -> None:
    sink = files.open(str(tmp_path), UNIT)
    where = sink.add("a/b #1.png", png(1), row("a/b #1.jpg"))
    assert where == "images/a/b #1.png"
    assert files_below(tmp_path) == {where: png(1)}
    sink.commit()
    assert base.read(str(tmp_path), where) == png(1)


def test_an_aborted_unit_leaves_its_pictures_and_no_other_file(tmp_path: Path) -> None:
    sink = files.open(str(tmp_path), UNIT)
    sink.add("a.png", png(1), row("a"))
    sink.abort()
    assert list(files_below(tmp_path)) == ["images/a.png"]


def test_pictures_and_their_folders_are_synced_before_the_rows_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    sink = files.open(str(tmp_path), UNIT)
    where = [sink.add(f"a/{index}.png", png(index), row(str(index))) for index in range(3)]
    assert not synced
    sink.commit()
    folders = [str(tmp_path / name) for name in ("images/a", "images")]
    assert sorted(synced) == sorted([*(str(tmp_path / name) for name in where), *folders, str(tmp_path)])


def test_a_picture_that_is_gone_says_which(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"images/gone\.png"):
        base.read(str(tmp_path), "images/gone.png")
