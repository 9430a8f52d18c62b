"""The README's commands, run as they stand: its shell lines on a small archive and a real bucket, its Python, its make."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pictures
from tests.generators import write_run
from tests.runs import artgen_here, environment, rows
from tests.s3 import S3Server, s3_server  # noqa: F401

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_lines(first_word: str) -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.split() and line.split()[0] == first_word]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's lines name."""
    folder = tmp_path_factory.mktemp("readme")
    contents = pictures.files(3)
    for name in ("scans", "photos"):
        pictures.write_folder(folder / name, contents)
    masks = {
        name.rpartition(".")[0] + ".png": pictures.png(pictures.picture(0, 40, 33, grey=True))
        for name in list(contents)[:1]
    }
    pictures.write_folder(folder / "masks", masks)
    pictures.write_tar(folder / "scans.tar", contents)
    write_run(folder / "gan-run")
    assert artgen_here("restore", folder / "scans", folder / "restored", "--model", "identity").returncode == 0
    assert (
        artgen_here("damage", folder / "photos", folder / "damaged", "--noise", "25", "--scratches").returncode == 0
    )
    return folder


@pytest.mark.parametrize("line", [line for line in shell_lines("artgen") if line != "artgen demo"])
def test_shell_line(
    line: str, place: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line, and what starts Ray, as processes of their own; the start-up of the others is not the point."""
    words, env = shlex.split(line), environment()
    if "s3://" in line:
        server: S3Server = request.getfixturevalue("s3_server")
        bucket, env = server.bucket(), env | server.environment
        from artgen.storage import uri

        for name, data in pictures.files(3).items():
            fs, path = uri.filesystem(f"{bucket}/scans/{name}", server.options)
            fs.pipe_file(path, data)
        words = [word.replace("s3://bucket", bucket) for word in words]
    outputs = ("restored", "sharded", "repaired", "damaged", "mended", "samples", "emoji")
    out = next((n for n, word in enumerate(words) if word.rstrip("/") in outputs), None)
    if out is not None and words[1] != "status":
        words[out] = str(tmp_path / "out")
    if words[1] == "train":  # a few small steps of it
        few = {"restorer": ("steps=2", "patch_px=32", "batch_images=2", "holdout=0")}
        few["gan"] = ("images=4", "batch_images=2", "shards=1", "metric_images=2", "height=28", "width=28")
        words += [word for change in few[words[2]] for word in ("--set", change)]
        words[4] = str(tmp_path / "run")
    if "ray" in words or line == shell_lines("artgen")[0]:
        result = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=place,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    else:
        monkeypatch.chdir(place)
        result = artgen_here(*words[1:])
    assert result.returncode == 0, result.stderr[-3000:]
    if words[1] == "restore" and out is not None:
        assert len(rows(tmp_path / "out")) == 3


def test_python_block(place: Path) -> None:
    (code,) = blocks("python")
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(rows(place / "from-python")) == 3


def test_make_demo_says_where_the_report_is() -> None:
    assert "make demo" in [line.strip() for line in shell_lines("make")]
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        ["make", "demo"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (ROOT / "demo-output" / "restored" / "report.html").is_file()
    assert "report.html" in result.stdout


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in shell_lines("make")}
    assert named
    assert named <= targets


def test_architecture_names_every_folder() -> None:
    section = README.partition("## Architecture")[2].partition("\n## ")[0]
    folders = {path.name for path in (ROOT / "artgen").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert {name for name in folders if f"{name}/" not in section} == set()
