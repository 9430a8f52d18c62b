"""`artgen train gan` as a user runs it: killed and gone on with, bad pictures, wrong usage, a full disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from artgen.training.state import last_step
from tests import pictures
from tests.runs import ARTGEN, artgen, artgen_here, environment, files_of_at_most, tree

TOY = """
model = "r3"
generator = { base = 8, most = 16, group = 4 }
discriminator = { base = 8, most = 16, group = 4 }
height = 28
width = 36
latent = 8
batch_images = 4
shards = 2
images = 48
report_steps = 2
look_images = 24
metric_images = 8
checkpoint_minutes = 0.0
precision = "fp32"
"""


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_pictures_of_many_kinds_train_a_generator_and_bad_ones_are_listed(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(9))
    (source / "broken.png").write_bytes(pictures.png(pictures.picture(1))[:300])
    (source / "notes.txt").write_text("no picture")
    for mode in ("L", "LA", "RGBA", "CMYK"):
        Image.new(mode, (50, 30), tuple([90] * len(Image.new(mode, (1, 1)).getbands()))).save(
            source / f"{mode}.tif"
        )
    run = tmp_path / "run"
    done = artgen_here("train", "gan", source, run, "--preset", toy, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["step"], facts["images_seen"], facts["ended"], facts["skipped_pictures"]) == (12, 48, "done", 1)
    assert "left out 'broken.png': DecodeFailed" in done.stderr
    told = json.loads((run / "data.json").read_text())
    assert list(told["unusable"]) == ["broken.png"]
    assert facts["changed_pictures"] == len(told["changed"]) >= 3
    assert {path.name for path in run.iterdir()} >= {
        "best.safetensors", "fakes-000000_048.png", "interpolation.gif", "log.jsonl", "model.safetensors", "reals.png",
        "recipe.json", "tensorboard",
    }  # fmt: skip
    lines = log(run)
    assert [line["step"] for line in lines if "d_loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "fd_random" in line] == [6, 12]
    assert "kimg: fd_random" in done.stderr
    again = artgen_here("train", "gan", source, run, "--preset", toy, "--device", "cpu", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["step"] == 12


@pytest.mark.slow
@pytest.mark.long
def test_killed_at_random_it_ends_with_the_bits_of_an_undisturbed_run(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(9))
    flags = ["--recipe", str(toy), "--set", "images=160", "--device", "cpu"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    assert artgen("train", "gan", source, undisturbed, *flags).returncode == 0
    process = subprocess.Popen(
        [*ARTGEN, "train", "gan", str(source), str(run), *flags], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=environment(), start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline and last_step(run) < 7:
        time.sleep(0.02)
    time.sleep(random.Random(20261123).uniform(0, 0.2))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 7 <= last_step(run) < 40
    last = artgen("train", "gan", source, run, *flags, "--json")
    assert last.returncode == 0, last.stderr
    assert (run / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    newest = [folder / "checkpoints" / "step-00000040" for folder in (run, undisturbed)]
    for name in ("generator.safetensors", "discriminator.safetensors", "generator_optimizer.pt"):
        assert (newest[0] / name).read_bytes() == (newest[1] / name).read_bytes(), name
    assert not list(run.rglob(".artgen-*"))


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    flags = ["train", "gan", source, tmp_path / "run", "--recipe", toy]
    assert artgen_here(*flags, "--set", "images=12").returncode == 0
    before = tree(tmp_path / "run" / "checkpoints")
    with files_of_at_most(20_000):
        full = artgen_here(*flags)
    assert full.returncode == 1
    assert "free some space" in full.stderr
    assert "step 3 is saved" in full.stderr
    assert {name: sha for name, sha in tree(tmp_path / "run" / "checkpoints").items() if name in before} == before
    assert artgen_here(*flags).returncode == 0
    assert last_step(tmp_path / "run") == 12


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{in}", "{new}", "--set", "imagez=3"], "did you mean 'images'?"),
        (["{in}", "{new}", "--set", "images=many"], "images 'many'"),
        (["{in}", "{new}", "--recipe", "nothing"], "no GAN recipe 'nothing'"),
        (["{in}", "{new}", "--precision", "fp16"], "precision 'fp16' is not known"),
        (["{in}", "{new}", "--engine", "local", "--workers", "2"], "use --engine ray"),
        (["{in}", "{new}", "--set", "batch_images=5"], "which 2 shards cannot share"),
        (["{in}", "{new}", "--workers", "4", "--dry-run"], "4 workers cannot share 2 shards"),
        (["{in}", "{new}", "--set", "batch_images=64", "--dry-run"], "fewer than batch_images = 64"),
        (["{in}", "{done}", "--set", "batch_images=2", "--dry-run"], "was begun with 4: use 4"),
        (["{in}", "{new}", "--set", "height=9"], "height is 9; use 28 to 256"),
        (["{in}", "{new}", "--set", "model=biggan"], "no GAN is called 'biggan'"),
        (["{in}", "{new}", "--set", "generator={\"bass\": 8}"], "does not take the parameters"),
        (["{in}", "{in}/run"], "lies in DATA"),
        (["{in}", "{foreign}"], "is not empty and no run of artgen"),
        (["{in}", "{done}", "--set", "latent=9"], "latent: was 8, now 9"),
    ],
)  # fmt: skip
def test_wrong_usage_is_refused_with_the_fix(tmp_path: Path, toy: Path, flags: list[str], message: str) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    pictures.write_folder(tmp_path / "foreign", {"mine.txt": b"keep"})
    if "{done}" in flags:
        made = artgen_here("train", "gan", source, tmp_path / "done", "--recipe", toy, "--set", "images=4")
        assert made.returncode == 0, made.stderr
    names = {name: str(tmp_path / name) for name in ("in", "new", "foreign", "done")}
    for name, path in names.items():
        flags = [flag.replace(f"{{{name}}}", path) for flag in flags]
    before = {name: tree(tmp_path / name / "checkpoints") for name in ("done",)}
    refused = artgen_here("train", "gan", *(["--recipe", toy] if "--recipe" not in flags else []), *flags)
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr
    assert not list((tmp_path / "new").glob("**/*.safetensors"))
    assert {name: tree(tmp_path / name / "checkpoints") for name in before} == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    config = tmp_path / "mine.toml"
    config.write_text('images = 70\nseed = 1\nworkers = "1"\npenalty-every = 2\n')
    flags = ["--recipe", toy, "--config", config, "--seed", "5", "--set", "game=hinge", "--dry-run", "--json"]
    planned = artgen_here("train", "gan", source, tmp_path / "run", *flags)
    assert planned.returncode == 0, planned.stderr
    facts = json.loads(planned.stdout)
    assert (facts["images"], facts["engine"], facts["step"], facts["workers"]) == (6, "local", 0, "1")
    recipe = facts["recipe"]
    assert (recipe["images"], recipe["seed"], recipe["game"], recipe["penalty_every"]) == (70, 5, "hinge", 2)
    assert not (tmp_path / "run").exists()
