"""`artgen demo`: the first thing that a new user sees."""

import json
from pathlib import Path

import pytest

from artgen.commands.demo import DAMAGE
from tests.runs import artgen_here


def test_every_picture_comes_nearer_and_a_second_time_shows_the_same(tmp_path: Path) -> None:
    runs = [artgen_here("demo", tmp_path / "demo", "--json") for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    first, second = (json.loads(run.stdout) for run in runs)
    assert first == second
    assert {score["picture"] for score in first["psnr"]} == set(DAMAGE)
    assert all(score["after"] > score["before"] for score in first["psnr"]), first["psnr"]
    assert Path(first["report"]).is_file()


def test_the_table_names_damage_and_both_scores(tmp_path: Path) -> None:
    run = artgen_here("demo", tmp_path / "demo")
    assert run.returncode == 0, run.stderr
    [line] = [line for line in run.stdout.splitlines() if line.split()[:1] == ["rocket"]]
    before, arrow, after = line.split()[-3:]
    assert "scratches 0.08" in line
    assert arrow == "->"
    assert float(after) > float(before)


@pytest.mark.parametrize("name", ["damaged", "holiday.jpg"])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    run = artgen_here("demo", tmp_path)
    assert run.returncode == 2
    assert "holds something else" in run.stderr
    assert (tmp_path / name).is_dir()


def test_a_folder_that_the_commands_of_the_readme_filled_is_left_alone(tmp_path: Path) -> None:
    for name in ("damaged/images/mine.png", "restored/_artgen/run.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    run = artgen_here("demo", tmp_path)
    assert run.returncode == 2
    assert "there is no .artgen-demo in it" in run.stderr
    assert (tmp_path / "damaged/images/mine.png").read_text() == "mine"
