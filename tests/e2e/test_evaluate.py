from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests import pictures
from tests.generators import write_run
from tests.runs import artgen_here, environment


@pytest.fixture
def data(tmp_path: Path) -> Path:
    contents = {f"{n}.png": pictures.png(pictures.picture(n, 72, 64, grey=n == 2)) for n in range(3)}
    return pictures.write_folder(tmp_path / "in", contents)


def evaluate(*args: str | Path) -> dict:
    result = artgen_here("evaluate", "restorer", *args, "--json", "--quiet")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_identity_scores_what_the_damage_says(data: Path) -> None:
    facts = evaluate("identity", data, "--damage", "noise=25", "--no-peers")
    (result,) = facts["results"]
    assert result["scores"]["input"] == result["scores"]["identity"]
    # 10 log10(255^2 / 25^2) = 20.17, and a little more, since the result is clipped.
    assert 20.1 < result["scores"]["input"]["psnr"] < 21.5


def test_default_model_and_peers_repair(data: Path, tmp_path: Path) -> None:
    damage = [
        "--damage",
        "noise=40",
        "--damage",
        "salt-pepper=0.3",
        "--damage",
        "missing=0.5",
        "--damage",
        "jpeg=10",
    ]
    facts = evaluate("default", data, *damage, "--out", tmp_path / "out")
    assert [(r["damage"], r["strength"]) for r in facts["results"]] == [
        ("noise", 40), ("salt-pepper", 0.3), ("missing", 0.5), ("jpeg", 10),
    ]  # fmt: skip
    for result in facts["results"][:3]:
        assert result["scores"]["default"]["psnr"] > result["scores"]["input"]["psnr"] + 2, result
    assert {"telea", "navier-stokes", "cubic"} <= facts["results"][2]["scores"].keys()
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == facts
    assert Image.open(tmp_path / "out" / "panel.png").size == (3 * 72, 4 * 64)


def test_file_protocol_differs_from_the_published_one_and_both_are_the_same_again(data: Path) -> None:
    args = ["default", data, "--damage", "noise=60", "--no-peers"]
    published, file = evaluate(*args), evaluate(*args, "--protocol", "file")
    assert published["protocol"] == "published"
    assert published["results"] != file["results"]
    assert evaluate(*args) == published


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--damage", "nois=15"], "nois"),
        (["--damage", "noise=much"], "noise=much"),
        (["--damage", "15"], "15"),
        (["--protocol", "mine"], "mine"),
    ],
)
def test_wrong_flags_are_exit_code_2(data: Path, flags: list[str], said: str) -> None:
    result = artgen_here("evaluate", "restorer", "identity", data, *flags)
    assert result.returncode == 2
    assert said in result.stderr


def test_a_dry_run_takes_settings_from_everywhere_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('damage = ["noise=15,25"]\nseed = 3\nprotocol = "file"\n')
    flags = ["--config", tmp_path / "e.toml", "--set", "damage=jpeg=10,20,missing=0.5", "--images", "1"]
    out = tmp_path / "out"
    result = artgen_here("evaluate", "restorer", "identity", data, *flags, "--out", out, "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["damage"] == ["jpeg=10", "jpeg=20", "missing=0.5"]
    assert (told["seed"], told["protocol"], told["pictures"], told["peers"]) == (3, "file", 1, True)
    assert not out.exists()
    refused = artgen_here("evaluate", "restorer", "identity", data, "--set", "protocl=file", "--dry-run")
    assert refused.returncode == 2
    assert "did you mean 'protocol'" in refused.stderr


def test_data_without_a_picture(tmp_path: Path) -> None:
    pictures.write_folder(tmp_path / "in", {"a.png": b"no"})
    result = artgen_here("evaluate", "restorer", "identity", tmp_path / "in")
    assert result.returncode == 2
    assert "holds no picture" in result.stderr


def test_the_job_evaluates_a_gan_on_archives(tmp_path: Path) -> None:
    contents = {f"{n:03d}.png": pictures.png(pictures.picture(n, 72, 56)) for n in range(130)}
    (tmp_path / "in").mkdir()
    pictures.write_tar(tmp_path / "in" / "a.tar", dict(list(contents.items())[:70]))
    rest = dict(list(contents.items())[70:]) | {"broken.png": b"\x89PNG no more"}
    pictures.write_parquet(tmp_path / "in" / "b.parquet", rest)
    run = write_run(tmp_path / "run", classes=())
    job = Path(__file__).parents[2] / "jobs" / "evaluate.py"
    flags = ["--samples", "150", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(
        [sys.executable, str(job), "gan", str(run), str(tmp_path / "in"), *flags],
        capture_output=True, text=True, timeout=120, env={**environment(), "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["real"]["images"], facts["real"]["changed"], facts["fake"]["images"]) == (130, 130, 150)
    assert list(facts["real"]["first_unusable"]) == ["b.parquet/broken.png"]
    assert facts["metrics"]["fd_random"] > 50
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == facts


def test_bm3d_is_a_peer_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("bm3d")
    grey, colour = pictures.picture(1, 40, 40, grey=True), pictures.picture(2, 40, 40)
    data = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(grey), "b.png": pictures.png(colour)})
    facts = evaluate("identity", data, "--damage", "noise=50")
    assert facts["not_installed"] == []
    assert facts["gave_up"] == {}
    scores = facts["results"][0]["scores"]
    assert scores["bm3d"]["psnr"] > scores["input"]["psnr"] + 4
    assert scores["bm3d"]["psnr"] > scores["nl-means"]["psnr"]
