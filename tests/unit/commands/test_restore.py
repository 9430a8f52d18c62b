"""What `artgen restore` tells and compares before it starts: masks, OUTPUT, tiles, the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from artgen.commands.restore import make_job, settings_of
from artgen.config import RestoreConfig
from artgen.engines.local import Devices
from artgen.report import page
from tests import pictures
from tests.runs import artgen_here, rows, tree

IDENTITY = ("--model", "identity", "--engine", "local", "--workers", "1")
WHITE = pictures.png(Image.new("L", (64, 48), 255))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    contents = {f"{name}.png": pictures.png(pictures.picture(n)) for n, name in enumerate("abc")}
    return pictures.write_folder(tmp_path / "in", contents)


def dry_run(source: Path, output: Path, *flags: str, code: int = 0) -> dict[str, Any] | str:
    before = tree(output)
    result = artgen_here("restore", source, output, *IDENTITY, *flags, "--dry-run", "--json")
    assert result.returncode == code, result.stderr
    assert tree(output) == before
    return json.loads(result.stdout) if code == 0 else result.stdout


def test_a_dry_run_tells_what_is_done_and_left(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    facts = dry_run(photos, output)
    assert (facts["images"], facts["done"], facts["left"]) == (3, 0, 3)
    assert not output.exists()
    (photos / "c.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    assert artgen_here("restore", photos, output, *IDENTITY).returncode == 3
    for flags, left in (((), 0), (("--retry-failed",), 1), (("--overwrite",), 3)):
        facts = dry_run(photos, output, *flags)
        assert (facts["images"], facts["done"], facts["left"]) == (3, 3 - left, left), flags
    pictures.write_folder(photos, {"d.png": pictures.png(pictures.picture(9))})
    facts = dry_run(photos, output)
    assert (facts["images"], facts["done"], facts["left"]) == (4, 3, 1)


def test_a_dry_run_refuses_what_a_run_would(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert artgen_here("restore", photos, output, *IDENTITY).returncode == 0
    assert "strength: was 1.0, now 0.5" in dry_run(photos, output, "--strength", "0.5", code=2)
    other = pictures.write_folder(tmp_path / "other", {"a.png": pictures.png(pictures.picture(8))})
    assert "bear the names of other ones" in dry_run(other, output, code=2)
    foreign = pictures.write_folder(tmp_path / "mine", {"x.txt": b"keep"})
    assert "not made by artgen" in dry_run(photos, foreign, code=2)


def test_images_without_a_mask_and_masks_without_an_image_are_told(photos: Path, tmp_path: Path) -> None:
    masks = pictures.write_folder(tmp_path / "masks", {"a.png": WHITE, "B.png": WHITE})
    result = artgen_here("restore", photos, tmp_path / "out", "--masks", masks)
    assert result.returncode == 0, result.stderr
    assert "1 of 3 images have a mask, 1 masks match no image" in result.stderr
    assert ["no mask was found" in row["notes"] for row in rows(tmp_path / "out")] == [False, True, True]
    pictures.write_folder(masks, {"b.png": WHITE, "c.png": WHITE})
    (masks / "B.png").unlink()
    result = artgen_here("restore", photos, tmp_path / "all", "--masks", masks, "--dry-run")
    assert "have a mask" not in result.stderr


def test_one_image_and_one_mask_belong_together_and_folders_go_by_names(photos: Path, tmp_path: Path) -> None:
    masks = pictures.write_folder(tmp_path / "masks", {"drawn.png": WHITE})
    pair = artgen_here(
        "restore", photos / "a.png", tmp_path / "o", "--masks", masks / "drawn.png", "--dry-run", "--json"
    )
    assert json.loads(pair.stdout)["masked"] == 1
    refused = artgen_here("restore", photos / "a.png", tmp_path / "o", "--masks", masks)
    assert refused.returncode == 2
    assert "check --masks (the mask of 'a.png' would be 'a.png')" in refused.stderr


@pytest.mark.parametrize(("tile", "taken"), [(64, 192), (128, 192), (184, 184), (512, 512)])
def test_a_tile_without_room_for_the_overlap_grows(tile: int, taken: int) -> None:
    _, job = make_job(RestoreConfig(input="in", output="out", tile=tile), Devices("cpu", "cpu"))
    assert (job.options.tile, job.options.overlap) == (taken, 128)


def test_a_tile_stays_with_an_overlap_that_was_asked_for() -> None:
    _, job = make_job(RestoreConfig(input="in", output="out", tile=64, overlap=16), Devices("cpu", "cpu"))
    assert (job.options.tile, job.options.overlap) == (64, 16)


def test_the_same_weights_at_another_place_are_the_same_settings(tmp_path: Path) -> None:
    from artgen.models import registry

    network, facts = registry.build("dncnn")
    found = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.safetensors"
        save_file(network.state_dict(), file, {"artgen": facts.to_json()})
        config = RestoreConfig(input="in", output="out", model=str(file))
        found.append(settings_of(config, make_job(config, Devices("cpu", "cpu"))[1]))
    assert found[0] == found[1]


def test_the_seed_chooses_the_pictures_of_the_report(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    real = page.summarise
    monkeypatch.setattr(page, "summarise", lambda *args, **kw: (seeds.append(kw["seed"]), real(*args, **kw))[1])
    assert artgen_here("restore", photos, tmp_path / "out", *IDENTITY, "--set", "seed=5").returncode == 0
    assert artgen_here("report", tmp_path / "out").returncode == 0
    assert seeds == [5, 5]


def test_an_output_that_cannot_be_is_named_itself(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for command in (("restore", photos), ("damage", photos)):
        flags = (*IDENTITY, "--dry-run") if command[0] == "restore" else ("--noise", "5")
        for output, reason in (
            (tmp_path / "file", "it is a file"),
            (tmp_path / "file/x", f"{tmp_path}/file is no folder"),
        ):
            result = artgen_here(*command, output, *flags)
            assert result.returncode == 2
            said = f"artgen: OUTPUT {output} cannot be written to: {reason}; choose a folder that you may write to"
            assert result.stderr.strip() == said
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may make another")
def test_an_output_that_cannot_be_made_is_named_itself(photos: Path) -> None:
    for command in (
        ("restore", photos, "/proc/artgen", *IDENTITY),
        ("damage", photos, "/proc/artgen", "--noise", "5"),
    ):
        result = artgen_here(*command)
        assert result.returncode == 2
        assert result.stderr.startswith("artgen: OUTPUT /proc/artgen cannot be written to: ")
        assert result.stderr.endswith("; choose a folder that you may write to\n")
        assert ".tmp" not in result.stderr


def test_missing_masks_are_not_laid_to_the_input(photos: Path, tmp_path: Path) -> None:
    result = artgen_here("restore", photos, tmp_path / "out", *IDENTITY, "--masks", tmp_path / "no")
    assert result.returncode == 2
    assert result.stderr.startswith(f"artgen: --masks '{tmp_path}/no' does not exist")


def test_a_dry_run_tells_what_would_do_the_work(photos: Path, tmp_path: Path) -> None:
    facts = dry_run(photos, tmp_path / "out", "--max-pixels", "5e6", "--image-timeout", "9", "--on-error", "stop")
    assert isinstance(facts, dict)
    told = {
        name: facts[name]
        for name in ("model", "device", "batch", "max_pixels", "image_timeout", "on_error", "workers")
    }
    assert told.pop("device") in ("cpu", "cuda", "mps")
    assert told.pop("batch") >= 1
    assert told == {
        "model": "identity",
        "max_pixels": 5_000_000,
        "image_timeout": 9.0,
        "on_error": "stop",
        "workers": 1,
    }
    lines = artgen_here(
        "restore", photos, tmp_path / "out", "--model", "identity", "--engine", "local", "--dry-run"
    )
    assert "\n  tile: " in lines.stdout
    assert "{" not in lines.stdout
    (workers,) = [line for line in lines.stdout.splitlines() if line.startswith("workers: ")]
    assert 1 <= int(workers.partition(" ")[2]) <= 3, "no more than images"


@pytest.mark.parametrize(
    ("flags", "fast", "told"), [((), True, True), ((), False, False), (("--precision", "fp32"), True, False)]
)
def test_a_cpu_that_is_fast_at_bf16_is_told_of(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], fast: bool, told: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fast)
    result = artgen_here("restore", photos, tmp_path / "out", *IDENTITY, *flags)
    assert result.returncode == 0
    assert ("--precision bf16 restores several times as fast" in result.stderr + result.stdout) == told
