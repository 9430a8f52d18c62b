"""`artgen restore` as a user meets it: one process after another on real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import pictures
from tests.runs import artgen, artgen_here, rows, run_json, shas, tree

COUNT = 11


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return pictures.files(COUNT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> Path:
    return pictures.write_folder(tmp_path_factory.mktemp("in") / "photos", contents)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """An undisturbed run with the shipped model."""
    output = tmp_path_factory.mktemp("done") / "out"
    result = artgen("restore", folder, output, "--unit-images", "4")
    assert result.returncode == 0, result.stderr
    return output


def test_every_image_has_a_row_and_a_picture(done: Path, contents: dict[str, bytes]) -> None:
    found = rows(done)
    assert [row["key"] for row in found] == sorted(contents)
    assert {row["status"] for row in found} == {"ok"}
    for row in found:
        with Image.open(done / row["output_uri"]) as image:
            assert image.size == (row["width"], row["height"])
            assert image.format == "PNG"
            assert image.mode == ("L" if row["mode"] == "L" else "RGB")
    assert len(list((done / "manifest").iterdir())) == 3
    assert (done / "report.html").stat().st_size > 10_000
    assert run_json(done)["runs"][-1]["ended"] == "done"


def test_tar_zip_and_parquet_give_the_folder_s_bytes(
    tmp_path: Path, done: Path, contents: dict[str, bytes]
) -> None:
    expected = shas(done)
    archives = [
        pictures.write_tar(tmp_path / "photos.tar", contents),
        pictures.write_tar(tmp_path / "photos.tar.gz", contents, "w:gz"),
        pictures.write_zip(tmp_path / "photos.zip", contents),
        pictures.write_parquet(tmp_path / "photos.parquet", contents),
    ]
    for archive in archives:
        output = tmp_path / f"out-{archive.name}"
        result = artgen_here("restore", archive, output)
        assert result.returncode == 0, result.stderr
        assert shas(output) == expected, archive.name


def test_same_command_again_does_nothing(tmp_path: Path, done: Path, folder: Path) -> None:
    output = shutil.copytree(done, tmp_path / "out")
    before = tree(output / "images") | tree(output / "manifest")
    result = artgen_here("restore", folder, output, "--unit-images", "4")
    assert result.returncode == 0, result.stderr
    assert tree(output / "images") | tree(output / "manifest") == before
    assert run_json(output)["runs"][-1]["images"] == 0


def test_grown_and_changed_archive(tmp_path: Path, contents: dict[str, bytes]) -> None:
    source = pictures.write_folder(tmp_path / "in", contents)
    output = tmp_path / "out"
    assert (
        artgen_here("restore", source, output, "--model", "identity", "--to", "png", "--to", "parquet").returncode
        == 0
    )
    before = shas(output)
    changed = next(iter(contents))
    pictures.write_folder(source, {**pictures.files(3, first=50), changed: pictures.png(pictures.picture(99))})
    result = artgen_here("restore", source, output, "--model", "identity", "--to", "png", "--to", "parquet")
    assert result.returncode == 0, result.stderr
    assert run_json(output)["runs"][-1]["images"] == 4
    after = shas(output)
    assert len(after) == COUNT + 3
    assert {key for key in before if after[key] != before[key]} == {changed}


def test_other_settings_are_refused_and_overwrite_starts_anew(tmp_path: Path, done: Path, folder: Path) -> None:
    output = shutil.copytree(done, tmp_path / "out")
    refused = artgen_here("restore", folder, output, "--strength", "0.5")
    assert refused.returncode == 2
    assert "strength: was 1.0, now 0.5" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert shas(output) == shas(done)
    again = artgen_here("restore", folder, output, "--strength", "0.5", "--overwrite")
    assert again.returncode == 0, again.stderr
    assert shas(output) != shas(done)


def test_bad_images_are_rows_and_can_be_retried(tmp_path: Path, contents: dict[str, bytes]) -> None:
    name = next(iter(contents))
    broken = {**contents, name: contents[name][: len(contents[name]) // 2], "empty.png": b""}
    source = pictures.write_folder(tmp_path / "in", broken)
    output = tmp_path / "out"
    result = artgen_here("restore", source, output, "--model", "identity")
    assert result.returncode == 3, result.stderr
    failed = {row["key"]: row for row in rows(output) if row["status"] == "failed"}
    assert set(failed) == {name, "empty.png"}
    assert "truncated" in failed[name]["error_message"]
    (source / name).write_bytes(contents[name])
    retried = artgen_here("restore", source, output, "--model", "identity", "--retry-failed")
    assert retried.returncode == 3, retried.stderr
    after = {row["key"]: row for row in rows(output)}
    assert len(after) == len(broken)
    assert after[name]["status"] == "ok"
    assert after["empty.png"]["status"] == "failed"
    assert after["empty.png"]["attempts"] == 2


def test_on_error_stop_ends_with_1(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": b"not a picture"})
    result = artgen_here("restore", source, tmp_path / "out", "--model", "identity", "--on-error", "stop")
    assert result.returncode == 1
    assert "a.png" in result.stdout + result.stderr
    assert rows(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{folder}/missing", "{out}"], "missing"),
        (["{folder}", "{out}", "--model", "defualt"], "default"),
        (["{folder}", "{out}", "--tile", "8"], "tile 8"),
        (["{folder}", "{out}", "--set", "tyle=256"], "did you mean 'tile'"),
        (["{folder}", "{out}", "--set", "tile=many"], "'many'"),
        (["{folder}", "{out}", "--workers", "4:2"], "'4:2'"),
        (["{folder}", "{out}", "--config", "{folder}/none.toml"], "none.toml"),
        (["{folder}", "{folder}/out"], "lies in INPUT"),
        (["{folder}", "{folder}"], "lies in INPUT"),
        (["{folder}", "{file}/out"], "out"),
        (["{folder}", "{full}"], "not made by artgen"),
        (["{folder}", "{out}", "--masks", "{full}"], "--masks"),
        (["{folder}", "{out}", "--keep-unmasked"], "--keep-unmasked"),
        (["{folder}", "{out}", "--device", "cuda", "--engine", "local"], "cuda"),
        (["{folder}", "{out}", "--frobnicate"], "--frobnicate"),
    ],
)
def test_wrong_usage_is_exit_code_2_before_anything_starts(
    tmp_path: Path, folder: Path, args: list[str], said: str
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    full = pictures.write_folder(tmp_path / "full", {"mine.txt": b"keep"})
    names = {"folder": folder, "out": tmp_path / "out", "file": file, "full": full}
    result = artgen_here("restore", *[arg.format(**names) for arg in args])
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert (full / "mine.txt").read_text() == "keep"


def test_json_is_one_object_on_stdout(tmp_path: Path, folder: Path) -> None:
    result = artgen_here("restore", folder, tmp_path / "out", "--model", "identity", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["images"] == COUNT
    assert facts["failed"] == 0


def test_dry_run_writes_nothing(tmp_path: Path, folder: Path) -> None:
    result = artgen_here("restore", folder, tmp_path / "out", "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["images"] == COUNT
    assert not (tmp_path / "out").exists()


def test_masks_repair_only_what_they_mark(tmp_path: Path) -> None:
    whole = pictures.picture(5, 96, 80)
    mask = np.zeros((80, 96), np.uint8)
    mask[30:50, 20:60] = 255
    damaged = np.asarray(whole).copy()
    damaged[mask > 0] = 255
    source = pictures.write_folder(tmp_path / "in", {"d/x.png": pictures.png(Image.fromarray(damaged))})
    masks = pictures.write_folder(tmp_path / "masks", {"d/x.png": pictures.png(Image.fromarray(mask))})
    output = tmp_path / "out"
    result = artgen_here("restore", source, output, "--masks", masks, "--keep-unmasked")
    assert result.returncode == 0, result.stderr
    restored = np.asarray(Image.open(output / "images/d/x.png"))
    assert np.array_equal(restored[mask == 0], damaged[mask == 0])
    assert not np.array_equal(restored[mask > 0], damaged[mask > 0])


def test_formats_and_names(tmp_path: Path) -> None:
    image = pictures.picture(3)
    contents = {"x.jpg": pictures.jpeg(image), "x.png": pictures.png(image), "X.PNG": pictures.png(image)}
    source = pictures.write_folder(tmp_path / "in", contents)
    output = tmp_path / "out"
    assert artgen_here("restore", source, output, "--model", "identity").returncode == 0
    names = [row["output_name"] for row in rows(output)]
    assert len({name.casefold() for name in names}) == 3
    assert {row["key"]: row["output_name"] for row in rows(output)}["x.jpg"] == "x.jpg.png"
    assert (
        artgen_here("restore", source, tmp_path / "jpeg", "--model", "identity", "--format", "jpeg").returncode == 0
    )
    for row in rows(tmp_path / "jpeg"):
        assert Image.open(tmp_path / "jpeg" / row["output_uri"]).format == "JPEG"
