"""What `artgen restore` tells and compares before it starts: masks, OUTPUT, tiles, the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
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

    network, _ = registry.build("dncnn")
    found = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.safetensors"
        save_file(network.state_dict(), file, {"artgen": json.dumps({"architecture": "dncnn", "name": "dncnn"})})
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
