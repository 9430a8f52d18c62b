"""`artgen train restorer` as a user runs it: any kind of DATA, killed and gone on with, wrong usage, bad pictures."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from artgen.storage import uri
from artgen.training.state import checkpoints
from tests import pictures
from tests.runs import ARTGEN, artgen, artgen_here, environment, files_of_at_most, shas, tree
from tests.s3 import S3Server, s3_server  # noqa: F401

TOY = """
model = "default"
params = { widths = [8, 8, 8], blocks = 1 }
patch_px = 24
batch_images = 4
steps = 12
warmup_steps = 2
report_steps = 3
validate_steps = 6
holdout = 5
checkpoint_minutes = 0.0
precision = "fp32"
"""


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_every_kind_of_data_trains_the_same_weights_that_restore_takes(tmp_path: Path, toy: Path) -> None:
    contents = pictures.files(9)
    sources = [
        pictures.write_folder(tmp_path / "in", contents),
        pictures.write_tar(tmp_path / "in.tar", contents),
        pictures.write_tar(tmp_path / "in.tar.gz", contents, "w:gz"),
        pictures.write_zip(tmp_path / "in.zip", contents),
        pictures.write_parquet(tmp_path / "in.parquet", contents),
    ]
    found = set()
    for number, source in enumerate(sources):
        run = tmp_path / f"run-{number}"
        done = artgen_here("train", "restorer", source, run, "--recipe", toy, "--device", "cpu", "--json")
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        assert (facts["step"], facts["images_seen"], facts["ended"]) == (12, 48, "done")
        found.add(weights(run))
    assert len(found) == 1
    lines = log(tmp_path / "run-0")
    assert (lines[0]["pictures"], lines[0]["held_out"]) == (7, 2)
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9, 12]
    assert (tmp_path / "run-0" / "panels" / "step-00000006.png").is_file()
    restored = artgen_here(
        "restore", sources[0], tmp_path / "out", "--model", tmp_path / "run-0", "--device", "cpu"
    )
    assert restored.returncode == 0, restored.stderr
    assert set(shas(tmp_path / "out")) == set(contents)


def test_two_places_of_data_and_a_store_for_both(
    tmp_path: Path,
    toy: Path,
    s3_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = pictures.files(8)
    names = list(contents)
    first = pictures.write_folder(tmp_path / "a", {name: contents[name] for name in names[:4]})
    second = pictures.write_tar(tmp_path / "b.tar", {name: contents[name] for name in names[4:]})
    here = artgen_here("train", "restorer", f"{first},{second}", tmp_path / "run", "--recipe", toy)
    assert here.returncode == 0, here.stderr

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3_server.bucket()
    fs, path = uri.filesystem(bucket)
    fs.pipe({f"{path}/data/{name}": data for name, data in contents.items()})
    run = f"{bucket}/runs/one"
    half = artgen_here("train", "restorer", f"{bucket}/data", run, "--recipe", toy, "--set", "steps=5")
    assert half.returncode == 0, half.stderr
    # By what is in them: SeaweedFS goes on listing a folder that was emptied.
    assert checkpoints(run) == ["step-00000004", "step-00000005"]
    whole = artgen_here("train", "restorer", f"{bucket}/data", run, "--recipe", toy, "--json")
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["step"] == 12
    assert checkpoints(run) == ["step-00000011", "step-00000012"]
    lines = [json.loads(line) for line in (uri.read_or_none(f"{run}/log.jsonl") or b"").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 5, 6, 9, 12]
    assert [line["resumed_at"] for line in lines if "resumed_at" in line] == [-1, 5]
    assert uri.names(f"{run}/tensorboard")
    restored = artgen_here("restore", first, tmp_path / "out", "--model", run)
    assert restored.returncode == 0, restored.stderr


@pytest.mark.slow
def test_killed_at_random_it_ends_with_the_bits_of_an_undisturbed_run(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(9))
    flags = ["--recipe", str(toy), "--set", "steps=30", "--device", "cpu"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    # In processes of their own, all with the same number of threads: a backward pass sums in an order that follows it.
    assert artgen("train", "restorer", source, undisturbed, *flags).returncode == 0
    rng = random.Random(20261123)
    steps = []
    for _ in range(2):
        process = subprocess.Popen(
            [*ARTGEN, "train", "restorer", str(source), str(run), *flags], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=environment(), start_new_session=True,
        )  # fmt: skip
        before, deadline = len(steps) and steps[-1], time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and newest(run) < before + 3:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        steps.append(newest(run))
    assert steps == sorted(set(steps)), "no step was saved between two kills"
    last = artgen("train", "restorer", source, run, *flags, "--json")
    assert last.returncode == 0, last.stderr
    assert len(steps) == 2
    assert weights(run) == weights(undisturbed)
    for name in ("network.safetensors", "optimizer.pt"):
        one, other = (folder / "checkpoints" / "step-00000030" / name for folder in (run, undisturbed))
        assert one.read_bytes() == other.read_bytes()
    assert not list(run.rglob(".artgen-*"))


def newest(run: Path) -> int:
    found = sorted(path.parent.name for path in run.glob("checkpoints/step-*/position.json"))
    return int(found[-1].removeprefix("step-")) if found else 0


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    flags = [source, tmp_path / "run", "--recipe", toy]
    assert artgen_here("train", "restorer", *flags, "--set", "steps=3").returncode == 0
    before = tree(tmp_path / "run" / "checkpoints")
    with files_of_at_most(20_000):
        full = artgen_here("train", "restorer", *flags)
    assert full.returncode == 1
    assert "free some space" in full.stderr
    assert "step 3 is saved" in full.stderr
    assert {name: sha for name, sha in tree(tmp_path / "run" / "checkpoints").items() if name in before} == before
    assert artgen_here("train", "restorer", *flags).returncode == 0
    assert newest(tmp_path / "run") == 12


def test_pictures_that_cannot_be_used_are_counted_and_listed(tmp_path: Path, toy: Path) -> None:
    nan = np.full((40, 40), np.nan, np.float32)
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    (source / "broken.png").write_bytes(pictures.png(pictures.picture(1))[:300])
    (source / "small.png").write_bytes(pictures.png(pictures.picture(2, 23, 60)))
    (source / "notes.txt").write_text("no picture")
    Image.fromarray(nan).save(source / "nan.tif")
    done = artgen_here(
        "train", "restorer", source, tmp_path / "run", "--recipe", toy, "--set", "holdout=0", "--json"
    )
    assert done.returncode == 0, done.stderr
    skipped = json.loads((tmp_path / "run" / "skipped" / "rank-0.json").read_text())
    assert set(skipped) == {"broken.png", "small.png", "nan.tif"}
    assert skipped["small.png"] == "23x60 is under 24 pixels"
    assert json.loads(done.stdout)["skipped_pictures"] == len(skipped)
    assert "left out 'broken.png'" in done.stderr
    assert sum(line.get("skipped", 0) for line in log(tmp_path / "run")) == 0
    final = load_file(tmp_path / "run" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in final.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{in}", "{new}", "--set", "stepz=3"], "did you mean 'steps'?"),
        (["{in}", "{new}", "--set", "steps=many"], "steps is 'many'"),
        (["{in}", "{new}", "--set", "steps"], "is not KEY=VALUE"),
        (["{in}", "{new}", "--recipe", "nothing"], "no recipe 'nothing'"),
        (["{in}", "{new}", "--workers", "0"], "workers '0'"),
        (["{in}", "{new}", "--engine", "local", "--workers", "2"], "use --engine ray"),
        (["{in}", "{new}", "--precision", "half"], "precision is 'half'"),
        (["{in}", "{new}", "--set", "damage={\"rain\": 1}"], "'rain'"),
        (["{empty}", "{new}"], "holds no image"),
        (["{gone}", "{new}"], "gone"),
        (["{in}", "{in}/run"], "lies in DATA"),
        (["{in}", "{foreign}"], "is not empty and no run of artgen"),
        (["{in}", "{new}", "--set", "patch_px=64"], "none of 64x64 pixels"),
        (["{in}", "{new}", "--set", "start={gone}/a.safetensors"], "gone/a.safetensors"),
        (["{in}", "{new}", "--set", "start=identity"], "is a 'identity', not a 'default'"),
        (["{in}", "{done}", "--set", "params={\"widths\": [4, 4, 4], \"blocks\": 1}"], "another architecture"),
    ],
)  # fmt: skip
def test_wrong_usage_is_refused_with_the_fix(tmp_path: Path, toy: Path, flags: list[str], message: str) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    (tmp_path / "empty").mkdir()
    foreign = pictures.write_folder(tmp_path / "foreign", {"mine.txt": b"keep"})
    if "{done}" in flags:
        assert artgen_here("train", "restorer", source, tmp_path / "done", "--recipe", toy).returncode == 0
    names = {name: str(tmp_path / name) for name in ("in", "new", "gone", "empty", "foreign", "done")}
    for name, path in names.items():
        flags = [flag.replace(f"{{{name}}}", path) for flag in flags]
    before = {name: tree(tmp_path / name) for name in ("in", "done", "foreign")}
    refused = artgen_here("train", "restorer", *(["--recipe", toy] if "--recipe" not in flags else []), *flags)
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr
    assert not list((tmp_path / "new").glob("**/*.safetensors"))
    after = {name: tree(tmp_path / name) for name in before}
    assert after["in"] == before["in"]
    assert after["foreign"] == before["foreign"] == tree(foreign)
    assert {key: sha for key, sha in after["done"].items() if "safetensors" in key} == {
        key: sha for key, sha in before["done"].items() if "safetensors" in key
    }


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    config = tmp_path / "mine.toml"
    config.write_text('steps = 70\nseed = 1\nworkers = "1"\n')
    flags = ["--recipe", toy, "--config", config, "--seed", "5", "--set", "loss=l2", "--dry-run", "--json"]
    planned = artgen_here("train", "restorer", source, tmp_path / "run", *flags)
    assert planned.returncode == 0, planned.stderr
    facts = json.loads(planned.stdout)
    assert (facts["images"], facts["held_out"], facts["engine"], facts["step"]) == (4, 2, "local", 0)
    recipe = facts["recipe"]
    assert (recipe["steps"], recipe["seed"], recipe["loss"], recipe["patch_px"]) == (70, 5, "l2", 24)
    assert not (tmp_path / "run").exists()


def test_interrupted_it_says_how_to_go_on(tmp_path: Path, toy: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    process = subprocess.Popen(
        [*ARTGEN, "train", "restorer", str(source), str(tmp_path / "run"), "--recipe", str(toy), "--set", "steps=100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and newest(tmp_path / "run") < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "the same command goes on from there" in err
    assert f"step {newest(tmp_path / 'run')} is saved" in err
