"""What `artgen damage` makes of its flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests import pictures
from tests.runs import artgen_here, tree


@pytest.mark.parametrize("flags", [["--jpeg", "0"], ["--noise", "10", "--jpeg", "0"]])
def test_a_strength_of_nought_is_no_flag_left_out(tmp_path: Path, flags: list[str]) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    result = artgen_here("damage", source, tmp_path / "out", *flags)
    assert result.returncode == 2, result.stderr
    assert "--jpeg 0 is out of range: use 1 to 100" in result.stderr
    assert not (tmp_path / "out").exists()


def test_no_noise_and_nothing_missing_leave_the_picture_as_it_is(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    flags = ("--noise", "0", "--salt-pepper", "0", "--missing", "0")
    assert artgen_here("damage", source, tmp_path / "out", *flags).returncode == 0
    with (
        pictures.Image.open(source / "a.png") as before,
        pictures.Image.open(tmp_path / "out/images/a.png") as after,
    ):
        assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize(("flags", "masked"), [(["--noise", "10"], False), (["--missing", "0.2"], True)])
def test_the_last_line_says_how_to_go_on(tmp_path: Path, flags: list[str], masked: bool) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    result = artgen_here("damage", source, tmp_path / "o ut", *flags)
    assert result.returncode == 0, result.stderr
    masks = f" --masks '{tmp_path}/o ut/masks'" if masked else ""
    assert result.stdout.endswith(f"to go on: artgen restore '{tmp_path}/o ut/images' RESTORED{masks}\n")


def test_a_side_that_jpeg_cannot_hold_fails_alone(tmp_path: Path) -> None:
    long = pictures.png(Image.new("L", (65_501, 1)))
    source = pictures.write_folder(
        tmp_path / "in", {"a-long.png": long, "b.png": pictures.png(pictures.picture(1))}
    )
    result = artgen_here("damage", source, tmp_path / "out", "--jpeg", "30")
    assert result.returncode == 3, result.stderr
    told = [json.loads(line) for line in (tmp_path / "out" / "damage.jsonl").read_text().splitlines()]
    assert "JPEG holds at most 65500 pixels a side, and this is 65501x1" in told[0]["error"]
    assert (tmp_path / "out" / "images" / "b.png").exists()


def test_input_and_output_must_lie_apart(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    for output in (source, source / "out"):
        result = artgen_here("damage", source, output, "--noise", "5")
        assert result.returncode == 2
        assert f"OUTPUT {output} lies in INPUT {source}" in result.stderr
    assert [path.name for path in source.iterdir()] == ["a.png"]


def test_settings_come_from_a_file_flags_and_set(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    (tmp_path / "c.toml").write_text("noise = 10\nblur = true\nseed = 3\n")
    command = (
        "damage",
        source,
        tmp_path / "out",
        "--config",
        tmp_path / "c.toml",
        "--noise",
        "5",
        "--set",
        "jpeg=50",
    )
    facts = json.loads(artgen_here(*command, "--dry-run", "--json").stdout)
    assert (facts["damage"], facts["seed"]) == ({"blur": 1.5, "noise": 5.0, "jpeg": 50}, 3)
    assert (facts["images"], facts["done"], facts["left"]) == (1, 0, 1)
    assert not (tmp_path / "out").exists()
    assert artgen_here(*command).returncode == 0
    (told,) = [json.loads(line) for line in (tmp_path / "out" / "damage.jsonl").read_text().splitlines()]
    assert (told["damage"], told["seed"]) == (facts["damage"], 3)
    before = tree(tmp_path / "out")
    assert json.loads(artgen_here(*command, "--dry-run", "--json").stdout)["left"] == 0
    assert "damage: was" in artgen_here(*command, "--set", "jpeg=51", "--dry-run").stderr
    assert tree(tmp_path / "out") == before
    assert "did you mean 'noise'?" in artgen_here(*command, "--set", "nois=5").stderr
