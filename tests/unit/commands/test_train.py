"""What `artgen train` says while it goes, and the places that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from artgen.commands.train import GanProgress, check_places
from artgen.console import Console
from artgen.errors import UsageError
from artgen.training.recipe import TrainConfig


def test_a_report_of_a_gan_without_one_good_step_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    GanProgress(Console())({"images": 4000, "progress": 0.5, "skipped": 10, "images_per_s": 7.0, "left_s": 60.0})
    assert "D nan  G nan  D right nan %  7.0 images/s  0:01:00 left  10 steps skipped" in capsys.readouterr().err


def test_a_run_inside_of_data_with_a_comma_in_its_path_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "a,b"
    data.mkdir()
    with pytest.raises(UsageError, match="lies in DATA"):
        check_places(TrainConfig(data=str(data), folder=str(data / "run")))
    check_places(TrainConfig(data=str(data), folder=str(tmp_path / "run")))
