"""The command of a job that is submitted; no cluster."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from artgen.engines.ray_jobs import command_line
from artgen.errors import UsageError
from artgen.training.recipe import TrainConfig


def data_of(data: str) -> str:
    words = shlex.split(command_line(["train", "gan"], TrainConfig(data=data, folder="s3://bucket/run")))
    return words[words.index("gan") + 1]


def test_each_part_of_data_is_treated_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_of("photos,s3://bucket/more,/all/rest") == f"{tmp_path}/photos,s3://bucket/more,/all/rest"
    (tmp_path / "one, two").mkdir()
    assert data_of("one, two") == f"{tmp_path}/one, two", "one path with a comma"
    with pytest.raises(UsageError, match="credentials in its address") as caught:
        data_of("photos,https://me:hunter2@host/more")
    assert "hunter2" not in str(caught.value)
