"""`artgen evaluate restorer` on pictures that cannot be scored, and on perfect scores."""

from __future__ import annotations

import json
from pathlib import Path

from tests import pictures
from tests.runs import artgen_here

FLAGS = ("--damage", "noise=0,25", "--no-peers", "--json")


def never(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_a_picture_too_small_is_left_out_and_a_perfect_score_is_null(tmp_path: Path) -> None:
    contents = {"a.png": pictures.png(pictures.picture(1)), "small.png": pictures.png(pictures.picture(2, 40, 10))}
    source = pictures.write_folder(tmp_path / "in", contents)
    result = artgen_here("evaluate", "restorer", "identity", source, "--out", tmp_path / "out", *FLAGS)
    assert result.returncode == 3, result.stderr
    assert "left out 'small.png': 40x10 is under 11 pixels, which SSIM needs" in result.stderr
    facts = json.loads(result.stdout, parse_constant=never)
    assert (facts["pictures"], facts["failed"]) == (1, 1)
    assert facts["results"][0]["scores"]["identity"] == {"psnr": None, "ssim": 1.0}
    assert 20 < facts["results"][1]["scores"]["identity"]["psnr"] < 22
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text(), parse_constant=never) == facts


def test_each_score_is_printed_once(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    result = artgen_here("evaluate", "restorer", "identity", source, *FLAGS[:-1])
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in (result.stdout + result.stderr).splitlines() if "noise 0 " in line]
    assert line == "       noise 0     input inf/1.000*  identity inf/1.000*"
    assert line in result.stdout


def test_small_pictures_alone_are_nothing_to_score(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1, 10, 10))})
    result = artgen_here("evaluate", "restorer", "identity", source, *FLAGS)
    assert result.returncode == 2
    assert "holds no picture that can be scored (1 left out)" in result.stdout
