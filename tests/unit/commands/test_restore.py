"""What `artgen restore` tells and compares before it starts: masks, OUTPUT, tiles, the model."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from artgen.commands import restore as restore_command
from artgen.commands.restore import make_job, settings_of
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines.local import Devices
from artgen.errors import UsageError
from artgen.report import page
from tests import pictures
from tests.runs import artgen, artgen_here, rows, tree

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


def test_masks_that_cannot_all_be_read_end_the_command_before_it_starts(photos: Path, tmp_path: Path) -> None:
    whole = pictures.write_tar(tmp_path / "masks.tar", {f"{name}.png": WHITE for name in "abc"})
    (tmp_path / "torn.tar").write_bytes(whole.read_bytes()[:1400])
    refused = artgen_here("restore", photos, tmp_path / "out", *IDENTITY, "--masks", tmp_path / "torn.tar")
    assert refused.returncode == 2
    assert "torn.tar cannot be read whole, so images would go without theirs" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_masks_in_input_are_refused(photos: Path, tmp_path: Path) -> None:
    masks = pictures.write_folder(photos / "masks", {"a.png": WHITE})
    refused = artgen_here("restore", photos, tmp_path / "out", *IDENTITY, "--masks", masks)
    assert refused.returncode == 2
    assert "lies in INPUT" in refused.stderr


def test_a_mask_without_white_is_told(photos: Path, tmp_path: Path) -> None:
    black = pictures.png(Image.new("L", (64, 48), 1))  # as labels are written, 0 and 1
    masks = pictures.write_folder(tmp_path / "masks", {"a.png": black, "b.png": WHITE, "c.png": WHITE})
    assert artgen_here("restore", photos, tmp_path / "out", "--engine", "local", "--masks", masks).returncode == 0
    notes = [row["notes"] for row in sorted(rows(tmp_path / "out"), key=lambda row: row["key"])]
    assert ["its mask has no white pixel: nothing was masked" in note for note in notes] == [True, False, False]


def test_input_is_listed_again_where_another_has_planned_meanwhile(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the other one has restored of a newer INPUT must not pass for stale."""
    output = tmp_path / "out"
    assert artgen_here("restore", photos, output, *IDENTITY).returncode == 0
    real = restore_command.only_driver

    @contextmanager
    def another_was_here(*given: Any) -> Iterator[None]:
        monkeypatch.setattr(restore_command, "only_driver", real)
        newer = {"a.png": pictures.png(pictures.picture(7)), "d.png": pictures.png(pictures.picture(8))}
        pictures.write_folder(photos, newer)
        assert artgen_here("restore", photos, output, *IDENTITY).returncode == 0
        before.update(tree(output / "images"), manifest=tree(output / "manifest"))
        with real(*given):
            yield

    before: dict[str, Any] = {}
    monkeypatch.setattr(restore_command, "only_driver", another_was_here)
    config = RestoreConfig(input=str(photos), output=str(output), model="identity", engine="local", workers="1")
    assert restore_command.restore(config, Console()) == 0
    assert "INPUT is listed again" in capsys.readouterr().err
    assert {**tree(output / "images"), "manifest": tree(output / "manifest")} == before
    assert len(rows(output)) == 4


def test_what_is_kept_beside_the_parts_of_the_manifest_is_none(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert artgen_here("restore", photos, output, *IDENTITY).returncode == 0
    [part] = (output / "manifest").iterdir()
    part.rename(part.with_name(f"old-{part.name}"))
    (output / "manifest" / f"._{part.name}").write_bytes(b"\0\5\x16\7 a macOS resource fork")
    result = artgen_here("restore", photos, output, *IDENTITY)
    assert result.returncode == 0, result.stderr
    assert "3 images restored" in result.stdout
    assert part.exists()


def test_a_folder_that_cannot_be_listed_at_all_is_a_mistake_in_the_command(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below INPUT such a folder is a failed row. Root may list all, so the refusal is played."""
    scandir = os.scandir

    def refuse(place: Any) -> Any:
        if place == str(photos):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    config = RestoreConfig(input=str(photos), output=str(tmp_path / "out"), model="identity", engine="local")
    with pytest.raises(UsageError, match=r"in': the folder cannot be listed: Permission denied"):
        restore_command.restore(config, Console())
    assert not (tmp_path / "out").exists()


def test_a_password_in_an_address_is_refused(tmp_path: Path) -> None:
    refused = artgen_here("restore", "http://bob:S3cretPw@127.0.0.1:9/a.png", tmp_path / "out", *IDENTITY)
    assert refused.returncode == 2
    assert "'http://127.0.0.1:9/a.png' has a user name or password in its address" in refused.stderr
    assert "S3cretPw" not in refused.stderr + refused.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("status", "is a file where a folder is due"),
        ("demo", "is a file where a folder is due"),
        ("report", "holds no run"),
    ],
)
def test_a_file_where_a_folder_is_due_is_a_mistake_in_the_command(command: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    refused = artgen_here(command, tmp_path / "file")
    assert refused.returncode == 2, refused.stderr
    assert f"file {said}" in refused.stderr


def test_a_model_without_a_name_is_told_so(photos: Path, tmp_path: Path) -> None:
    refused = artgen_here("restore", photos, tmp_path / "out", "--model", "")
    assert refused.returncode == 2
    assert "model '' is empty" in refused.stderr


def test_any_bytes_in_a_path_can_be_told(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    result = artgen("restore", photos, os.fsdecode(os.fsencode(tmp_path) + b"/out\xff"), *IDENTITY)
    assert result.returncode == 0, result.stderr
    assert "3 images restored" in result.stdout
